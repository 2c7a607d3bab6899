"""Images of more than 8 bits a channel (X-ray, microscopy, thermal, satellite) → 8 bits, by one rule for all uses. No torch.

The rule. The range of an image is that of its values, cut off one width of the middle 99.8 % beyond these, so that dead pixels
and burnt-in marks do not count. Values of 16 bits keep their upper 8 bits where the range is more than a quarter of 0..65535;
others, and all of 32 bits, are scaled so that the range fills 0..255. Without this Pillow cuts values off at 255, or keeps the
upper 8 bits: most such images become white or black. Not here: opening files (`vlrl.data.images`).
"""

from __future__ import annotations

import io
import sys
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image

RULE = (
    "in 8 bits: 16-bit values keep their upper 8 bits; where they fill less than a quarter of their range, and where they have"
    " 32 bits, the image's own smallest to largest value becomes 0 to 255"
)
"""For people: how such images are shown to a model."""

_Array: TypeAlias = np.ndarray[Any, Any]
_QUARTER = 0x10000 // 4
_MAX_MEASURED = 1_000_000
"""Pixels whose percentiles are taken; of a larger image evenly spaced ones."""
_NODATA_TAG, _PHOTOMETRIC_TAG, _MIN_IS_WHITE = 42113, 262, 0
_NATIVE, _OTHER = ("L", "B") if sys.byteorder == "little" else ("B", "L")
_LOW_BYTES = {
    **{f"{mode};16{a}": f"{mode};16{b}" for mode in ("RGB", "RGBA", "RGBX") for a, b in ("BL", "LB", ("N", _OTHER))},
    "LA;16B": "RGBA",
}
"""Pillow reads the upper bytes of a colour channel; by this name it reads the lower ones (of grey and alpha, both bytes)."""


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image, whose pixels are not loaded yet, has more than 8 bits a channel."""
    return image.mode.startswith(("I", "F")) or _raw_mode(image) in _LOW_BYTES


def in_8_bits(image: Image.Image) -> Image.Image:
    """An opened deep image (see `is_deep`) in 8 bits a channel, grey or colour, with alpha where it has one; its EXIF
    orientation is stated as before. Raises what Pillow raises for a file that is damaged."""
    if image.mode.startswith(("I", "F")):
        return _with_orientation(_grey(image), image)
    raw, file = _raw_mode(image), getattr(image, "fp", None)
    if raw not in _LOW_BYTES or file is None:
        return image
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    image.load()
    shown = np.asarray(image).copy()
    with Image.open(io.BytesIO(data)) as again:
        tiles: Any = again  # of a file, whose class each format defines
        tiles.tile = [tile._replace(args=_args(tile.args)) for tile in tiles.tile]
        lower = np.asarray(again)[..., 1:2] if raw == "LA;16B" else np.asarray(again)[..., :3]
    upper = shown[..., : lower.shape[-1]].astype(np.uint16)
    shown[..., :3] = _scaled(upper << 8 | lower)
    return _with_orientation(Image.fromarray(shown), image)


def _raw_mode(image: Image.Image) -> str | None:
    """How the pixels are stored, by Pillow's name; None where they are loaded, or the decoder says it."""
    tile = getattr(image, "tile", None)
    args = tile[0].args if tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else None


def _args(args: Any) -> Any:
    return (_LOW_BYTES[args[0]], *args[1:]) if isinstance(args, tuple) else _LOW_BYTES[args]


def holds_one_value(image: Image.Image) -> bool:
    """Whether an opened image of one deep channel has no two values that are numbers, so that nothing can be seen on it. Raises
    what Pillow raises for a file that is damaged."""
    if not image.mode.startswith(("I", "F")):
        return False
    values = np.asarray(image)
    is_there = _is_there(image, values)
    known = values if is_there is None else values[is_there]
    return known.size == 0 or bool(known.min() == known.max())


def _is_there(image: Image.Image, values: _Array) -> _Array | None:
    """Which values are numbers and not what a TIFF names as no data; None: all."""
    nothing = _number(getattr(image, "tag_v2", {}).get(_NODATA_TAG))
    if values.dtype.kind != "f" and nothing is None:
        return None
    is_finite: _Array = np.isfinite(values)
    return is_finite if nothing is None else is_finite & (values != nothing)


def _grey(image: Image.Image) -> Image.Image:
    """An image of one deep channel as grey."""
    values, info = np.asarray(image), dict(image.info)
    tags = getattr(image, "tag_v2", {})
    is_there = _is_there(image, values)
    if is_there is not None:
        shown = np.zeros(values.shape, np.uint8)
        shown[is_there] = _scaled(values[is_there])
    else:
        shown = _scaled(values)
    if tags.get(_PHOTOMETRIC_TAG) == _MIN_IS_WHITE:
        shown = 255 - shown
    if isinstance(clear := info.get("transparency"), int):
        shown[values == clear] = 255
    return Image.fromarray(shown)


def _number(text: Any) -> float | None:
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _scaled(values: _Array) -> _Array:
    """Finite values as 0..255, by the rule above."""
    if not values.size:
        return values.astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    flat = values.ravel()
    inner = [float(one) for one in np.percentile(flat[:: max(1, flat.size // _MAX_MEASURED)], (0.1, 99.9))]
    if (width := inner[1] - inner[0]) > 0:
        low, high = max(low, inner[0] - width), min(high, inner[1] + width)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # in either byte order
        if high - low > _QUARTER or high == low:
            return (values >> 8).astype(np.uint8)
        found: _Array = _stretched(np.arange(0x10000), low, high)[values]
        return found
    if high == low:
        return np.zeros(values.shape, np.uint8)
    shown = np.empty(flat.size, np.uint8)
    for start in range(0, flat.size, _MAX_MEASURED):  # in parts, as one in 64 bits takes eight times the memory
        part = slice(start, start + _MAX_MEASURED)
        shown[part] = _stretched(flat[part], low, high)
    return shown.reshape(values.shape)


def _stretched(values: _Array, low: float, high: float) -> _Array:
    """`low` to `high` as 0 to 255. In floats of 64 bits: the difference of two of 32 bits may not fit into one."""
    return np.clip((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)


def _with_orientation(shown: Image.Image, image: Image.Image) -> Image.Image:
    """`shown` with the orientation that a loaded image states (in TIFF Pillow has applied it)."""
    if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) != 1:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        shown.info["exif"] = exif.tobytes()
    return shown
