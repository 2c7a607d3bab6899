"""For `check`: faults of a row that no single reward can see, as two choices that a reader cannot tell apart.

Such a row is valid, and its reference answer may earn full marks, but it says something else than its author meant, or no
reader can tell a right answer from a wrong one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from vlrl.answers.choices import choice_letter
from vlrl.answers.final_answer import final_answer
from vlrl.answers.geometry import box_problem
from vlrl.answers.kind import BOX, BOXES, TEXT, answer_kinds
from vlrl.answers.mathematics import read_mathematics
from vlrl.answers.nones import says_none
from vlrl.answers.normalise import normalised
from vlrl.answers.read import frame_of
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS, bare_text, is_mathematical, reference_texts
from vlrl.rewards import reward_name
from vlrl.schema import Sample

_MARKS = " .,;:!?\"'`*$“”‘’「」《》：，。"
_LATEX_LIKE = re.compile(r"\\[A-Za-z]+\s*[{\[]|[\^_]\s*\{|(?<![\w:\\.])\\[A-Za-z]{2,}")
"""A command with its argument, a power or index in braces, a command on its own. The parts of `C:\\Users` are none."""
_OR = re.compile(r"\s+(?:or|oder|ou|или)\s+|\s*(?:或者?|还是|または|또는)\s*|\s+\|\s+|\s*/\s*(?=yes\b|no\b)", re.IGNORECASE)
_MIN_PIXELS = 8
"""Boxes within 0..1 are shares of any image larger than this."""


def row_fault(sample: Sample) -> str | None:
    """What is wrong with a row of a built-in task although its form is right, or None. An answer of a wrong form is left to the
    task's own check."""
    kinds = answer_kinds(sample)
    if sample.choices:
        return _choices_fault(sample)
    if kinds & {BOX, BOXES}:
        return _boxes_fault(sample, several=BOXES in kinds)
    if TEXT in kinds and sample.task == "qa":
        return next(filter(None, map(_text_fault(sample), reference_texts(sample))), None)
    return None


# ---- choices


def _choices_fault(sample: Sample) -> str | None:
    choices = sample.choices or ()
    empty = [i for i, choice in enumerate(choices) if not canon(choice)]
    if empty:
        return f"choice {_place(empty[0])} is empty"
    if len(choices) == 1:
        return f"{choices[0]!r} is the only choice, so every answer that can be chosen is right"
    if sample.task == "classification":
        return _same_names(choices, bare_text, "choices")
    pair = _alike(choices, _key)
    if pair is None:
        return None
    if canon(choices[pair[0]]) != canon(choices[pair[1]]) and all(_is_read(i, choices) for i in pair):
        return None
    return _told_apart("choices", choices, pair)


def _place(index: int) -> str:
    return LETTERS[index] if index < len(LETTERS) else str(index + 1)


def _key(text: str) -> str:
    """What is left of a name to tell it from others: case, white space and marks around it do not count."""
    whole = canon(normalised(text))
    return whole.strip(_MARKS) or whole


def _is_read(index: int, choices: Sequence[str]) -> bool:
    return choice_letter(choices[index], choices)[0] == LETTERS[index : index + 1]


def _alike(names: Sequence[str], key: Callable[[str], str]) -> tuple[int, int] | None:
    """The first two names of equal key."""
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        first = seen.setdefault(key(name), i)
        if first != i:
            return first, i
    return None


def _same_names(names: Sequence[str], key: Callable[[str], str], what: str) -> str | None:
    pair = _alike(names, key)
    return None if pair is None else _told_apart(what, names, pair)


def _told_apart(what: str, names: Sequence[str], pair: tuple[int, int]) -> str:
    first, second = (names[i] for i in pair)
    if first == second:
        return f"two {what} are the same: {first!r}"
    return f"two {what} are the same to the reader: {first!r} and {second!r}; case and marks around a text do not count"


# ---- boxes


def _boxes_fault(sample: Sample, *, several: bool) -> str | None:
    items = sample.answer if several else [sample.answer]
    labels = [item.get("label") for item in items if isinstance(item.get("label"), str)] if several else []
    categories = sample.facts.get("categories")
    named = [one for one in categories if isinstance(one, str)] if several and isinstance(categories, list | tuple) else []
    for what, names in (("a label", labels), ("a name in meta.categories", named)):
        for name in names:
            if not canon(name):
                return f"{what} is empty, so nothing says what is in the box"
            if _says_nothing_is_there(name, sample):
                return f'{what} is {name!r}, which says that there is no object; for that, write "answer": []'
    return _same_names(named, _key, "names in meta.categories") or _values_fault(sample, items)


def _says_nothing_is_there(name: str, sample: Sample) -> bool:
    """Whether a completion that consists of the name alone is read as "there is none"."""
    meta = {**sample.meta, "categories": ["object"]}
    return says_none(name, frame_of(Sample(sample.id, sample.task, "object", [], sample.images, meta=meta)))


def _values_fault(sample: Sample, items: Sequence[Mapping[str, object]]) -> str | None:
    """Boxes in shares of the image, and one box twice."""
    boxes = [item["bbox_2d"] for item in items]
    if not boxes or any(box_problem(box, None) for box in boxes):
        return None
    values = [tuple(map(float, box)) for box in boxes if isinstance(box, list | tuple)]
    width, height = sample.facts.get("image_size") or (_MIN_PIXELS, _MIN_PIXELS)
    if min(width, height) >= _MIN_PIXELS and all(0 <= value <= 1 for box in values for value in box):
        return (
            f"every value of its boxes lies in 0..1, as {list(values[0])}: these are shares of the image; true boxes are pixels"
            " of the original image"
        )
    same = Counter((value, canon(str(item.get("label") or ""))) for value, item in zip(values, items, strict=True))
    (box, label), n = same.most_common(1)[0]
    if n > 1:
        of = f" of {label!r}" if label else ""
        return f"the true box {[int(v) if v == int(v) else v for v in box]}{of} is given {n} times; each object has one box"
    return None


# ---- texts


def _text_fault(sample: Sample) -> Callable[[str], str | None]:
    named = sample.facts.get("rewards")
    is_list = isinstance(named, list | tuple) and all(isinstance(one, str) for one in named)
    rewards = {reward_name(one) for one in named} if is_list and named else {"math_equal"}

    def fault(text: str) -> str | None:
        parts = _OR.split(text.strip())
        if len(parts) > 1 and all(is_mathematical(one) or canon(one) in ("yes", "no") for one in parts):
            apart = [one for one in parts if canon(one) != canon(parts[0])]
            if apart and not is_mathematical(text):
                return (
                    f"the answer {text!r} names several answers, which the reader takes for none; if each of them is right,"
                    f" write a list: {parts}"
                )
        if "math_equal" in rewards and len(text) < 2000 and _LATEX_LIKE.search(text) and (why := _unread(text)):
            return f"the answer {text!r} looks like LaTeX but cannot be read ({why}), so only the same signs would be right"
        return None

    return fault


def _unread(text: str) -> str:
    """Why a text cannot be read as a formula, or ""."""
    found = read_mathematics(text.strip().rstrip("."))
    if not isinstance(found, str):
        return ""
    answer = final_answer(text)
    return "" if answer.texts else found
