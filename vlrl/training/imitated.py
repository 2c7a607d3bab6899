"""Completions that rows state for the supervised stage: checked before a model is loaded, weighted in the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from vlrl.data.imitated import imitated_text
from vlrl.schema import Sample, SampleError, Task


def check_targets(samples: Iterable[Sample], tasks: Mapping[str, Task], target: str, where: str | None) -> None:
    """Every row has something to imitate: what it states, else what its task makes of its answer. Raises SampleError."""
    for sample in samples:
        try:
            stated = imitated_text(sample, target)
        except SampleError as error:
            raise SampleError(f"{where}: {error}") from error
        if stated is None and tasks[sample.task].sft_target is None:
            raise SampleError(
                f"{where} (id {sample.id!r}): task {sample.task} has no oracle and no sft_target, and the row no meta.imitate"
                " (vlrl bench sample --write sft makes such rows); use --stage grpo"
            )


class WeightedCollator:
    """A collator whose rows may have a `weight`: where one is not 1 the batch gets `row_weights`."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        weights = [float(row.get("weight", 1.0)) for row in rows]
        batch = self.own([{key: value for key, value in row.items() if key != "weight"} for row in rows])
        if any(weight != 1 for weight in weights):
            batch["row_weights"] = torch.tensor(weights)
        return batch
