"""The options that hold a policy back beside TRL's `--beta`: χ² to the reference, costs with limits, pairs, completions that
are left out. No torch.

Not here: the mathematics (`vlrl.training.grpo.regularisers`, `vlrl.training.grpo.costs`, `vlrl.training.grpo.filtering`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrl.answers.kind import answer_kinds
from vlrl.metrics.policy_filtering import read_filtering
from vlrl.rewards import load_reward, reward_name
from vlrl.rewards.model_reward import pays_steps
from vlrl.schema import Reward, Task
from vlrl.training.options import ConfigError


@dataclass(frozen=True)
class RegulariserConfig:
    """The options of a run that hold its policy back, beside TRL's."""

    chi2_coef: float = field(
        default=0.0,
        metadata={"help": "Weight of the root of the chi-squared divergence to the start, beside --beta; 0: off."},
    )
    cost: list[str] | None = field(
        default=None,
        metadata={
            "help": "Costs with limits, as REWARD:limit: the reward's mean over completions is held at most at its limit by a"
            " Lagrange multiplier. Options of the reward stand before the limit."
        },
    )
    cost_lr: float = field(default=0.1, metadata={"help": "Step size of the logarithms of the multipliers of --cost."})
    cost_init: float = field(default=1.0, metadata={"help": "The multipliers of --cost at the start."})
    cost_max: float = field(default=10.0, metadata={"help": "The largest that a multiplier of --cost becomes."})
    pairwise: bool = field(
        default=False,
        metadata={"help": "In place of TRL's policy term, P3O's: differences within pairs of a group, whole completions."},
    )
    keep_completions: str | None = field(
        default=None,
        metadata={
            "help": "Which completions of each group are trained on, by the rank of their reward: best:N, best_worst:N or"
            " best_random:N (PF-PPO); the default: all."
        },
    )


@dataclass(frozen=True)
class CostLimit:
    """One cost: a reward by name or file with its options, and what its mean may be at most."""

    spec: str
    limit: float

    @property
    def name(self) -> str:
        return reward_name(self.spec)


def read_costs(words: Sequence[str] | None) -> tuple[CostLimit, ...]:
    """The costs of `--cost`. Raises ConfigError for one without a limit, or two of one name."""
    found: list[CostLimit] = []
    for word in words or ():
        spec, colon, limit = word.rpartition(":")
        try:
            number = float(limit) if colon else math.nan
        except ValueError:
            number = math.nan
        if not spec or not math.isfinite(number):
            raise ConfigError(f"--cost {word}: write REWARD:limit, as in repetition:-0.1")
        one = CostLimit(spec, number)
        if one.name in [other.name for other in found]:
            raise ConfigError(f"--cost names {one.name} twice")
        found.append(one)
    return tuple(found)


VALUES_OFF: tuple[Any, ...] = (None, False, "", 0, 0.0, "0", "0.0", "no", "none", "None", "false", "False", [])
"""Values of an option that mean that it is off."""
UNTRIED = ("fsdp", "deepspeed", "use_liger_kernel", "use_vllm", "corrector")
"""Options with which none of this has been tried."""
NOT_WITH_PAIRS = {
    "delta": "it bounds ratios of TRL's policy term",
    "off_policy_mask_threshold": "it masks TRL's policy term",
    "thought_weight": "pairs are whole completions",
}


