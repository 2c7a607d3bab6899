"""Numbers of one set of predictions, and what they were made with: metrics, rows, table, versions, git revision.

Needs no torch. Not here: making predictions, drawing them, the command that does both (`vlrl.bench`).
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from vlrl.metrics.bootstrap import bootstrap_mean
from vlrl.schema import Metric, Prediction, Sample, Task

PACKAGES = ("vlrl", "torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "pycocotools")


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one model on one set."""

    metrics: dict[str, Metric]
    n: int
    n_unparsed: int
    n_truncated: int

    def to_json(self) -> dict[str, Any]:
        """Metric name -> value, ci95, n; the shares of unparsed and truncated completions stand among them."""
        return {
            name: {"value": metric.value, "ci95": None if metric.ci95 is None else list(metric.ci95), "n": metric.n}
            for name, metric in self.metrics.items()
        }


@dataclass(frozen=True)
class Row:
    """What one sample adds to the numbers, whether it is right, and how that reads. `parts`: metric -> (numerator,
    denominator), the headline first; a metric is the ratio of its sums over the rows that have it. `picture`: what the sample
    shares with others that are not independent of it. `outcome`: one of `OUTCOMES`. `gold` and `answer` are texts for people;
    `completion` is what was said in full, empty where it is kept to the log."""

    id: str
    picture: str
    parts: Mapping[str, tuple[float, float]]
    outcome: str
    gold: str = ""
    answer: str = ""
    confidence: float | None = None
    completion: str = ""

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.id,
            "picture": self.picture,
            "outcome": self.outcome,
            "gold": self.gold,
            "answer": self.answer,
        }
        row |= {"parts": {name: list(part) for name, part in self.parts.items()}}
        row |= {} if self.confidence is None else {"confidence": self.confidence}
        return row | ({"completion": self.completion} if self.completion else {})


OUTCOMES = ("right", "partly", "wrong", "unparsed")


@dataclass(frozen=True)
class Scored:
    """The numbers of one task of a benchmark run. `n`: samples scored. `extra`: what is no single number (confusion
    matrices), as JSON. `label`: what a reader must know of the data, shown beside the numbers."""

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


def evaluate(tasks: Mapping[str, Task], samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Evaluation:
    """Score predictions with their tasks' metrics; of several tasks each metric is named `task/metric`.

    Raises ValueError unless there is one prediction for each sample, in order.
    """
    if [s.id for s in samples] != [p.id for p in predictions]:
        raise ValueError("predictions and samples do not have the same ids in the same order")
    metrics: dict[str, Metric] = {}
    n_unparsed = 0
    for name, task in tasks.items():
        rows = [i for i, sample in enumerate(samples) if sample.task == name]
        if not rows:
            continue
        found, unparsed = task.metrics([samples[i] for i in rows], [predictions[i] for i in rows])
        metrics |= {metric if len(tasks) == 1 else f"{name}/{metric}": value for metric, value in found.items()}
        n_unparsed += unparsed
    n_truncated = sum(p.truncated for p in predictions)
    metrics["n_tokens"] = bootstrap_mean([float(p.n_tokens) for p in predictions])
    return Evaluation(metrics, len(samples), n_unparsed, n_truncated)


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
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


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
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "-"
    digits = 1 if metric.value >= 10 else 3
    if metric.ci95 is None:
        return f"{metric.value:.{digits}f}"
    return f"{metric.value:.{digits}f} [{metric.ci95[0]:.{digits}f}, {metric.ci95[1]:.{digits}f}]"
