"""Numbers of one set of predictions, and what they were made with: rows, metrics, table, versions, git revision.

`measure` asks a task for the result of each sample, once; metrics, the comparison of two runs, the page and the report all
read these rows. Needs no torch. Not here: making predictions, drawing them, the command that does both (`vlrl.bench`).
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

from vlrl.answers.read import read_span
from vlrl.answers.stated_confidence import stated_confidence
from vlrl.answers.whole_text import whole_text
from vlrl.data.files import write_whole
from vlrl.metrics.accuracy import image_key, means
from vlrl.metrics.bootstrap import bootstrap_mean
from vlrl.metrics.calibration import row_calibration
from vlrl.metrics.composite import Composite
from vlrl.metrics.tables import text_table
from vlrl.rewards.scoring import N_REQUESTS, described, number_of
from vlrl.schema import OUTCOMES, Box, Boxes, Metric, Prediction, Result, Row, Sample, Task, TaskError

__all__ = ["OUTCOMES", "Evaluation", "Row", "Scored", "evaluate", "measure", "numbers"]

LOWER_IS_BETTER = frozenset({"calibration_error", "n_tokens", "mae"})
"""Metrics of our tasks of which less is better."""
PACKAGES = ("vlrl", "torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "pycocotools")


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one model on one set. `rows`: the samples' results by task."""

    metrics: dict[str, Metric]
    n: int
    n_unparsed: int
    n_truncated: int
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    @property
    def by_id(self) -> dict[str, Row]:
        return {row.id: row for rows in self.rows.values() for row in rows}

    def to_json(self) -> dict[str, Any]:
        """Metric name -> value, ci95, n; the shares of unparsed and truncated completions stand among them."""
        return {
            name: {"value": metric.value, "ci95": None if metric.ci95 is None else list(metric.ci95), "n": metric.n}
            for name, metric in self.metrics.items()
        }


@dataclass(frozen=True)
class Scored:
    """The numbers of one task of a benchmark run. `n`: samples scored. `extra`: what is no single number (confusion
    matrices), as JSON. `label`: what a reader must know of the data, shown beside the numbers. `composites`: metrics that are
    made of several parts of the rows. `card`: a summary that the console shows in place of all numbers. `tables`: what it
    shows below them."""

    name: str
    version: str
    headline: str
    metrics: Mapping[str, Metric]
    rows: Sequence[Row]
    n: int
    n_unparsed: int
    n_truncated: int
    n_missing_image: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    lower_is_better: frozenset[str] = frozenset()
    composites: Mapping[str, Composite] = field(default_factory=dict)
    card: str = ""
    tables: tuple[str, ...] = ()


def measure(task: Task, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Row]:
    """The row of each sample that has a value (the others are left out), in order. Samples whose metric waits for a network
    are measured side by side. Raises TaskError where the task's metric fails or returns something else than it may."""
    pairs = list(zip(samples, predictions, strict=True))
    waiting = [i for i, (sample, _) in enumerate(pairs) if task.parallel(sample)]
    with ThreadPoolExecutor(N_REQUESTS) as pool:
        waited = dict(zip(waiting, pool.map(lambda i: result_of(task, *pairs[i]), waiting), strict=True))
    results = [waited[i] if i in waited else result_of(task, *pair) for i, pair in enumerate(pairs)]
    return [_row(task, *pair, result) for pair, result in zip(pairs, results, strict=True) if result is not None]


def result_of(task: Task, sample: Sample, prediction: Prediction) -> Result | None:
    """What the task's metric returns for one prediction, as a `Result`. Raises TaskError."""
    on = f"on sample {sample.id!r}, completion {prediction.completion!r:.120}"
    try:
        value = task.metric(sample, prediction)
        if value is None:
            return None
        if isinstance(value, Result):
            result = value
        else:
            number, answer = number_of(value), read_span(prediction.completion, sample).text
            result = Result({task.headline: (number, 1.0)}, answer, bool(answer) or number > 0)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"task {task.name}: its metric failed {on}: {described(error)}") from error
    for name, part in result.parts.items():
        if not (isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(v, Real) and isfinite(v) for v in part)):
            raise TaskError(f"task {task.name}: {name} must be a finite number (of a Result: two), got {part!r} {on}")
    if not result.parts:
        raise TaskError(f"task {task.name}: its metric returned a Result without parts {on}")
    return result


def _row(task: Task, sample: Sample, prediction: Prediction, result: Result) -> Row:
    top, bottom = next(iter(result.parts.values()))
    value = top / bottom if bottom else 1.0
    return Row(
        id=sample.id,
        image=image_key(sample),
        parts=result.parts,
        outcome="unparsed" if not result.is_read else "right" if value >= 1 else "wrong" if value <= 0 else "partly",
        ground_truth=whole_text(as_text(sample.answer)),
        answer="" if result.answer is None else whole_text(str(result.answer)),
        confidence=None if task.is_episode(sample) else stated_confidence(prediction.completion),
        completion=whole_text(prediction.completion),
        data=result.data,
    )


