"""Flags of a vLLM server that reads weights from files, and of completions of older weights: what goes together. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrl.training.options import ConfigError, RunConfig

FOLDER = "rollout_weights"


def weights_folder(run: RunConfig, output_dir: Path) -> Path | None:
    """Where the weights for a server are written; None where they go another way."""
    if run.vllm_weight_transport != "files":
        return None
    return Path(run.rollout_weights) if run.rollout_weights else output_dir / FOLDER


def check_rollouts(values: Mapping[str, Any]) -> None:
    """Weights in files go to a server, and completions of older weights are corrected for. Raises ConfigError."""
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
