"""MathVista's own rule for short answers (arXiv 2310.02255): by the type that a row states, to the decimal places it states."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from vlrl.answers.literals import NUMBER
from vlrl.answers.span import canon
from vlrl.answers.text import bare_text, measure_form, number, read_text, reference_texts, short_forms
from vlrl.rewards.text import mcq, mcq_problem
from vlrl.schema import Sample, Score

NUMERIC = ("integer", "float")
MAX_PLACES = 12


def mathvista_problem(sample: Sample) -> str | None:
    """Why `mathvista_match` cannot grade a sample's answer, or None."""
    if sample.choices:
        return mcq_problem(sample)
    places = sample.facts.get("precision")
    if places is not None and not (isinstance(places, int) and not isinstance(places, bool) and 0 <= places <= MAX_PLACES):
        return f"meta.precision is a number of decimal places, 0 to {MAX_PLACES}, got {places!r}"
    if _kind(sample) in NUMERIC and not any(number(text) is not None for text in reference_texts(sample)):
        return f"its answer_type is {_kind(sample)}, and its answer no plain number: {sample.answer!r}"
    return None


def mathvista_match(text: str, sample: Sample, *, variant: Literal["default", "released"] = "default") -> Score:
    """1 if the answer is right by MathVista's rule, else 0.

    With choices, the one chosen, as `mcq` reads it. By `meta.answer_type`: "integer": the number without its decimals;
    "float": the number rounded to `meta.precision` places; "list": the same members; else the same text. Source: the released
    script after its extraction. differs: a language model extracts the answer there, rules do here; the script takes a text
    that is no choice for the most similar one; an integer with decimals is cut off there ("3.9" is 3) with
    `variant="released"` and wrong by default.
    """
    if sample.choices:
        return mcq(text, sample)
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    kind = _kind(sample)
    references = reference_texts(sample)
    if kind in NUMERIC:
        value = _number_in(answer)
        if value is None:
            return Score(0.0, None, "no single number")
        places = 0 if kind == "integer" else sample.facts.get("precision")
        wanted = [found for one in references if (found := number(one)) is not None]
        right = any(_same(value, one, places, kind == "integer" and variant == "released") for one in wanted)
        return Score(
            float(right), float(value) if abs(value) < 10**15 else str(value)[:40], "equal" if right else "another number"
        )
    if kind == "list":
        right = _members(answer) in [_members(one) for one in references]
    else:
        right = not short_forms(answer).isdisjoint(map(bare_text, references))
    return Score(float(right), answer, "equal" if right else f"not {references[0]!r}")


def _kind(sample: Sample) -> str:
    return str(sample.facts.get("answer_type") or "text")


def _number_in(answer: str) -> Fraction | None:
    """The one number of a short answer, with or without a unit behind it."""
    found = set()
    for form in short_forms(answer):
        value = number(form)
        value = number(measure_form(form)[0]) if value is None else value
        if value is not None:
            found.add(value)
    return found.pop() if len(found) == 1 else None


def _same(value: Fraction, wanted: Fraction, places: int | None, cut_off: bool) -> bool:
    if cut_off:
        return math.trunc(value) == math.trunc(wanted)
    if places is None or places == 0:
        return value == wanted
    return round(value, places) == round(wanted, places)


def _members(text: str) -> list[str]:
    """The numbers of a list in their order, else its canonical text without brackets."""
    found = NUMBER.findall(text)
    return [str(float(one)) for one in found] if found else [canon(text).strip("[]() ")]
