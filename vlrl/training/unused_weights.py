"""Weights that a pass may leave without a gradient, which DDP must know of: the vision encoder where a batch has no images.

DDP either searches every pass for such weights (and warns where it finds none), or waits for the gradient of every weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainingArguments

from vlrl.models.inputs import Samples
from vlrl.models.vision_encoder import is_vision_weight

USE_ALL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Model types that give every weight a gradient where there are images. Others leave out the last layers of a vision encoder
whose features come from an earlier one, or experts that no token was sent to."""
N_PROBED = 64
"""How many training samples are looked at to learn whether all have images."""


def finds_unused(args: TrainingArguments, leaves_unused: Callable[[], bool]) -> bool | None:
    """`ddp_find_unused_parameters`: where DDP wraps the model and nobody chose, it searches for unused weights only where there
    may be some."""
    if PartialState().distributed_type != DistributedType.NO and args.ddp_find_unused_parameters is None:
        return leaves_unused()
    return args.ddp_find_unused_parameters


def leaves_weights_unused(model: Any, samples: Samples) -> bool:
    """Whether some pass over `samples` may leave trained weights without a gradient; see `may_leave_unused`."""
    probed = (samples.get(i) for i in range(min(samples.n, N_PROBED)))
    return may_leave_unused(model, (bool(sample.images or sample.video) for sample in probed))


def may_leave_unused(model: Any, rows_have_images: Iterable[bool]) -> bool:
    """Unknown model types may leave weights unused. Of the known ones, rows without images leave the vision encoder unused
    where it is trained. `rows_have_images`: of each training row, read only where it matters."""
    if getattr(model.config, "model_type", "") not in USE_ALL:
        return True
    return bool(_trained_vision(model)) and not all(rows_have_images)


def with_vision_zeros(loss: torch.Tensor, model: Any, args: TrainingArguments, batch_has_images: bool) -> torch.Tensor:
    """The loss. Where DDP waits for every gradient, a batch without images gives the vision encoder zeros."""
    if args.ddp_find_unused_parameters is not False or not model.training or batch_has_images:
        return loss
    return loss + 0.0 * sum(p.sum() for p in _trained_vision(model))


def has_pixels(inputs: Mapping[str, Any]) -> bool:
    """Whether any row of a batch, as a model takes it, has an image or a video."""
    found = (inputs.get(name) for name in ("pixel_values", "pixel_values_videos"))
    return any(pixels is not None and pixels.numel() > 0 for pixels in found)


def _trained_vision(model: Any) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if p.requires_grad and is_vision_weight(name)]
