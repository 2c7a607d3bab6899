"""What a run's other flags must be where a reward holds models, known from the command line. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.rewards import load_reward
from vlrl.rewards.model_reward import pays_steps
from vlrl.training.options import ConfigError


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
