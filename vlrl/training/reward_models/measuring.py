"""How good a model of preferences is: how often it prefers the chosen answer, and how well its certainty agrees with that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from vlrl.data.preferences import PreferenceRecord
from vlrl.metrics.bootstrap import bootstrap_mean
from vlrl.metrics.calibration import calibration_error
from vlrl.metrics.step_values import calibration_table
from vlrl.models.value_head import Encoder, StepValueModel
from vlrl.schema import Metric
from vlrl.tasks.evaluate import Evaluation
from vlrl.training.prm.measuring import score_shared


@dataclass(frozen=True)
class MeasuredPairs:
    """`logits`: of the chosen and the rejected answer of every held-out pair. `mean`, `std`: over both."""

    evaluation: Evaluation
    logits: list[tuple[float, float]]
    calibration: list[dict[str, Any]]
    mean: float
    std: float


def measure_pairs(
    model: StepValueModel, encoder: Encoder, records: Sequence[PreferenceRecord], batch_size: int
) -> MeasuredPairs:
    """Over all processes; every one of them gets all numbers."""
    texts = [(record.images, record.question, [text]) for record in records for text in (record.chosen, record.rejected)]
    values = [row[0] for row in score_shared(model, encoder, texts, batch_size)]
    logits = list(zip(values[::2], values[1::2], strict=True))
    chances = [1 / (1 + math.exp(min(700.0, b - a))) for a, b in logits]
    known = [(chance, 1 - chance) for chance, record in zip(chances, records, strict=True) if not record.is_tie]
    table = calibration_table([one for pair in known for one in pair], [1.0, 0.0] * len(known))
    metrics = preference_metrics(logits, records)
    return MeasuredPairs(Evaluation(metrics, len(records), 0, 0), logits, table, fmean(values), pstdev(values))


def preference_metrics(logits: Sequence[tuple[float, float]], records: Sequence[PreferenceRecord]) -> dict[str, Metric]:
    """Metrics by name, ties left out; all intervals resample questions.

    - "accuracy": the share of pairs whose chosen answer has the larger logit, equal ones half, as RewardBench counts
      (arXiv 2403.13787; differs: there equal ones are wrong); "accuracy/<subset>": of one part of the rows.
    - "ece": expected calibration error of sigmoid(|d|) as the confidence that the preferred answer is the chosen one.
    - "gap": mean d = r_chosen - r_rejected.
    """
    pairs = [(a - b, record) for (a, b), record in zip(logits, records, strict=True) if not record.is_tie]
    if not pairs:
        nothing = Metric(None, None, 0)
        return {"accuracy": nothing, "ece": nothing, "gap": nothing}
    keys = [record.question_key for _, record in pairs]
    rights = [0.5 if gap == 0 else float(gap > 0) for gap, _ in pairs]
    confidences = [1 / (1 + math.exp(-min(700.0, abs(gap)))) for gap, _ in pairs]
    found = {"accuracy": bootstrap_mean(rights, clusters=keys)}
    for subset in sorted({record.subset for _, record in pairs} - {""}):
        rows = [i for i, (_, record) in enumerate(pairs) if record.subset == subset]
        found[f"accuracy/{subset}"] = bootstrap_mean([rights[i] for i in rows], clusters=[keys[i] for i in rows])
    found["ece"] = calibration_error(confidences, rights, clusters=keys)
    found["gap"] = bootstrap_mean([gap for gap, _ in pairs], clusters=keys)
    return found
