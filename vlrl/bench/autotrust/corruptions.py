"""Image corruptions without a model: noise, compression, contrast, pixelation, rain and fog, in three severities.

`gaussian_var6` and `gaussian_var6_wrapped` follow the released noise script (variance 6, in grey levels). The publication names
compression, contrast and pixelation without parameters: these, and rain and fog, are our own, named
`vlrl-corruption-<name>-<severity>`. Equal seed and key give equal pixels. Not here: images from other distributions, which only
the user can supply (`OOD_QA.json`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vlrl.data.synthetic import item_rng

Pixels = NDArray[np.float64]
VARIANCE = 6.0
SEVERITIES = (1, 2, 3)
GAUSSIAN_SIGMA = (10.0, 25.0, 50.0)
"""Standard deviation in grey levels."""
JPEG_QUALITY = (30, 15, 7)
"""Pillow's `quality`."""
CONTRAST = (0.5, 0.3, 0.15)
"""Factor on the distance from the mean of the image."""
PIXEL_SHARE = (0.5, 0.25, 0.125)
"""Share of each side's resolution that is left."""
RAIN_PER_SIDE = (0.6, 1.2, 2.4)
"""Streaks per pixel of the longer side."""
FOG_SHARE = (0.3, 0.5, 0.7)
"""Mean share of fog over the image, thicker at the horizon (the upper half)."""


def gaussian_var6(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Noise of variance 6 added in floating point, clipped."""
    pixels = np.asarray(image, dtype=np.float64)
    return _to_image(pixels + rng.normal(0, math.sqrt(VARIANCE), pixels.shape))


def gaussian_var6_wrapped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The noise as the released script adds it: cast to unsigned bytes first, so that about 34 % of the values turn white."""
    pixels = np.asarray(image, dtype=np.float64)
    noise = np.trunc(rng.normal(0, math.sqrt(VARIANCE), pixels.shape)) % 256
    return _to_image(pixels + noise)


def _gaussian(image: Image.Image, rng: np.random.Generator, severity: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    return _to_image(pixels + rng.normal(0, GAUSSIAN_SIGMA[severity - 1], pixels.shape))


def _compression(image: Image.Image, rng: np.random.Generator, severity: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY[severity - 1])
    with Image.open(buffer) as packed:
        return packed.convert("RGB")


def _contrast(image: Image.Image, rng: np.random.Generator, severity: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return _to_image(mean + (pixels - mean) * CONTRAST[severity - 1])


def _pixelation(image: Image.Image, rng: np.random.Generator, severity: int) -> Image.Image:
    share = PIXEL_SHARE[severity - 1]
    small = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _rain(image: Image.Image, rng: np.random.Generator, severity: int) -> Image.Image:
    """Bright slanted streaks over a slightly darker image."""
    width, height = image.size
    side = max(width, height)
    layer = np.zeros((height, width))
    length, slant = max(4, side // 12), rng.uniform(-0.25, 0.25)
    for _ in range(round(RAIN_PER_SIDE[severity - 1] * side)):
        x, y, strength = rng.uniform(0, width), rng.uniform(-length, height), rng.uniform(0.3, 0.8)
        down = np.arange(round(length * rng.uniform(0.6, 1.4)))
        rows, columns = (y + down).astype(int), (x + slant * down).astype(int)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        layer[rows[inside], columns[inside]] = strength
    if side >= 400:
        wide = Image.fromarray((255 * layer).astype(np.uint8)).filter(ImageFilter.GaussianBlur(side / 800))
        layer = np.asarray(wide, dtype=np.float64) / 255
    pixels = np.asarray(image, dtype=np.float64) * 0.9
    return _to_image(pixels + (225 - pixels) * layer[:, :, None])


def _fog(image: Image.Image, rng: np.random.Generator, severity: int) -> Image.Image:
    """Light grey laid over in clouds, thicker in the upper half."""
    width, height = image.size
    clouds = np.zeros((height, width))
    for cells in (2, 4, 8):
        drawn = Image.fromarray((255 * rng.random((cells + 1, cells + 1))).astype(np.uint8))
        clouds += np.asarray(drawn.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 255 / cells
    clouds = clouds / clouds.mean() * np.linspace(1.25, 0.75, height)[:, None]
    share = np.clip(FOG_SHARE[severity - 1] * clouds, 0, 0.95)[:, :, None]
    pixels = np.asarray(image, dtype=np.float64)
    return _to_image(pixels * (1 - share) + 222 * share)


def _to_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


RELEASED: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "gaussian_var6": gaussian_var6,
    "gaussian_var6_wrapped": gaussian_var6_wrapped,
}
OWN: dict[str, Callable[[Image.Image, np.random.Generator, int], Image.Image]] = {
    "gaussian": _gaussian,
    "compression": _compression,
    "contrast": _contrast,
    "pixelation": _pixelation,
    "rain": _rain,
    "fog": _fog,
}
CORRUPTIONS = (*RELEASED, *(f"vlrl-corruption-{name}-{k}" for name in OWN for k in SEVERITIES))
"""All names, as reports print them."""


def corrupt(image: Image.Image, name: str, *key: object) -> Image.Image:
    """A corrupted RGB image. `name`: one of `CORRUPTIONS`; `key`: the seed and whatever names the item."""
    rng = item_rng("corruption", name, *key)
    if name in RELEASED:
        return RELEASED[name](image, rng)
    kind, severity = name.removeprefix("vlrl-corruption-").rsplit("-", 1)
    return OWN[kind](image, rng, int(severity))


def chosen_corruptions(kinds: Sequence[str], severities: Sequence[str]) -> tuple[str, ...]:
    """The corruptions of `corruption=fog+gaussian_var6` and `severity=1+3`; empty: all. Raises ValueError."""
    unknown = [kind for kind in kinds if kind not in OWN and kind not in RELEASED]
    if unknown:
        raise ValueError(f"unknown corruption {unknown[0]!r} (known: {', '.join([*RELEASED, *OWN])})")
    bad = [text for text in severities if text not in map(str, SEVERITIES)]
    if bad:
        raise ValueError(f"severity {bad[0]!r} is not one of {', '.join(map(str, SEVERITIES))}")
    found = []
    for name in CORRUPTIONS:
        kind, _, severity = name.removeprefix("vlrl-corruption-").rpartition("-")
        if name in RELEASED:
            kind, severity = name, ""
        if (not kinds or kind in kinds) and (not severities or not severity or severity in severities):
            found.append(name)
    return tuple(found)
