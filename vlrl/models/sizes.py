"""How large a model is, from its configuration alone: the model is built without memory for its weights, and counted.

Works for any vision-language model of transformers. Not here: what that takes on a device (`vlrl.models.memory`).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from vlrl.models.memory import Layers, ModelSizes
from vlrl.models.names import ModelError
from vlrl.models.vision_encoder import is_vision_weight, with_targets

ATTENTION_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv", "qkv_proj", "proj", "projection_layer")


def meta_model(config: Any, *, trust_remote_code: bool = False) -> nn.Module:
    """The model of a configuration with weights that take no memory. Raises ModelError."""
    try:
        with torch.device("meta"):
            made: nn.Module = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                copy.deepcopy(config), trust_remote_code=trust_remote_code, attn_implementation="eager"
            )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(f"model_type {config.model_type!r} cannot be built from its config.json: {error}") from error
    return made


def model_sizes(
    config: Any,
    name: str,
    *,
    peft_config: Any = None,
    freeze_vision: bool = False,
    trust_remote_code: bool = False,
) -> ModelSizes:
    """Count the model of a configuration. `peft_config`: the adapters of a job, which are counted too. Raises ModelError."""
    model: Any = meta_model(config, trust_remote_code=trust_remote_code)
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    own_head = None if head is None or head.weight is embedding.weight or _is_tied(config) else head
    n_all = n_vision = 0
    for key, parameter in model.named_parameters():
        if own_head is None and head is not None and parameter is head.weight and parameter is not embedding.weight:
            continue
        n_all += parameter.numel()
        n_vision += parameter.numel() if is_vision_weight(key) else 0
    n_embedding = embedding.weight.numel()
    n_head = 0 if own_head is None else own_head.weight.numel()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    stacks = _stacks(model)
    text, vision = stacks
    return ModelSizes(
        name=name,
        text=text,
        vision=vision,
        vocab=int(config.get_text_config().vocab_size),
        n_text=n_all - n_vision - n_embedding - n_head,
        n_vision=n_vision,
        n_embedding=n_embedding,
        n_head=n_head,
        n_linear=sum(m.weight.numel() for m in linear),
        n_adapter=0 if peft_config is None else _count_adapters(model, with_targets(peft_config, freeze_vision)),
        patches_per_token=_patches_per_token(config),
    )


def _is_tied(config: Any) -> bool:
    tied = getattr(config, "tie_word_embeddings", None)
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False) if tied is None else tied)


def _count_adapters(model: Any, peft_config: Any) -> int:
    """Numbers of the adapters as peft adds them."""
    from peft import get_peft_model

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft still asks models by an old name
        adapted = get_peft_model(model, peft_config)
    return sum(p.numel() for n, p in adapted.named_parameters() if p.requires_grad)


def _stacks(model: nn.Module) -> tuple[Layers, Layers | None]:
    """The language model's layers and the vision encoder's. Raises ModelError where they are not found."""
    found: dict[bool, tuple[int, str, nn.ModuleList]] = {}
    for key, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        weight = sum(p.numel() for p in module.parameters())
        seen = is_vision_weight(key)
        if seen not in found or weight > found[seen][0]:
            found[seen] = (weight, key, module)
    if False not in found:
        raise ModelError(f"{type(model).__name__} has no stack of layers that can be counted")
    config: Any = model.config
    text_config = config.get_text_config()
    vision_config = getattr(config, "vision_config", None)
    text = _layers(found[False][2], text_config)
    return text, None if True not in found else _layers(found[True][2], vision_config)


def _layers(stack: nn.ModuleList, config: Any) -> Layers:
    """The widths of a stack, read from the matrices of its first layer and, for experts, from the configuration."""
    block = stack[0]
    widths = {key.rsplit(".", 1)[-1]: m for key, m in block.named_modules() if isinstance(m, nn.Linear)}
    fused = next((widths[name] for name in ("qkv", "qkv_proj") if name in widths), None)
    if fused is None and "q_proj" not in widths:
        raise ModelError(f"{type(block).__name__}: its attention has no matrix of a known name (q_proj, qkv)")
    hidden = (widths["q_proj"] if fused is None else fused).in_features
    query = fused.out_features // 3 if fused is not None else widths["q_proj"].out_features
    key = query if fused is not None else widths["k_proj"].out_features
    inner = [m.out_features for name, m in widths.items() if name not in ATTENTION_MATRICES and m.in_features == hidden]
    per_token = getattr(config, "num_experts_per_tok", None)
    expert = getattr(config, "moe_intermediate_size", None)
    if per_token and expert:
        inner = [per_token * expert]
    norms = [type(m).__name__ for m in block.modules() if "Norm" in type(m).__name__]
    own = {name.rsplit(".", 1)[-1] for name, m in block.named_modules() if not isinstance(m, nn.Identity)}
    return Layers(
        n=len(stack),
        hidden=hidden,
        query=query,
        key=key,
        inner=max(inner) if inner else int(getattr(config, "intermediate_size", 4 * hidden)),
        gated=bool({"gate_proj", "gate_up_proj", "w1"} & own) or bool(per_token and expert),
        rms=any("RMS" in name for name in norms),
        qk_norm=bool({"q_norm", "k_norm"} & own),
        fused_qkv=fused is not None,
        input_values=_values_of_patch(config),
        windows=len(stack) - len(full) if (full := getattr(config, "fullatt_block_indexes", None)) else 0,
    )


def _values_of_patch(config: Any) -> int:
    """Numbers in a patch of a vision encoder, 0 for a language model."""
    side = getattr(config, "patch_size", None)
    if side is None:
        return 0
    sides: Any = side if isinstance(side, list | tuple) else (side, side)
    channels: Any = getattr(config, "in_channels", None) or getattr(config, "num_channels", 3)
    return int(channels * (getattr(config, "temporal_patch_size", None) or 1) * sides[0] * sides[-1])


def _patches_per_token(config: Any) -> float:
    """Patches of the vision encoder that become one token of the language model."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 1.0
    if merge := getattr(vision, "spatial_merge_size", None):
        return float(merge**2)
    if scale := getattr(config, "scale_factor", None):
        return float(scale**2)
    if ratio := getattr(config, "downsample_ratio", None):
        return float(ratio**-2)
    tokens, side, patch = (
        getattr(config, "mm_tokens_per_image", None),
        getattr(vision, "image_size", None),
        getattr(vision, "patch_size", None),
    )
    if tokens and isinstance(side, int) and isinstance(patch, int):
        return float((side // patch) ** 2 / tokens)
    return 1.0
