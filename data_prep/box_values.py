"""What annotation files write for boxes, numbers, flags and ids → values, or None where it is none of them; no guesses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from vlrl.answers.span import canon

MAX_PX = 1e6
"""Coordinates beyond this are not pixels (a comparison with NaN is false)."""
Corners = tuple[float, float, float, float]

_PLAIN = frozenset({int, float})
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FOUR = re.compile(
    rf"\s*[\[(]?\s*({_NUMBER})(?:\s*,\s*|\s+)({_NUMBER})(?:\s*,\s*|\s+)({_NUMBER})(?:\s*,\s*|\s+)({_NUMBER})\s*[\])]?\s*"
)
_SEPARATORS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_KEYS = {
    ("x", "y", "width", "height"): "xywh",
    ("x", "y", "w", "h"): "xywh",
    ("left", "top", "width", "height"): "xywh",
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x_min", "y_min", "x_max", "y_max"): "xyxy",
    ("left", "top", "right", "bottom"): "xyxy",
}


def number(value: Any) -> float | None:
    """A finite number no larger than any image, also one written as text (`"40.0"`)."""
    if isinstance(value, str):
        if not re.fullmatch(_NUMBER, value.strip()):
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_PX:
        return None
    return value


def flag(value: Any) -> bool | None:
    """A truth value in the forms that files have; None: it is none, so nothing is known."""
    if value is None or value == "":
        return False
    if isinstance(value, bool | int | float):
        return None if value not in (0, 1) else bool(value)
    return {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "0.0": False, "1.0": True}.get(
        str(value).strip().casefold()
    )


def id_key(value: Any) -> str | None:
    """An id as the text by which entries are joined: 1, "1" and 1.0 are one id. None: it is no id."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, int):
        return str(value)
    text = value.strip() if isinstance(value, str) else ""
    whole = re.fullmatch(r"([-+]?\d+)\.0+", text)
    return (whole.group(1) if whole else text) or None


@lru_cache(maxsize=65536)
def name_key(label: str) -> str:
    """A category name as names are compared: without case, and with `_`, `-` and blanks between letters as one blank."""
    return _SEPARATORS.sub(" ", canon(label))


def corners(value: Any, form: str) -> Corners | None:
    """A box as x1, y1, x2, y2, right and bottom edge exclusive. `form`: what four bare numbers are, "xywh" or "xyxy"; named
    values say it themselves. Widths may be negative: that is checked where the box is used."""
    if type(value) is list and len(value) == 4:
        # nearly all are such lists, and there may be a million of them
        a, b, c, d = value
        is_plain = type(a) in _PLAIN and type(b) in _PLAIN and type(c) in _PLAIN and type(d) in _PLAIN
        if is_plain and abs(a) + abs(b) + abs(c) + abs(d) <= MAX_PX:
            return (a, b, c, d) if form == "xyxy" else (a, b, a + c, b + d)
    if isinstance(value, dict):
        named = {str(key).casefold(): part for key, part in value.items()}
        found = [(keys, kind) for keys, kind in _KEYS.items() if all(key in named for key in keys)]
        if len(found) != 1:
            return None
        value, form = [named[key] for key in found[0][0]], found[0][1]
    elif isinstance(value, str):
        four = _FOUR.fullmatch(value)
        value = list(four.groups()) if four else None
    if not isinstance(value, list) or len(value) != 4:
        return None
    a, b, c, d = map(number, value)
    if a is None or b is None or c is None or d is None:
        return None
    return (a, b, c, d) if form == "xyxy" else (a, b, a + c, b + d)


def turned_box(box: Corners, angle: float) -> Corners:
    """The upright box around a box that is turned by `angle` (radians) about its centre."""
    x1, y1, x2, y2 = box
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_x, half_y = ((x2 - x1) * cos + (y2 - y1) * sin) / 2, ((x2 - x1) * sin + (y2 - y1) * cos) / 2
    return (x1 + x2) / 2 - half_x, (y1 + y2) / 2 - half_y, (x1 + x2) / 2 + half_x, (y1 + y2) / 2 + half_y


def shape_box(value: Any, size_wh: tuple[int, int] | None = None) -> Corners | None:
    """The upright box of a COCO segmentation: polygons (flat, or lists of points) or a run-length mask, compressed or not; None
    where it is none of them. `size_wh`: the image's size, which a mask must have."""
    if isinstance(value, dict):
        return _mask_box(value, size_wh)
    if type(value) is list and all(type(part) is list and len(part) % 2 == 0 for part in value):
        numbers = [number for part in value for number in part]
        if len(numbers) >= 6 and set(map(type, numbers)) <= _PLAIN and sum(map(abs, numbers)) <= MAX_PX:
            return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    points = list(_points(value))
    if len(points) < 3 or None in points:
        return None
    xs, ys = zip(*(point for point in points if point), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _points(value: Any) -> Iterator[tuple[float, float] | None]:
    """The points of polygons in any nesting; a None among them: something could not be read."""
    if isinstance(value, dict):
        x, y = number(value.get("x")), number(value.get("y"))
        yield None if x is None or y is None else (x, y)
    elif not isinstance(value, list) or (value and len(value) % 2 and not isinstance(value[0], list | dict)):
        yield None
    elif value and not isinstance(value[0], list | dict):
        numbers = [number(part) for part in value]
        for x, y in zip(numbers[::2], numbers[1::2], strict=True):
            yield None if x is None or y is None else (x, y)
    else:
        for part in value:
            yield from _points(part)


def _mask_box(value: dict[Any, Any], size_wh: tuple[int, int] | None) -> Corners | None:
    from pycocotools import mask as masks

    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and 0 < side <= MAX_PX for side in size):
        return None
    height, width = size
    if size_wh is not None and (width, height) != size_wh:
        return None
    runs = _runs(counts) if isinstance(counts, str) else counts
    # pycocotools reads beyond the mask where the runs do not add up
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        return None
    encoded = masks.frPyObjects({"size": size, "counts": runs}, height, width)
    x, y, w, h = (float(side) for side in masks.toBbox(encoded))
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None


def _runs(text: str) -> list[int] | None:
    """The runs of a compressed mask; None where it is none. The form is that of pycocotools (`rleFrString`): 5 bits a
    character, from the third run on as the difference to the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else None
