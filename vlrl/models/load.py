"""`load_model("tiny" | folder | hub id)`: weights, processor, and the coordinate convention of its boxes with the reason.

The convention follows `config.model_type`, never the name of a folder. Not here: prompts and images (`vlrl.models.inputs`).
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from vlrl.data.special_tokens import token_pattern
from vlrl.models.adapters import has_inputs, with_adapters
from vlrl.models.names import TINY_NAMES, ModelError, adapter_base, is_adapter_folder, model_name_problem
from vlrl.models.pixel_limits import keep_grids, limit_pixels, resizes_freely
from vlrl.models.prefix_sharing.attention import use_attention
from vlrl.models.prefix_sharing.facts import COMPARED
from vlrl.models.sharded import save_as_loaded
from vlrl.models.tiny import build_config, embedded_processor, load_embedded
from vlrl.models.videos import VideoReading, why_frames
from vlrl.models.whole_files import check_files, check_inputs, check_vocabulary, load_weights, one_line
from vlrl.schema import UNKNOWN_COORDS

COORDS_OF = {
    "qwen2_5_vl": "resized_px",
    "qwen2_vl": "norm1000",
    "qwen3_vl": "norm1000",
    "qwen3_vl_moe": "norm1000",
    "internvl": "norm1000",
    "glm4v": "norm1000",
    "glm4v_moe": "norm1000",
}
"""Coordinate convention by `config.model_type`, as the model's own documentation states it (docs/models.md names the sources);
docs/data.md says what each one means."""

VISION_TOKENS = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<image>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)


@dataclass
class ModelInputs:
    """What a model is given samples by, without its weights: all that is needed to check data before these are loaded."""

    processor: ProcessorMixin
    config: Any
    name: str
    coords: str
    coords_reason: str
    template: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template is given beside the messages (`--chat_template_kwargs`)."""
    videos: VideoReading = field(default_factory=VideoReading)

    @property
    def why_frames(self) -> str:
        """Why videos are shown to this model as images, one a frame; "" where they go as videos."""
        return why_frames(self.processor, self.config, self.videos)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def stated_coords(self) -> str | None:
        """None where nobody stated any."""
        return None if self.coords == UNKNOWN_COORDS else self.coords


@dataclass
class LoadedModel:
    """A model with its processor. `coords`: coordinate convention of its boxes; `coords_reason`: why this one."""

    model: PreTrainedModel
    processor: ProcessorMixin
    name: str
    coords: str
    coords_reason: str
    attention: str = ""
    """Attention implementation of language model and vision encoder, in words."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template is given beside the messages."""
    videos: VideoReading = field(default_factory=VideoReading)

    @property
    def why_frames(self) -> str:
        """Why videos are shown to this model as images, one a frame; "" where they go as videos."""
        return why_frames(self.processor, self.model.config, self.videos)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def stated_coords(self) -> str | None:
        """None where nobody stated any."""
        return None if self.coords == UNKNOWN_COORDS else self.coords

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer


def choose_coords(model_type: str, override: str | None = None) -> tuple[str, str]:
    """The coordinate convention of boxes in completions, and the reason; `UNKNOWN_COORDS` where it would be a guess, which a
    task that writes boxes refuses (`Sample.coords`)."""
    if override is not None:
        return override, "--coords"
    if model_type not in COORDS_OF:
        return UNKNOWN_COORDS, f"no convention is known for model_type {model_type!r}"
    return COORDS_OF[model_type], f"config.model_type={model_type}"


