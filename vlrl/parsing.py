"""From the text of an answer to boxes, or to None with a reason. Never raises, never guesses.

One scan reads every box dialect in use (fenced or bare JSON, Python quotes, corner pairs, bare boxes); nothing is
evaluated, nothing missing is filled in, and work is linear in the length of the text. Not here: where the answer stands
in a completion (`vlrl.tags`), the sample it answers (`vlrl.answers`) and what it is worth (`vlrl.rewards`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.schema import Box
from vlrl.tags import canon

MAX_CHARS, MAX_DEPTH, MAX_ITEMS, MAX_NUMBER_CHARS, MAX_COORDINATE = 100_000, 32, 300, 400, 1e6
BOX_KEYS = ("bbox_2d", "bbox", "box", "Position", "position")
LABEL_KEYS = ("label", "Label", "category", "category_name", "name")
CONFIDENCE_KEYS = ("Confidence", "confidence", "score")
NO_OBJECT = frozenset({"none", "null", "no object", "no objects", "no target", "no targets", "[]", "[ ]"})


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """A box list as written. `items` are the valid boxes (at most 300), `n_pred` counts invalid ones too."""

    items: tuple[Box, ...]
    n_pred: int
    truncated: bool = False

    @property
    def explicit_none(self) -> bool:
        return self.n_pred == 0

    @property
    def all_valid(self) -> bool:
        return len(self.items) == self.n_pred


class _Unreadable(Exception):
    """Not a box list; the message says why. Never leaves this module."""


class _Word(str):
    """A bare word such as `true`, `NaN` or `...`: never a number, never a label."""


_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"-?[A-Za-z_]+|\.\.\.|…")
_SPACE = re.compile(r"[ \t\r\n]*")
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE_QUOTED_END = re.compile(r"'(?=[ \t\r\n]*(?:[,:}\])]|$))")
_POINT = re.compile(rf"\([ \t\r\n]*({_NUMBER.pattern})[ \t\r\n]*,[ \t\r\n]*({_NUMBER.pattern})[ \t\r\n]*\)")
_FENCE = re.compile(r"```[ \t]*([A-Za-z]*)[ \t\r]*\n?")
_OPEN = {"[": "]", "{": "}", "(": ")"}


@dataclass(slots=True)
class _Reader:
    """A tolerant reader of JSON and Python literals. An unclosed list keeps its complete members."""

    text: str
    truncated: bool = False

    def value(self, at: int, depth: int = 1) -> tuple[Any, int]:
        """The value that starts at `at` and the position behind it. Raises _Unreadable, or _End at the text's end."""
        text = self.text
        if at >= len(text):
            raise _End
        head = text[at]
        if head in "[(":
            return self._list(at, depth)
        if head == "{":
            return self._object(at, depth)
        if head == '"':
            found = _DOUBLE_QUOTED.match(text, at)
            if found is None:
                raise _End
            try:
                return (json.loads(found[0], strict=False) if "\\" in found[1] else found[1]), found.end()
            except ValueError:
                return found[1], found.end()
        if head == "'":
            closing = _SINGLE_QUOTED_END.search(text, at + 1)
            if closing is None:
                raise _End
            return text[at + 1 : closing.start()].replace("\\'", "'"), closing.end()
        found = _NUMBER.match(text, at)
        if found is not None and found.end() > at:
            if found.end() == len(text) and depth > 1:
                raise _End
            return (float(found[0]) if len(found[0]) <= MAX_NUMBER_CHARS else math.inf), found.end()
        found = _WORD.match(text, at)
        if found is not None:
            return _Word(found[0]), found.end()
        raise _Unreadable(f"unexpected {head!r}")

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        if depth > MAX_DEPTH:
            raise _Unreadable(f"brackets nested deeper than {MAX_DEPTH}")
        close = _OPEN[self.text[at]]
        items: list[Any] = []
        at = self._skip(at + 1)
        try:
            while True:
                if self.text[at : at + 1] == close:
                    return items, at + 1
                item, at = self.value(at, depth + 1)
                items.append(item)
                at = self._skip(at)
                if self.text[at : at + 1] == ",":
                    at = self._skip(at + 1)
                elif at >= len(self.text):
                    raise _End
                elif self.text[at] != close:
                    raise _Unreadable(f"unexpected {self.text[at]!r} in a list")
        except _End:
            # Only members with a closing bracket of their own are known to be whole.
            if depth > 2 or not (items and all(isinstance(item, dict | list) for item in items)):
                raise
            self.truncated = True
            return items, len(self.text)

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        if depth > MAX_DEPTH:
            raise _Unreadable(f"brackets nested deeper than {MAX_DEPTH}")
        found: dict[str, Any] = {}
        at = self._skip(at + 1)
        while True:
            if self.text[at : at + 1] == "}":
                return found, at + 1
            key, at = self.value(at, MAX_DEPTH)
            at = self._skip(at)
            if at >= len(self.text):
                raise _End
            if self.text[at] != ":" or not isinstance(key, str):
                raise _Unreadable("an object without keys")
            whole = self.truncated
            found[key], at = self.value(self._skip(at + 1), max(depth + 1, 3))
            self.truncated = whole
            at = self._skip(at)
            if at >= len(self.text):
                raise _End
            if self.text[at] == ",":
                at = self._skip(at + 1)
            elif self.text[at] != "}":
                raise _Unreadable(f"unexpected {self.text[at]!r} in an object")


class _End(Exception):
    """The text ended inside a value. Never leaves this module."""


