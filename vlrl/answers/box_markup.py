"""Boxes in Markdown tables, CSV, XML and calls of Python, rewritten as the JSON that `vlrl.answers.box_scan` reads.

A text that holds none of these stays as it is, and so does a table whose columns do not say where a box is. Linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from vlrl.answers.box_items import Frame, requested, roles_of
from vlrl.answers.corners import named_corners, plain
from vlrl.answers.literals import NUMBER

MAX_ROWS = 600
_RULE = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_LEAF = re.compile(r"<(\w{1,20})>([^<>]{0,200})</\1>")
_ELEMENT = re.compile(r"<(?:box|bbox|object|rect|rectangle|detection|item|bndbox)\s+([^<>]{1,400})>")
_ATTRIBUTE = re.compile(r"([A-Za-z]\w{0,20})\s{0,3}=\s{0,3}[\"']([^\"'<>]{0,100})[\"']")
_N = NUMBER.pattern
_POINT = rf"\(\s{{0,3}}({_N})\s{{0,3}},\s{{0,3}}({_N})\s{{0,3}}\)"
_AT = r"(?: corner| point|角)?(?: ?(?:is|at|is at|coordinates?|坐标|为|是))?[ \t:=：*`]{0,6}"
_TWO_POINTS = re.compile(
    rf"(?:(?:the )?(?:(?:top|upper)[- ]left|左上){_AT}|from )?{_POINT}[\s,;]{{0,4}}(?:(?:and|to|through|->|→|–|-|到|至|和) ?)?"
    rf"(?:[ *-]{{0,4}}(?:the )?(?:(?:bottom|lower)[- ]right|右下){_AT})?{_POINT}",
    re.IGNORECASE,
)
_NAMES = re.compile(
    r"[\[(]\s{0,3}x_?(?:1|min),\s{0,3}y_?(?:1|min),\s{0,3}x_?(?:2|max),\s{0,3}y_?(?:2|max)\s{0,3}[\])]\s{0,3}[=:]?",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"[\[(]((?:[\s,]{{0,4}}[A-Za-z]\w{{0,7}}\s{{0,3}}[:=]\s{{0,3}}{_N}){{4}})\s{{0,3}}[\])]")
_NEXT_LINE = re.compile(
    rf"([A-Za-z]\w{{0,7}}\s{{0,3}}[:=]\s{{0,3}}{_N})"
    r",?[ \t]{0,4}\n[ \t*-]{0,6}(?=(?:y_?(?:1|2|0|min|max)|x_?(?:2|max))\s{0,3}[:=])"
)
_CONFIDENCE = re.compile(
    rf"(?<=[\])])[\s,;|-]{{0,4}}\(?(?:with )?(?:confidence|score|conf)(?: score)?(?: of)?"
    rf"\s{{0,2}}[:=]?\s{{0,2}}{_N}%?\)?",
    re.IGNORECASE,
)
"""What stands behind a box in words, where it has no use as a confidence of an object."""
_CALLED = re.compile(r"\bdict\(([^(){}]{1,400})\)")
_ARRAY = re.compile(r"\b(?:np\.|numpy\.|torch\.)?(?:array|tensor|asarray)\(")


def boxes_as_json(text: str, frame: Frame) -> str:
    """The text with boxes of these forms as JSON."""
    if "dict(" in text:
        text = _CALLED.sub(r"{\1}", text)
    if "array(" in text or "tensor(" in text:
        text = _ARRAY.sub("(", text)
    if "{" not in text:
        text = _CONFIDENCE.sub("", text)
    if "(" in text:
        text = _TWO_POINTS.sub(r"(\1,\2),(\3,\4)", text)
    if "x" in text or "X" in text:
        text = _NAMED.sub(r"{\1}", _NAMES.sub(" ", text))
        text = _NEXT_LINE.sub(r"\1, ", text)
    if "</" in text or "/>" in text:
        text = _with_elements(text, frame)
    if "\n" in text and ("|" in text or "," in text):
        text = _with_tables(text)
    return text


# ---- tables


def _cells(line: str, separator: str) -> list[str]:
    line = line.strip()
    if separator == "|":
        line = line.removeprefix("|").removesuffix("|")
    return [cell.strip(" \t*`\"'") for cell in line.split(separator)]


def _heading(cell: str) -> str:
    """A column's name without what it says of its coordinates: "Bounding Box [x1, y1, x2, y2]"."""
    return re.split(r"[\[(]", cell, maxsplit=1)[0].strip() or cell


def _with_tables(text: str) -> str:
    lines = text.split("\n")
    for i, line in enumerate(lines[:MAX_ROWS]):
        is_table = "|" in line and i + 1 < len(lines) and len(lines[i + 1]) < 400 and "-" in lines[i + 1]
        if is_table and _RULE.fullmatch(lines[i + 1]):
            return _with_rows(lines, i, i + 2, "|", _HEADING_NAMES.sub("", line)) or text
        if line.count(",") >= 4 and len(line) < 200 and not any(c.isdigit() for c in line.replace("1", "").replace("2", "")):
            return _with_rows(lines, i, i + 1, ",", line) or text
    return text


_HEADING_NAMES = re.compile(r"[\[(][^\[\]()|]{0,60}[\])]")


def _with_rows(lines: Sequence[str], at: int, first: int, separator: str, heading: str) -> str | None:
    """The lines with the rows of a table as a list of objects, or None where its columns hold no boxes."""
    names = [_heading(cell) for cell in _cells(heading, separator)]
    kept = [i for i, name in enumerate(names) if name.strip("#. ") and plain(name) not in ("no", "id", "index", "number")]
    rows: list[dict[str, str]] = []
    end = first
    while end < len(lines) and separator in lines[end]:
        cells = _cells(lines[end], separator)
        if len(cells) != len(names):
            return None
        rows.append({names[i]: cells[i] for i in kept})
        end += 1
    if not rows or len(set(names)) != len(names) or not _hold_box(rows[0]):
        return None
    return "\n".join([*lines[:at], json.dumps(rows, ensure_ascii=False), *lines[end:]])


def _hold_box(row: dict[str, str]) -> bool:
    return bool(roles_of(tuple(row)).boxes) or named_corners(row, True) is not None


# ---- elements


def _with_elements(text: str, frame: Frame) -> str:
    if "<object>" in text:
        first, *chunks = text.split("<object>")
        made = [first.replace("<annotation>", " ")]
        for chunk in chunks:
            inside, closing, after = chunk.partition("</object>")
            leaves = _LEAF.findall(inside)
            row = dict(leaves)
            if not closing or len(row) != len(leaves) or not _hold_box(row):
                return text
            made += [json.dumps(row, ensure_ascii=False), "\n", after.replace("</annotation>", " ")]
        text = "".join(made)

    def element(found: re.Match[str]) -> str:
        pairs = _ATTRIBUTE.findall(found[1])
        row = dict(pairs)
        return json.dumps(row, ensure_ascii=False) if len(row) == len(pairs) and _hold_box(row) else found[0]

    text = _ELEMENT.sub(element, text)
    named = re.compile(r"<(\w[\w -]{0,40})>\s{0,3}(\[[^\[\]<>]{1,200}\])\s{0,3}</\1>")
    return named.sub(lambda m: f"{m[1]}: {m[2]}\n" if requested(m[1], frame) else m[0], text)
