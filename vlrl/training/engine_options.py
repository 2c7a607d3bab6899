"""The options about engines: the attention of shared groups, and vLLM where it writes the completions of training. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlrl.training.options import ConfigError

FOLDER = "rollout_weights"


@dataclass(frozen=True)
class EngineConfig:
    """The options of a run about how it computes and who writes its completions, beside TRL's."""

    group_shared_kernel: Literal["auto", "mask", "merge", "gather", "flex"] = field(
        default="auto",
        metadata={
            "help": "Attention of shared groups: mask (any device), merge (torch's flash kernels), gather (flash-attn), flex"
            " (FlexAttention, compiled); the last three on a GPU. auto: merge where it runs, else mask."
        },
    )
    engine_logp_bound: float = field(
        default=0.2,
        metadata={
            "help": "With --use_vllm: end the run where the engine's log-probabilities differ from the trainer's by more than"
            " this on average, in nats a token, in the first generation."
        },
    )
    vllm_weight_transport: Literal["nccl", "files"] = field(
        default="nccl",
        metadata={
            "help": "With --vllm_mode server: how the server gets the weights. nccl (TRL's, GPUs alone), or files (in a folder"
            " that both see; docs/scale.md has the server's command)."
        },
    )
    rollout_weights: str | None = field(
        default=None,
        metadata={
            "help": "With --vllm_weight_transport files: the folder of the weights, which the server must see by the same path."
            " Default: rollout_weights/ in the run's folder."
        },
    )
    rollout_lag: int = field(
        default=0,
        metadata={
            "help": "With --use_vllm: completions may come from weights that are at most so many updates old. With weights in"
            " files the next batch is written while this one is learnt from; else weights are sent less often. 0: never."
        },
    )


def weights_folder(run: EngineConfig, output_dir: Path) -> Path | None:
    """Where the weights for a server are written; None where they go another way."""
    if run.vllm_weight_transport != "files":
        return None
    return Path(run.rollout_weights) if run.rollout_weights else output_dir / FOLDER


def check_engines(values: Mapping[str, Any]) -> None:
    """Weights in files go to a server, completions of older weights are corrected for, and a kernel that is named is used.
    Raises ConfigError."""
    if values.get("vllm_weight_transport") == "files":
        if values.get("vllm_mode") != "server":
            raise ConfigError("--vllm_weight_transport files needs --vllm_mode server; in colocate mode no files are needed")
        if values.get("vllm_group_port") not in (None, 51216, "51216"):
            raise ConfigError("--vllm_group_port is of NCCL, which --vllm_weight_transport files does without; leave it out")
        quantised = next((name for name in ("load_in_4bit", "load_in_8bit") if values.get(name) is True), None)
        if quantised is not None:
            raise ConfigError(
                f"--{quantised}: a server cannot read quantised weights (--vllm_weight_transport files); leave one out"
            )
    kernel = values.get("group_shared_kernel") or "auto"
    if kernel != "auto" and values.get("group_shared") in ("off", False):
        raise ConfigError(f"--group_shared_kernel {kernel}: no effect with --group_shared off; leave one out")
    lag = int(values.get("rollout_lag") or 0)
    if lag:
        _check_lag(lag, values)


def _check_lag(lag: int, values: Mapping[str, Any]) -> None:
    if str(values.get("vllm_importance_sampling_correction")) in ("False", "false", "0"):
        raise ConfigError(
            f"--rollout_lag {lag} needs the importance correction: completions of older weights would be learnt from as if they"
            " were new; leave --vllm_importance_sampling_correction false out"
        )
    if values.get("vllm_enable_sleep_mode") is True and values.get("vllm_mode") != "server":
        raise ConfigError(
            f"--rollout_lag {lag}: an engine that sleeps gets new weights whenever it wakes; leave --vllm_enable_sleep_mode out"
        )
    updates = updates_of_generation(values)
    if lag < updates:
        raise ConfigError(
            f"--rollout_lag {lag} has no effect: a generation is learnt from in {updates} updates (--steps_per_generation,"
            f" --num_iterations), so that weights are that old when they write the next one; use {updates} or more, or 0"
        )


def updates_of_generation(values: Mapping[str, Any]) -> int:
    """How many updates of the weights a generation is learnt from in."""

    def number(name: str, default: int) -> int:
        value = values.get(name)
        return default if value in (None, "", "None") else int(float(value))

    accumulated = number("gradient_accumulation_steps", 1)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    a_step = number("per_device_train_batch_size", 8) * world
    whole = number("generation_batch_size", 0)
    steps = whole // a_step if whole else number("steps_per_generation", accumulated)
    return max(1, math.ceil(steps * number("num_iterations", 1) / accumulated))