def parse_boxes(text: str) -> ParsedBoxes | str:
    """Read an answer span as a box list, in the dialect it is written in; otherwise the reason why not.

    Accepts an explicit "none" as the empty list. Two separate arrays, or two fences holding boxes, are no answer.
    """
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    stripped = text.strip()
    if not stripped:
        return "empty answer"
    if len(stripped) <= 20 and canon(stripped).removesuffix(".").rstrip() in NO_OBJECT:
        return ParsedBoxes((), 0)
    if "```" in stripped:
        return _parse_fences(stripped)
    fast = _parse_plain_json(stripped)
    if fast is not None:
        return fast
    try:
        return _parse_structures(stripped)
    except _Unreadable as error:
        return str(error)


def _parse_fences(text: str) -> ParsedBoxes | str:
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
    read = [parse_boxes(part) for part in parts if part.strip()]
    whole = [boxes for boxes in read if isinstance(boxes, ParsedBoxes)]
    if len(whole) == 1:
        return whole[0]
    if whole:
        return f"{len(whole)} fenced answers"
    return str(read[0]) if read else "an empty fence"


def _parse_plain_json(text: str) -> ParsedBoxes | None:
    """The common case at C speed: strict JSON, a flat list of flat objects. None: read it the slow way."""
    if text[0] != "[":
        return None
    try:
        items = json.loads(text, parse_int=float, parse_constant=_Word)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not items:
        return None
    for item in items:
        if not isinstance(item, dict):
            return None
        for value in item.values():
            if type(value) is dict or (type(value) is list and (list in map(type, value) or dict in map(type, value))):
                return None
    return _boxes_of(items, truncated=False) if any(map(_is_box_like, items)) else None


def _parse_structures(text: str) -> ParsedBoxes:
    """Find the one array, the objects or the corner pairs in a text. Raises _Unreadable."""
    reader = _Reader(text)
    lists: list[list[Any]] = []
    objects: list[dict[str, Any]] = []
    gaps: list[str] = []
    at = last = 0
    opening = re.compile(r"[\[{]")
    while (found := opening.search(text, at)) is not None:
        gaps.append(text[last : found.start()])
        try:
            value, at = reader.value(found.start())
        except _End:
            if not objects:
                raise _Unreadable("the list is cut before its first whole item") from None
            reader.truncated = True
            break
        last = at
        if isinstance(value, list):
            lists.append(value)
        else:
            objects.append(value)
    arrays = [members for members in map(_members, lists) if any(map(_is_box_like, members))]
    if lists and not objects:
        if len(arrays) != 1:
            raise _Unreadable(f"{len(arrays)} separate arrays" if arrays else "no box in the answer")
        return _boxes_of(arrays[0], reader.truncated)
    if objects and not lists:
        if any(gap.strip(" \t\r\n,") for gap in gaps[1:]):
            raise _Unreadable("several objects with text between them")
        if not any(map(_is_box_like, objects)):
            raise _Unreadable("no box in the answer")
        return _boxes_of(objects, reader.truncated)
    if lists:
        raise _Unreadable("arrays and objects mixed")
    return _parse_points(text)


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
    if items and isinstance(items[-1], _Word) and items[-1] in ("...", "…"):
        return items[:-1]
    return items


def _parse_points(text: str) -> ParsedBoxes:
    """Corner pairs `(x1,y1),(x2,y2)`, several in a row."""
    points = [
        (float(m[1]), float(m[2]), m.start(), m.end()) for m in _POINT.finditer(text) if len(m[0]) <= 2 * MAX_NUMBER_CHARS
    ]
    if not points:
        raise _Unreadable("no box in the answer")
    tail = text[points[-1][3] :]
    truncated = tail.rfind("(") > tail.rfind(")")
    if len(points) % 2:
        if not truncated or len(points) == 1:
            raise _Unreadable("an odd number of corner points")
        points.pop()
    boxes = []
    for first, second in zip(points[::2], points[1::2], strict=True):
        if text[first[3] : second[2]].strip(" \t\r\n,"):
            raise _Unreadable("corner points with text between them")
        boxes.append([first[0], first[1], second[0], second[1]])
    return _boxes_of(boxes, truncated)


def _boxes_of(items: Sequence[Any], truncated: bool) -> ParsedBoxes:
    boxes = [box for box in map(_box_of, items[:MAX_ITEMS]) if box is not None]
    return ParsedBoxes(tuple(boxes), len(items), truncated)


def _number(value: Any) -> float | None:
    """A finite coordinate within bounds, or None. Decimal strings in ASCII count, booleans do not."""
    if type(value) is float:
        return value if -MAX_COORDINATE <= value <= MAX_COORDINATE else None
    if not isinstance(value, str) or isinstance(value, _Word) or len(value) > MAX_NUMBER_CHARS:
        return None
    return _number(float(value)) if _NUMBER.fullmatch(value) else None


def _first(item: dict[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if key in item:
            return item[key]
    return None


def _box_of(item: Any) -> Box | None:
    """A valid box, or None for anything else (wrong length, reversed, no area, not finite, no coordinates)."""
    label: Any = None
    confidence: Any = None
    corners = item
    if isinstance(item, dict):
        corners, label, confidence = (_first(item, keys) for keys in (BOX_KEYS, LABEL_KEYS, CONFIDENCE_KEYS))
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    x1, y1, x2, y2 = map(_number, corners)
    if x1 is None or y1 is None or x2 is None or y2 is None or x2 <= x1 or y2 <= y1:
        return None
    if not isinstance(label, str) or isinstance(label, _Word):
        label = None
    if not isinstance(confidence, float) or not math.isfinite(confidence):
        confidence = None
    else:
        confidence = min(max(confidence, 0.0), 1.0)
    return Box(x1, y1, x2, y2, label, confidence)
