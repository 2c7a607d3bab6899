"""Weights of a run: the model it starts from, where GRPO's reference is found again, and `final/`.

Not here: what a model is (`vlrl.models.load`), and checkpoints on the way (`vlrl.training.checkpoints`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForImageTextToText, TrainingArguments
from trl import ModelConfig, get_quantization_config  # type: ignore[attr-defined]

from vlrl.models.load import LoadedModel, ModelInputs, load_inputs, load_model
from vlrl.models.names import TINY_NAMES, ModelError, is_adapter_folder
from vlrl.models.sharded import n_numbers, whole_weights
from vlrl.models.videos import VideoReading
from vlrl.training.checkpoints import write_together
from vlrl.training.finite import are_sound, check_weights, remedies, unsound_weights, weights_line
from vlrl.training.options import RunConfig
from vlrl.training.sharding import loading_alone


def start_inputs(
    model: ModelConfig,
    run: RunConfig,
    *,
    trust_remote_code: bool,
    name: str | None = None,
    coords: str | None = None,
    template: Mapping[str, Any] | None = None,
    weights: bool = True,
    videos: VideoReading = VideoReading(),  # noqa: B008 (frozen)
) -> ModelInputs:
    """Config and processor of `--model_name_or_path` (or `name`: another folder of it), before its weights. `template`:
    `--chat_template_kwargs`. `weights`: whether these must be there. `videos`: how they are shown. Raises ModelError."""
    name = name or str(model.model_name_or_path)
    return load_inputs(
        name,
        revision=model.model_revision if name == model.model_name_or_path else None,
        trust_remote_code=trust_remote_code,
        coords=coords or run.coords,
        min_pixels=run.min_pixels,
        max_pixels=run.max_pixels,
        template=template,
        weights=weights,
        videos=videos,
    )


def load_start(
    model: ModelConfig,
    arguments: TrainingArguments,
    *,
    trust_remote_code: bool,
    inputs: ModelInputs,
) -> LoadedModel:
    """The weights that `inputs` (of `start_inputs`) are for, with what flags say of them, on this process' device. Raises
    ModelError."""
    quantization = get_quantization_config(model)
    extra: dict[str, Any] = {} if quantization is None else {"quantization_config": quantization}
    name = inputs.name
    drawn = name in TINY_NAMES and name.endswith("-random")  # its weights are made here; an engine takes them apart later
    with loading_alone(arguments) if drawn else nullcontext():
        loaded = load_model(
            name,
            dtype=model.dtype,
            attn_implementation=model.attn_implementation,
            revision=model.model_revision if name == model.model_name_or_path else None,
            trust_remote_code=trust_remote_code,
            seed=arguments.seed,
            inputs=inputs,
            **extra,
        )
    if not extra and not arguments.use_cpu and torch.cuda.is_available():
        module: torch.nn.Module = loaded.model
        module.to(PartialState().device)
    if not are_sound(loaded.model.parameters()):
        bad = unsound_weights(loaded.model.named_parameters())
        raise ModelError(
            f"--model_name_or_path {name} {weights_line(bad)}; it cannot be trained, take another model or checkpoint"
        )
    return loaded


def checkpoint_bytes(loaded: LoadedModel, use_peft: bool) -> tuple[int, int]:
    """Bytes of the weights, and of one copy in 32 bits of what is trained (adapters: next to nothing)."""
    parameters = list(loaded.model.parameters())
    weights = sum(n_numbers(p) * p.element_size() for p in parameters)
    return weights, 0 if use_peft else sum(n_numbers(p) * 4 for p in parameters if p.requires_grad)


def disk_bytes(loaded: LoadedModel, arguments: TrainingArguments, use_peft: bool) -> int:
    """About what one checkpoint (weights, two Adam moments of what is trained) and the final weights take, and the start of a
    run from adapters."""
    saved, trained = checkpoint_bytes(loaded, use_peft)
    start = saved if is_adapter_folder(loaded.name) else 0
    return start + 2 * saved + (0 if arguments.save_only_model else 2 * trained) + 2**20


def put_in_place(partial: Path, final: Path) -> None:
    """Give a folder that is complete its final name; called by one process."""
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)


def start_folder(loaded: LoadedModel, folder: Path) -> str:
    """Where the weights that GRPO starts from can be loaded again (the reference model, the base of adapters). A model
    that exists only in memory (an embedded one, or one with merged adapters) is saved for that."""
    if loaded.name not in TINY_NAMES and not is_adapter_folder(loaded.name):
        return loaded.name
    start, partial = folder / "start", folder / "start.partial"

    def save() -> None:
        loaded.model.save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        put_in_place(partial, start)

    with whole_weights(loaded.model):
        write_together(folder, "start/", save)
    loaded.model.config._name_or_path = str(start)
    return str(start)


def promote(trained: Path, final: Path) -> None:
    """Copy the supervised stage's result to `final/`, complete or absent."""
    partial = final.with_suffix(".partial")

    def copy() -> None:
        shutil.copytree(trained, partial, dirs_exist_ok=True)
        put_in_place(partial, final)

    write_together(final.parent, "final/", copy)


def save_start_as_final(trainer: Any, loaded: LoadedModel, folder: Path, base: str) -> Path:
    """`final/` with the weights that GRPO began with (`base`: where these lie); complete or absent. Raises RunStopped where the
    disk is full."""
    final, partial = folder / "final", folder / "final.partial"

    def save() -> None:
        with loading_alone(trainer.args):
            whole = AutoModelForImageTextToText.from_pretrained(base, dtype=loaded.model.dtype)
        whole.save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        put_in_place(partial, final)

    write_together(folder, "final/", save)
    return final


def save_final(trainer: Any, loaded: LoadedModel, folder: Path, base: str) -> Path:
    """`final/`: weights and processor that load with `from_pretrained`, adapters merged; complete or absent. Raises RunStopped
    where the disk is full."""
    final, partial = folder / "final", folder / "final.partial"
    adapter, partial_adapter = folder / "adapter", folder / "adapter.partial"
    has_adapters = hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    if getattr(trainer, "implicit", None) is not None:
        trainer.implicit.save_final(folder, loaded.processor)
    saved = partial_adapter if has_adapters else partial
    write_together(folder, f"{saved.stem}/", lambda: trainer.save_model(str(saved)), everyone=True)

    def finish() -> None:
        if has_adapters:
            from peft import PeftModel

            put_in_place(partial_adapter, adapter)
            with loading_alone(trainer.args):
                whole = AutoModelForImageTextToText.from_pretrained(base, dtype=loaded.model.dtype)
            merged = PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()
            check_weights(merged, "the model with its merged adapters", remedies(trainer.args))
            merged.save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        put_in_place(partial, final)

    write_together(folder, "final/", finish)
    return final
