"""Shares of right answers: classification (strict and lenient, base and new classes) and questions by the reward of each.

Intervals are Wilson's where every sample has an image of its own; where images are shared, whole images are resampled.
An answer that cannot be read is wrong.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from vlrl.metrics.bootstrap import FloatArray, bootstrap_mean, bootstrap_ratio, bootstrap_sums, wilson
from vlrl.metrics.composite import composite_metric
from vlrl.schema import Metric, Row, Sample


def image_key(sample: Sample) -> str:
    """What a sample shares with others that are not independent of it: its images, its video, else nothing (its id)."""
    return "|".join(sample.images) if sample.images else sample.video or sample.id


def share(values: Sequence[float], images: Sequence[Hashable]) -> Metric:
    """The mean of one value in 0..1 a sample, with its interval. `images`: what samples share, see `image_key`."""
    if len(set(images)) == len(images) and all(value in (0, 1) for value in values):
        return wilson(int(sum(values)), len(values))
    return bootstrap_mean(values, clusters=images)


def mean_of(rows: Sequence[Row], name: str) -> Metric:
    """The metric `name` over the rows that have it: the ratio of the sums of its parts."""
    some = [row for row in rows if name in row.parts]
    numerators, denominators = [row.parts[name][0] for row in some], [row.parts[name][1] for row in some]
    images = [row.image for row in some]
    if all(denominator == 1 for denominator in denominators):
        return share(numerators, images)
    return bootstrap_ratio(numerators, denominators, clusters=images)


def means(rows: Sequence[Row]) -> dict[str, Metric]:
    """Every metric that some row has a part of, in the order in which they first occur."""
    names = dict.fromkeys(name for row in rows for name in row.parts)
    return {name: mean_of(rows, name) for name in names}


class Label(NamedTuple):
    """What a classification row adds: 1 where the label is part of the answer, and "base" or "new" where it is either."""

    lenient: float
    half: str | None


def classification_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    """Accuracies by name, of rows with `Label`s.

    - "accuracy": the answer is the label (the rule of `cls_rl_accuracy`).
    - "accuracy_lenient": the canonical label is part of the canonical answer (CLS-RL's script); never an empty answer.
    - "accuracy_base", "accuracy_new" and, with both, "accuracy_h" = 2bn / (b + n): strict, over samples whose `meta.half` (or
      `meta.split`) is "base" or "new" (base-to-new generalisation). Absent where there are none.
    """
    metrics = {
        "accuracy": mean_of(rows, "accuracy"),
        "accuracy_lenient": share([row.data.lenient for row in rows], [row.image for row in rows]),
    }
    for half in ("base", "new"):
        some = [row for row in rows if row.data.half == half]
        if some:
            metrics[f"accuracy_{half}"] = mean_of(some, "accuracy")
    if "accuracy_base" in metrics and "accuracy_new" in metrics:
        halves = [(row.parts["accuracy"][0], row.data.half) for row in rows]
        counts = [[right * (half == "base"), half == "base", right * (half == "new"), half == "new"] for right, half in halves]
        metrics["accuracy_h"] = bootstrap_sums(
            counts, _harmonic_mean, clusters=[row.image for row in rows], n=sum(half is not None for _, half in halves)
        )
    return metrics


def half_of(sample: Sample) -> str | None:
    """ "base" or "new" where the sample states it, in `meta.half` or `meta.split`."""
    stated = [sample.meta.get(key) for key in ("half", "split")]
    return next((half for half in stated if half in ("base", "new")), None)


def _harmonic_mean(sums_RC: FloatArray) -> FloatArray:
    """2bn / (b + n) from right and all of base, right and all of new; 0 where both are, nan where a half is missing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        base_R, new_R = sums_RC[:, 0] / sums_RC[:, 1], sums_RC[:, 2] / sums_RC[:, 3]
        mean_R = 2 * base_R * new_R / (base_R + new_R)
    values_R: FloatArray = np.where(base_R + new_R == 0, 0.0, mean_R)
    return values_R


class QuestionRow(NamedTuple):
    """What a question's row adds: the name of the reward that decided, where the question comes from and what it is of
    (`meta.source`, `meta.task`), and of a counting question how far off the answer is, None where none was read."""

    reward: str
    source: str | None = None
    task: str | None = None
    is_count: bool = False
    error: float | None = None


def qa_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    """The mean value that each sample's own reward gives, "accuracy", and by reward "accuracy[mcq]" where there are several.
    `data` of a row is a `QuestionRow`. Of counting questions also "mae", the mean distance of the answers that could be read
    from the true number; `n` counts those."""
    metrics = {"accuracy": mean_of(rows, "accuracy")}
    names = sorted({row.data.reward for row in rows})
    if len(names) > 1:
        metrics |= {f"accuracy[{name}]": mean_of([r for r in rows if r.data.reward == name], "accuracy") for name in names}
    if any(row.data.is_count for row in rows):
        read = [row for row in rows if row.data.error is not None]
        metrics["mae"] = bootstrap_mean([row.data.error for row in read], clusters=[row.image for row in read])
    return metrics


CV_BENCH = "cvbench"
CV_BENCH_SOURCES = ("ADE20K", "COCO", "Omni3D")
CV_BENCH_TASKS = ("Count", "Relation", "Depth", "Distance")


def cv_bench_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    """CV-Bench's numbers (Cambrian-1, arXiv 2406.16860) beside those of `qa_metrics`.

    "accuracy_2d": the mean of the accuracies on ADE20K and on COCO; "accuracy_3d": that on Omni3D; "cvbench": the mean of
    both. So the sources weigh 1/4, 1/4 and 1/2, however many questions they have. None where a source is absent. Also the
    accuracy of each kind of question, "accuracy_count" and so on, where there are some.
    """
    parts = [{row.data.source or "": row.parts["accuracy"]} for row in rows]
    images = [row.image for row in rows]
    ade, coco, omni = ([name] for name in CV_BENCH_SOURCES)
    made = {CV_BENCH: [ade, coco, omni, omni], "accuracy_2d": [ade, coco], "accuracy_3d": [omni]}
    metrics = {name: composite_metric(parts, cells, images) for name, cells in made.items()}
    for kind in CV_BENCH_TASKS:
        some = [row for row in rows if row.data.task == kind]
        if some:
            metrics[f"accuracy_{kind.lower()}"] = mean_of(some, "accuracy")
    return {**metrics, **qa_metrics(rows)}
