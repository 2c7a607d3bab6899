"""Too little memory as one line: in which phase, and what to lower, in the order of what costs least.

The phase is read from the functions that were running. Not here: how much memory a run takes (`vlrl.training.memory_plan`).
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch

from vlrl.training.config import Config
from vlrl.training.sharding import shards_weights

_SAID = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
)
"""What a CPU's allocator, cuBLAS and the operating system say; CUDA's own allocator has an error of its own."""

LOADING, SUPERVISED, MEASURING, WRITING, SCORING, STEPPING, UPDATING = (
    "while the model was loaded",
    "in the supervised stage",
    "while the model was measured",
    "while completions were written (rollout)",
    "while completions were scored by the model (log-probabilities before the update)",
    "in the optimizer's step",
    "in the update (forward and backward)",
)
_FOUND_BY: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (LOADING, "", ("load_start", "load_model", "load_weights")),
    (SUPERVISED, "sft", ("supervise",)),
    (MEASURING, "", ("measure", "evaluate")),
    (STEPPING, "optim", ("step",)),
    (WRITING, "", ("generate", "rollout", "prefill", "_decode_in_blocks", "_generate_single_turn")),
    (SCORING, "", ("batch_of", "_prepare_inputs", "_generate_and_score_completions")),
    (UPDATING, "", ("training_step", "compute_loss", "backward")),
)
"""Phase, what a path holds, and functions of which one was running; the first that holds counts."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _SAID)


def phase_of(error: BaseException) -> str:
    """What the run was doing."""
    frames = [(PurePath(frame.filename).parts, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    for phase, place, functions in _FOUND_BY:
        for parts, name in frames:
            if name in functions and (not place or any(part.startswith(place) for part in parts)):
                return phase
    return "during the run"


def asked_by(config: Config) -> dict[str, Any]:
    """The options of a run that `remedies_in` looks at."""
    grpo, model = config.grpo, config.model
    return {
        "rows": grpo.per_device_train_batch_size,
        "steps": grpo.gradient_accumulation_steps,
        "group": config.group_size,
        "shared": config.run.group_shared != "off",
        "checkpointing": grpo.gradient_checkpointing,
        "vllm": grpo.use_vllm and grpo.vllm_mode == "colocate",
        "peft": model.use_peft,
        "quantised": model.load_in_4bit or model.load_in_8bit,
        "sharded": shards_weights(grpo),
        "wide": str(model.dtype) in ("float32", "torch.float32"),
    }


def _wanted(error: BaseException) -> str:
    """How much was asked for, where the error says so."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+ [KMGT]?i?B|\d+ bytes)|allocate (\d+ bytes)", str(error))
    if found is None:
        return ""
    size = str(next(filter(None, found.groups())))
    if size.endswith(" bytes"):
        size = f"{int(size.split()[0]) / 2**20:,.0f} MiB"
    return f" ({size} more were asked for)"


def remedies_in(phase: str, values: dict[str, Any] | None = None) -> list[str]:
    """What to lower, cheapest first. `values`: the run's options; what is set as low as it goes is left out."""
    get = (values or {}).get
    rows, group, steps = int(get("rows") or 2), int(get("group") or 1), int(get("steps") or 1)
    fewer = max(group if get("shared") else 1, rows // 2)
    vllm = ["--vllm_gpu_memory_utilization to less"] if get("vllm") else []
    smaller = ["--max_pixels to half", "--max_completion_length to half"]
    adapters = ["--use_peft --dtype bfloat16"] if not get("peft") else [] if get("quantised") else ["--load_in_4bit"]
    split = (
        [f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps {steps * rows // fewer}"] if fewer < rows else []
    )
    checkpointing = [] if get("checkpointing") else ["--gradient_checkpointing true"]
    sharded = ["--deepspeed configs/engines/zero3.json over more GPUs"] if not get("sharded") else []
    if phase == LOADING:
        return [*(["--dtype bfloat16"] if get("wide") else []), *adapters, *sharded]
    if phase == MEASURING:
        return [*vllm, "--per_device_eval_batch_size to half", *smaller]
    if phase == WRITING:
        return [*vllm, "--steps_per_generation to less (fewer completions at once)", *split, *smaller, *adapters, *sharded]
    if phase == SUPERVISED:
        return [*checkpointing, "--sft_batch_size to half", "--max_pixels to half", "--freeze_vision", *adapters, *sharded]
    if phase == STEPPING:
        return ["--optim adamw_8bit", *adapters, *sharded]
    return [*vllm, *checkpointing, *split, *sharded, *adapters, *smaller, "--freeze_vision"]


def out_of_memory_words(error: BaseException, values: dict[str, Any] | None = None) -> str:
    """The one line that a person reads, without how to go on."""
    phase = phase_of(error)
    on_gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "CUBLAS" in str(error)
    what = "the GPU's memory" if on_gpu else "memory"
    ways: Sequence[str] = remedies_in(phase, values)
    return (
        f"out of {what} {phase}{_wanted(error)}; lower, in this order: {'; '.join(ways)} (--dry_run estimates what a run takes)"
    )
