"""From a run's flags to its memory: the job that a device does, its peak part by part, and what to lower where it does not fit.

Not here: the arithmetic (`vlrl.models.memory`) and the size of a model (`vlrl.models.sizes`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from trl import get_peft_config  # type: ignore[attr-defined]

from vlrl.models.load import ModelInputs
from vlrl.models.memory import (
    GIB,
    NF4_BYTES,
    NF4_NESTED_BYTES,
    OVERHEAD_BYTES,
    Job,
    Memory,
    ModelSizes,
    estimate,
)
from vlrl.models.memory_lowering import lowered
from vlrl.models.names import TINY_NAMES
from vlrl.models.prefix_sharing.facts import COMPARED, SLIDING, layer_types
from vlrl.models.sizes import model_sizes
from vlrl.training.config import Config

CARDS_GB = (24, 40, 80, 141)
"""Memory of the usual cards, in 10^9 bytes: RTX 3090 and 4090, A100, A100 and H100, H200 (their makers' datasheets)."""
SHARDED_OVER = 8
"""Devices that weights are shown sharded over where a run has but one."""


@dataclass(frozen=True)
class Device:
    """What a process of this run trains on. `free_bytes`: what it can still give."""

    name: str
    free_bytes: float
    is_gpu: bool


def this_device(config: Config) -> Device:
    """The device of this process, and the memory that nothing else holds there."""
    if torch.cuda.is_available() and not config.grpo.use_cpu:
        index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        return Device(torch.cuda.get_device_name(index), float(torch.cuda.mem_get_info(index)[0]), True)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Device("the CPU", free / int(os.environ.get("LOCAL_WORLD_SIZE", "1")), False)


@dataclass(frozen=True)
class PromptSize:
    """Tokens of the longest prompt that was looked at: those of its images, and the others."""

    image_tokens: int
    text_tokens: int


def sizes_of_run(config: Config, inputs: ModelInputs, *, adapters: bool | None = None) -> ModelSizes:
    """The run's model, counted with its adapters, or with those that flags would add (`adapters`). Raises ModelError."""
    wanted = config.model.use_peft if adapters is None else adapters
    peft = get_peft_config(replace(config.model, use_peft=True, load_in_4bit=False, load_in_8bit=False)) if wanted else None
    return model_sizes(
        inputs.config,
        inputs.name,
        peft_config=peft,
        freeze_vision=config.run.freeze_vision,
        trust_remote_code=config.grpo.trust_remote_code,
    )


def job_of_run(config: Config, inputs: ModelInputs, prompt: PromptSize, device: Device, n_processes: int) -> Job:
    """What one process does in a step, from flags."""
    grpo, model = config.grpo, config.model
    weight = _bytes_of(model.dtype, inputs)
    compute = 2 if grpo.bf16 or grpo.fp16 else weight
    steps = int(grpo.steps_per_generation or grpo.gradient_accumulation_steps)
    named = model.attn_implementation not in (None, "auto", "sdpa")
    wanted = config.run.group_shared
    shares = wanted != "off" and (wanted == "on" or inputs.config.model_type in COMPARED) and not named
    dense = compute == 4 or SLIDING in layer_types(inputs.config.get_text_config())
    quantised = model.load_in_4bit or model.load_in_8bit
    linear = 1.0 if model.load_in_8bit else NF4_NESTED_BYTES if model.use_bnb_nested_quant else NF4_BYTES
    vllm = grpo.use_vllm and grpo.vllm_mode == "colocate"
    return Job(
        tuning="full" if not model.use_peft else "qlora" if quantised else "lora",
        engine=engine_of(grpo),
        processes=n_processes,
        weight_bytes=weight,
        compute_bytes=compute,
        group=config.group_size,
        rows=grpo.per_device_train_batch_size,
        n_micro=grpo.gradient_accumulation_steps,
        rows_generated=grpo.per_device_train_batch_size * steps,
        prompt_tokens=prompt.text_tokens,
        image_tokens=prompt.image_tokens,
        completion_tokens=config.max_tokens,
        shared=shares,
        dense_mask=shares and dense,  # in 16 bits as on a GPU, wherever this is asked
        checkpointing=grpo.gradient_checkpointing,
        freeze_vision=config.run.freeze_vision,
        reference=bool(grpo.beta or config.regularisers.chi2_coef or config.prime) and not model.use_peft,
        dropout=model.use_peft and model.lora_dropout > 0,
        linear_bytes=linear,
        moment_bytes=_moment_bytes(str(getattr(grpo.optim, "value", grpo.optim))),
        vllm_bytes=grpo.vllm_gpu_memory_utilization * device.free_bytes if vllm else 0.0,
        gathers=bool(grpo.ds3_gather_for_generation),
    )


def engine_of(arguments: Any) -> Any:
    """How flags lay weights over processes, as `Job.engine` names it."""
    if arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "fsdp2"
    deepspeed = getattr(arguments, "hf_deepspeed_config", None)
    if deepspeed is None:
        return "ddp"
    stage = int(deepspeed.get_value("zero_optimization.stage", 0))
    return "zero3" if stage == 3 else "zero2" if stage == 2 else "ddp"


def _bytes_of(dtype: Any, inputs: ModelInputs) -> int:
    """Bytes of a number as it is loaded."""
    if inputs.name in TINY_NAMES and dtype in (None, "auto"):
        return 4
    named = str(dtype).removeprefix("torch.")
    if named in ("None", "auto"):
        named = str(getattr(inputs.config, "dtype", None) or "float32").removeprefix("torch.")
    return {"float32": 4, "float64": 8}.get(named, 2)


def _moment_bytes(optimizer: str) -> float | None:
    """Bytes of an optimizer's state for a number, None for two moments in the number's own format."""
    if "8bit" in optimizer:
        return 2.0
    if optimizer in ("sgd", "adafactor", "signsgd"):
        return 0.0
    return None


# ---- in words


def size_words(n_bytes: float) -> str:
    """`3.2 GiB`, or `140 MiB` below one."""
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:.0f} MiB"


