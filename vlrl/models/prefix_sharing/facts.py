"""What of a model decides whether its prompts can be shared, and how: its layers, positions and arguments.

Not here: groups and their images (`vlrl.models.prefix_sharing.groups`), masks (`vlrl.models.prefix_sharing.attention`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_ATTENTION = "vlrl_packed"
"""The name under which the language model's attention is registered with transformers. It must not contain "flash", or ordinary
passes would bring masks that scaled-dot-product attention cannot read."""
COMPARED = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "internvl", "gemma3", "glm4v"),
    *("llava_onevision", "llava_next", "llava", "smolvlm", "idefics3"),
)
"""Model types whose packed pass and shared rollout are compared with the plain ones, by `tests/test_prefix_families.py`."""
FULL, SLIDING = "full_attention", "sliding_attention"


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def unwrapped(model: Any) -> Any:
    """A model without what DDP and its like put around it."""
    while hasattr(model, "module"):
        model = model.module
    return model


def layer_types(text_config: Any) -> set[str]:
    """The kinds of layers of a language model, by their names in transformers."""
    return set(getattr(text_config, "layer_types", None) or [FULL])


def forward_arguments(model: Any) -> Mapping[str, Any]:
    """The arguments of a model's forward, by name."""
    return inspect.signature(type(base_of(model)).forward).parameters


def takes_features(model: Any) -> bool:
    """Whether ready image features may be passed. Asked of the signature: older releases ignore the keyword silently."""
    return "mm_encoder_outputs" in forward_arguments(model)


@dataclass(frozen=True)
class Facts:
    """How a model reads a prompt.

    `axes`: rows of its rotary positions (3: time, height, width). `window`: tokens that sliding layers see, None without such
    layers. `blocks`: whether the tokens of an image see each other, also later ones. `grids`: whether each image has its size
    beside it (`image_grid_thw`), so that images can be told apart in a batch.
    """

    axes: int = 3
    window: int | None = None
    blocks: bool = False
    grids: bool = True

    @property
    def is_causal(self) -> bool:
        """Whether every token sees all that is before it and nothing else, as the flash kernels have it."""
        return self.window is None and not self.blocks

    @property
    def token_types(self) -> str:
        """The argument that tells image tokens from text, "" where the model needs none."""
        return "mm_token_type_ids" if self.grids else "token_type_ids" if self.blocks else ""


def facts_of(model: Any) -> Facts:
    """Read from the classes and the config of a model, which may be wrapped."""
    base = base_of(unwrapped(model))
    text, known = base.config.get_text_config(), forward_arguments(base)
    return Facts(
        axes=3 if hasattr(base.base_model, "get_rope_index") else 1,
        window=int(text.sliding_window) if SLIDING in layer_types(text) else None,
        blocks="token_type_ids" in known,
        grids="image_grid_thw" in known,
    )


def why_not(model: Any, *, tried: bool = False) -> str | None:
    """Why this (unwrapped) model cannot use the packed stream, or None if it can. `tried`: also with a model type that was
    never compared, which the first step of a run does."""
    config = base_of(model).config
    text = config.get_text_config()
    if others := sorted(layer_types(text) - {FULL, SLIDING}):
        return (
            f"the language model has layers of type {', '.join(others)}: what they keep of a prompt is one running state, not"
            " keys that several completions could read beside each other"
        )
    if config.model_type not in COMPARED and not tried:
        return (
            f"model_type {config.model_type!r} was not compared with the plain pass (known: {', '.join(COMPARED)});"
            " --group_shared on shares all the same, and ends where the first step shows a difference"
        )
    if getattr(text, "attention_dropout", 0.0) or getattr(text, "output_router_logits", False):
        return "attention dropout and auxiliary router losses are computed on the plain layout only"
    if text._attn_implementation not in ("sdpa", TEXT_ATTENTION):
        return f"attention {text._attn_implementation!r} takes no mask of groups; leave --attn_implementation out, or say sdpa"
    peft = getattr(model, "peft_config", {})
    if any(getattr(adapter, "is_prompt_learning", False) for adapter in peft.values()):
        return "prompt-learning adapters put tokens of their own before the prompt"
    return None
