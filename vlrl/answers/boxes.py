"""From the text of an answer to boxes, or to None with a reason. Never raises, never guesses.

One scan reads every box format in use (fenced or bare JSON, Python quotes, corner pairs, bare boxes); nothing is evaluated,
nothing missing is filled in, and work is linear in the length of the text. Not here: literals (`vlrl.answers.literals`), where
the answer stands in a completion (`vlrl.answers.span`), the sample it answers (`vlrl.answers.read`), its score
(`vlrl.rewards`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from vlrl.answers.literals import MAX_NUMBER_CHARS, NUMBER, BareWord, CutOff, LiteralReader, Unreadable, decimal
from vlrl.answers.span import canon
from vlrl.schema import Box

MAX_CHARS, MAX_ITEMS, MAX_COORDINATE = 100_000, 300, 1e6
BOX_KEYS = ("bbox_2d", "bbox", "box", "Position", "position")
LABEL_KEYS = ("label", "Label", "category", "category_name", "name")
CONFIDENCE_KEYS = ("Confidence", "confidence", "score")
EXPLICIT_NONES = frozenset({"none", "null", "no object", "no objects", "no target", "no targets", "[]", "[ ]"})


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """A box list as written. `items` are the valid boxes (at most 300), `n_pred` counts invalid ones too.

    `truncated`: the text ends inside the list. `unusable`: the labels of the other items, which hold no valid box or come after
    the 300th. `as_objects`: every item was written as an object with keys.
    """

    items: tuple[Box, ...]
    n_pred: int
    truncated: bool = False
    unusable: tuple[str | None, ...] = ()
    as_objects: bool = False

    @property
    def explicit_none(self) -> bool:
        return self.n_pred == 0

    @property
    def all_valid(self) -> bool:
        return len(self.items) == self.n_pred


class Frame(NamedTuple):
    """How to convert what is written: pixels for one unit along x and y, and the label of items that name none."""

    x: float = 1.0
    y: float = 1.0
    label: str | None = None


AS_WRITTEN = Frame()


_POINT = re.compile(rf"\([ \t\r\n]*({NUMBER.pattern})[ \t\r\n]*,[ \t\r\n]*({NUMBER.pattern})[ \t\r\n]*\)")
_FENCE = re.compile(r"```[ \t]*([A-Za-z]*)[ \t\r]*\n?")
_NUMBERS, _OBJECT = frozenset({int, float}), frozenset({dict})


def parse_boxes(text: str, frame: Frame = AS_WRITTEN) -> ParsedBoxes | str:
    """The box list that a text is, converted by `frame`; or the reason why it is none.

    Accepts an explicit "none" as the empty list. Two separate arrays, or two fences holding boxes, are no answer.
    """
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    stripped = text.strip()
    if not stripped:
        return "empty answer"
    if len(stripped) <= 20 and canon(stripped).removesuffix(".").rstrip() in EXPLICIT_NONES:
        return ParsedBoxes((), 0)
    if "```" in stripped:
        return _parse_fences(stripped, frame)
    fast = _parse_plain_json(stripped, frame)
    if fast is not None:
        return fast
    try:
        return _parse_structures(stripped, frame)
    except Unreadable as error:
        return str(error)


def _parse_fences(text: str, frame: Frame) -> ParsedBoxes | str:
    parts: list[str] = []
    at = 0
    while True:
        opening = _FENCE.search(text, at)
        if opening is None:
            break
        end = text.find("```", opening.end())
        if opening[1].casefold() in ("", "json"):
            parts.append(text[opening.end() : end if end >= 0 else len(text)])
        if end < 0:
            break
        at = end + 3
    read = [parse_boxes(part, frame) for part in parts if part.strip()]
    whole = [boxes for boxes in read if isinstance(boxes, ParsedBoxes)]
    if len(whole) == 1:
        return whole[0]
    if whole:
        return f"{len(whole)} fenced answers"
    return str(read[0]) if read else "an empty fence"


_JSON, _LONG_JSON = json.JSONDecoder(), json.JSONDecoder(parse_float=decimal)


def _parse_plain_json(text: str, frame: Frame) -> ParsedBoxes | None:
    """The common case at C speed: strict JSON, valid boxes in a list or one alone. None: `_parse_structures` must read it, with
    the same result where both can (tested). Python's quotes become JSON's where the text has no other quote and no backslash;
    an apostrophe inside a label is then bad JSON."""
    if text[0] not in "[{":
        return None
    if '"' not in text and "\\" not in text:
        text = text.replace("'", '"')
    try:
        items = (_JSON if len(text) <= MAX_NUMBER_CHARS else _LONG_JSON).decode(text)
    except (ValueError, RecursionError):
        return None
    if type(items) is dict:
        items, text = [items], f"[{text}]"
    # As many lists as valid boxes: nothing is nested, nothing is left for the slow way to judge.
    if not items or not text.count("{") == text.count("[") - 1 == len(items) or not _OBJECT.issuperset(map(type, items)):
        return None
    parsed = _boxes_of(items, False, frame)
    return None if parsed.unusable else parsed


def _parse_structures(text: str, frame: Frame) -> ParsedBoxes:
    """Find the one array, the objects or the corner pairs in a text. Raises Unreadable."""
    reader = LiteralReader(text)
    lists: list[list[Any]] = []
    objects: list[dict[str, Any]] = []
    gaps: list[str] = []
    at = last = 0
    opening = re.compile(r"[\[{]")
    while (found := opening.search(text, at)) is not None:
        gaps.append(text[last : found.start()])
        try:
            value, at = reader.value(found.start())
        except CutOff:
            if not objects:
                raise Unreadable("the list is cut before its first whole item") from None
            reader.truncated = True
            break
        last = at
        if isinstance(value, list):
            lists.append(value)
        else:
            objects.append(value)
    outside = gaps if reader.truncated else [*gaps, text[last:]]
    if (lists or objects) and sum(len(_POINT.findall(gap)) for gap in outside) > 1:
        raise Unreadable("corner points beside other boxes")
    arrays = [members for members in map(_members, lists) if any(map(_is_box_like, members))]
    if lists and not objects:
        if len(arrays) != 1:
            raise Unreadable(f"{len(arrays)} separate arrays" if arrays else "no box in the answer")
        return _boxes_of(arrays[0], reader.truncated, frame)
    if objects and not lists:
        if any(gap.strip(" \t\r\n,") for gap in gaps[1:]):
            raise Unreadable("several objects with text between them")
        if not any(map(_is_box_like, objects)):
            raise Unreadable("no box in the answer")
        return _boxes_of(objects, reader.truncated, frame)
    if lists:
        raise Unreadable("arrays and objects mixed")
    return _parse_points(text, frame)


def _members(items: list[Any]) -> list[Any]:
    """The items of an array: one extra level of brackets removed, a bare box made a list of one."""
    items = _without_echo(items)
    if len(items) == 1 and isinstance(items[0], list):
        inner = _without_echo(items[0])
        if inner and all(isinstance(item, dict | list) for item in inner):
            return inner
    if items and not any(isinstance(item, dict | list) for item in items):
        return [items]
    return items


def _is_box_like(item: Any) -> bool:
    """Whether an item claims to be a box, valid or not. An array without such an item is prose, not an answer."""
    return any(key in item for key in BOX_KEYS) if isinstance(item, dict) else isinstance(item, list) and len(item) == 4


def _without_echo(items: list[Any]) -> list[Any]:
    """The items without the literal `...` of the prompt's example."""
    if items and isinstance(items[-1], BareWord) and items[-1] in ("...", "…"):
        return items[:-1]
    return items


