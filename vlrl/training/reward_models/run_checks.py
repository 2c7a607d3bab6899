"""What a run's other flags must be where a reward holds models, known from the command line. No torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.rewards import load_reward, reward_name
from vlrl.rewards.implicit_reward import PRIME, Prime, split_prime
from vlrl.rewards.model_reward import pays_steps
from vlrl.schema import Task
from vlrl.training.options import ConfigError, RunConfig
from vlrl.training.regulariser_options import VALUES_OFF

NOT_WITH_PRIME = (
    *("fsdp", "deepspeed", "use_vllm", "use_transformers_continuous_batching", "use_liger_kernel", "fp16", "corrector"),
    *("load_in_4bit", "load_in_8bit", "mask_truncated_completions", "cost", "pairwise", "keep_completions"),
    "cast_lm_head_to_fp32",
)
"""Options with which the implicit reward was not tried."""


def check_model_rewards(named: Sequence[str] | None, values: Mapping[str, Any]) -> None:
    """`named`: the rewards of `--rewards`, known to exist. Raises ConfigError."""
    for reward in map(load_reward, named or ()):
        if not pays_steps(reward):
            continue
        if int(values.get("dynamic_sampling") or 0):
            raise ConfigError(
                f"--dynamic_sampling replaces groups of equal totals, and reward {reward.name} pays steps, which may differ"
                " where totals do not; leave one of them out (credit=completion pays totals)"
            )
        if values.get("multi_objective_aggregation") == "normalize_then_sum":
            raise ConfigError(
                f"--multi_objective_aggregation normalize_then_sum scales each reward's totals, and reward {reward.name} pays"
                " steps; leave it out, or pay totals (credit=completion)"
            )


def check_prime(run: RunConfig, values: Mapping[str, Any], tasks: Sequence[Task]) -> tuple[RunConfig, dict[str, Any]]:
    """The run and its values without the reward `prime`, which is looked at here. Raises ConfigError."""
    try:
        split = split_prime(run.rewards, values.get("reward_weights"))
        if split.prime is None:
            return run, dict(values)
        names = [reward_name(spec) for spec in split.rewards or ()]
        column = split.prime.column(names)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _check_outcome((split.rewards or [])[column], split.prime)
    if "grpo" not in str(values.get("stage") or "grpo"):
        raise ConfigError(f"reward {PRIME} is a part of GRPO; leave it out with --stage {values['stage']}")
    other = next((name for name in NOT_WITH_PRIME if values.get(name) not in VALUES_OFF), None)
    if other is not None:
        raise ConfigError(f"reward {PRIME} with --{other} was not tried; leave one out")
    if values.get("sync_ref_model") not in VALUES_OFF:
        raise ConfigError(
            f"--sync_ref_model moves the reference that the log-ratios of reward {PRIME} are counted from; leave one out"
        )
    if (n := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise ConfigError(f"reward {PRIME} with {n} processes was not tried; train on one, or leave it out")
    if values.get("multi_objective_aggregation") == "normalize_then_sum":
        raise ConfigError(
            f"--multi_objective_aggregation normalize_then_sum scales each reward's totals, and reward {PRIME} rewards tokens;"
            " leave one out"
        )
    drawn = [task.draw(0, "train", 0) for task in tasks if task.synthetic is not None]
    if any(task.is_episode(sample) for task in tasks for sample in drawn if sample.task == task.name):
        raise ConfigError(f"reward {PRIME} with episodes was not tried; leave it out")
    left = {name: value for name, value in values.items() if name != "reward_weights"}
    left |= {} if split.weights is None else {"reward_weights": split.weights}
    return dataclasses.replace(run, rewards=split.rewards), left


def _check_outcome(spec: str, prime: Prime) -> None:
    """The outcome is verified and its threshold tells completions apart; a folder is there. Raises ConfigError."""
    options = prime.options
    try:
        reward = load_reward(spec)
    except (ValueError, OSError):
        return  # said where all rewards are looked at
    if "model" in reward.needs:
        raise ConfigError(
            f"reward {PRIME} learns from outcomes that are verified, and {reward.name} is a model; outcome=NAME says another"
        )
    if not reward.low < options.threshold <= reward.high:
        raise ConfigError(
            f"reward {PRIME}: threshold={options.threshold:g} tells nothing apart: {reward.name} is {reward.low:g} to"
            f" {reward.high:g}"
        )
    if options.folder and not (Path(options.folder) / "config.json").is_file():
        raise ConfigError(
            f"reward {PRIME}: {options.folder} holds no model (no config.json); name a folder of weights, or none"
        )
