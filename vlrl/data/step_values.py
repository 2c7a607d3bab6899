"""What a process reward model learns from: solutions in steps, with a value in 0..1 for some of the steps. No torch.

Rows of ViLReward-73K (https://huggingface.co/datasets/UCSC-VLAA/ViLReward-73K; row format second-hand, from others' loader):
`image` or `image_path`, `question`, `process` (the reasoning up to and including the scored step), `value`. A value is not a
success rate: in the published tree wrong leaves have 0.5.
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
from vlrl.data.synthetic.steps import solution, step_question
from vlrl.schema import SampleError, is_there

HELD_OUT_SHARE = 0.05
INSTRUCTION = "Solve it step by step."


@dataclass(frozen=True)
class StepRecord:
    """One solution. `values[i]` is that of steps 0..i, None where it is not known. `question_key`: equal for all solutions of
    one question about one picture."""

    id: str
    question_key: str
    image: str | None
    question: str
    steps: tuple[str, ...]
    values: tuple[float | None, ...]


def prompt_text(question: str) -> str:
    """What the solver of a question was asked, in training and in use alike."""
    return f"{question}\n{INSTRUCTION}"


@dataclass(frozen=True)
class RewardFile:
    """The rows of a file as records, and what was left out."""

    records: list[StepRecord]
    n_rows: int
    n_missing_image: int

    def describe(self) -> list[str]:
        """What the file holds, in lines: values, rows a question, steps a row."""
        values = [value for record in self.records for value in record.values if value is not None]
        histogram, _ = np.histogram(values, bins=10, range=(0, 1))
        per_question = Counter(record.question_key for record in self.records)
        n_steps = [len(record.steps) for record in self.records]
        return [
            f"{self.n_rows} rows, {self.n_missing_image} left out without their picture, {len(per_question)} questions",
            f"values   {' '.join(map(str, histogram))} (ten bins of 0..1), mean {np.mean(values):.3f}",
            f"rows a question: mean {np.mean(list(per_question.values())):.1f}, most {max(per_question.values())};"
            f" steps a row: mean {np.mean(n_steps):.1f}, most {max(n_steps)}",
        ]


def read_rewards(path: Path, image_root: Path | None = None, limit: int | None = None) -> RewardFile:
    """A JSON array or JSON lines of ViLReward-73K's rows; relative pictures are under `image_root` (default: the file's
    folder).

    Rows whose picture is missing are left out and counted; anything else that is wrong raises SampleError.
    """
    records: list[StepRecord] = []
    n_rows = n_missing = 0
    for where, row in _rows(path):
        if limit is not None and n_rows >= limit:
            break
        n_rows += 1
        record = _record(row, where, n_rows, image_root or path.parent)
        if record.image is not None and not is_there(record.image):
            n_missing += 1
            continue
        records.append(record)
    if not records:
        raise SampleError(
            f"{path}: {n_rows} rows, {n_missing} of them without their picture; --image_root says where these are"
        )
    return RewardFile(records, n_rows, n_missing)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"{path}: cannot be read: {error}") from error
    if text.lstrip()[:1] == "[":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise SampleError(f"{path}: not a JSON array: {error}") from error
        yield from ((f"{path} (row {i})", row) for i, row in enumerate(rows))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as error:
                raise SampleError(f"{path}:{number}: not a line of JSON: {error}") from error


def _record(row: Any, where: str, number: int, root: Path) -> StepRecord:
    if not isinstance(row, dict):
        raise SampleError(f"{where}: a row is a JSON object, got {type(row).__name__}")
    image = row.get("image", row.get("image_path"))
    if not isinstance(image, str) or not image:
        raise SampleError(f"{where}: no 'image' or 'image_path' (text); the row has {', '.join(sorted(row))}")
    for key in ("question", "process"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise SampleError(f"{where}: {key!r} must be text, got {row.get(key)!r:.60}")
    value = row.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SampleError(f"{where}: 'value' must be a number in 0..1, got {value!r}")
    if not image.startswith("synthetic:"):
        image = str((root / image).resolve())
    steps = split_steps(row["process"]).steps
    values = (*(None for _ in steps[1:]), float(value))
    key = question_key(image, row["question"])
    return StepRecord(str(row.get("id", number - 1)), key, image, row["question"], steps, values)


def question_key(image: str | None, question: str) -> str:
    return hashlib.sha256(f"{image}\n{question}".encode()).hexdigest()


def joined(records: Sequence[StepRecord]) -> list[StepRecord]:
    """The same values in fewer sequences: a partial solution that a longer one of its question begins with is run with it."""
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


def split(records: Sequence[StepRecord], share: float = HELD_OUT_SHARE) -> tuple[list[StepRecord], list[StepRecord]]:
    """Training and held-out records by question, never by row: a question is held out where its hash falls in the share (at
    least one is, at least one is not). Raises SampleError for a single question."""
    keys = sorted({record.question_key for record in records})
    if len(keys) < 2:
        raise SampleError("all rows are of one question, which cannot be split; give held-out rows by --eval_data")
    n = min(max(1, round(share * len(keys))), len(keys) - 1)
    out = set(keys[:n])  # the keys are hashes: their order is chance
    return [r for r in records if r.question_key not in out], [r for r in records if r.question_key in out]


def weights(records: Sequence[StepRecord]) -> list[float]:
    """A weight for each record's values such that every question has the same total, and the mean over records of
    (weight x number of values) is 1."""
    n_values: Counter[str] = Counter()
    for record in records:
        n_values[record.question_key] += sum(value is not None for value in record.values)
    return [len(records) / (len(n_values) * n_values[record.question_key]) for record in records]


def synthetic_record(seed: int, split_name: str, index: int, number: int) -> StepRecord:
    """Solution `number` of the careless solver to drawn question `index`, every step with its value."""
    asked = step_question(seed, split_name, index)
    solved = solution(seed, split_name, index, number)
    key = question_key(asked.image, asked.question)
    return StepRecord(f"{asked.id}-{number}", key, asked.image, asked.question, solved.steps, solved.values)
