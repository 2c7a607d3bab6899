"""What a benchmark asks and how it scores the answers. Here: the records that all benchmarks share, and the suite of tasks.

A suite asks in stages, each of which may build on the answers before it. Not here: which benchmarks there are
(`vlrl.bench.suites`), who answers (`vlrl.bench.engines`), where answers are kept (`vlrl.bench.log`).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.data.sample_json import sample_to_json
from vlrl.data.sample_sets import digest_of, read_set
from vlrl.metrics.bootstrap import bootstrap_mean
from vlrl.metrics.calibration import row_calibration
from vlrl.schema import Metric, ModelView, Prediction, Sample, SampleError, Task
from vlrl.tasks import load_tasks
from vlrl.tasks.evaluate import LOWER_IS_BETTER, Scored, extra_of, measure, numbers
from vlrl.tasks.prompt_template import template_problem, text_or_file, with_prompt
from vlrl.tasks.protocols import PROTOCOLS, with_protocol
from vlrl.tasks.rubric import answer_problem_of

TASK_VERSION = "1"
"""Of the package's tasks: raised when a prompt, a parser or a metric changes what a number means."""
N_SYNTHETIC = 400
"""Synthetic held-out samples of each task, unless --limit sets their total; the tasks take turns."""
MAX_TOKENS = 512
TINY_MAX_TOKENS = 96
"""The longest right answer of the tasks that the embedded model `tiny` knows takes fewer."""
PROMPT_META = ("image_size", "answer_format", "box_format")
"""The keys of a sample's `meta` that depend on the model and are needed to read its answers again."""
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
    """(predictions, folder, result, ids without an image) -> files of the benchmark's own format that were written."""
    prepare: Callable[[Any, Sequence[Sample]], list[Sample]] | None = None
    """(engine, samples of a stage) -> the samples, after the images that the run itself makes were made."""
    engine: Callable[[argparse.Namespace], Any] | None = None
    """What answers instead of the engine that the flags name."""
    given: Callable[[Sample], Prediction | None] | None = None
    """The answer to a sample that no model is asked, or None."""
    meta_of: Callable[[str], Mapping[str, Any]] | None = None
    """What the rows of an id state for `--group_by`; default: the `meta` of the sample of that id."""
    shows_answers: Callable[[Sample], bool] = lambda sample: True
    """Whether the page may show the answer (privacy questions are kept out)."""


@dataclass(frozen=True)
class StoredAnswers:
    """Answers made before, ready to be scored without a model. `about`: what `result.json` states beside the numbers."""

    suite: Suite
    samples: Sequence[Sample]
    predictions: Predictions
    about: Mapping[str, Any]


def task_suite(args: argparse.Namespace, max_tokens: int | None, need_images: bool = False, split: str = "heldout") -> Suite:
    """The suite of one or several tasks (`detection`, `detection,qa`, `path/to/my_task.py`). `split`: of drawn samples. Raises
    ValueError."""
    tasks = asked_tasks(args)
    if args.data is None:
        samples, source = _synthetic(tasks, args.limit, args.seed, split)
    else:
        read = read_set(args.data, args.image_root, args.limit, args.seed or 0, need_images=need_images, tasks=list(tasks))
        samples, source = list(read), Source(str(args.data), digest_of(args.data), len(read), str(args.data))
        for note in read.notes:
            print(f"note: {note}", file=sys.stderr)
    return suite_of_samples(args, samples, source, max_tokens, source.description if args.data is None else "", tasks)


def asked_tasks(args: argparse.Namespace) -> dict[str, Task]:
    """The tasks of `--task`, in the words of `--system_prompt` and `--prompt_template`, with the numbers of `--protocol`.
    Raises ValueError."""
    texts = [text_or_file(name, getattr(args, name, None)) for name in ("system_prompt", "prompt_template")]
    if problem := template_problem(texts[1]):
        raise ValueError(problem)
    tasks = {task.name: with_prompt(task, *texts) for task in load_tasks(args.task)}
    return with_protocol(tasks, getattr(args, "protocol", None), getattr(args, "max_dets", None))


