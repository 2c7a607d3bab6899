"""Shares of right answers: classification (strict and lenient, base and new classes) and questions, each by its own reward.

Intervals are Wilson's where every sample has a picture of its own; where pictures are shared, whole pictures are resampled.
An answer that cannot be read is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from vlrl.answers.span import canon
from vlrl.answers.text import read_text
from vlrl.metrics.bootstrap import FloatArray, bootstrap_mean, bootstrap_sums, wilson
from vlrl.rewards.classification import cls_rl_accuracy
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Metric, Prediction, Reward, Sample


def picture(sample: Sample) -> Hashable:
    """What a sample shares with others that are not independent of it: its pictures, its video, else nothing."""
    return sample.images or sample.video or sample.id


def share(values: Sequence[float], samples: Sequence[Sample]) -> Metric:
    """The mean of one value in 0..1 a sample, with its interval."""
    pictures = [picture(sample) for sample in samples]
    if len(set(pictures)) == len(pictures) and all(value in (0, 1) for value in values):
        return wilson(int(sum(values)), len(values))
    return bootstrap_mean(values, clusters=pictures)


def classification_metrics(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[dict[str, Metric], int]:
    """Accuracies by name, and how many completions hold no answer.

    - "accuracy": the answer is the label (the rule of `cls_rl_accuracy`).
    - "accuracy_lenient": the canonical label is part of the canonical answer (CLS-RL's script); never an empty answer.
    - "accuracy_base", "accuracy_new" and, with both, "accuracy_h" = 2bn / (b + n): strict, over samples whose `meta.half` (or
      `meta.split`) is "base" or "new" (base-to-new generalisation). Absent where there are none.
    """
    strict, lenient, n_unparsed = [], [], 0
    for sample, prediction in zip(samples, predictions, strict=True):
        answer, _ = read_text(prediction.completion, sample)
        n_unparsed += answer is None
        strict.append(cls_rl_accuracy(prediction.completion, sample).value or 0.0)
        lenient.append(float(answer is not None and "" != canon(sample.answer) in canon(answer)))
    metrics = {"accuracy": share(strict, samples), "accuracy_lenient": share(lenient, samples)}
    halves = [half_of(sample) for sample in samples]
    for half in ("base", "new"):
        rows = [i for i, one in enumerate(halves) if one == half]
        if rows:
            metrics[f"accuracy_{half}"] = share([strict[i] for i in rows], [samples[i] for i in rows])
    if "accuracy_base" in metrics and "accuracy_new" in metrics:
        counts = [
            [right * (half == "base"), half == "base", right * (half == "new"), half == "new"]
            for right, half in zip(strict, halves, strict=True)
        ]
        metrics["accuracy_h"] = bootstrap_sums(
            counts,
            _harmonic_mean,
            clusters=[picture(sample) for sample in samples],
            n=sum(half is not None for half in halves),
        )
    return metrics, n_unparsed


def half_of(sample: Sample) -> str | None:
    """ "base" or "new" where the sample says so, in `meta.half` or `meta.split`."""
    said = [sample.meta.get(key) for key in ("half", "split")]
    return next((half for half in said if half in ("base", "new")), None)


def _harmonic_mean(sums_RC: FloatArray) -> FloatArray:
    """2bn / (b + n) from right and all of base, right and all of new; 0 where both are, nan where a half is missing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        base_R, new_R = sums_RC[:, 0] / sums_RC[:, 1], sums_RC[:, 2] / sums_RC[:, 3]
        mean_R = 2 * base_R * new_R / (base_R + new_R)
    values_R: FloatArray = np.where(base_R + new_R == 0, 0.0, mean_R)
    return values_R


def qa_metrics(
    samples: Sequence[Sample], predictions: Sequence[Prediction], reward_of: Callable[[Sample], Reward]
) -> tuple[dict[str, Metric], int]:
    """The mean value that each sample's own reward gives, "accuracy", and by reward "accuracy[mcq]" where there are several.

    A value of None (the reward does not apply, the judge did not reply) is left out; `n` counts the values. Also how many
    completions could not be read.
    """
    rows_of: dict[Reward, list[int]] = {}
    for i, sample in enumerate(samples):
        rows_of.setdefault(reward_of(sample), []).append(i)
    value_of: dict[int, float] = {}
    n_unparsed = 0
    for reward, rows in rows_of.items():
        texts, n_tokens = [predictions[i].completion for i in rows], [predictions[i].n_tokens for i in rows]
        for i, score in zip(rows, score_rows(reward, texts, [samples[i] for i in rows], None, n_tokens), strict=True):
            n_unparsed += score.value is not None and score.answer is None
            if score.value is not None:
                value_of[i] = score.value
    names = {i: reward.name for reward, rows in rows_of.items() for i in rows}

    def accuracy(rows: Sequence[int]) -> Metric:
        return share([value_of[i] for i in rows], [samples[i] for i in rows])

    metrics = {"accuracy": accuracy(sorted(value_of))}
    if len(set(names.values())) > 1:
        for name in sorted(set(names.values())):
            metrics[f"accuracy[{name}]"] = accuracy([i for i in sorted(value_of) if names[i] == name])
    return metrics, n_unparsed
