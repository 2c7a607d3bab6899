"""Evaluation of any model on any task: predictions logged as they are made, scored apart, compared in pairs.

    answer    a model's greedy completions into `predictions.jsonl`; what is there already is not asked again
    score     predictions -> `result.json` and `report.html`; needs no model
    diff      two results on the same samples, paired

`result.json` keeps lmms-eval's keys (`results`, `n-samples`, `versions`, `config`) and adds `metrics` with intervals.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.metrics.accuracy import picture
from vlrl.metrics.stats import N_RESAMPLES, paired_difference, paired_p_value
from vlrl.report import Evaluation, evaluate, git_revision, versions, write_json
from vlrl.rewards import load_reward
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Metric, Prediction, Sample, SampleError, Task, read_samples

TASK_VERSION = 1
"""Of prompts, parsers and metrics of the own tasks: raised when one of them changes an old result."""
SITUATION = ("coords", "image_size", "input_size", "answer_format", "box_format")
"""What of a sample's `meta` follows from the model and the run; kept with each prediction, so that scoring needs neither."""


@dataclass(frozen=True)
class Asked:
    """What was asked: enough to tell whether an old answer answers the same question."""

    task: str
    model: str
    data: str | None = None
    data_sha256: str | None = None
    image_root: str | None = None
    limit: int | None = None
    seed: int = 0
    answer_format: str | None = None
    coords: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_new_tokens: int | None = None

    def differs(self, other: Mapping[str, Any]) -> list[str]:
        """The settings that differ, with both values."""
        own = dataclasses.asdict(self)
        return [f"{name}: {other.get(name)!r} there, {own[name]!r} now" for name in own if own[name] != other.get(name)]


