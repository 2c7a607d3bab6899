"""Whether a solution's final answer is right, by rules alone: letters, numbers, yes and no, short texts.

Read is the last statement of an answer: an `<answer>` tag, a box, "the answer is ..."; else, of a text of one line, the text.
differs: MathVista's and MathVerse's own evaluations let a language model extract answers, so numbers are not theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from vlrl.answers.choices import choice_letter
from vlrl.answers.span import canon
from vlrl.answers.text import number
from vlrl.answers.yes_no import yes_or_no
from vlrl.data.best_of_n import Item
from vlrl.rewards.mathematics import last_boxed

MAX_STATED_CHARS = 400
RELATIVE_TOLERANCE = Fraction(1, 1000)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.I | re.S)
_STATED = re.compile(
    r"\b(?:final\s+|correct\s+|right\s+)?(?:answer|option|choice)"
    r"(?:\s+(?:is|was|would\s+be|must\s+be)|\s*[:=])(?:\s*[:=])?[ \t*_]*(?=(?P<stated>[^\n]{1,400}))",
    re.I,
)
_CLAUSE_END = re.compile(r"(?<!\d)\.(?:\s|$)|\.(?=\s|$)|;|\s(?:because|since|as)\s")
_UNIT = re.compile(r"^[^0-9+\-.\\√(]*(?P<number>.*?)[^0-9)}]*$", re.S)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


class Grade(NamedTuple):
    """`answer`: what was extracted, in the form in which answers are counted (a majority), or None."""

    correct: bool
    answer: str | None


def grade(response: str, item: Item) -> Grade:
    """Grade one solution. Nothing extracted is wrong."""
    stated = stated_answer(response)
    if stated is None:
        return Grade(False, None)
    kind = kind_of(item)
    if kind == "letter":
        letter, _ = choice_letter(_body(response), item.choices)
        return Grade(letter is not None and letter == _letter(item.answer, item.choices), letter)
    if kind == "yes_no":
        word, _ = _stated_word(response, stated)
        return Grade(word is not None and word == canon(item.answer), word)
    if kind == "number":
        value, wanted = read_number(stated), read_number(item.answer)
        if value is None or wanted is None:
            return Grade(False, None)
        return Grade(_equal(value, wanted, item.precision), _shown(value, item.precision))
    words = _plain(stated)
    return Grade(words != "" and words == _plain(item.answer), words or None)


def kind_of(item: Item) -> str:
    """letter, yes_no, number or text: as the item says (`answer_type`), else by its choices and its answer."""
    kind = canon(item.answer_type or "")
    if item.choices or kind in ("letter", "multi choice", "multiple choice", "mcq", "option"):
        return "letter"
    if canon(item.answer) in ("yes", "no"):
        return "yes_no"
    if kind in ("number", "integer", "float", "numeric") or (not kind and read_number(item.answer) is not None):
        return "number"
    return "text"


def stated_answer(response: str) -> str | None:
    """The last statement of an answer, or None. An unclosed box is none."""
    tags = _TAG.findall(response)
    if tags:
        response = tags[-1]
    if "\\boxed{" in response:
        boxed = last_boxed(response)
        return boxed[:MAX_STATED_CHARS] if boxed else None
    statements = [match["stated"] for match in _STATED.finditer(response)]
    if statements:
        stated = _CLAUSE_END.split(statements[-1].strip())[0]
        return stated.strip(" \t*_`$\"'.") or None
    text = response.strip()
    return text[:MAX_STATED_CHARS] or None if tags or ("\n" not in text and len(text) <= MAX_STATED_CHARS) else None


def _body(response: str) -> str:
    """What is inside the last answer tag, else the whole response."""
    tags = _TAG.findall(response)
    return str(tags[-1] if tags else response)


def _stated_word(response: str, stated: str) -> tuple[str | None, str]:
    """Yes or no as last stated; None where an earlier statement says the other one and the text does not replace it."""
    words = {yes_or_no(_CLAUSE_END.split(one["stated"])[0])[0] for one in _STATED.finditer(_body(response))}
    if {"yes", "no"} <= words:
        return yes_or_no(_body(response))
    return yes_or_no(stated)


def _letter(text: str, choices: Sequence[str] | None) -> str | None:
    """The letter a text chooses, or that of the one option whose text it is or begins with the letter of."""
    letter, _ = choice_letter(text.strip(), choices)
    if letter is not None or not choices:
        return letter
    same = [i for i, choice in enumerate(choices) if _plain(choice) == _plain(text) != ""]
    return chr(ord("A") + same[0]) if len(same) == 1 else None


def read_number(text: str) -> Fraction | None:
    """The number of a short answer: currency, units, thousands separators, per cent signs, fractions and simple LaTeX. A
    percentage is its number, as the benchmarks write it. None where there is none, or more than one."""
    text = text.strip().strip("$ ").replace("\\%", "%").replace("\\,", "").replace("\\!", "").replace("−", "-")
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\^\s*\{?\\circ\}?|\\[()\[\]]", " ", text)
    text = _FRACTION.sub(r"(\1)/(\2)", text).replace("(", "").replace(")", "")
    text = text.rpartition("=")[2] if "=" in text else text
    found = _UNIT.match(text.strip())
    if found is None:
        return None
    upper, slash, lower = found["number"].partition("/")
    value = number(upper.replace(" ", ""))
    if value is None or not slash:
        return value
    below = number(lower.replace(" ", ""))
    return None if not below else value / below


def _equal(value: Fraction, wanted: Fraction, precision: int | None) -> bool:
    if precision is not None:
        return round(value, precision) == round(wanted, precision)
    return abs(value - wanted) <= RELATIVE_TOLERANCE * abs(wanted)


def _shown(value: Fraction, precision: int | None) -> str:
    return str(round(value, precision) if precision is not None else value)


def _plain(text: str) -> str:
    """Case folded, without articles and punctuation."""
    return " ".join(_ARTICLES.sub(" ", re.sub(r"[^\w\s]", " ", canon(text))).split())
