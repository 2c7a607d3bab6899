"""Training data of a reward model: two answers to one question about images, and which of them is preferred. No torch.

Rows: `image` or `images` (none for text alone), `question` (or TRL's `prompt`), `chosen`, `rejected`; each of the three a text
or a list of messages. Optional: `tie` (true: neither is better), `margin` (how much better, 0 or more), `ratings` (`{"chosen":
{"helpfulness": 4}, "rejected": {...}}`), `subset` (a part that is reported by itself), `id`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.data.preference_rows import PreferenceRow, read_preference_rows
from vlrl.data.step_values import question_key
from vlrl.data.subsets import drawn_items
from vlrl.data.synthetic.steps import solution, step_question
from vlrl.schema import SampleError


@dataclass(frozen=True)
class PreferenceRecord:
    """One pair. `ratings`: of the chosen and the rejected answer, by attribute. `question_key`: equal for all pairs of one
    question about the same images."""

    id: str
    question_key: str
    images: tuple[str, ...]
    question: str
    chosen: str
    rejected: str
    is_tie: bool = False
    margin: float | None = None
    ratings: tuple[Mapping[str, float], Mapping[str, float]] = field(default_factory=lambda: ({}, {}))
    subset: str = ""


def read_preferences(path: Path, image_root: Path | None = None, limit: int | None = None) -> list[PreferenceRecord]:
    """The pairs of a file of JSON lines; relative image paths start at `image_root` (default: the file's folder). `limit`: so
    many of them, drawn. Raises SampleError naming file, line and value."""
    records = [_pair(row) for row in read_preference_rows(path, image_root, ("question", "prompt"))]
    return drawn_items(records, [record.question_key for record in records], limit, 0)


def _pair(found: PreferenceRow) -> PreferenceRecord:
    row, where = found.row, found.where
    if found.system and "question" not in row:  # beside a question it is the policy's, as `bench sample` writes it
        raise SampleError(f"{where}: has a system prompt, which a reward model is not shown; take it out")
    is_tie = row.get("tie", False)
    if not isinstance(is_tie, bool):
        raise SampleError(f"{where}: 'tie' must be true or false, got {is_tie!r:.60}")
    if found.chosen == found.rejected and not is_tie:
        raise SampleError(f"{where}: chosen and rejected are the same text; leave the row out, or say that it is a tie")
    margin = row.get("margin")
    if margin is not None and (not _is_number(margin) or margin < 0):
        raise SampleError(f"{where}: 'margin' must be a number, 0 or more, got {margin!r:.60}")
    return PreferenceRecord(
        found.id, found.prompt_key, found.images, found.prompt, found.chosen, found.rejected, is_tie,
        None if margin is None else float(margin), _ratings(row, where), str(row.get("subset", "")),
    )  # fmt: skip


def _ratings(row: Mapping[str, Any], where: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
    given = row.get("ratings") or {}
    if not isinstance(given, dict) or not given.keys() <= {"chosen", "rejected"}:
        raise SampleError(f"{where}: 'ratings' must hold chosen and rejected, each {{attribute: number}}, got {given!r:.80}")
    for one in given.values():
        if not isinstance(one, dict) or not all(_is_number(value) for value in one.values()):
            raise SampleError(f"{where}: 'ratings' must give numbers by attribute, got {one!r:.80}")
    return tuple({name: float(value) for name, value in given.get(side, {}).items()} for side in ("chosen", "rejected"))  # type: ignore[return-value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def synthetic_preference(seed: int, split_name: str, index: int) -> PreferenceRecord:
    """A drawn board: its right solution before one by the noisy solver that ends wrong. Rated by `right_steps`, the share of
    steps that are right, and `right_answer`."""
    drawn = step_question(seed, split_name, index)
    good = solution(seed, split_name, index, 0, noisy=False)
    wrong = (solution(seed, split_name, index, number) for number in range(1000))
    bad = next(one for one in wrong if one.answer != drawn.answer)
    share = sum(bad.values) / len(bad.values)
    ratings = ({"right_steps": 1.0, "right_answer": 1.0}, {"right_steps": share, "right_answer": 0.0})
    key = question_key(drawn.image, drawn.question)
    return PreferenceRecord(drawn.id, key, (drawn.image,), drawn.question, good.text, bad.text, False, 1 - share, ratings)
