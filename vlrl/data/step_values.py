"""Training data of a process reward model: solutions in steps, with a value in 0..1 for some of the steps. No torch.

Rows of ViLReward-73K (https://huggingface.co/datasets/UCSC-VLAA/ViLReward-73K): `image` or `image_path`, `question`, `process`
(the reasoning up to and including the scored step), `value`; `vlrl bench sample` adds `steps`, those of `process`. The row
format is not documented; it is taken from a public loader of the set. A value is not a success rate: in the published tree
wrong leaves have 0.5.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.answers.steps import split_steps
from vlrl.data.files import as_object, read_json_lines, read_utf8
from vlrl.data.sample_files import is_there
from vlrl.data.sample_json import file_of, in_file
from vlrl.data.subsets import drawn_items
from vlrl.data.synthetic.steps import solution, step_question
from vlrl.schema import SampleError

HELD_OUT_QUESTION_SHARE = 0.05
"""Share of the questions that `split` holds out."""
SOLVE_INSTRUCTION = "Solve it step by step."


@dataclass(frozen=True)
class StepRecord:
    """One solution. `values[i]` is that of steps 0..i, None where it is not known. `question_key`: equal for all solutions of
    one question about one image."""

    id: str
    question_key: str
    image: str | None
    question: str
    steps: tuple[str, ...]
    values: tuple[float | None, ...]


def prompt_text(question: str) -> str:
    """The prompt that a solution answers, the same in training and in use."""
    return f"{question}\n{SOLVE_INSTRUCTION}"


@dataclass(frozen=True)
class RewardFile:
    """The rows of a file as records, and what was left out."""

    records: list[StepRecord]
    n_rows: int
    n_missing_image: int

    def describe(self) -> list[str]:
        """Lines for the console: values, rows per question, steps per row."""
        values = [value for record in self.records for value in record.values if value is not None]
        histogram, _ = np.histogram(values, bins=10, range=(0, 1))
        per_question = Counter(record.question_key for record in self.records)
        n_steps = [len(record.steps) for record in self.records]
        return [
            f"{self.n_rows} rows, {self.n_missing_image} left out as their image is missing, {len(per_question)} questions",
            f"values   {' '.join(map(str, histogram))} (ten bins of 0..1), mean {np.mean(values):.3f}",
            f"rows per question: mean {np.mean(list(per_question.values())):.1f}, most {max(per_question.values())};"
            f" steps per row: mean {np.mean(n_steps):.1f}, most {max(n_steps)}",
        ]


def read_rewards(path: Path, image_root: Path | None = None, limit: int | None = None) -> RewardFile:
    """The rows of ViLReward-73K in a JSON array or JSON lines; relative image paths start at `image_root` (default: the file's
    folder). `limit`: so many of them, drawn, with values in their shares.

    Rows whose image is missing are left out and counted; anything else that is wrong raises SampleError.
    """
    records: list[StepRecord] = []
    n_rows = n_missing = 0
    listed = list(_rows(path)) if limit is not None else _rows(path)
    if isinstance(listed, list):
        listed = drawn_items(listed, [_value_bin(row) for _, row in listed], limit, 0)
    for where, row in listed:
        n_rows += 1
        record = _record(row, where, n_rows, image_root or path.parent)
        if record.image is not None and not is_there(record.image):
            n_missing += 1
            continue
        records.append(record)
    if not records:
        raise SampleError(
            f"{path}: {n_rows} rows, of which {n_missing} have no image file; give the folder of the images with --image_root"
        )
    return RewardFile(records, n_rows, n_missing)


def _value_bin(row: dict[str, Any]) -> int:
    """The tenth of 0..1 that a row's value lies in, so that a subset has such values in their shares."""
    value = row.get("value")
    return int(10 * value) if isinstance(value, int | float) and 0 <= value <= 1 else -1


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_utf8(path)
    if text.lstrip()[:1] != "[":
        yield from read_json_lines(path)
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not a JSON array: {error}") from error
    for number, row in enumerate(rows):
        yield f"{path} (row {number})", as_object(row, f"{path} (row {number})")