@dataclass
class Items:
    """The samples of an evaluation, and those whose pictures cannot be opened."""

    samples: list[Sample]
    missing: list[str] = field(default_factory=list)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_items(asked: Asked, tasks: Mapping[str, Task], n_synthetic: int) -> Items:
    """The rows of a file, or held-out synthetic samples (taking turns) where none is named. Raises SampleError."""
    if asked.data is not None:
        rows = read_samples(asked.data, asked.image_root, asked.limit)
        unknown = next((row for row in rows if row.task not in tasks), None)
        if unknown is not None:
            raise SampleError(f"{asked.data} (id {unknown.id!r}): its task is {unknown.task!r}; name it in --task as well")
        return Items(rows)
    names = list(tasks)
    n = asked.limit or n_synthetic * len(names)
    return Items([tasks[names[i % len(names)]].synthetic(asked.seed, "heldout", i // len(names)) for i in range(n)])


# -- predictions ----------------------------------------------------------------------------------------------------------


def logged(folder: Path) -> dict[str, Prediction]:
    """The predictions in a folder, of all processes, by sample id; a half-written last line is dropped."""
    found: dict[str, Prediction] = {}
    for path in [folder / "predictions.jsonl", *sorted(folder.glob("predictions.part-*.jsonl"))]:
        if path.is_file():
            found |= {one.id: one for one in read_file(path, whole=False)}
    return found


def read_file(path: Path, whole: bool = True) -> list[Prediction]:
    """Predictions of a file. Raises SampleError for a bad line (`whole=False`: the last one may be half-written)."""
    lines = path.read_text(encoding="utf-8").split("\n")
    made = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            known = {name: row[name] for name in ("id", "completion")}
            more = {name: row[name] for name in ("n_tokens", "truncated", "meta") if name in row}
            made.append(Prediction(**{"n_tokens": 0, "truncated": False, **known, **more}))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if not whole and number == len(lines):
                break
            problem = f"no {error}" if isinstance(error, KeyError) else error
            raise SampleError(f"{path}:{number}: not a prediction ({problem}); a line is {{id, completion, ...}}") from error
    return made


def append(path: Path, predictions: Sequence[Prediction], samples: Mapping[str, Sample]) -> None:
    """Log predictions with the situation of their samples, flushed before the next are made."""
    with path.open("a", encoding="utf-8") as file:
        for one in predictions:
            meta = {name: samples[one.id].meta[name] for name in SITUATION if name in samples[one.id].meta}
            file.write(json.dumps(dataclasses.asdict(dataclasses.replace(one, meta=meta)), ensure_ascii=True) + "\n")


def open_folder(folder: Path, asked: Asked) -> None:
    """Create the folder, or see that what it holds answers the same question. Raises ValueError naming what differs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "asked.json"
    if path.is_file():
        differing = asked.differs(json.loads(path.read_text(encoding="utf-8")))
        if differing:
            raise ValueError(f"{folder} holds answers to something else ({'; '.join(differing)}); name another --output_path")
    else:
        write_json(path, dataclasses.asdict(asked))


def merge(folder: Path, samples: Sequence[Sample] | None = None) -> list[Prediction]:
    """Bring the parts of all processes into `predictions.jsonl`, in the order of the samples, and drop half-written lines."""
    found = logged(folder)
    made = list(found.values()) if samples is None else [found[sample.id] for sample in samples if sample.id in found]
    partial = folder / "predictions.jsonl.partial"
    partial.write_text("".join(json.dumps(dataclasses.asdict(p), ensure_ascii=True) + "\n" for p in made), encoding="utf-8")
    partial.replace(folder / "predictions.jsonl")
    for path in folder.glob("predictions.part-*.jsonl"):
        path.unlink()
    return made


# -- scores ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """The samples that were answered, as they were asked, with their predictions and what the first own reward says of each."""

    samples: list[Sample]
    predictions: list[Prediction]
    values: dict[str, float]
    evaluation: Evaluation
    n_asked: int
    n_failed: int


def score(tasks: Mapping[str, Task], items: Items, predictions: Sequence[Prediction]) -> Scored:
    """Score what was answered. Raises ValueError where nothing was, or for answers to no sample."""
    by_id = {prediction.id: prediction for prediction in predictions}
    known = {sample.id for sample in items.samples} | set(items.missing)
    strange = [key for key in by_id if key not in known]
    if strange:
        raise ValueError(f"{len(strange)} predictions are of no sample here, the first: {strange[0]!r}; name their --data")
    samples = [
        dataclasses.replace(sample, meta={**sample.meta, **by_id[sample.id].meta})
        for sample in items.samples
        if sample.id in by_id
    ]
    if not samples:
        raise ValueError("none of the samples has a prediction")
    made = [by_id[sample.id] for sample in samples]
    found = evaluate(tasks, samples, made)
    n_failed = len(items.samples) - len(samples)
    return Scored(samples, made, values_of(tasks, samples, made), found, len(items.samples) + len(items.missing), n_failed)


def values_of(tasks: Mapping[str, Task], samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """What each sample's first own reward pays its completion, by sample id; left out where it does not apply."""
    rows: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        named = sample.meta.get("rewards") or tasks[sample.task].rewards(sample)
        rows.setdefault(named[0], []).append(i)
    values = {}
    for spec, places in rows.items():
        texts, n_tokens = [predictions[i].completion for i in places], [predictions[i].n_tokens for i in places]
        scores = score_rows(load_reward(spec), texts, [samples[i] for i in places], None, n_tokens)
        values |= {samples[i].id: one.value for i, one in zip(places, scores, strict=True) if one.value is not None}
    return values


def result_of(
    asked: Asked, tasks: Mapping[str, Task], items: Items, scored: Scored, seconds: float, words: str
) -> dict[str, Any]:
    """`result.json`."""
    name, found = ",".join(tasks), scored.evaluation
    flat: dict[str, Any] = {"alias": name}
    for metric, value in found.metrics.items():
        flat[f"{metric},none"] = "N/A" if value.value is None else value.value
        flat[f"{metric}_stderr,none"] = "N/A" if value.stderr is None else value.stderr
    return {
        "results": {name: flat},
        "n-samples": {name: {"original": scored.n_asked, "effective": len(scored.samples)}},
        "versions": {name: TASK_VERSION},
        "metrics": {metric: as_json(value) for metric, value in found.metrics.items()},
        "headline": next(iter(tasks.values())).headline if len(tasks) == 1 else None,
        "n_unparsed": found.n_unparsed,
        "n_truncated": found.n_truncated,
        "n_missing_image": len(items.missing),
        "n_failed": scored.n_failed,
        "config": {**dataclasses.asdict(asked), "resolved_cli_args": words, "bootstrap_iters": N_RESAMPLES},
        "packages": versions(),
        "git_hash": git_revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "total_evaluation_time_seconds": round(seconds, 2),
    }


def as_json(metric: Metric) -> dict[str, Any]:
    ci95 = None if metric.ci95 is None else list(metric.ci95)
    return {"value": metric.value, "stderr": metric.stderr, "ci95": ci95, "n": metric.n}


def write_result(
    folder: Path, asked: Asked, tasks: Mapping[str, Task], items: Items, scored: Scored, started: float, words: str
) -> None:
    """`result.json` and `samples.jsonl` (what each sample's first own reward paid) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", result_of(asked, tasks, items, scored, time.monotonic() - started, words))
    rows = (
        {"id": sample.id, "task": sample.task, "cluster": str(picture(sample)), "value": scored.values.get(sample.id)}
        | {"completion": prediction.completion, "target": sample.answer}
        for sample, prediction in zip(scored.samples, scored.predictions, strict=True)
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "samples.jsonl").write_text(text, encoding="utf-8")


# -- differences ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """b - a over the samples both hold: the mean value, its interval, a two-sided p-value, and what changed."""

    mean: Metric
    p_value: float | None
    better: list[dict[str, Any]]
    worse: list[dict[str, Any]]
    n_equal: int
    only_a: int
    only_b: int


def difference(a: Path, b: Path) -> Difference:
    """Compare two result folders, sample by sample, pictures as units. Raises ValueError where they share no sample."""
    rows_a, rows_b = _samples(a), _samples(b)
    ids = [key for key in rows_a if key in rows_b and None not in (rows_a[key]["value"], rows_b[key]["value"])]
    values = [{key: rows[key]["value"] for key in ids} for rows in (rows_a, rows_b)]
    clusters = {key: rows_a[key]["cluster"] for key in ids}
    mean = paired_difference(*values, clusters=clusters)
    gaps = {key: values[1][key] - values[0][key] for key in ids}
    p_value = paired_p_value(list(gaps.values()), clusters=[clusters[key] for key in ids])

    def told(keys: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"id": key, "a": values[0][key], "b": values[1][key]}
            | {"completion_a": rows_a[key]["completion"], "completion_b": rows_b[key]["completion"]}
            for key in keys
        ]

    order = sorted(ids, key=lambda key: -abs(gaps[key]))
    better, worse = [key for key in order if gaps[key] > 0], [key for key in order if gaps[key] < 0]
    n_equal = len(ids) - len(better) - len(worse)
    return Difference(mean, p_value, told(better), told(worse), n_equal, len(rows_a) - len(ids), len(rows_b) - len(ids))


def _samples(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "samples.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder} holds no samples.jsonl; it is written by `bench run` and `bench score`")
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row for row in rows}