def check_regularisers(values: Mapping[str, Any], tasks: Sequence[Task], rewards: Sequence[str]) -> None:
    """Raises ConfigError for what cannot be honoured, before a library is loaded."""
    costs = read_costs(values.get("cost"))
    asked = [name for name in ("chi2_coef", "cost", "pairwise", "keep_completions") if values.get(name) not in VALUES_OFF]
    if not asked:
        return
    if "grpo" not in str(values.get("stage") or "grpo"):
        raise ConfigError(f"--{asked[0]}: it is a part of GRPO; leave it out with --stage {values['stage']}")
    other = next((name for name in UNTRIED if values.get(name) not in VALUES_OFF), None)
    if other is not None:
        raise ConfigError(f"--{asked[0]} with --{other} was not tried; leave one out")
    drawn = [task.draw(0, "train", 0) for task in tasks if task.synthetic is not None]
    by_name = {task.name: task for task in tasks}
    if any(by_name[sample.task].is_episode(sample) for sample in drawn):
        raise ConfigError(f"--{asked[0]} with episodes was not tried; leave it out")
    stepwise = next((name for name in rewards if pays_steps(load_reward(name))), None)
    if stepwise is not None and asked != ["chi2_coef"]:
        raise ConfigError(
            f"--{asked[-1]} with {stepwise}, which pays steps, was not tried; credit=completion pays whole completions"
        )
    if "pairwise" in asked:
        _check_pairs(values)
    if "keep_completions" in asked:
        _check_kept(values)
    for cost in costs:
        if cost.name in map(reward_name, rewards):
            raise ConfigError(f"--cost {cost.spec}: it is among --rewards; a cost is one that is only held down")
        check_cost(
            _loaded(cost), {kind for sample in drawn for kind in answer_kinds(sample)} if len(drawn) == len(tasks) else set()
        )
    if costs and values.get("multi_objective_aggregation") == "normalize_then_sum":
        raise ConfigError("--cost with --multi_objective_aggregation normalize_then_sum was not tried; leave one out")
    if costs and values.get("dynamic_sampling") not in VALUES_OFF:
        raise ConfigError("--cost with --dynamic_sampling was not tried (equal rewards may differ in cost); leave one out")


KEPT_WITHOUT = (
    *("chi2_coef", "cost", "pairwise", "dynamic_sampling", "entropy_coef", "use_adaptive_entropy", "router_aux_loss_coef"),
    *("off_policy_mask_threshold", "thought_weight"),
)
"""Options with which leaving completions out has not been tried."""


def _check_kept(values: Mapping[str, Any]) -> None:
    flag = f"--keep_completions {values['keep_completions']}"
    try:
        filtering = read_filtering(str(values["keep_completions"]))
    except ValueError as error:
        raise ConfigError(f"--keep_completions {error}") from error
    group = values.get("num_generations")
    size = 8 if group in (None, "", "None") else int(float(str(group)))
    if filtering.n >= size:
        raise ConfigError(f"{flag}: groups have {size} completions (--num_generations), so that all would be kept; keep fewer")
    other = next((name for name in KEPT_WITHOUT if values.get(name) not in VALUES_OFF and str(values.get(name)) != "1.0"), None)
    if other is not None:
        raise ConfigError(f"--keep_completions with --{other} was not tried; leave one out")
    if float(values.get("top_entropy_quantile") or 1.0) != 1.0:
        raise ConfigError("--keep_completions with --top_entropy_quantile was not tried; leave one out")
    if values.get("multi_objective_aggregation") == "normalize_then_sum":
        raise ConfigError(
            "--keep_completions with --multi_objective_aggregation normalize_then_sum: completions are ranked by the sum of"
            " their rewards; leave one out"
        )


def _loaded(cost: CostLimit) -> Reward:
    try:
        return load_reward(cost.spec)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--cost {cost.spec}:{cost.limit:g}: {error}") from error


def check_cost(reward: Reward, kinds: set[str]) -> None:
    """A cost scores completions by themselves, and answers of these kinds (none: not known). Raises ConfigError."""
    if "base" in reward.needs:
        raise ConfigError(f"--cost {reward.name}: it builds on another reward; name one that stands by itself")
    if reward.answers and kinds and not reward.answers & kinds:
        raise ConfigError(
            f"--cost {reward.name} scores answers of the kind {' or '.join(sorted(reward.answers))}, these are"
            f" {', '.join(sorted(kinds))}"
        )


def _check_pairs(values: Mapping[str, Any]) -> None:
    other = next(
        (name for name in NOT_WITH_PAIRS if values.get(name) not in VALUES_OFF and str(values.get(name)) not in ("1", "1.0")),
        None,
    )
    if other is not None:
        raise ConfigError(f"--pairwise with --{other}: {NOT_WITH_PAIRS[other]}; leave one out")
    if str(values.get("importance_sampling_level") or "token") != "token":
        raise ConfigError("--pairwise with --importance_sampling_level: pairs always have one ratio a completion; leave it out")
    if float(values.get("top_entropy_quantile") or 1.0) != 1.0:
        raise ConfigError("--pairwise with --top_entropy_quantile: pairs are whole completions; leave one out")
