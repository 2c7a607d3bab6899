"""From the text of an answer to a typed one: a choice's letter, yes or no, a number, a plan. None with a reason, never a guess.

Also here: a sample's reference answers in these forms. Not here: an answer's score (`vlrl.rewards`), and formulas beyond plain
numbers (`vlrl.rewards.mathematics`).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from vlrl.answers.boxes import MAX_CHARS
from vlrl.answers.literals import MAX_NUMBER_CHARS
from vlrl.answers.read import read_span
from vlrl.answers.span import canon
from vlrl.schema import Sample

SPEEDS = ("KEEP", "ACCELERATE", "DECELERATE", "STOP")
PATHS = ("STRAIGHT", "RIGHT_CHANGE", "LEFT_CHANGE", "RIGHT_TURN", "LEFT_TURN")
LETTERS = string.ascii_uppercase


def read_text(text: str, sample: Sample, *, tags: bool = False) -> tuple[str | None, str]:
    """A completion's answer as text, or None and why: no answer, an empty one, one that was cut or is too long.

    `tags`: answer tags are required. A text is never read from an answer tag that was not closed.
    """
    span = read_span(text, sample)
    if span.text is None:
        return None, span.why
    if tags and not span.tagged:
        return None, "no answer tags"
    if span.truncated:
        return None, "the answer is cut short"
    if not span.text:
        return None, "empty answer"
    if len(span.text) > MAX_CHARS:
        return None, f"longer than {MAX_CHARS} characters"
    return span.text, ""


def reference_texts(sample: Sample) -> list[str]:
    """The reference answers of a text sample, as texts. A float is also right without its exponent or its empty decimals."""
    texts = []
    for answer in reference_answers(sample):
        texts.append(str(answer))
        if isinstance(answer, float) and math.isfinite(answer):
            plain = format(Decimal(str(answer)), "f")
            texts.append(plain.removesuffix(".0"))
    return list(dict.fromkeys(texts))


def reference_answers(sample: Sample) -> list[Any]:
    """The reference answers as the file has them: the members of a list, or the one answer."""
    return list(sample.answer) if isinstance(sample.answer, list | tuple) else [sample.answer]


def without_full_stop(text: str) -> str:
    """The canonical text without one final full stop."""
    return canon(text).removesuffix(".").rstrip()


# ---- the letter of a choice

_ALNUM = r"[^\W_]"
_CLOSE = r"[)\]}*\"'`]*"
_END = r"(?=[.,:;!?)\]]|\s*\Z)"
"""What must follow an A or an I, which are also words."""
_BOUND = rf"(?!{_ALNUM})(?![-'’]{_ALNUM})"
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*[(\[]?\s*([A-Za-z])\s*[)\]]?\s*\}")
_NAMED = re.compile(
    rf"(?<!{_ALNUM})(?P<noun>answer|option|choice)(?!{_ALNUM})[*_]*(?P<link>(?:\s*(?:\bis\b|[:=]))*)\s*[(\[{{*\"'`]*"
    rf"(?:option\s+|choice\s+)?(?P<letter>[A-Za-z]){_BOUND}",
    re.IGNORECASE,
)
_ALSO = re.compile(
    rf"{_CLOSE}\s*(?:,|/|&|\bor\b|\band\b)(?:\s*\bor\b)?\s*[(\[*\"'`]*(?P<letter>[A-Za-z]){_BOUND}", re.IGNORECASE
)
_ALONE = re.compile(rf"(?<!{_ALNUM})(?<!{_ALNUM}[-'’])(?P<letter>[A-Z]){_BOUND}")
_BRACKETED = re.compile(rf"(?<!{_ALNUM})[(\[]\s*(?P<letter>[a-z])\s*[)\]]")
_NOT = re.compile(r"\b(?:not|isn't|isn’t)\s+[(\[*\"'`]*\Z", re.IGNORECASE)
_AT_END = re.compile(_END)


def choice_letter(text: str, choices: Sequence[str] | None) -> tuple[str | None, str]:
    """The letter an answer chooses, "A" for the first choice, or None and why. Without `choices` any letter is valid.

    In order: the whole text is one choice's text; `\\boxed{B}`; a letter after "answer", "option" or "choice"; the one
    letter that stands alone. A and I must be the whole answer or be followed by punctuation (else they are words), lower case
    counts only as the whole answer, in brackets and in the second rule. Two different letters, or "not B", are no answer.
    differs from the specification's order: a choice's whole text comes first, or "vitamin C" would be the letter C.
    """
    valid = LETTERS[: len(choices)] if choices else LETTERS
    if len(text) == 1 and text.isascii() and text.upper() in valid:
        return text.upper(), ""
    same = [letter for letter, choice in zip(LETTERS, choices or (), strict=False) if canon(choice) == canon(text) != ""]
    if len(same) == 1:
        return same[0], ""
    for rule in (_boxed_letters, _named_letters, _lone_letters):
        found = {letter for letter in rule(text) if letter in valid or letter == _NEGATED}
        if len(found) == 1 and _NEGATED not in found:
            return found.pop(), ""
        if found:
            several = ", ".join(sorted(found - {_NEGATED}))
            return None, f"not one choice: {several}" if several else "only says what it is not"
    return None, "no choice in the answer"


_NEGATED = "not"


def _boxed_letters(text: str) -> list[str]:
    return [letter.upper() for letter in _BOXED.findall(text)]


def _named_letters(text: str) -> list[str]:
    found = []
    for match in _NAMED.finditer(text):
        letter, at = match["letter"], match.end()
        link = match["link"].strip().lower()
        is_named = letter == "A" and (link.endswith("is") or (not link and match["noun"].lower() != "answer"))
        if letter in "aAiI" and not is_named and not _AT_END.match(text, _behind_marks(text, at)):
            continue
        found.append(letter.upper())
        while (also := _ALSO.match(text, at)) is not None:
            at = also.end()
            if also["letter"].isupper() or _AT_END.match(text, _behind_marks(text, at)):
                found.append(also["letter"].upper())
    return found


def _lone_letters(text: str) -> list[str]:
    found = []
    for match in _ALONE.finditer(text):
        letter = match["letter"]
        if letter in "AI" and not _AT_END.match(text, _behind_marks(text, match.end())):
            continue
        found.append(_NEGATED if _NOT.search(text, max(0, match.start() - 20), match.start()) else letter)
    return found + [match["letter"].upper() for match in _BRACKETED.finditer(text)]


def _behind_marks(text: str, at: int) -> int:
    """The position behind closing quotes and emphasis."""
    while at < len(text) and text[at] in "*\"'`":
        at += 1
    return at


# ---- yes or no

_YES_NO = re.compile(rf"(?<!{_ALNUM})(?<!{_ALNUM}[-'’_])(yes|no)(?!{_ALNUM})(?![-'’_]{_ALNUM})")


def yes_or_no(text: str) -> tuple[str | None, str]:
    """ "yes" or "no", whichever of the two words occurs (whole, in any case); both or neither: None and why."""
    found = set(_YES_NO.findall(text.casefold()))
    if len(found) == 1:
        return found.pop(), ""
    return None, "yes and no" if found else "neither yes nor no"


# ---- numbers

_PLAIN = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]*)?|[+-]?\.[0-9]+")
_LATEX = re.compile(
    r"\$[^$]+\$|\\[(\[]|\\(?:[dtc]?frac|sqrt|boxed|pi|cdot|times|div|pm|le|leq|ge|geq|ne|neq|infty|left|right|text|mathrm|mathbb"
    r"|sin|cos|tan|log|ln|exp|sum|int|alpha|beta|theta|circ|angle|begin|%)(?![A-Za-z])"
)
_EXPONENT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")
_MEASURE = re.compile(
    rf"(?P<number>{_PLAIN.pattern})\s*(?:\\?%|[A-Za-zµ°]{{1,12}}(?:\^?[0-9²³])?(?:/[A-Za-z]{{1,6}}(?:\^?[0-9²³])?)?)"
)


def number(text: str) -> Fraction | None:
    """The exact value of a plain decimal number (ASCII digits, optional sign, commas between thousands), or None.

    No exponents, fractions, per cent or units: "1e3", "1/2" and "2024-01" are no plain numbers.
    """
    text = text.strip()
    if len(text) > MAX_NUMBER_CHARS or not _PLAIN.fullmatch(text):
        return None
    return Fraction(text.replace(",", "").removesuffix("."))


def has_exponent(text: str) -> bool:
    """Whether a text is a number with an exponent, as "1e3"."""
    return _EXPONENT.fullmatch(text.strip()) is not None


def is_latex(text: str) -> bool:
    """Whether a text holds a formula: dollar signs around something, or a command of LaTeX mathematics."""
    return _LATEX.search(text) is not None


def is_mathematical(text: str) -> bool:
    """Whether `math_equal` may grade an answer: a number, a fraction, a percentage, a number with its unit, or LaTeX."""
    text = text.strip()
    if number(text) is not None or is_latex(text) or has_exponent(text):
        return True
    upper, slash, lower = text.partition("/")
    if slash and number(upper) is not None and number(lower) is not None:
        return True
    measure = _MEASURE.fullmatch(text)
    return measure is not None and number(measure["number"]) is not None


# ---- plans


@dataclass(frozen=True, slots=True)
class Plan:
    """The meta-actions an answer names; a set may be empty or hold several."""

    speeds: frozenset[str]
    paths: frozenset[str]

    @property
    def speed(self) -> str | None:
        """The one speed named, else None."""
        return next(iter(self.speeds)) if len(self.speeds) == 1 else None

    @property
    def path(self) -> str | None:
        return next(iter(self.paths)) if len(self.paths) == 1 else None


_WORD_ENDS = re.compile(r"[,;\r\n]+")
_JOINTS = re.compile(r"[\s_-]+")


def plan_words(text: str) -> Plan:
    """The words of both vocabularies in an answer: any case, split at commas, semicolons and line breaks; outer punctuation is
    dropped, spaces and hyphens inside a word read as underscores."""
    words = {_JOINTS.sub("_", part.strip(string.punctuation + string.whitespace)).upper() for part in _WORD_ENDS.split(text)}
    return Plan(frozenset(words.intersection(SPEEDS)), frozenset(words.intersection(PATHS)))


def read_plan(text: str, sample: Sample) -> tuple[Plan | None, str]:
    """The plan of a completion's answer, or None and why when it names no word of either vocabulary."""
    answer, why = read_text(text, sample)
    if answer is None:
        return None, why
    plan = plan_words(answer)
    if not plan.speeds and not plan.paths:
        return None, "no word of the vocabularies"
    return plan, ""


# ---- what is right


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def reference_letters(sample: Sample) -> set[str]:
    """The letters of the right choices, given as letters or as full texts."""
    choices = sample.choices or ()
    valid = LETTERS[: len(choices)] if choices else LETTERS
    found = set()
    for reference in reference_texts(sample):
        text = reference.strip()
        same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if canon(choice) == canon(reference)]
        if len(text) == 1 and text.upper() in valid:
            found.add(text.upper())
        elif len(same) == 1:
            found.add(same[0])
    return found


def reference_yes_no(sample: Sample) -> str | None:
    """The right word of a yes/no question; None where its answer is neither, or both are given."""
    words = {yes_or_no(reference)[0] for reference in reference_texts(sample)}
    return words.pop() if len(words) == 1 else None
