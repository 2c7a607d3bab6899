"""How well stated confidence agrees with accuracy: expected calibration error with its interval, and the reliability table.

Which confidence a completion states is read by `vlrl.answers.stated_confidence`.

Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (ten bins of equal width).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from vlrl.metrics.bootstrap import FloatArray, bootstrap_sums
from vlrl.schema import Metric, Row

N_BINS = 10


def calibration_error(
    confidences: Sequence[float], rights: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Metric:
    """Expected calibration error in 0..1: sum over bins of |sum of confidence - sum of right| / n.

    It is positive by chance: a calibrated model of few samples does not get 0, and resampling raises it further, so that
    the interval may lie above the value.
    """
    rows_NC = np.zeros((len(confidences), 2 * N_BINS + 1))
    for i, (confidence, right) in enumerate(zip(confidences, rights, strict=True)):
        bin_of = bin_number(confidence)
        rows_NC[i, bin_of], rows_NC[i, N_BINS + bin_of], rows_NC[i, -1] = confidence, right, 1
    return bootstrap_sums(rows_NC, _error, clusters=clusters)


def _error(sums_RC: FloatArray) -> FloatArray:
    gaps_RB = np.abs(sums_RC[:, :N_BINS] - sums_RC[:, N_BINS : 2 * N_BINS])
    values_R: FloatArray = gaps_RB.sum(axis=1) / sums_RC[:, -1]
    return values_R


def bin_number(confidence: float) -> int:
    """0..9; 1.0 belongs to the last bin. Raises ValueError outside 0..1."""
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence {confidence} is not in 0..1")
    return min(int(confidence * N_BINS), N_BINS - 1)


def reliability(confidences: Sequence[float], rights: Sequence[float]) -> list[dict[str, float | int | None]]:
    """By bin: its bounds, n, mean confidence and share of right answers (None in an empty bin)."""
    table: list[dict[str, float | int | None]] = []
    numbers = [bin_number(confidence) for confidence in confidences]
    for number in range(N_BINS):
        rows = [i for i, one in enumerate(numbers) if one == number]
        mean = sum(confidences[i] for i in rows) / len(rows) if rows else None
        share = sum(rights[i] for i in rows) / len(rows) if rows else None
        table.append(
            {"low": number / N_BINS, "high": (number + 1) / N_BINS, "n": len(rows), "confidence": mean, "accuracy": share}
        )
    return table


def row_calibration(rows: Sequence[Row]) -> tuple[Metric, list[dict[str, float | int | None]]] | None:
    """Expected calibration error and reliability of the rows that state a confidence; None where none does."""
    stated = [(row.confidence, float(row.outcome == "right"), row.image) for row in rows if row.confidence is not None]
    if not stated:
        return None
    confidences, rights, images = (list(column) for column in zip(*stated, strict=True))
    return calibration_error(confidences, rights, images), reliability(confidences, rights)