def check_is_vlm(name: str, **hub: Any) -> str:
    """The `model_type` of a folder or hub id, read from its config alone. Raises ModelError for a
    name that can be no model, and for a text model."""
    if name in TINY_NAMES:
        return "qwen2_5_vl"
    problem = model_name_problem(name)
    if problem:
        raise ModelError(f"--model_name_or_path {problem}")
    if is_adapter_folder(name):
        return check_is_vlm(adapter_base(name), **(hub | {"revision": "main"}))
    with one_line(f"--model_name_or_path {name}", "no model config could be read"):
        config = AutoConfig.from_pretrained(name, **hub)
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not hub.get("trust_remote_code"):
        raise ModelError(
            f"--model_name_or_path {name} is of type {config.model_type!r}, which takes no images; give a"
            " vision-language model such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return str(config.model_type)


def load_inputs(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    coords: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    template: Mapping[str, Any] | None = None,
    weights: bool = True,
    videos: VideoReading = VideoReading(),  # noqa: B008 (frozen)
) -> ModelInputs:
    """Config and processor of a model, seconds before its weights; see `load_model`. `template`: what the chat template is
    given beside the messages. `weights`: whether the folder must hold weights that are whole. `videos`: how they are
    shown. Raises ModelError."""
    hub = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    check_files(name, weights=weights)
    model_type = check_is_vlm(name, **hub)
    if model_type == "smolvlm" and importlib.util.find_spec("num2words") is None:
        raise ModelError(f"{name}: the processor of SmolVLM needs the package num2words: pip install 'vlrl[smolvlm]'")
    coords, reason = choose_coords(model_type, coords)
    processor: Any
    base = adapter_base(name) if is_adapter_folder(name) else name
    hub |= {"revision": "main"} if base != name else {}
    kept = name if base != name and has_inputs(name) else base  # a checkpoint keeps the pixel limits of its run
    with one_line(name, "its processor cannot be read"):
        if kept in TINY_NAMES:
            processor = embedded_processor(kept)
        else:
            processor = AutoProcessor.from_pretrained(kept, padding_side="left", **hub)  # type: ignore[no-untyped-call]
        config = build_config(processor) if base in TINY_NAMES else AutoConfig.from_pretrained(base, **hub)
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(f"{name} has a tokenizer but no image processor; its folder lacks preprocessor_config.json")
    limit_pixels(processor, min_pixels, max_pixels, config)
    if coords == "resized_px" and not resizes_freely(processor):
        raise ModelError(
            f"--coords resized_px counts pixels of the resized image, which {name} has no single one of"
            f" ({type(processor.image_processor).__name__}); give norm1000 | norm1 | px"
        )
    processor.tokenizer.padding_side = "left"
    if name not in TINY_NAMES:
        check_inputs(name, processor, config)
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token  # as TRL does
    return ModelInputs(processor, config, name, coords, reason, dict(template or {}), videos)


def load_model(
    name: str,
    *,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    coords: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    seed: int = 0,
    inputs: ModelInputs | None = None,
    videos: VideoReading = VideoReading(),  # noqa: B008 (frozen)
    **model_kwargs: Any,
) -> LoadedModel:
    """Load weights and processor. `min_pixels` and `max_pixels` bound the image the model sees and hold for training,
    rewards and evaluation alike. `seed` draws the weights of `tiny-random`. `inputs`: what `load_inputs` has loaded of this
    model. Progress bars are shown on a terminal only. Raises ModelError, in one line that names the file, for anything that
    cannot be read whole."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    if inputs is None:
        limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        inputs = load_inputs(name, coords=coords, videos=videos, **limits, **hub)  # type: ignore[arg-type]
    named = None if attn_implementation in (None, "auto") else attn_implementation
    model: Any
    base = adapter_base(name) if is_adapter_folder(name) else name
    hub |= {"revision": "main"} if base != name else {}
    if base in TINY_NAMES:
        model = load_embedded(base, seed, inputs.processor)
        if dtype not in (None, "auto"):
            model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        if named:
            with one_line(name, f"attention {named} cannot be used"):
                model.set_attn_implementation(named)
    else:
        if named:
            model_kwargs["attn_implementation"] = named
        model = load_weights(AutoModelForImageTextToText, base, dtype=dtype or "auto", **hub, **model_kwargs)
        rows = model.get_input_embeddings().weight
        check_vocabulary(name, inputs.processor, getattr(rows, "ds_shape", rows.shape)[0])
        keep_grids(model, inputs.config)
    if base != name:
        if "quantization_config" in model_kwargs:
            raise ModelError(f"{name} holds adapters, which cannot be merged into weights in 4 or 8 bits; run vlrl merge first")
        model = with_adapters(model, name)
    save_as_loaded(model)
    model.config.use_cache = True
    attention = choose_attention(model, named)
    about = (inputs.coords, inputs.coords_reason, attention, inputs.template, inputs.videos)
    return LoadedModel(model, inputs.processor, name, *about)


def choose_attention(model: Any, named: str | None) -> str:
    """Give the model the fastest attention that is right for each part, unless `named` is given; returns it in words."""
    if named:
        return f"{named} (--attn_implementation)"
    routed = use_attention(model) if model.config.model_type in COMPARED and model.config._attn_implementation == "sdpa" else {}
    own = model.config._attn_implementation
    text = f"{own}, groups packed" if "text_config" in routed else own
    vision = f"{own}, all windows in one call" if "vision_config" in routed else own
    return f"language model: {text}; vision encoder: {vision}"


@lru_cache(maxsize=4)
def special_token_pattern(processor: Any) -> re.Pattern[str]:
    """A pattern of the texts that the tokenizer or the processor of a model takes for something else than text."""
    tokenizer = processor.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {str(token) for token in added if token.special}
    return token_pattern({*special, *map(str, tokenizer.all_special_tokens), *placeholders(processor)})


@lru_cache(maxsize=4)
def placeholders(processor: Any) -> tuple[str, ...]:
    """The texts that stand for images and videos in prompts of this model, and their markers."""
    added = {str(token) for token in getattr(processor.tokenizer, "added_tokens_decoder", {}).values()}
    own = {
        value
        for key, value in vars(processor).items()
        if key.endswith(("image_token", "video_token")) and isinstance(value, str)
    }
    return tuple(sorted((added & set(VISION_TOKENS)) | own))


def vision_token_ids(loaded: LoadedModel) -> list[int]:
    """Ids that must never be sampled: image and video placeholders and their markers."""
    tokenizer, config = loaded.tokenizer, loaded.model.config
    ids = {tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS if token in tokenizer.get_vocab()}
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            ids.add(value)
    return sorted(ids - set(tokenizer.convert_tokens_to_ids([tokenizer.eos_token, tokenizer.pad_token])))


def save_model(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write a folder that `AutoModelForImageTextToText` and `AutoProcessor` load."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
