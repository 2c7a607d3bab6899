"""From the text of an answer to boxes, or to None with a reason. Never raises, never guesses.

Every box format in use is read (fenced or bare JSON, Python quotes, corner pairs, bare boxes, the tokens of the model
families); nothing is evaluated, nothing missing is filled in, and work is linear in the length of the text. Not here: the forms
of one box (`vlrl.answers.corners`), what an object or list holds (`vlrl.answers.box_items`), text around values
(`vlrl.answers.box_scan`), statements that nothing is there (`vlrl.answers.nones`), where the answer stands in a completion
(`vlrl.answers.span`), the sample it answers (`vlrl.answers.read`), its score (`vlrl.rewards`).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from vlrl.answers.box_items import (
    AS_WRITTEN,
    BOX_KEYS,
    LABEL_KEYS,
    MAX_ITEMS,
    Frame,
    ParsedBoxes,
    roles_of,
)
from vlrl.answers.box_markup import boxes_as_json
from vlrl.answers.box_scan import scan
from vlrl.answers.corners import MAX_COORDINATE, confidence_of, names_corners
from vlrl.answers.doubts import denies_label, doubt, doubt_inside, is_flag
from vlrl.answers.literals import MAX_NUMBER_CHARS, Unreadable, decimal
from vlrl.answers.nones import says_none
from vlrl.answers.normalise import normalised
from vlrl.schema import Box

__all__ = ["AS_WRITTEN", "BOX_KEYS", "LABEL_KEYS", "MAX_CHARS", "MAX_ITEMS", "Frame", "ParsedBoxes", "parse_boxes"]

MAX_CHARS = 100_000
MAX_OTHER_CHARS = 50_000
"""Longest text that is read where it is not plain JSON: about a thousand boxes, read in a quarter of a second."""
_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+#.-]{0,20})[ \t\r]*\n?")
_NUMBERS, _OBJECT = frozenset({int, float}), frozenset({dict})


def parse_boxes(text: str, frame: Frame = AS_WRITTEN) -> ParsedBoxes | str:
    """The box list that a text is, converted by `frame`; or the reason why it is none.

    Accepts an explicit none as the empty list. Several arrays that are not plainly one list, several fences with boxes, boxes
    beside a "none", and objects that contradict themselves are no answer.
    """
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    stripped = text.strip()
    if not stripped:
        return "empty answer"
    fast = _parse_plain_json(stripped, frame)
    if fast is not None:
        return fast
    if len(stripped) > MAX_OTHER_CHARS:
        return f"longer than {MAX_OTHER_CHARS} characters, and not plain JSON"
    try:
        return _parse_tolerantly(stripped, frame)
    except Unreadable as error:
        return str(error)


def _parse_tolerantly(text: str, frame: Frame) -> ParsedBoxes:
    """What is not one plain value of JSON. Raises Unreadable."""
    if "```" in text:
        return _parse_fences(text, frame)
    if not text.isascii():
        text = normalised(text).strip()
        fast = _parse_plain_json(text, frame) if text else None
        if fast is not None:
            return fast
    if text.startswith('"') and text.endswith('"') and '\\"' in text and (inner := _quoted(text)) is not None:
        return _parse_plain_json(inner, frame) or scan(inner, frame)
    if says_none(text, frame):
        return ParsedBoxes((), 0)
    if '\\"' in text and not re.search(r'(?<!\\)"', text):
        text = text.replace('\\"', '"')
    return scan(boxes_as_json(text, frame), frame)


def _quoted(text: str) -> str | None:
    """The JSON that a text of JSON holds ("[{\\"bbox_2d\\": ..}]")."""
    try:
        inner = json.loads(text)
    except ValueError:
        return None
    return inner.strip() if isinstance(inner, str) and inner.strip()[:1] in ("[", "{") else None


def _parse_fences(text: str, frame: Frame) -> ParsedBoxes:
    """The boxes of the one fence that holds some. Raises Unreadable where the words around take them back, or hold others."""
    parts: list[str] = []
    around: list[str] = []
    at = 0
    while (opening := _FENCE.search(text, at)) is not None:
        around.append(text[at : opening.start()])
        end = text.find("```", opening.end())
        parts.append(text[opening.end() : end if end >= 0 else len(text)])
        at = end + 3 if end >= 0 else len(text)
    around.append(text[at:])
    read = [parse_boxes(part, frame) for part in parts if part.strip()]
    whole = [boxes for boxes in read if isinstance(boxes, ParsedBoxes)]
    if len(whole) != 1:
        raise Unreadable(f"{len(whole)} fenced answers" if whole else str(read[0]) if read else "an empty fence")
    boxes = whole[0]
    before, after = around[0], "\n".join(around[1:])
    if boxes.explicit_none or not (before.strip() or after.strip()):
        others = [] if not boxes.explicit_none else [side for side in around if "[" in side or "{" in side or "(" in side]
    else:
        labels = {box.label for box in boxes.items} | set(boxes.unusable)
        problem = doubt(before, "", after, frame, labels)
        if problem is not None:
            raise Unreadable(problem)
        others = [side for side in around if any(mark in side for mark in "[{(<")]
    for side in others:
        beside = parse_boxes(side.replace("```", " "), frame)
        if isinstance(beside, ParsedBoxes) and {box.xyxy for box in beside.items} - {box.xyxy for box in boxes.items}:
            raise Unreadable("other boxes outside the fence")
    return boxes


_JSON, _LONG_JSON = json.JSONDecoder(), json.JSONDecoder(parse_float=decimal)


def _parse_plain_json(text: str, frame: Frame) -> ParsedBoxes | None:
    """The common case at C speed: strict JSON, valid boxes in a list or one alone, also inside one fence. None:
    `_parse_tolerantly` must read it, with the same result where both can (tested). Python's quotes become JSON's where the text
    has no other quote and no backslash; an apostrophe inside a label is then bad JSON."""
    if text[0] == "`" and text.count("```") == 2 and text.endswith("```"):
        opening = _FENCE.match(text)
        text = text[opening.end() : -3].strip() if opening is not None else text
    if not text or text[0] not in "[{":
        return None
    if '"' not in text and "\\" not in text:
        text = text.replace("'", '"')
    try:
        items = (_JSON if len(text) <= MAX_NUMBER_CHARS else _LONG_JSON).decode(text)
    except (ValueError, RecursionError):
        return None
    if type(items) is dict:
        items, text = [items], f"[{text}]"
    # As many lists as valid boxes: nothing is nested. As many colons as keys: none of them is there twice.
    if not items or not text.count("{") == text.count("[") - 1 == len(items) or not _OBJECT.issuperset(map(type, items)):
        return None
    if sum(map(len, items)) != text.count(":"):
        return None
    x, y, only = frame.x, frame.y, frame.label
    boxes = [_plain_box(item, x, y, only) for item in items[:MAX_ITEMS]]
    sound = [box for box in boxes if box is not None]
    if len(sound) != len(items) or (frame.expression and any(box.label and denies_label(box.label, frame) for box in sound)):
        return None
    if not frame.categories and doubt_inside(items, frame, {box.label for box in sound}) is not None:
        return None  # without categories a label may say that nothing is there ("none")
    return ParsedBoxes(tuple(sound), len(items), False, (), True)


@lru_cache(maxsize=64)
def _keys_of(names: tuple[str, ...]) -> tuple[str, str, str | None, tuple[str, ...]] | None:
    """The keys of an object's box, label ("" for none) and confidence, and the other ones; None where two keys hold a box or a
    label, or one may say that nothing is there."""
    boxes, labels, confidence = roles_of(names)
    if len(boxes) != 1 or len(labels) > 1 or any(names_corners(name) or is_flag(name) for name in names):
        return None
    others = tuple(name for name in names if name not in (*boxes, *labels, confidence))
    return boxes[0], labels[0] if labels else "", confidence, others


def _plain_box(item: dict[str, Any], x: float, y: float, only: str | None) -> Box | None:
    """The box of an object with one box key of four numbers; None for all that takes a second look."""
    keys = _keys_of(tuple(item))
    if keys is None:
        return None
    box_key, label_key, confidence_key, others = keys
    if others and not _NUMBERS.issuperset(type(item[key]) for key in others):
        return None
    corners, label = item[box_key], item.get(label_key)
    if type(corners) is not list or len(corners) != 4 or (type(label) is not str and label_key in item):
        return None
    x1, y1, x2, y2 = corners
    if not (type(x1) in _NUMBERS and type(y1) in _NUMBERS and type(x2) in _NUMBERS and type(y2) in _NUMBERS):
        return None
    if not (-MAX_COORDINATE <= x1 < x2 <= MAX_COORDINATE and -MAX_COORDINATE <= y1 < y2 <= MAX_COORDINATE):
        return None
    confidence = None if confidence_key is None else confidence_of(item[confidence_key])
    return Box(x1 * x, y1 * y, x2 * x, y2 * y, label if label is not None else only, confidence)