def numbers(task: Task, rows: Sequence[Row]) -> dict[str, Metric]:
    """The metrics of a set of rows: those of the task's own `aggregate`, else the mean of each part. Raises TaskError."""
    if task.aggregate is None:
        found = means(rows) or {task.headline: Metric(None, None, 0)}
        if task.headline not in found:
            raise TaskError(f"task {task.name}: its headline {task.headline!r} is not among its metrics: {', '.join(found)}")
        return found
    try:
        found = task.aggregate(rows)
    except Exception as error:
        raise TaskError(f"task {task.name}: its aggregate failed on {len(rows)} rows: {described(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(metric, Metric) for metric in found.values()):
        raise TaskError(f"task {task.name}: aggregate must return {{name: Metric}}, got {found!r:.120}")
    return found


def extra_of(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
    """What the task's `extra` says of a set of rows, as JSON. Raises TaskError."""
    if task.extra is None:
        return {}
    try:
        found = task.extra(rows)
        json.dumps(found)
    except Exception as error:
        raise TaskError(f"task {task.name}: its extra failed on {len(rows)} rows: {described(error)}") from error
    if not isinstance(found, dict):
        raise TaskError(f"task {task.name}: extra must return an object of JSON values, got {found!r:.120}")
    return found


def boxes_of(task: Task, sample: Sample, prediction: Prediction) -> Boxes | None:
    """The true and predicted boxes to draw, or None for a task or sample without any. Raises TaskError."""
    if task.boxes is None:
        return None
    try:
        found = task.boxes(sample, prediction)
    except Exception as error:
        raise TaskError(f"task {task.name}: its boxes failed on sample {sample.id!r}: {described(error)}") from error
    if found is None:
        return None
    if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(b, Box) for side in found for b in side or ()):
        wanted = "(true boxes, predicted boxes or None) of vlrl.schema.Box"
        raise TaskError(f"task {task.name}: boxes must return {wanted}, got {found!r:.120} for sample {sample.id!r}")
    return found


def as_text(answer: Any) -> str:
    """An answer of any JSON shape, as a text for people."""
    if isinstance(answer, Mapping):
        return ", ".join(f"{key} {as_text(value)}" for key, value in answer.items())
    if isinstance(answer, list | tuple):
        return "; ".join(map(as_text, answer)) if any(isinstance(v, Mapping) for v in answer) else ", ".join(map(str, answer))
    return str(answer)


def evaluate(tasks: Mapping[str, Task], samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Evaluation:
    """Measure predictions by their tasks; of several tasks each metric is named `task/metric`.

    Raises ValueError unless there is one prediction for each sample, in order.
    """
    if [s.id for s in samples] != [p.id for p in predictions]:
        raise ValueError("predictions and samples do not have the same ids in the same order")
    metrics: dict[str, Metric] = {}
    rows: dict[str, list[Row]] = {}
    for name, task in tasks.items():
        chosen = [i for i, sample in enumerate(samples) if sample.task == name]
        if not chosen:
            continue
        rows[name] = measure(task, [samples[i] for i in chosen], [predictions[i] for i in chosen])
        found = numbers(task, rows[name])
        if calibration := row_calibration(rows[name]):
            found = {**found, "calibration_error": calibration[0]}
        metrics |= {metric if len(tasks) == 1 else f"{name}/{metric}": value for metric, value in found.items()}
    n_unparsed = sum(row.outcome == "unparsed" for some in rows.values() for row in some)
    n_truncated = sum(p.truncated for p in predictions)
    metrics["n_tokens"] = bootstrap_mean([float(p.n_tokens) for p in predictions if p.n_tokens is not None])
    return Evaluation(metrics, len(samples), n_unparsed, n_truncated, rows)


def before_and_after(
    samples: Sequence[Sample], before: Evaluation, after: Evaluation, predictions: Sequence[Sequence[Prediction]]
) -> list[dict[str, Any]]:
    """A record a sample, in order: its question, its ground truth, and of both models the answer, its outcome and its `value`
    (its share of the headline). `change` is the difference of the values, None where one has none. `predictions`: before and
    after, for the answers of samples without a value."""
    rows = [before.by_id, after.by_id]
    records = []
    for i, sample in enumerate(samples):
        record: dict[str, Any] = {"id": sample.id, "task": sample.task, "question": sample.question}
        found = [some.get(sample.id) for some in rows]
        for side, row, made in zip(("before", "after"), found, predictions, strict=True):
            record[side] = {"value": None, "outcome": None, "answer": made[i].completion}
            if row is not None:
                record[side] = {"value": row.value, "outcome": row.outcome, "answer": row.answer}
        first, last = found
        change = None if first is None or last is None else last.value - first.value
        records.append(record | {"ground_truth": as_text(sample.answer), "change": change})
    return records


def headline(tasks: Mapping[str, Task]) -> str:
    """The name of the number a run is judged by: of several tasks, the first one's."""
    name, task = next(iter(tasks.items()))
    return task.headline if len(tasks) == 1 else f"{name}/{task.headline}"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_revision() -> str | None:
    """The commit of the source tree, with `-dirty` if it has changes; None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_json(path: Path, value: Any) -> None:
    """Write aside, then move into place, so that a reader never sees half a file."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", "backslashreplace")


def table(columns: Mapping[str, Evaluation]) -> str:
    """A plain-text table: a row a metric, a column an evaluation, every value with its 95 % interval. Metrics of single
    classes (`name[class]`) are left to `summary.json`."""
    names = list(dict.fromkeys(name for evaluation in columns.values() for name in evaluation.metrics if "[" not in name))
    rows = [["metric", *columns, "n"]]
    for name in names:
        found = [evaluation.metrics.get(name) for evaluation in columns.values()]
        rows.append([name, *(_cell(metric) for metric in found), str(next(m.n for m in found if m is not None))])
    for name in ("n_unparsed", "n_truncated"):
        rows.append([name, *(str(getattr(e, name)) for e in columns.values()), str(next(iter(columns.values())).n)])
    return text_table(rows[0], rows[1:])


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "-"
    digits = 1 if metric.value >= 10 else 3
    if metric.ci95 is None:
        return f"{metric.value:.{digits}f}"
    return f"{metric.value:.{digits}f} [{metric.ci95[0]:.{digits}f}, {metric.ci95[1]:.{digits}f}]"
