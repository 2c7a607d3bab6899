"""What a benchmark asks and how it scores the answers: the package's own tasks, a task of the user's, AutoTrust.

A suite asks in stages, each of which may build on the answers before it. Not here: who answers, where answers are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.data.files import sha256_of
from vlrl.metrics.bootstrap import bootstrap_mean
from vlrl.metrics.calibration import calibration_error, reliability
from vlrl.schema import Metric, Prediction, Sample, SampleError, Task, read_samples, sample_to_json
from vlrl.tasks import load_tasks
from vlrl.tasks.evaluate import Scored, extra_of, measure, numbers
from vlrl.tasks.rubric import answer_problem_of

TASK_VERSION = "1"
"""Of all own tasks: raised when a prompt, a parser or a metric changes what a number means."""
N_SYNTHETIC = 400
"""Synthetic held-out samples a task unless --limit says how many of all, the tasks in turns: those a run is measured on."""
Predictions = Mapping[str, Prediction]
Stage = Callable[[Predictions], Sequence[Sample]]


@dataclass(frozen=True)
class Source:
    """The data of a run. `sha256` is that of the file's bytes, or of the samples' JSON where they are synthetic."""

    description: str
    sha256: str
    n: int
    path: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"description": self.description, "path": self.path, "sha256": self.sha256, "n": self.n}


@dataclass(frozen=True)
class Suite:
    """`limit`: the most tokens an answer to a sample may take. `boxes`: answers hold coordinates."""

    name: str
    tasks: Mapping[str, Task]
    source: Source
    stages: tuple[Stage, ...]
    limit: Callable[[Sample], int]
    score: Callable[[Sequence[Sample], Predictions], list[Scored]]
    boxes: bool
    publish: Callable[[Predictions, Path, Mapping[str, Any], Sequence[str]], list[Path]] | None = None
    """(answers, folder, result, ids without a picture) -> files of the benchmark's own form that were written."""
    prepare: Callable[[Any, Sequence[Sample]], list[Sample]] | None = None
    """(engine, samples of a stage) -> the samples, after the pictures that the run itself makes were made."""
    engine: Callable[[argparse.Namespace], Any] | None = None
    """What answers instead of the engine that the flags name."""
    shows_answers: Callable[[Sample], bool] = lambda sample: True
    """Whether a report may show what was answered (privacy questions are kept out)."""


def own_suite(
    names: str, data: Path | None, *, image_root: Path | None, limit: int | None, seed: int, max_tokens: int, need_images: bool
) -> Suite:
    """The suite of one or several tasks (`detection`, `detection,qa`, `path/to/my_task.py`). Raises ValueError."""
    tasks = {task.name: task for task in load_tasks(names)}
    loaded = list(tasks.values())
    if data is None:
        n = limit or N_SYNTHETIC * len(tasks)
        samples = [loaded[i % len(loaded)].draw(seed, "heldout", i // len(loaded)) for i in range(n)]
        samples = [json_round_trip(sample) for sample in samples]
        text = "\n".join(json.dumps(sample_to_json(sample), sort_keys=True) for sample in samples)
        digest = hashlib.sha256(text.encode()).hexdigest()
        source = Source(f"synthetic, seed {seed} (the project's own)", digest, len(samples))
    else:
        samples = read_samples(data, image_root, limit, need_images=need_images)
        source = Source(str(data), sha256_of(data), len(samples), str(data))
    for sample in samples:
        if sample.task not in tasks:
            raise SampleError(f"{data} (id {sample.id!r}): its task is {sample.task!r}, this run's are {', '.join(tasks)}")
        problem = answer_problem_of(tasks[sample.task], sample)
        if problem:
            raise SampleError(f"{data} (id {sample.id!r}): {problem}")
    return Suite(
        name=",".join(tasks),
        tasks=tasks,
        source=source,
        stages=(lambda answered: samples,),
        limit=lambda sample: max_tokens,
        score=lambda asked, answered: score_tasks(tasks, asked, answered, source.description if data is None else ""),
        boxes=any(tasks[sample.task].boxes is not None for sample in samples),
    )


def json_round_trip(sample: Sample) -> Sample:
    """A synthetic sample with plain numbers, as a file of samples would hold it."""
    return dataclasses.replace(sample, answer=_plain(sample.answer), meta=_plain(sample.meta))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def as_answered(sample: Sample, prediction: Prediction) -> Sample:
    """The sample as it was asked: dialect, sizes and layout come from the log where it tells them."""
    told = {key: prediction.meta[key] for key in SITUATED if key in prediction.meta}
    return dataclasses.replace(sample, meta={**sample.meta, **told}) if told else sample


SITUATED = ("coords", "image_size", "input_size", "answer_format", "box_format")
"""What of a sample's `meta` depends on the model and is needed to read its answers again."""


def score_tasks(tasks: Mapping[str, Task], asked: Sequence[Sample], answered: Predictions, label: str) -> list[Scored]:
    """The numbers of each task over the samples that have an answer."""
    found = []
    for name, task in tasks.items():
        samples = [sample for sample in asked if sample.task == name and sample.id in answered]
        if not samples:
            continue
        predictions = [answered[sample.id] for sample in samples]
        samples = [as_answered(sample, prediction) for sample, prediction in zip(samples, predictions, strict=True)]
        rows = measure(task, samples, predictions)
        metrics = {**numbers(task, rows), "n_tokens": bootstrap_mean([float(p.n_tokens) for p in predictions])}
        extra = extra_of(task, rows)
        stated = [row for row in rows if row.confidence is not None]
        if stated:
            confidences = [row.confidence for row in stated if row.confidence is not None]
            rights = [float(row.outcome == "right") for row in stated]
            metrics["calibration_error"] = calibration_error(confidences, rights, [row.image for row in stated])
            extra["reliability"] = reliability(confidences, rights)
        found.append(
            Scored(
                name=name,
                version=TASK_VERSION,
                headline=task.headline,
                metrics=with_headline_first(metrics, task.headline),
                rows=rows,
                n=len(samples),
                n_unparsed=sum(row.outcome == "unparsed" for row in rows),
                n_truncated=sum(p.truncated for p in predictions),
                extra=extra,
                label=label,
                lower_is_better=frozenset({"calibration_error", "n_tokens"}),
            )
        )
    return found


def with_headline_first(metrics: Mapping[str, Metric], headline: str) -> dict[str, Metric]:
    return {**({headline: metrics[headline]} if headline in metrics else {}), **metrics}