def suite_of_samples(
    args: argparse.Namespace,
    samples: Sequence[Sample],
    source: Source,
    max_tokens: int | None = None,
    label: str = "",
    named: Mapping[str, Task] | None = None,
) -> Suite:
    """The suite of these samples by their tasks. `named`: the tasks of `--task`, if they are loaded. Raises ValueError for a
    sample that its task cannot ask or measure."""
    tasks = asked_tasks(args) if named is None else named
    if protocol := getattr(args, "protocol", None):
        label = "; ".join(filter(None, [label, f"protocol {protocol}: {PROTOCOLS[protocol].about}"]))
    tiny = getattr(args, "model_name_or_path", "") in ("tiny", "tiny-random")
    most_tokens = max_tokens or (TINY_MAX_TOKENS if tiny else MAX_TOKENS)
    for sample in samples:
        if sample.task not in tasks:
            raise SampleError(
                f"{source.description} (id {sample.id!r}): its task is {sample.task!r}, this run's are {', '.join(tasks)}"
            )
        problem = answer_problem_of(tasks[sample.task], sample)
        if problem:
            raise SampleError(f"{source.description} (id {sample.id!r}): {problem}")
    return Suite(
        name=",".join(tasks),
        tasks=tasks,
        source=source,
        stages=(lambda predictions: samples,),
        limit=lambda sample: most_tokens,
        score=lambda samples, predictions: score_tasks(tasks, samples, predictions, label),
        boxes=any(tasks[sample.task].boxes is not None for sample in samples),
    )


def _synthetic(tasks: Mapping[str, Task], limit: int | None, seed: int, split: str) -> tuple[list[Sample], Source]:
    """Samples of a split that the tasks generate, in turns."""
    loaded = list(tasks.values())
    n = limit or N_SYNTHETIC * len(tasks)
    samples = [loaded[i % len(loaded)].draw(seed, split, i // len(loaded)) for i in range(n)]
    samples = [json_round_trip(sample) for sample in samples]
    text = "\n".join(json.dumps(sample_to_json(sample), sort_keys=True) for sample in samples)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return samples, Source(f"synthetic, seed {seed} (the project's own)", digest, len(samples))


def json_round_trip(sample: Sample) -> Sample:
    """A synthetic sample with plain numbers, as a file of samples would hold it."""
    return dataclasses.replace(sample, answer=_plain(sample.answer), meta=_plain(sample.meta))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def as_logged(sample: Sample, prediction: Prediction) -> Sample:
    """The sample with the box format, coordinate convention, image sizes and answer layout that the log states."""
    logged = prediction.meta
    meta = {**sample.meta, **{key: logged[key] for key in PROMPT_META if key in logged}}
    size = logged.get("input_size")
    input_size = sample.view.input_size if size is None else (size[0], size[1])
    return dataclasses.replace(sample, meta=meta, view=ModelView(logged.get("coords") or sample.view.coords, input_size))


def score_tasks(tasks: Mapping[str, Task], samples: Sequence[Sample], predictions: Predictions, label: str) -> list[Scored]:
    """The numbers of each task over the samples that have a prediction."""
    found = []
    for name, task in tasks.items():
        own = [sample for sample in samples if sample.task == name and sample.id in predictions]
        if not own:
            continue
        made = [predictions[sample.id] for sample in own]
        own = [as_logged(sample, prediction) for sample, prediction in zip(own, made, strict=True)]
        rows = measure(task, own, made)
        lengths = [float(p.n_tokens) for p in made if p.n_tokens is not None and not p.meta.get("not_asked")]
        metrics = {**numbers(task, rows), "n_tokens": bootstrap_mean(lengths)}
        extra = extra_of(task, rows)
        if calibration := row_calibration(rows):
            metrics["calibration_error"], extra["reliability"] = calibration
        found.append(
            Scored(
                name=name,
                version=TASK_VERSION,
                headline=task.headline,
                metrics=_with_headline_first(metrics, task.headline),
                rows=rows,
                n=len(own),
                n_unparsed=sum(row.outcome == "unparsed" for row in rows),
                n_truncated=sum(p.truncated for p in made),
                extra=extra,
                label=label,
                lower_is_better=LOWER_IS_BETTER,
            )
        )
    return found


def _with_headline_first(metrics: Mapping[str, Metric], headline: str) -> dict[str, Metric]:
    return {**({headline: metrics[headline]} if headline in metrics else {}), **metrics}
