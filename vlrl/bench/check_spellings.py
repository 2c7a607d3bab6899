"""For `check`: a reference answer in other spellings, which must earn as much, and with something changed, which must earn
less.

A reward that fails here would train a model on the spelling of an answer, or pay it for a wrong one. Not tried: card games, and
answers of a shape that only a task of your own knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrl.answers.kind import BOX, BOXES, LABEL, PLAN, TEXT, answer_kinds
from vlrl.answers.plans import PATHS, SPEEDS
from vlrl.answers.read import read_span, requested_categories
from vlrl.answers.span import ANSWER, canon
from vlrl.answers.text import LETTERS, is_mathematical, reference_letters, reference_texts, without_full_stop
from vlrl.answers.yes_no import reference_yes_no
from vlrl.rewards.mathematics import same_mathematics
from vlrl.schema import Sample

_NUMBER = re.compile(r"[0-9]+")
_FENCE = re.compile(r"\s*```[a-z]*\s*(.*?)\s*```\s*", re.DOTALL)


@dataclass(frozen=True)
class Spellings:
    """Completions: `same` say what the reference answer says, `changed` something else."""

    same: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def other_spellings(sample: Sample, reference: str) -> Spellings:
    """The reference completion with its answer spelled otherwise, and with one part of it changed."""
    answer = read_span(reference, sample).text
    if not answer:
        return Spellings()
    opening = reference.rfind(ANSWER)
    start = reference.find(answer, opening + len(ANSWER) if opening >= 0 else 0)
    head, tail = reference[:start], reference[start + len(answer) :]
    same, changed = _forms(sample, answer)
    return Spellings([head + text + tail for text in same if text != answer], [head + text + tail for text in changed])


def _forms(sample: Sample, answer: str) -> tuple[list[str], list[str]]:
    kinds = answer_kinds(sample)
    if BOXES in kinds or BOX in kinds:
        return _boxes(sample, answer)
    if PLAN in kinds:
        return _plan(answer)
    if TEXT not in kinds:
        return [], []
    if sample.task != "qa" and LABEL in kinds:
        return _label(sample, answer)
    if sample.choices or (sample.choices is None and len(answer) == 1 and answer in LETTERS):
        return _letters(sample)
    word = reference_yes_no(sample)
    if word is not None and all(without_full_stop(reference) == word for reference in reference_texts(sample)):
        other = "no" if word == "yes" else "yes"
        return [word, word.upper(), f"{word.capitalize()}."], [other, f"{other.capitalize()}."]
    if all(map(is_mathematical, reference_texts(sample))):
        return _mathematics(sample, answer)
    return _text(sample, answer)


def _boxes(sample: Sample, answer: str) -> tuple[list[str], list[str]]:
    """Other white space and a fence; every box shifted to the right by half its width."""
    fence = _FENCE.fullmatch(answer)
    try:
        found = json.loads(fence[1] if fence else answer)
    except ValueError:
        found = []
    if found == []:
        categories = requested_categories(sample) if isinstance(sample.answer, list) else []
        box = {"bbox_2d": [1, 1, 5, 5], **({"label": categories[0]} if categories else {})}
        return ([], [json.dumps([box])]) if sample.answer == [] else ([], [])
    items = found if isinstance(found, list) else [found]
    boxes = [item.get("bbox_2d") for item in items if isinstance(item, dict)]
    if len(boxes) != len(items) or not all(_is_box(box) for box in boxes):
        return [], []
    shifted = [{**item, "bbox_2d": _shifted(item["bbox_2d"])} for item in items]
    plain = json.dumps(found, indent=1, ensure_ascii=False)
    return [plain, f"```json\n{plain}\n```"], [
        json.dumps(shifted if isinstance(found, list) else shifted[0], ensure_ascii=False)
    ]


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(one, int | float) for one in box)


def _shifted(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    by = (x2 - x1) / 2
    return [round(x1 + by, 4), y1, round(x2 + by, 4), y2]


def _plan(answer: str) -> tuple[list[str], list[str]]:
    changed = [
        answer.replace(word, vocabulary[(i + 1) % len(vocabulary)])
        for vocabulary in (SPEEDS, PATHS)
        for i, word in enumerate(vocabulary)
        if re.search(rf"\b{word}\b", answer)
    ]
    return [answer.lower()], changed


def _label(sample: Sample, answer: str) -> tuple[list[str], list[str]]:
    right = {canon(text) for text in reference_texts(sample)}
    others = [choice for choice in sample.choices or () if canon(choice) not in right][:1] or [answer[::-1]]
    same = [text for text in (answer.upper(), answer.lower()) if canon(text) == canon(answer)]
    return same, [text for text in others if canon(text) not in right]


def _letters(sample: Sample) -> tuple[list[str], list[str]]:
    right = sorted(reference_letters(sample))
    if not right:
        return [], []
    wrong = [letter for letter in LETTERS[: len(sample.choices or LETTERS)] if letter not in right][:1]
    return [form for letter in right for form in _letter_forms(letter)], [
        form for letter in wrong for form in _letter_forms(letter)
    ]


def _letter_forms(letter: str) -> Iterator[str]:
    yield from (letter, f"({letter})", f"{letter}.", f"The answer is {letter}.", f"\\boxed{{{letter}}}")


def _mathematics(sample: Sample, answer: str) -> tuple[list[str], list[str]]:
    """A box, dollar signs and a sentence; the first number that counts one more."""
    references = reference_texts(sample)
    for found in _NUMBER.finditer(answer):
        if len(found[0]) > 100:
            continue
        other = answer[: found.start()] + str(int(found[0]) + 1) + answer[found.end() :]
        if not any(same_mathematics(reference, other)[0] for reference in references):
            break
    else:
        other = ""
    return list(_formula_forms(answer)), list(_formula_forms(other)) if other else []


def _formula_forms(answer: str) -> Iterator[str]:
    if "boxed" in answer:
        return
    inner = answer.removeprefix("$").removesuffix("$") if answer.count("$") == 2 else answer
    yield f"\\boxed{{{inner}}}"
    yield f"The answer is {answer}."
    if "$" not in inner:
        yield f"${inner}$"


def _text(sample: Sample, answer: str) -> tuple[list[str], list[str]]:
    right = {canon(text).removesuffix(".") for text in reference_texts(sample)}
    same = [text for text in (answer.upper(),) if canon(text) == canon(answer)]
    same += [f"{answer}."] if answer[-1].isalnum() else []
    return same, [text for text in (answer[::-1],) if canon(text).removesuffix(".") not in right]