def _parse_points(text: str, frame: Frame) -> ParsedBoxes:
    """Corner pairs `(x1,y1),(x2,y2)`, several in a row."""
    points = [
        (float(m[1]), float(m[2]), m.start(), m.end()) for m in _POINT.finditer(text) if len(m[0]) <= 2 * MAX_NUMBER_CHARS
    ]
    if not points:
        raise Unreadable("no box in the answer")
    tail = text[points[-1][3] :]
    truncated = tail.rfind("(") > tail.rfind(")")
    if len(points) % 2:
        if not truncated or len(points) == 1:
            raise Unreadable("an odd number of corner points")
        points.pop()
    boxes = []
    for first, second in zip(points[::2], points[1::2], strict=True):
        if text[first[3] : second[2]].strip(" \t\r\n,"):
            raise Unreadable("corner points with text between them")
        boxes.append([first[0], first[1], second[0], second[1]])
    return _boxes_of(boxes, truncated, frame)


def _boxes_of(items: Sequence[Any], truncated: bool, frame: Frame) -> ParsedBoxes:
    boxes: list[Box] = []
    rest: list[Any] = []
    for item in items[:MAX_ITEMS]:
        box = _box_of(item, frame)
        if box is None:
            rest.append(item)
        else:
            boxes.append(box)
    rest += items[MAX_ITEMS:]
    unusable = tuple([_label_of(item, frame) for item in rest])
    return ParsedBoxes(tuple(boxes), len(items), truncated, unusable, _OBJECT.issuperset(map(type, items)))


def _number(value: Any) -> float:
    """A coordinate, or NaN for what is none. Decimal strings in ASCII count, booleans and words do not."""
    if type(value) is float or type(value) is int:
        return value
    if not isinstance(value, str) or isinstance(value, BareWord) or len(value) > MAX_NUMBER_CHARS:
        return math.nan
    return float(value) if NUMBER.fullmatch(value) else math.nan


@lru_cache(maxsize=64)
def _keys_of(names: tuple[str, ...]) -> tuple[str | None, str | None, str | None]:
    """Which keys of an object hold its box, its label and its confidence: the first known ones in our order."""
    known = (BOX_KEYS, LABEL_KEYS, CONFIDENCE_KEYS)
    box, label, confidence = (next((key for key in keys if key in names), None) for keys in known)
    return box, label, confidence


def _label_of(item: Any, frame: Frame) -> str | None:
    label = item.get(_keys_of(tuple(item))[1]) if isinstance(item, dict) else None
    return label if type(label) is str else frame.label


def _box_of(item: Any, frame: Frame) -> Box | None:
    """A valid box, or None for anything else (wrong length, reversed, no area, not finite, no coordinates)."""
    corners, label, confidence = item, None, None
    if isinstance(item, dict):
        box_key, label_key, confidence_key = _keys_of(tuple(item))
        corners, label = item.get(box_key), item.get(label_key)
        if confidence_key is not None:
            confidence = _confidence(item[confidence_key])
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    x1, y1, x2, y2 = corners
    if not (type(x1) in _NUMBERS and type(y1) in _NUMBERS and type(x2) in _NUMBERS and type(y2) in _NUMBERS):
        x1, y1, x2, y2 = map(_number, corners)
    # A comparison with NaN is false, so that NaN and what is no number end here with the infinities.
    if not (-MAX_COORDINATE <= x1 < x2 <= MAX_COORDINATE and -MAX_COORDINATE <= y1 < y2 <= MAX_COORDINATE):
        return None
    x, y, only = frame
    return Box(x1 * x, y1 * y, x2 * x, y2 * y, label if type(label) is str else only, confidence)


def _confidence(value: Any) -> float | None:
    """A finite number, clipped to 0..1; None for anything else."""
    if type(value) is not float and type(value) is not int:
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else None