def parts_words(memory: Memory) -> str:
    """The parts of a peak, without those that are nothing."""
    named = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "reference model": memory.reference,
        "copies of weights (16-bit, or gathered)": memory.gathered,
        "activations of the update": memory.activations,
        "cache of the rollout": memory.cache,
    }
    return ", ".join(f"{name} {size_words(value)}" for name, value in named.items() if value)


def memory_words(memory: Memory, device: Device) -> str:
    """The peak of a device against what it has, by part and by phase."""
    room = OVERHEAD_BYTES if device.is_gpu else 0.0
    verdict = "" if fits_device(memory, device) else "; TOO LITTLE"
    more = f" and about {size_words(room)} of overhead" if room else ""
    has = f"{device.name} has {size_words(device.free_bytes)} free"
    phases = f"update {size_words(memory.update)}, rollout {size_words(memory.rollout)}"
    return f"estimated peak a device {size_words(memory.peak)}{more}, {has}{verdict} ({phases})\n{parts_words(memory)}"


def other_ways(config: Config, inputs: ModelInputs, job: Job) -> str:
    """The same run tuned and sharded in other ways, as peaks of a device."""
    sizes = sizes_of_run(config, inputs, adapters=True)
    n = job.processes if job.processes > 1 else SHARDED_OVER
    base = replace(job, engine="ddp", vllm_bytes=0.0)
    ways = {
        "full": replace(base, tuning="full", reference=bool(config.grpo.beta or config.regularisers.chi2_coef or config.prime)),
        "LoRA": replace(base, tuning="lora", weight_bytes=2, compute_bytes=2, reference=False),
        "QLoRA": replace(base, tuning="qlora", weight_bytes=2, compute_bytes=2, reference=False),
    }
    for name, engine in (("ZeRO-2", "zero2"), ("ZeRO-3", "zero3"), ("FSDP2", "fsdp2")):
        sharded: Any = engine
        ways[f"full, {name} over {n}"] = replace(ways["full"], engine=sharded, processes=n, compute_bytes=2)
    return ", ".join(f"{name} {size_words(estimate(sizes, way).peak)}" for name, way in ways.items())


def cards_words(memory: Memory) -> str:
    """Which of the usual cards hold a peak."""
    fitting = [gb for gb in CARDS_GB if memory.with_overhead <= gb * 1e9]
    return f"fits a card of {fitting[0]} GB" if fitting else f"fits no card of up to {CARDS_GB[-1]} GB"


def remedies_for(sizes: ModelSizes, job: Job, device: Device) -> list[str]:
    """Flags that make a job fit, cheapest first, each on top of those before it with the peak that is then left."""
    found = []
    for words, changed in lowered(sizes, job):
        memory = estimate(sizes, changed)
        found.append(f"{words}: {size_words(memory.peak)}")
        if fits_device(memory, device):
            break
    return found


def fits_device(memory: Memory, device: Device) -> bool:
    """Whether a device has room for a peak, and on a GPU for what comes on top."""
    return (memory.with_overhead if device.is_gpu else memory.peak) <= device.free_bytes


def longest_prompt(sizes: Sequence[PromptSize]) -> PromptSize:
    """The one that takes most memory."""
    return max(sizes, key=lambda one: (one.image_tokens + one.text_tokens, one.image_tokens), default=PromptSize(0, 64))
