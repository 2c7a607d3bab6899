"""Shapes as annotation tools store them → the upright box around each: (x1, y1, x2, y2), right and bottom edge exclusive.

Points are places on the image plane, so the box of a polygon is that of its smallest and largest coordinates. Masks are
pixels, so their box ends after the last one.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from collections.abc import Iterable, Sequence

import numpy

from vlrl.data.images import opened_image

Corners = tuple[float, float, float, float]
MAX_PIXELS = 1 << 28
"""Masks of more are an error, or an attack."""


def around(points: Iterable[tuple[float, float]], least: int = 3) -> Corners:
    """The box around points, of which there must be `least`."""
    some = list(points)
    if len(some) < least:
        raise ValueError(f"{len(some)} points, needs {least}")
    xs, ys = zip(*some, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def pairs(numbers: Sequence[float]) -> list[tuple[float, float]]:
    """x, y, x, y, ... → points."""
    if len(numbers) % 2:
        raise ValueError(f"{len(numbers)} coordinates are no points")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def of_two_corners(one: tuple[float, float], other: tuple[float, float]) -> Corners:
    """The box between two opposite corners, in any order."""
    return around((one, other), 2)


def turned(box: Corners, degrees: float, pivot: tuple[float, float] | None = None) -> Corners:
    """The box around `box` turned clockwise (as seen, y downwards) about `pivot`, its middle by default."""
    if not degrees % 360:
        return box
    x1, y1, x2, y2 = box
    px, py = pivot or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    return around([(px + (x - px) * cos - (y - py) * sin, py + (x - px) * sin + (y - py) * cos) for x, y in corners])


def of_ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """The box around an ellipse of these half axes, turned by `degrees`."""
    if min(rx, ry) < 0:
        raise ValueError(f"half axes {rx:g} and {ry:g}")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - half_w, cy - half_h, cx + half_w, cy + half_h


def of_mask(mask: numpy.ndarray, left: float = 0, top: float = 0) -> Corners:
    """The box around the pixels of a mask that are not 0, whose first pixel lies at (left, top)."""
    rows, columns = numpy.flatnonzero(mask.any(axis=1)), numpy.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("the mask is empty")
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def of_runs(counts: Sequence[int], width: int, height: int, left: float, top: float) -> Corners:
    """The box of a mask as lengths of runs, row by row, the first of pixels that are not in it."""
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"a mask of {width}x{height}")
    if sum(counts) != width * height or min(counts, default=-1) < 0:
        raise ValueError(f"runs of {sum(counts)} pixels in a mask of {width}x{height}")
    flags = numpy.arange(len(counts)) % 2 == 1
    return of_mask(numpy.repeat(flags, counts).reshape(height, width), left, top)


def png_mask(text: str, *, packed: bool) -> numpy.ndarray:
    """A mask stored as a PNG in base64 (`packed`: compressed by zlib before): what is opaque, or not black where nothing says
    how opaque it is."""
    try:
        data = base64.b64decode(text, validate=True)
        if packed:
            data = zlib.decompressobj().decompress(data, MAX_PIXELS)
        with opened_image(io.BytesIO(data), "the mask") as image:
            pixels = numpy.asarray(
                image.convert("RGBA") if image.mode in ("P", "PA") and "transparency" in image.info else image
            )
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the mask is no PNG in base64: {error}") from None
    if pixels.ndim == 2:
        return pixels
    return pixels[..., -1] if pixels.shape[2] in (2, 4) else numpy.asarray(pixels.any(axis=2))
