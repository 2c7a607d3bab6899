"""Training the language model alone: which weights belong to the vision encoder, and how they are frozen.

Frozen are the vision encoder and the projector that leads from it into the language model. Qwen keeps both in one module
(`visual`, merger included); other families name the projector apart. VLM-R1's `freeze_vision_modules` does the same for Qwen.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from vlrl.models.names import ModelError
from vlrl.models.sharded import n_numbers

ENCODER_NAMES = ("visual", "vision_tower", "vision_model")
PROJECTOR_NAMES = ("multi_modal_projector", "connector", "embed_vision", "image_newline")


def is_vision_weight(name: str) -> bool:
    """Whether a parameter or module of this dotted name belongs to the vision encoder or its projector."""
    return not {*ENCODER_NAMES, *PROJECTOR_NAMES}.isdisjoint(name.split("."))


def freeze_vision(model: nn.Module) -> str:
    """Take the vision encoder and its projector out of training, in place; returns what was done, in words.

    Raises ModelError where no weight has a known name, since a run that only seems frozen is worse than none.
    """
    n_frozen = n_all = 0
    for name, parameter in model.named_parameters():
        n = n_numbers(parameter)
        n_all += n
        if is_vision_weight(name):
            parameter.requires_grad_(False)
            n_frozen += n
    if not n_frozen:
        known = ", ".join((*ENCODER_NAMES, *PROJECTOR_NAMES))
        raise ModelError(f"--freeze_vision: {type(model).__name__} has no vision weights under a known name ({known})")
    return f"vision weights are frozen: {n_frozen:,} of {n_all:,} parameters"


def with_targets(peft_config: Any, freeze_vision: bool) -> Any:
    """The adapter configuration with targets: those it names, else every linear layer (peft knows no default for
    vision-language models). With `freeze_vision`, none in the vision encoder or its projector. None stays None."""
    if peft_config is None:
        return None
    chosen = copy.copy(peft_config)
    if not chosen.target_modules and not getattr(chosen, "target_parameters", None):
        chosen.target_modules = "all-linear"
    if freeze_vision:
        chosen.exclude_modules = rf"(.*\.)?({'|'.join((*ENCODER_NAMES, *PROJECTOR_NAMES))})(\..*)?"
    return chosen
