"""How good predicted step values are: error against predicting the mean, order within a question, calibration."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from vlrl.metrics.bootstrap import FloatArray, bootstrap_ratio, bootstrap_sums
from vlrl.schema import Metric

MIN_GAP = 0.25
N_VALUE_BINS = 10


def step_value_metrics(
    predicted: Sequence[float], values: Sequence[float], questions: Sequence[Hashable], mean: float
) -> dict[str, Metric]:
    """Metrics by name; all intervals resample questions. `mean`: the mean value of the training set.

    - "mse", and "mse_of_mean": that of predicting `mean` everywhere.
    - "skill": 1 - mse / mse_of_mean; a model that does not beat the mean has 0 or less.
    - "pairwise_accuracy": over pairs of one question whose values differ by 0.25 or more, the share in the right order (ties
      half). "n" counts pairs.
    - "spearman": mean over the questions with at least two different values.
    """
    p_N, v_N = np.asarray(predicted, dtype=np.float64), np.asarray(values, dtype=np.float64)
    errors_N, of_mean_N = (p_N - v_N) ** 2, (mean - v_N) ** 2
    keys = list(questions)
    ones_N = np.ones_like(v_N)
    metrics = {
        "mse": bootstrap_ratio(errors_N, ones_N, clusters=keys),
        "mse_of_mean": bootstrap_ratio(of_mean_N, ones_N, clusters=keys),
        "skill": bootstrap_sums(np.stack([errors_N, of_mean_N], axis=1), _skill, clusters=keys),
    }
    rows_of: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        rows_of.setdefault(key, []).append(i)
    right, n_pairs, correlations = [], [], []
    for rows in rows_of.values():
        good, n = pairs_in_order(p_N[rows], v_N[rows])
        right.append(good)
        n_pairs.append(float(n))
        if len(set(v_N[rows])) > 1:
            correlations.append(0.0 if len(set(p_N[rows])) == 1 else float(spearmanr(p_N[rows], v_N[rows]).statistic))
    metrics["pairwise_accuracy"] = bootstrap_ratio(right, n_pairs, n=int(sum(n_pairs)))
    metrics["spearman"] = bootstrap_ratio(correlations, np.ones(len(correlations)))
    return metrics


def pairs_in_order(predicted_N: FloatArray, values_N: FloatArray) -> tuple[float, int]:
    """How many pairs whose values differ by `MIN_GAP` or more are in the right order (a tie counts half), and how many there
    are."""
    better_NN = values_N[:, None] - values_N[None] >= MIN_GAP - 1e-9
    gaps_NN = predicted_N[:, None] - predicted_N[None]
    return float((better_NN * ((gaps_NN > 0) + 0.5 * (gaps_NN == 0))).sum()), int(better_NN.sum())


def _skill(sums_RC: FloatArray) -> FloatArray:
    values_R: FloatArray = np.full(len(sums_RC), np.nan)
    np.divide(sums_RC[:, 0], sums_RC[:, 1], out=values_R, where=sums_RC[:, 1] != 0)
    return 1 - values_R


def calibration_table(predicted: Sequence[float], values: Sequence[float]) -> list[dict[str, Any]]:
    """By bin of the prediction: bounds, n, mean prediction and mean value (None in an empty bin)."""
    p_N, v_N = np.asarray(predicted, dtype=np.float64), np.asarray(values, dtype=np.float64)
    bins_N = np.clip((p_N * N_VALUE_BINS).astype(int), 0, N_VALUE_BINS - 1)
    table = []
    for number in range(N_VALUE_BINS):
        chosen = bins_N == number
        n = int(chosen.sum())
        table.append(
            {
                "low": number / N_VALUE_BINS,
                "high": (number + 1) / N_VALUE_BINS,
                "n": n,
                "predicted": float(p_N[chosen].mean()) if n else None,
                "value": float(v_N[chosen].mean()) if n else None,
            }
        )
    return table