def _record(row: dict[str, Any], where: str, number: int, root: Path) -> StepRecord:
    image = row.get("image", row.get("image_path"))
    if not isinstance(image, str) or not image:
        raise SampleError(f"{where}: no 'image' or 'image_path' (text); the row has {', '.join(sorted(row))}")
    for key in ("question", "process"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise SampleError(f"{where}: {key!r} must be text, got {row.get(key)!r:.60}")
    value = row.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SampleError(f"{where}: 'value' must be a number in 0..1, got {value!r}")
    if (file := file_of(image)) is not None:
        image = in_file(image, str((root / file).resolve()))
    steps = _steps(row, where)
    values = (*(None for _ in steps[1:]), float(value))
    key = question_key(image, row["question"])
    return StepRecord(str(row.get("id", number - 1)), key, image, row["question"], steps, values)


def _steps(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The steps of a row's `process`: those that it states (`steps`, of the solution that it is the beginning of), else split
    here."""
    stated = row.get("steps")
    if stated is None:
        return split_steps(row["process"]).steps
    if not isinstance(stated, list) or not stated or not all(isinstance(one, str) and one.strip() for one in stated):
        raise SampleError(f"{where}: 'steps' must be a list of texts, got {stated!r:.60}")
    if "".join("".join(stated).split()) != "".join(row["process"].split()):
        raise SampleError(f"{where}: 'steps' and 'process' are different texts; leave 'steps' out, or write the same")
    return tuple(stated)


def question_key(image: str | None, question: str) -> str:
    """A hash that names a question about an image."""
    return hashlib.sha256(f"{image}\n{question}".encode()).hexdigest()


def merge_partial_solutions(records: Sequence[StepRecord]) -> list[StepRecord]:
    """The same values in fewer sequences: where a longer solution of a question begins with a partial one, its record takes
    over the values of the partial one."""
    by_question: dict[str, list[StepRecord]] = {}
    for record in records:
        by_question.setdefault(record.question_key, []).append(record)
    found: list[StepRecord] = []
    for group in by_question.values():
        kept: list[StepRecord] = []
        for record in sorted(group, key=lambda one: -len(one.steps)):
            n = len(record.steps)
            for i, longer in enumerate(kept):
                free = all(a is None or b is None for a, b in zip(longer.values, record.values, strict=False))
                if free and longer.steps[:n] == record.steps:
                    values = [a if b is None else b for a, b in zip(longer.values, record.values, strict=False)]
                    kept[i] = StepRecord(
                        longer.id,
                        longer.question_key,
                        longer.image,
                        longer.question,
                        longer.steps,
                        (*values, *longer.values[n:]),
                    )
                    break
            else:
                kept.append(record)
        found += kept
    return found


def split(records: Sequence[StepRecord], share: float = HELD_OUT_QUESTION_SHARE) -> tuple[list[StepRecord], list[StepRecord]]:
    """Training and held-out records. Questions are divided, not rows, by the order of their hashes; at least one is held out
    and one is not. Raises SampleError for a single question."""
    keys = sorted({record.question_key for record in records})
    if len(keys) < 2:
        raise SampleError("all rows are of one question, which cannot be split; give held-out rows by --eval_data")
    n = min(max(1, round(share * len(keys))), len(keys) - 1)
    out = set(keys[:n])  # the keys are hashes: their order is chance
    return [r for r in records if r.question_key not in out], [r for r in records if r.question_key in out]


def weights(records: Sequence[StepRecord]) -> list[float]:
    """A weight for the values of each record: every question has the same total, and (weight x number of values) has mean 1
    over the records."""
    n_values: Counter[str] = Counter()
    for record in records:
        n_values[record.question_key] += sum(value is not None for value in record.values)
    return [len(records) / (len(n_values) * n_values[record.question_key]) for record in records]


def synthetic_record(seed: int, split_name: str, index: int, number: int) -> StepRecord:
    """Solution `number` of drawn question `index` by the noisy solver, every step with its value."""
    drawn = step_question(seed, split_name, index)
    solved = solution(seed, split_name, index, number)
    key = question_key(drawn.image, drawn.question)
    return StepRecord(f"{drawn.id}-{number}", key, drawn.image, drawn.question, solved.steps, solved.values)
