"""Numbers on driving plans: how often the plan, its speed and its path are right, and which words are confused.

Only the parsed answer counts, never words of the thought. An answer that names two words of a vocabulary names none. differs
from AlphaDrive's script, which looks for the words anywhere in the text and whose F1 takes a word for right when the gold
word also occurs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlrl.answers.text import PATHS, SPEEDS, read_plan
from vlrl.metrics.accuracy import picture, share
from vlrl.metrics.bootstrap import FloatArray, bootstrap_sums
from vlrl.schema import Metric, Prediction, Sample

Said = tuple[str | None, str | None]
"""Speed and path that an answer names, None for none or several."""


def planning_metrics(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[dict[str, Metric], int]:
    """All numbers of a set in 0..1, and how many completions do not name one speed and one path.

    - "plan_accuracy", "speed_accuracy", "path_accuracy"; `n` = samples.
    - "plan_accuracy[KEEP, STRAIGHT]" and so on, one for each of the 20 pairs; `n` = samples with that truth; value None
      for a pair that does not occur.
    - "f1[KEEP]" and so on: 2 TP / (n said + n true) of each word, from the confusion matrices; None where the word neither
      occurs nor is said; `n` = samples with that truth.
    - "speed_macro_f1", "path_macro_f1", "macro_f1": mean F1 over the words (of both) that occur or are said.
    """
    said = [said_by(sample, prediction) for sample, prediction in zip(samples, predictions, strict=True)]
    true = [(sample.answer["speed"], sample.answer["path"]) for sample in samples]
    right = [float(one == truth) for one, truth in zip(said, true, strict=True)]
    metrics = {"plan_accuracy": share(right, samples)}
    for at, key in enumerate(("speed", "path")):
        metrics[f"{key}_accuracy"] = share([float(a[at] == b[at]) for a, b in zip(said, true, strict=True)], samples)
    metrics |= _f1s(samples, said, true)
    for speed in SPEEDS:
        for path in PATHS:
            rows = [i for i, truth in enumerate(true) if truth == (speed, path)]
            metrics[f"plan_accuracy[{speed}, {path}]"] = share([right[i] for i in rows], [samples[i] for i in rows])
    return metrics, sum(None in one for one in said)


def said_by(sample: Sample, prediction: Prediction) -> Said:
    """The one speed and the one path a completion names."""
    plan, _ = read_plan(prediction.completion, sample)
    return (None, None) if plan is None else (plan.speed, plan.path)


def confusions(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, dict[str, dict[str, int]]]:
    """The confusion matrices, "speed" and "path": true word -> word said (or "none") -> samples."""
    matrices: dict[str, dict[str, dict[str, int]]] = {}
    said = [said_by(sample, prediction) for sample, prediction in zip(samples, predictions, strict=True)]
    for at, (key, words) in enumerate((("speed", SPEEDS), ("path", PATHS))):
        matrix = {true: dict.fromkeys((*words, "none"), 0) for true in words}
        for sample, one in zip(samples, said, strict=True):
            matrix[sample.answer[key]][one[at] or "none"] += 1
        matrices[key] = matrix
    return matrices


def _f1s(samples: Sequence[Sample], said: Sequence[Said], true: Sequence[tuple[str, str]]) -> dict[str, Metric]:
    """F1 by word and their means. Columns of the counts: TP, said, true of each word, speeds first."""
    words = (*SPEEDS, *PATHS)
    if not samples:
        names = ("macro_f1", "speed_macro_f1", "path_macro_f1", *(f"f1[{word}]" for word in words))
        return dict.fromkeys(names, Metric(None, None, 0))
    counts_NC = np.array(
        [
            [value for word in words for value in (word in one and word in truth, word in one, word in truth)]
            for one, truth in zip(said, true, strict=True)
        ],
        dtype=np.float64,
    )
    clusters = [picture(sample) for sample in samples]
    metrics = {}
    n_speed = 3 * len(SPEEDS)
    for name, columns in (("", slice(None)), ("speed_", slice(0, n_speed)), ("path_", slice(n_speed, None))):
        metrics[f"{name}macro_f1"] = bootstrap_sums(counts_NC[:, columns], _macro_f1, clusters=clusters)
    for i, word in enumerate(words):
        columns_NC = counts_NC[:, 3 * i : 3 * i + 3]
        metrics[f"f1[{word}]"] = bootstrap_sums(columns_NC, _macro_f1, clusters=clusters, n=int(columns_NC[:, 2].sum()))
    return metrics


def _macro_f1(sums_RC: FloatArray) -> FloatArray:
    """Mean of 2 TP / (said + true) over the words of which one is not 0; nan where there is no such word."""
    tp_RW, n_RW = sums_RC[:, 0::3], sums_RC[:, 1::3] + sums_RC[:, 2::3]
    f1_RW = np.divide(2 * tp_RW, n_RW, out=np.zeros_like(n_RW), where=n_RW > 0)
    n_words_R = (n_RW > 0).sum(axis=1)
    values_R: FloatArray = np.full(len(sums_RC), np.nan)
    np.divide(f1_RW.sum(axis=1), n_words_R, out=values_R, where=n_words_R > 0)
    return values_R
