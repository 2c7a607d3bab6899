"""Preference pairs as a policy is trained on them: the prompt it was asked, two completions, and what differs between them.

Rows: those of a reward model (`image` or `images`, `question`, `chosen`, `rejected`; also RLHF-V's), and what `vlrl bench
sample --write preferences` adds: `prompt` (whole, in place of the question), `system`, `chosen_changed` and `rejected_changed`
(spans of characters), `chosen_values` and `rejected_values` (of each step of the text, as `vlrl.answers.steps` splits it, a
value in 0..1 or null). Without spans they are found word by word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.answers.steps import split_steps, step_starts
from vlrl.data.changed_spans import TextSpan, changed_spans, spans_problem
from vlrl.data.preference_rows import PAIR_SIDES, PreferenceRow, read_preference_rows
from vlrl.data.step_values import question_key
from vlrl.data.subsets import drawn_items
from vlrl.schema import SampleError

StepEnds = tuple[tuple[int, float | None], ...]
"""Of each step of a completion the character it ends before and its value in 0..1, None where it is not known."""


@dataclass(frozen=True)
class PreferencePair:
    """One pair. `spans`: what differs in the chosen and in the rejected completion; `question_key`: equal for all pairs of one
    prompt about the same images."""

    id: str
    question_key: str
    images: tuple[str, ...]
    system: str
    prompt: str
    chosen: str
    rejected: str
    spans: tuple[tuple[TextSpan, ...], tuple[TextSpan, ...]]
    values: tuple[StepEnds, StepEnds] = ((), ())
    """Of each step of both completions the character it ends before and its value; () where the row states none."""


def read_dpo_pairs(path: Path, image_root: Path | None = None, limit: int | None = None) -> list[PreferencePair]:
    """The pairs of a JSONL file; relative image paths start at `image_root` (default: the file's folder). `limit`: so many,
    drawn. Raises SampleError naming file, line and value."""
    found = [_pair_of(row) for row in read_preference_rows(path, image_root, ("prompt", "question"))]
    return drawn_items(found, [pair.question_key for pair in found], limit, 0)


def divided(pairs: Sequence[PreferencePair], share: float, seed: int = 0) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and held-out pairs. Images and questions are divided, not rows, by the order of their hashes; at least one is
    held out. Raises SampleError for a single one."""
    keys = sorted({_group(pair) for pair in pairs})
    if len(keys) < 2:
        raise SampleError("all pairs show the same image, so none can be held out; give held-out pairs by --eval_data")
    out = set(keys[: min(max(1, round(share * len(keys))), len(keys) - 1)])
    return [one for one in pairs if _group(one) not in out], [one for one in pairs if _group(one) in out]


def _group(pair: PreferencePair) -> str:
    return question_key("|".join(pair.images), "" if pair.images else pair.prompt)


def _pair_of(found: PreferenceRow) -> PreferencePair:
    row, where = found.row, found.where
    texts = {"chosen": found.chosen, "rejected": found.rejected}
    if row.get("tie") is True:
        raise SampleError(f"{where}: a tie prefers neither answer, so nothing is learnt from it here; leave the row out")
    if found.chosen == found.rejected:
        raise SampleError(f"{where}: chosen and rejected are the same text; leave the row out")
    stated = [row.get(f"{key}_changed") for key in PAIR_SIDES]
    if (stated[0] is None) != (stated[1] is None):
        raise SampleError(f"{where}: give both 'chosen_changed' and 'rejected_changed', or neither")
    for key, spans in zip(PAIR_SIDES, stated, strict=True):
        if spans is not None and (problem := spans_problem(spans, texts[key])):
            raise SampleError(f"{where}: '{key}_changed' {problem}")
    marked = changed_spans(found.chosen, found.rejected)
    if stated[0] is not None and stated[1] is not None:
        marked = (tuple((a, b) for a, b in stated[0]), tuple((a, b) for a, b in stated[1]))
    return PreferencePair(
        found.id,
        found.prompt_key,
        found.images,
        found.system,
        found.prompt,
        found.chosen,
        found.rejected,
        marked,
        (_values(row, "chosen", found.chosen, where), _values(row, "rejected", found.rejected, where)),
    )


def _values(row: Mapping[str, Any], side: str, text: str, where: str) -> StepEnds:
    """The values that a row states of the steps of a completion. Raises SampleError."""
    stated = row.get(f"{side}_values")
    if stated is None:
        return ()
    steps = split_steps(text).steps
    is_number = isinstance(stated, list) and all(
        one is None or (isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1) for one in stated
    )
    if not is_number:
        raise SampleError(f"{where}: '{side}_values' must be a list of numbers in 0..1 and nulls, got {stated!r:.60}")
    if len(stated) != len(steps):
        raise SampleError(f"{where}: '{side}_values' has {len(stated)} values, but {side!r} has {len(steps)} steps")
    ends = step_starts(text, steps)[1:]
    return tuple((end, None if one is None else float(one)) for end, one in zip(ends, stated, strict=True))
