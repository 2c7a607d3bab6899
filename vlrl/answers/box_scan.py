"""One pass over the text of an answer that finds what may be boxes: JSON or Python values, corner points, and the tokens that
models put around labels and boxes. Then whether these parts, with the words between them, are one answer.

Token forms read: `<|object_ref_start|>`/`<|box_start|>` (Qwen2-VL), `<ref>`/`<box>` (Qwen-VL, InternVL, MiniCPM-V),
`<|ref|>`/`<|det|>` (DeepSeek-VL2), `<|begin_of_box|>` (GLM-V). Refused with a reason: location tokens such as `<loc0123>`
(PaliGemma, Florence-2) and `<patch_index_0044>` (Kosmos-2), which count in units that no `coords` names. The label of a box is
the one in tokens before it, else the category asked for that stands right before it (decoding may have dropped the tokens).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrl.answers.box_items import BoxItem, Frame, ParsedBoxes, assemble, category_of, items_in
from vlrl.answers.box_lines import keyed_labels, labels_behind, read_plain_lines, without_label
from vlrl.answers.box_names import is_generic, label_before
from vlrl.answers.corners import coordinate, valid
from vlrl.answers.doubts import denies_label, doubt, doubt_inside
from vlrl.answers.literals import MAX_NUMBER_CHARS, NUMBER, CutOff, LiteralReader, Unreadable
from vlrl.answers.nones import says_none

MAX_PARTS = 600
_POINT = rf"\(\s*(?P<x>{NUMBER.pattern})\s*,\s*(?P<y>{NUMBER.pattern})\s*\)"
_LABEL = "|".join(
    rf"{opening}(?P<label{i}>[^<]{{0,200}}){closing}"
    for i, (opening, closing) in enumerate(
        ((r"<\|object_ref_start\|>", r"<\|object_ref_end\|>"), (r"<\|ref\|>", r"<\|/ref\|>"), ("<ref>", "</ref>"),
         ("<p>", "</p>"), ("<label>", "</label>"), ("<name>", "</name>"))
    )
)  # fmt: skip
_BOX_TOKEN = (
    r"<\|box_(?:start|end)\|>|</?box>|<\|/?det\|>|</?bbox(?:_2d)?>|<\|(?:begin|end)_of_box\|>|</?(?:object|objects|obj|delim)>"
    r"|\\boxed\s*\{|\\\[|\\\]|<\|/?grounding\|>|\$"
)
_FOREIGN = re.compile(r"<loc_?[0-9]{1,4}>|<patch_index_[0-9]{1,4}>|<bin_[0-9]{1,4}>")
_FOUR_IN_BRACKETS = rf"\((?=\s*{NUMBER.pattern}(?:\s*,\s*{NUMBER.pattern}){{3}}\s*\))"
_PART = re.compile(rf"(?P<value>[\[{{]|{_FOUR_IN_BRACKETS})|{_LABEL}|(?P<token>{_BOX_TOKEN})|(?P<point>{_POINT})")
_PROSE_BRACKETS = re.compile(r"\[[^\[\]{}\"'0-9,]{1,100}\]")
_BARE_BOX = re.compile(
    rf"(?:<box>|<\|box_start\|>|<bbox>)\s*((?:{NUMBER.pattern})(?:\s*[,\s]\s*(?:{NUMBER.pattern})){{3}})\s*<"
)
_SEPARATOR = re.compile(r"(?:[\s,;、，；。.|`]|\band\b|和|与|及|以及|[-*•]|\(?[0-9]{1,3}[.):])*")


@dataclass(slots=True)
class _Part:
    """A value or a pair of corner points, the words before it (since the part before), and the label in tokens before it.
    `by_words`: its label stands in those words."""

    value: Any
    words: str
    marked: str | None
    is_new_mark: bool
    items: list[BoxItem] = field(default_factory=list)
    by_words: bool = False


@dataclass(slots=True)
class _Scan:
    parts: list[_Part] = field(default_factory=list)
    tail: str = ""
    truncated: bool = False
    has_marks: bool = False
    last_mark: str | None = None


class _Points(tuple[float, float, float, float]):
    """Two corner points in a row."""


def scan(text: str, frame: Frame) -> ParsedBoxes:
    """The boxes of an answer that is more than one value of strict JSON. Raises Unreadable."""
    foreign = _FOREIGN.search(text)
    if foreign is not None:
        raise Unreadable(f"location tokens ({foreign[0]}), whose unit no coordinate convention names")
    found = _find_parts(text if text.startswith(("[", "{")) else _BARE_BOX.sub(r"[\1]<", text))
    boxes = _read_parts(found, frame)
    if not boxes:
        only = items_in(found.parts[0].value, frame) if len(found.parts) == 1 and not found.truncated else None
        return ParsedBoxes((), 0) if only == [] else read_plain_lines(text, frame)
    items = [item for part in boxes for item in part.items]
    labels = {item.label if item.label is not None else frame.label for item in items}
    words = [part.words for part in boxes[1:]]
    problem = doubt(boxes[0].words, "\n".join(words), "" if found.truncated else found.tail, frame, labels)
    if problem is None:
        problem = next(filter(None, (doubt_inside(part.value, frame, labels) for part in boxes)), None)
    if problem is None and frame.expression:
        problem = next((f"the label {one[:40]!r} denies its box" for one in labels if one and denies_label(one, frame)), None)
    if problem is not None:
        raise Unreadable(problem)
    return assemble(items, found.truncated, frame)


def _find_parts(text: str) -> _Scan:
    found, reader = _Scan(), LiteralReader(text)
    words: list[str] = []
    corner: tuple[float, float] | None = None
    marked, is_new = None, False
    at = 0
    while (match := _PART.search(text, at)) is not None:
        between = text[at : match.start()]
        if corner is not None and (match.lastgroup is None or match["point"] is None) and not match["token"]:
            raise Unreadable("an odd number of corner points")
        if corner is not None and between.strip(" \t\r\n,"):
            raise Unreadable("corner points with text between them")
        if corner is None:
            words.append(between)
        at = match.end()
        if match["token"] is not None:
            continue
        if match["point"] is not None:
            point = _coordinate(match["x"]), _coordinate(match["y"])
            if corner is None:
                corner = point
                continue
            value: Any = _Points((*corner, *point))
            corner = None
        elif match["value"] is not None:
            prose = _PROSE_BRACKETS.match(text, match.start())
            if prose is not None and prose[0].strip("[] ").casefold() not in ("none", "null"):
                words.append(prose[0])
                at = prose.end()
                continue
            try:
                value, at = reader.value(match.start())
            except CutOff:
                found.truncated = True
                break
        else:
            marked, is_new, found.has_marks = match[match.lastgroup or 0].strip(), True, True
            found.last_mark = marked
            continue
        found.parts.append(_Part(value, "".join(words), marked, is_new))
        words, is_new, found.last_mark = [], False, None
        if len(found.parts) > MAX_PARTS:
            raise Unreadable(f"more than {MAX_PARTS} separate values")
    found.tail = "".join(words) + text[at:]
    if corner is not None:
        if "(" not in text[at:] and not found.truncated:
            raise Unreadable("an odd number of corner points")
        found.truncated = True
    found.truncated = found.truncated or reader.truncated or _is_cut_point(text[at:], found)
    return found


def _coordinate(digits: str) -> float:
    return coordinate(digits) if len(digits) <= MAX_NUMBER_CHARS else float("inf")


def _is_cut_point(tail: str, found: _Scan) -> bool:
    """Whether a text ends inside a corner point."""
    return bool(found.parts) and isinstance(found.parts[-1].value, _Points) and tail.rfind("(") > tail.rfind(")")


def _read_parts(found: _Scan, frame: Frame) -> list[_Part]:
    """The parts that hold boxes, with their items; prose in brackets becomes words. Raises Unreadable where they are several
    answers, or none."""
    boxes: list[_Part] = []
    words = ""
    for part in found.parts:
        words += part.words
        label = label_before(words, frame, _is_one_box(part.value)) if part.marked is None else category_of(part.marked, frame)
        part.by_words = label is not None and part.marked is None
        if isinstance(part.value, _Points):
            items: list[BoxItem] | None = [BoxItem(valid(part.value), label)]
        else:
            items = items_in(part.value, frame, label)
        if items is None:
            words += " "
            continue
        if not items:
            others = "".join(other.words for other in found.parts) + found.tail
            others = others.strip(" \t\r\n.。:：`*")
            if len(found.parts) > 1 or (others and not is_generic(others) and not says_none(others, frame)) or found.truncated:
                raise Unreadable("an empty list beside other text")
            return []
        part.items, part.words = items, words
        boxes.append(part)
        words = ""
    found.tail = words + found.tail
    if not boxes and found.truncated:
        raise Unreadable("the list is cut before its first whole item")
    _take_other_labels(boxes, found, frame)
    _check_one_answer(boxes, found.has_marks, frame)
    return boxes


def _is_one_box(value: Any) -> bool:
    return isinstance(value, tuple) or (isinstance(value, list) and not any(isinstance(m, dict | list) for m in value))


def _take_other_labels(boxes: Sequence[_Part], found: _Scan, frame: Frame) -> None:
    """Labels that stand behind the boxes, in tokens or in words, or on lines of their own ("label: dog")."""
    words = [part.words for part in boxes]
    keyed = keyed_labels(words, found.tail)
    if keyed is not None:
        labels, kept = keyed
        found.tail = ""
    elif boxes and boxes[0].marked is None and found.last_mark is not None:
        marks = [part.marked if part.is_new_mark else None for part in boxes[1:]]
        labels, kept = [mark for mark in (*marks, found.last_mark) if mark is not None], words
        if len(labels) != len(boxes):
            raise Unreadable("labels before and behind boxes")
        for part in boxes[1:]:
            part.is_new_mark = True
    elif boxes and not found.has_marks and frame.categories and all(item.label is None for item in boxes[0].items):
        behind = labels_behind(words, found.tail, frame)
        if behind is None:
            if any(part.by_words for part in boxes[1:]):
                raise Unreadable("a label between two boxes, the first of which has none")
            return
        labels, kept = behind, [words[0], *["\n" for _ in words[1:]]]
        found.tail = ""
    else:
        return
    for part, label, rest in zip(boxes, labels, kept, strict=True):
        part.items = [item._replace(label=category_of(label, frame)) for item in part.items]
        part.words = rest


def _check_one_answer(boxes: Sequence[_Part], has_marks: bool, frame: Frame) -> None:
    """Raises Unreadable unless the parts are plainly members of one list: of one kind, with nothing but separators, labels or,
    where tokens mark what is what, a few words between them."""
    if len(boxes) < 2:
        return
    kinds = {"points" if isinstance(b.value, _Points) else "objects" if isinstance(b.value, dict) else "arrays" for b in boxes}
    if len(kinds) > 1:
        raise Unreadable(f"{' and '.join(sorted(kinds))} mixed")
    kind = kinds.pop()
    for part in boxes[1:]:
        words = part.words
        if has_marks and (part.is_new_mark or part.marked is not None):
            continue
        words = without_label(words, frame) if part.items[0].label is not None else words
        if not _SEPARATOR.fullmatch(words):
            raise Unreadable(f"several {kind} with text between them: {' '.join(words.split())[:40]!r}")
        if kind == "arrays" and not re.search(r"[\n\r,;，；、]|\band\b|和|与", part.words) and words == part.words:
            raise Unreadable(f"{len(boxes)} separate arrays")
