"""How the corners of one box are written: four numbers, texts of them, corner points, named corners. And what is a valid box.

What does not say which point it means raises `Unreadable`. Not here: which key or list holds a box (`vlrl.answers.box_items`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from vlrl.answers.literals import MAX_NUMBER_CHARS, NUMBER, BareWord, Unreadable

MAX_COORDINATE = 1e6
_CORNERS = (
    ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("minx", "miny", "maxx", "maxy"), ("x0", "y0", "x1", "y1"),
    ("left", "top", "right", "bottom"), ("topleftx", "toplefty", "bottomrightx", "bottomrighty"),
    ("startx", "starty", "endx", "endy"),
)  # fmt: skip
_SIZED = tuple(
    (x, y, w, h) for x, y in (("left", "top"), ("xmin", "ymin"), ("x1", "y1")) for w, h in (("width", "height"), ("w", "h"))
)
_CENTRED = tuple(
    (x, y, w, h)
    for x, y in (("cx", "cy"), ("xcenter", "ycenter"), ("centerx", "centery"))
    for w, h in (("width", "height"), ("w", "h"))
)
_POINTS = (("topleft", "bottomright"), ("lefttop", "rightbottom"), ("upperleft", "lowerright"), ("min", "max"))


_CORNER_NAMES = frozenset(name for names in (*_CORNERS, *_SIZED, *_CENTRED, *_POINTS) for name in names[:2])


def plain(key: str) -> str:
    """A key without case, spaces and marks: "Bounding Box" and "bounding_box" are one."""
    return "".join(c for c in key.casefold() if c.isalnum())


def boxes_in(value: Any) -> list[Sequence[Any] | None]:
    """The boxes under one key, as four values each; None for what is no box."""
    one = _one_box(value)
    if one is None and isinstance(value, list) and len(value) > 1 and all(isinstance(m, list | dict) for m in value):
        return [_one_box(member) for member in value]
    return [one]


def _one_box(value: Any) -> Sequence[Any] | None:
    if isinstance(value, str):
        return None if isinstance(value, BareWord) else four_numbers(value)
    if isinstance(value, dict):
        return named_corners(value)
    if not isinstance(value, list):
        return None
    if len(value) == 1 and isinstance(value[0], list | dict | str):
        return _one_box(value[0])
    if len(value) == 4 and not any(isinstance(member, list | dict) for member in value):
        return value
    return corner_pair(value)


def corner_pair(value: list[Any]) -> Sequence[Any] | None:
    """Two corners as [x, y] each, or the four corners of an upright rectangle."""
    points: list[list[Any]] = []
    for member in value:
        point = _xy(member) if isinstance(member, dict) else member
        if isinstance(point, list) and _is_point(point):
            points.append(point)
    if len(points) != len(value) or len(points) not in (2, 4):
        return None
    if len(points) == 2:
        return [*points[0], *points[1]]
    xs, ys = ({coordinate(point[i]) for point in points} for i in (0, 1))
    if len(xs) != 2 or len(ys) != 2 or len({(coordinate(x), coordinate(y)) for x, y in points}) != 4:
        return None
    return [min(xs), min(ys), max(xs), max(ys)]


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _xy(value: Mapping[str, Any]) -> list[Any] | None:
    """The two members of {"x": .., "y": ..}."""
    of = {plain(key): member for key, member in value.items() if len(key) <= 20}
    return [of["x"], of["y"]] if of.keys() == {"x", "y"} else None


def is_xy(value: Any) -> bool:
    """Whether a value is a point with the keys x and y."""
    return isinstance(value, dict) and len(value) == 2 and _is_point(_xy(value))


def labelled_list(value: list[Any]) -> tuple[str, Sequence[Any]] | None:
    """`["dog", [x1, y1, x2, y2]]`, `["dog", x1, y1, x2, y2]` or with the label last: the label and the four values."""
    texts = [v for v in value if isinstance(v, str) and not isinstance(v, BareWord) and not _is_number(v)]
    if len(texts) != 1 or (value[0] is not texts[0] and value[-1] is not texts[0]) or len(texts[0]) > 200:
        return None
    rest = [v for v in value if v is not texts[0]]
    if len(rest) == 1 and isinstance(rest[0], list):
        rest = rest[0]
    if len(rest) != 4 or not all(map(_is_number, rest)) or len(value) not in (2, 5):
        return None
    return texts[0], rest


def names_corners(name: str) -> bool:
    """Whether a key may name a corner of a box."""
    return plain(name) in _CORNER_NAMES


@lru_cache(maxsize=256)
def _may_name_corners(names: tuple[str, ...]) -> bool:
    return 2 <= len(names) <= 30 and any(len(name) <= 20 and plain(name) in (*_CORNER_NAMES, "x") for name in names)


def named_corners(value: Mapping[str, Any], has_box: bool = False) -> tuple[float, ...] | None:
    """The corners of an object whose keys name them. Raises Unreadable where they leave open which point is meant, unless a box
    stands under another key (`has_box`)."""
    if not _may_name_corners(tuple(value)):
        return None
    of = {plain(key): member for key, member in value.items() if len(key) <= 20}
    for names in (*_CORNERS, *_SIZED, *_CENTRED):
        if all(name in of and _is_number(of[name]) for name in names):
            a, b, c, d = (coordinate(of[name]) for name in names)
            if names in _SIZED:
                return a, b, a + c, b + d
            return (a - c / 2, b - d / 2, a + c / 2, b + d / 2) if names in _CENTRED else (a, b, c, d)
    for opposite in _POINTS:
        if all(name in of for name in opposite):
            first, last = (_point(of[name]) for name in opposite)
            if first is not None and last is not None:
                return *first, *last
    if not has_box and {"x", "y"} <= of.keys() and ({"width", "height"} <= of.keys() or {"w", "h"} <= of.keys()):
        raise Unreadable("x, y, width and height do not say which point of the box x, y is")
    return None


def _point(value: Any) -> tuple[float, float] | None:
    if isinstance(value, dict):
        value = [value.get("x"), value.get("y")]
    if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        return coordinate(value[0]), coordinate(value[1])
    return None


# ---- numbers

_FOUR = re.compile(rf"[\[({{<\s]*({NUMBER.pattern})" + rf"(?:[)\]\s]*[,;\s][\s(\[]*({NUMBER.pattern}))" * 3 + r"[\])}>\s]*")


_TAG = re.compile(r"<[^<>]{1,20}>")


def four_numbers(text: str) -> tuple[float, ...] | None:
    """The four numbers that a text is, with commas or spaces between them and brackets around: "10, 20, 110, 220"."""
    if len(text) > 4 * MAX_NUMBER_CHARS:
        return None
    found = _FOUR.fullmatch(_TAG.sub(" ", text) if "<" in text else text)
    return None if found is None else tuple(map(coordinate, found.groups()))


def coordinate(value: Any) -> float:
    """A coordinate, or NaN for what is none. Decimal strings in ASCII count, booleans and words do not."""
    if type(value) is float or type(value) is int:
        return value
    if not isinstance(value, str) or isinstance(value, BareWord) or len(value) > MAX_NUMBER_CHARS:
        return math.nan
    return float(value) if NUMBER.fullmatch(value.strip()) else math.nan


def _is_number(value: Any) -> bool:
    return type(value) is int or not math.isnan(coordinate(value))


def valid(corners: Sequence[Any] | None) -> tuple[float, float, float, float] | None:
    """Four corners as numbers, or None where they are no box (reversed, no area, not finite, no coordinates)."""
    if corners is None or len(corners) != 4:
        return None
    x1, y1, x2, y2 = map(coordinate, corners)
    # A comparison with NaN is false, so that NaN and what is no number end here with the infinities.
    if not (-MAX_COORDINATE <= x1 < x2 <= MAX_COORDINATE and -MAX_COORDINATE <= y1 < y2 <= MAX_COORDINATE):
        return None
    return x1, y1, x2, y2


def confidence_of(value: Any) -> float | None:
    """A finite number, clipped to 0..1; None for anything else."""
    if type(value) is not float and type(value) is not int:
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else None
