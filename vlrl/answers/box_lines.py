"""Words before a box that name its label ("dog: [..]", "the cat is at [..]"), lines of keys ("label: dog"), and answers
of plain lines of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlrl.answers.box_items import LABEL_KEYS, BoxItem, Frame, ParsedBoxes, assemble, requested, roles_of
from vlrl.answers.box_names import LEAD_MARKS, is_generic, label_before, names_label
from vlrl.answers.corners import four_numbers, named_corners, plain, valid
from vlrl.answers.literals import NUMBER, Unreadable

MAX_LINES = 600


def labels_behind(words: Sequence[str], tail: str, frame: Frame) -> list[str] | None:
    """The labels of boxes that each have theirs right behind ("[..] dog, [..] cat"); None where they do not."""
    found = []
    for chunk in (*words[1:], tail):
        name = requested(chunk.strip(LEAD_MARKS + "])}.;|-\n\r"), frame)
        if name is None:
            return None
        found.append(name)
    return found


def without_label(words: str, frame: Frame) -> str:
    """The words between two boxes without those that name the label of the second."""
    for marks in ("\n\r;；,，、", "\n\r;；.。", "\n\r"):
        at = max(words.rfind(mark) for mark in marks)
        lead = words[at + 1 :]
        if marks[-1] == "。" and (is_generic(lead) or not lead.strip(LEAD_MARKS)) and at > 0:  # a heading, then "- bbox:"
            at = words.rfind("\n", 0, at)
            lead = words[at + 1 :]
        if len(lead) <= 80 and names_label(lead, frame):
            return words[: at + 1]
    return words


# ---- lines of keys

_KEY_LINE = re.compile(
    r"^[ \t\-*•]*[\"']?(?P<key>[^\W\d][\w ]{0,20})[\"']?[ \t]*[:=][ \t]*(?P<value>[^\n]{0,120})$", re.MULTILINE
)
_LABELS = frozenset(map(plain, LABEL_KEYS))


def _is_label_line(line: re.Match[str]) -> bool:
    value = line["value"].strip(" \t,\"'")
    return bool(value) and plain(line["key"]) in _LABELS and value[-1] not in ":=："


def keyed_labels(words: Sequence[str], tail: str) -> tuple[list[str], list[str]] | None:
    """The label of each box from lines such as "label: dog" all before or all behind the boxes, and the words without them and
    without the keys of boxes; None where there are no such lines. Raises Unreadable where they do not fit the boxes."""
    chunks = [*words, tail]
    found: list[list[str]] = []
    rest: list[str] = []
    for chunk in chunks:
        lines = [m for m in _KEY_LINE.finditer(chunk) if _is_label_line(m)]
        found.append([m["value"].strip(" \t,\"'") for m in lines])
        for m in reversed(lines):
            chunk = chunk[: m.start()] + chunk[m.end() :]
        rest.append(_KEY_LINE.sub(lambda m: m[0] if m["value"].strip() or not roles_of((m["key"],)).boxes else "", chunk))
    if not words or not any(found):
        return None
    labels = found[:-1] if found[0] else found[1:]
    if any(len(one) != 1 for one in labels) or (found[0] and found[-1]):
        raise Unreadable(f"{len(words)} boxes but {sum(map(len, found))} lines with a label")
    return [one[0] for one in labels], rest[:-1]


# ---- plain lines

_FIRST = re.compile(rf"(?<![\w.])(?:{NUMBER.pattern})[,;\s]")
_NAMED_NUMBER = re.compile(
    rf"[\s,;{{(\[\"']*(?P<name>[A-Za-z]\w{{0,15}})[\"']?\s*[:=]\s*(?P<number>{NUMBER.pattern})[\s,;}})\]]*"
)


def read_plain_lines(text: str, frame: Frame) -> ParsedBoxes:
    """An answer without brackets: four numbers a line, with a label before them or not, or named corners. Raises Unreadable."""
    items: list[BoxItem] = []
    for line in text.splitlines():
        if len(items) > MAX_LINES:
            raise Unreadable(f"more than {MAX_LINES} lines")
        if not line.strip(" \t,;"):
            continue
        named = list(_NAMED_NUMBER.finditer(line[:300]))[:4]
        corners = named_corners({m["name"]: m["number"] for m in named}) if len(named) == 4 else None
        if corners is not None and not line[named[-1].end() :].strip(" .;,"):
            if _NAMED_NUMBER.sub("", line[named[0].start() :]).strip(" .;,"):
                raise Unreadable("no box in the answer")
            items.append(BoxItem(valid(corners), label_before(line[: named[0].start()], frame)))
            continue
        first = _FIRST.search(line[:200])
        numbers = None if first is None else four_numbers(line[first.start() :].strip(" \t,;.\"'`"))
        if first is None or numbers is None:
            raise Unreadable("no box in the answer")
        lead = line[: first.start()]
        label = label_before(lead, frame)
        if label is None and (rest := lead.strip(LEAD_MARKS + "•(")) and not is_generic(rest):
            raise Unreadable("no box in the answer")
        items.append(BoxItem(valid(numbers), label))
    if not items:
        raise Unreadable("no box in the answer")
    return assemble(items, False, frame)
