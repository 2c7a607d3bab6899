"""Models whose weights lie in parts on several devices, used as a whole for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule


def is_partitioned(model: torch.nn.Module) -> bool:
    """Whether ZeRO-3 has taken the weights apart: every process holds a part, and an empty shell of the rest."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def whole_weights(model: torch.nn.Module) -> Iterator[None]:
    """Within, this process has all weights of `model`, to read them; every process must come here. Past it, its part again.

    ZeRO-3: weights that no engine gathers yet, or that are read outside of `forward`; those that are gathered already stay.
    FSDP2: a layer gathers its weights in its own `forward`, but what lies outside of layers (embeddings, the patches of a
    vision encoder) is gathered here.
    """
    if is_partitioned(model):
        from deepspeed import zero
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        weights: list[Any] = list(model.parameters())
        apart = [one for one in weights if one.ds_status != ZeroParamStatus.AVAILABLE]
        with zero.GatheredParameters(apart):
            yield
        return
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()


def save_as_loaded(model: torch.nn.Module) -> None:
    """Let a model that ZeRO-3 has taken apart be saved under the names that it was loaded from.

    transformers keeps which renamings a checkpoint needed, to undo them on saving; under ZeRO-3 it keeps all that there are
    (seen in 5.24), so that Qwen2.5-VL's `model.embed_tokens` would be saved as `model.model.embed_tokens`, which loads nowhere.
    """
    renamings = getattr(model, "_weight_conversions", None)
    if renamings and is_partitioned(model):
        model._weight_conversions = [one for one in renamings if one.was_used()]  # type: ignore[assignment]


def n_numbers(weight: torch.Tensor) -> int:
    """How many numbers a weight has, wherever they lie."""
    return int(getattr(weight, "ds_numel", weight.numel()))
