"""Numbers on driving plans: how often the plan, its speed and its path are right, and which words are confused.

Only the parsed answer counts, never words of the thought. An answer that names two words of a vocabulary names none. differs
from AlphaDrive's script, which looks for the words anywhere in the text and whose F1 takes a word for right when the true
word also occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlrl.answers.plans import PATHS, SPEEDS
from vlrl.metrics.accuracy import mean_of
from vlrl.metrics.bootstrap import FloatArray, bootstrap_sums
from vlrl.schema import Metric, Row


class PlanPair(NamedTuple):
    """What a planning row adds: (speed, path) as predicted, None for none or several of a vocabulary, and as true."""

    predicted: tuple[str | None, str | None]
    true: tuple[str, str]


def planning_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    """All numbers of a set in 0..1, of rows with `PlanPair`s.

    - "plan_accuracy", "speed_accuracy", "path_accuracy"; `n` = samples.
    - "plan_accuracy[KEEP, STRAIGHT]" and so on, one for each of the 20 pairs; `n` = samples with that truth; value None
      for a pair that does not occur.
    - "f1[KEEP]" and so on: 2 TP / (n predicted + n true) of each word, from the confusion matrices; None where the word
      neither occurs nor is predicted; `n` = samples with that truth.
    - "speed_macro_f1", "path_macro_f1", "macro_f1": mean F1 over the words (of both) that occur or are predicted.
    """
    metrics = {name: mean_of(rows, name) for name in ("plan_accuracy", "speed_accuracy", "path_accuracy")}
    metrics |= _f1s(rows)
    for speed in SPEEDS:
        for path in PATHS:
            some = [row for row in rows if row.data.true == (speed, path)]
            metrics[f"plan_accuracy[{speed}, {path}]"] = mean_of(some, "plan_accuracy")
    return metrics


def confusions(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """The confusion matrices, "speed" and "path": true word -> predicted word (or "none") -> samples."""
    matrices: dict[str, dict[str, dict[str, int]]] = {}
    for at, (key, words) in enumerate((("speed", SPEEDS), ("path", PATHS))):
        matrix = {true: dict.fromkeys((*words, "none"), 0) for true in words}
        for row in rows:
            matrix[row.data.true[at]][row.data.predicted[at] or "none"] += 1
        matrices[key] = matrix
    return matrices


def _f1s(rows: Sequence[Row]) -> dict[str, Metric]:
    """F1 by word and their means. Columns of the counts: TP, predicted, true of each word, speeds first."""
    words = (*SPEEDS, *PATHS)
    if not rows:
        names = ("macro_f1", "speed_macro_f1", "path_macro_f1", *(f"f1[{word}]" for word in words))
        return dict.fromkeys(names, Metric(None, None, 0))
    counts_NC = np.array(
        [
            [value for word in words for value in (word in one and word in truth, word in one, word in truth)]
            for one, truth in (row.data for row in rows)
        ],
        dtype=np.float64,
    )
    clusters = [row.image for row in rows]
    metrics = {}
    n_speed = 3 * len(SPEEDS)
    for name, columns in (("", slice(None)), ("speed_", slice(0, n_speed)), ("path_", slice(n_speed, None))):
        metrics[f"{name}macro_f1"] = bootstrap_sums(counts_NC[:, columns], _macro_f1, clusters=clusters)
    for i, word in enumerate(words):
        columns_NC = counts_NC[:, 3 * i : 3 * i + 3]
        metrics[f"f1[{word}]"] = bootstrap_sums(columns_NC, _macro_f1, clusters=clusters, n=int(columns_NC[:, 2].sum()))
    return metrics


def _macro_f1(sums_RC: FloatArray) -> FloatArray:
    """Mean of 2 TP / (predicted + true) over the words of which one is not 0; nan where there is no such word."""
    tp_RW, n_RW = sums_RC[:, 0::3], sums_RC[:, 1::3] + sums_RC[:, 2::3]
    f1_RW = np.divide(2 * tp_RW, n_RW, out=np.zeros_like(n_RW), where=n_RW > 0)
    n_words_R = (n_RW > 0).sum(axis=1)
    values_R: FloatArray = np.full(len(sums_RC), np.nan)
    np.divide(f1_RW.sum(axis=1), n_words_R, out=values_R, where=n_words_R > 0)
    return values_R
