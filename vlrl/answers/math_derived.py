"""The final formula of an answer that is a derivation, and small helpers for where a formula stands in a text."""

from __future__ import annotations

import re

from vlrl.answers.math_numbers import Real, same
from vlrl.answers.math_symbols import MAX_FORMULA_CHARS
from vlrl.answers.math_words import makes_no_answer
from vlrl.answers.mathematics import Relation, Scalar, read_mathematics

REPLACES = re.compile(
    r"\b(?:wait|correction|correcting|corrected|actually|i\s+mean|i\s+meant|on\s+second\s+thought|scratch\s+that|let\s+me\s+(?:re|correct|fix)"
    r"|instead|sorry|apolog\w+|re-?check\w*|my\s+mistake|revised|rather)\b|更正|等等|改为|纠正|修正|訂正|不对|정정",
    re.I,
)
_OPTION = re.compile(r"\A\(?[A-H][.):]\s+(?=\S)")
MARKS = " \t\r\n*`\"'“”"
_IMPLIES = re.compile(
    r"\\(?:Rightarrow|implies|Longrightarrow|iff|Leftrightarrow|therefore|rightarrow|to)(?![A-Za-z])|[⇒⟹→∴\n]|=>|\b(?:so|thus|hence|therefore)\b",
    re.I,
)
_BEHIND = re.compile(r"[\s,.$]*(?:\.\s+this\s+is\s+because|\bbecause|\bsince|\bas|\((?:since|because|as))\b", re.I)
_ASIDE = re.compile(r"\s*\((?:(?:or|i\.e\.|=|that\s+is|equivalently)\s*,?\s*)?([^()]{1,60})\)\Z", re.I)


def reads(text: str) -> bool:
    return len(text) <= MAX_FORMULA_CHARS and not isinstance(read_mathematics(text), str)


def derived(text: str) -> str | None:
    """The last formula of a derivation ("2x = 84, so x = 42"), the first one before its reason ("x = 42, since 2x = 84"), and
    one beside which the same or words stand in brackets ("0.5 (or 1/2)"). None where the text is nothing of that."""
    reason = _BEHIND.search(text)
    if reason and not makes_no_answer(text[reason.start() :]) and not REPLACES.search(text, reason.end()):
        first = trimmed(text[: reason.start()])
        if reads(first):
            return first
    aside = _ASIDE.search(text)
    if aside and aside.start():
        first, other = trimmed(text[: aside.start()]), trimmed(aside[1])
        if reads(first) and not re.search("[0-9]", other) and not other.isascii() and not makes_no_answer(other):
            return first
        numbers = [_number(one) for one in (first, other)]
        if numbers[0] is not None and numbers[1] is not None and same(numbers[0], numbers[1]):
            return first
    if not _IMPLIES.search(text):
        return None
    parts = [trimmed(part.strip(" ,;$")) for part in _IMPLIES.split(text) if part.strip(" ,;.$")]
    if not parts:
        return None
    *steps, last = parts
    if not reads(last) or not all(reads(step) for step in steps):
        return None
    values = [value for step in steps for value in read_mathematics(step)[:1]]
    if not all(isinstance(value, Relation) and value.symbol is None for value in values):
        return None
    return last


def _number(text: str) -> Real | None:
    values = read_mathematics(text) if len(text) <= MAX_FORMULA_CHARS else ""
    return values[0].number if not isinstance(values, str) and isinstance(values[0], Scalar) else None


def trimmed(text: str) -> str:
    """Without the marks around it: white space, emphasis, quotes, a final full stop or colon."""
    text = _OPTION.sub("", text.strip(MARKS))
    for _ in range(3):
        text = text.removeprefix("=").lstrip(MARKS + ":").rstrip(MARKS + ",;:")
        if text.endswith(".") and not text.endswith("\\."):
            text = text[:-1]
        if text.endswith((".$", ".\\)", ".\\]")):
            text = re.sub(r"\.(\$|\\\)|\\\])\Z", r"\1", text)
    return text
