"""Costs that are held at their limits by Lagrange multipliers (`--cost`).

Source: Dai et al., Safe RLHF (arXiv 2310.12773): ln λ ← ln λ + α λ J_C, with J_C the mean cost minus its limit (equation 31);
the policy learns from (A_r - λ A_c) / (1 + λ) (its released code). Ji et al., Safe RLHF-V (arXiv 2503.17682) has the same for
images and bounds λ. differs: several costs stand side by side, (A_r - Σ λ_k A_k) / (1 + Σ λ_k); the mean is that of the
generation, not of the last 128 completions.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from trl.trainer.grpo_config import GRPOConfig

from vlrl.answers.kind import answer_kinds
from vlrl.data.files import read_json_object, write_whole
from vlrl.metrics.policy_filtering import Filtering, read_filtering
from vlrl.rewards import load_reward
from vlrl.rewards.judge_model import may_lack_scores
from vlrl.schema import Reward, Sample
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import TrainerCalls
from vlrl.training.grpo.filtering import KeptCompletions
from vlrl.training.grpo.regularisers import Chi2, LogprobLoss, Pairwise
from vlrl.training.options import ConfigError
from vlrl.training.regulariser_options import RegulariserConfig, read_costs
from vlrl.training.reward_models.door import holding

MULTIPLIERS = "costs.json"
"""What a checkpoint holds of the multipliers."""


@dataclass(frozen=True)
class HeldCost:
    """A reward whose mean is held at most at `limit`."""

    reward: Reward
    limit: float


@dataclass(frozen=True)
class HeldBack:
    """What holds a policy back beside TRL's KL (`vlrl.training.regulariser_options` explains the options)."""

    chi2_coef: float = 0.0
    costs: tuple[HeldCost, ...] = ()
    cost_lr: float = 0.1
    cost_init: float = 1.0
    cost_max: float = 10.0
    pairwise: bool = False
    keep: Filtering | None = None

    def words(self) -> str:
        """What is on, for people; "" where nothing is."""
        found = [f"χ² to the start, weight {self.chi2_coef:g}"] if self.chi2_coef else []
        found += [f"{cost.reward.name} at most {cost.limit:g}" for cost in self.costs]
        found += ["pairs in place of TRL's policy term (P3O)"] if self.pairwise else []
        return ", ".join([*found, *([f"of each group {self.keep} is trained on"] if self.keep else [])])

    def terms(self, engine: TrainerCalls) -> tuple[LogprobLoss, ...]:
        """The terms of the loss."""
        found: list[LogprobLoss] = [Chi2(engine, self.chi2_coef)] if self.chi2_coef else []
        low, high = engine.args.epsilon, engine.args.epsilon_high
        return (*found, *([Pairwise(engine, (low, low if high is None else high))] if self.pairwise else []))

    def multiplied(self) -> Costs | None:
        """The costs with their multipliers at the start."""
        if not self.costs:
            return None
        return Costs(self.costs, rate=self.cost_lr, start=self.cost_init, largest=self.cost_max)

    def filtered(
        self, engine: TrainerCalls, rewards: Sequence[Reward], weights_R: Sequence[float], loss_type: str
    ) -> KeptCompletions | None:
        """What marks the completions that are trained on, where not all are."""
        if self.keep is None:
            return None
        return KeptCompletions(engine, self.keep, weights_R, list(map(may_lack_scores, rewards)), loss_type)

    def as_arguments(self, args: GRPOConfig, n_rewards: int, *, reference: bool = False) -> GRPOConfig:
        """TRL's arguments for a trainer that scores costs beside `n_rewards` rewards, with weight 0, and has a reference model
        for χ², or where something else asks for one."""
        if not self.costs and not self.chi2_coef and not reference:
            return args
        args = copy.copy(args)
        args.beta = args.beta or float(bool(self.chi2_coef) or reference)
        if self.costs:
            args.reward_weights = [*(args.reward_weights or [1.0] * n_rewards), *([0.0] * len(self.costs))]
        return args


def held_back_of(
    options: RegulariserConfig, rewards: Sequence[Reward], samples: Sequence[Sample], device: torch.device | None = None
) -> HeldBack:
    """What a run asks for. `rewards`: its own; `samples`: training samples; `device`: where the models of costs are
    loaded (None: they are not). Raises ConfigError for a cost that is among its rewards, or that can score no sample."""
    costs = []
    for one in read_costs(options.cost):
        reward = load_reward(one.spec)
        if reward.name in [own.name for own in rewards]:
            raise ConfigError(f"--cost {one.spec}: it is among the rewards of these rows; a cost is one that is only held down")
        problems = [_problem(reward, sample) for sample in samples]
        if problems and None not in problems:
            raise ConfigError(f"--cost {one.spec} can score none of the training samples: {problems[0]}")
        costs.append(HeldCost(reward if device is None else holding([reward], device)[0], one.limit))
    chosen = {name: getattr(options, name) for name in ("chi2_coef", "cost_lr", "cost_init", "cost_max", "pairwise")}
    keep = None if options.keep_completions is None else read_filtering(options.keep_completions)
    return HeldBack(costs=tuple(costs), keep=keep, **chosen)


def _problem(reward: Reward, sample: Sample) -> str | None:
    found = answer_kinds(sample)
    if reward.answers and not reward.answers & found:
        return f"it scores answers of the kind {' or '.join(sorted(reward.answers))}, these are {', '.join(sorted(found))}"
    return None if reward.problem is None else reward.problem(sample)


def updated(multiplier: float, mean_cost: float, limit: float, rate: float, largest: float) -> float:
    """The multiplier after a generation with this mean cost; in (0, `largest`]."""
    return min(largest, multiplier * math.exp(min(50.0, rate * multiplier * (mean_cost - limit))))


def group_advantages(values_B: torch.Tensor, group: int, scale: str) -> torch.Tensor:
    """(B,) values minus their group's mean, over the spread that `--scale_rewards` names: "group", "batch", "none". Values that
    are NaN (the cost does not apply) get 0 and are left out of mean and spread. As TRL's of rewards, 1e-4 beside the spread."""
    known_B = ~torch.isnan(values_B)
    groups_NG, known_NG = values_B.nan_to_num(0.0).view(-1, group), known_B.view(-1, group)
    counts_N1 = known_NG.sum(1, keepdim=True)
    means_N1 = groups_NG.sum(1, keepdim=True) / counts_N1.clamp(min=1)
    gaps_NG = (groups_NG - means_N1) * known_NG
    if scale == "group":
        spread = (gaps_NG.square().sum(1, keepdim=True) / (counts_N1 - 1).clamp(min=1)).sqrt()
    elif scale == "batch":
        spread = values_B[known_B].std() if int(known_B.sum()) > 1 else values_B.new_zeros(())
    else:
        return gaps_NG.flatten()
    return (gaps_NG / (spread + 1e-4)).flatten()


def less_costs(advantages_B: torch.Tensor, costs_BK: torch.Tensor, multipliers: Sequence[float]) -> torch.Tensor:
    """(A_r - Σ λ_k A_k) / (1 + Σ λ_k). `costs_BK`: the advantages of the costs."""
    weights_K = torch.tensor(list(multipliers), dtype=advantages_B.dtype, device=advantages_B.device)
    return (advantages_B - costs_BK.to(advantages_B) @ weights_K) / (1 + weights_K.sum())


class Costs:
    """The costs of a run and their multipliers, which are a part of each checkpoint."""

    def __init__(self, costs: Sequence[HeldCost], *, rate: float = 0.1, start: float = 1.0, largest: float = 10.0) -> None:
        self.costs, self.rate, self.largest = tuple(costs), rate, largest
        self.multipliers = [min(start, largest)] * len(self.costs)

    @property
    def rewards(self) -> tuple[Reward, ...]:
        return tuple(cost.reward for cost in self.costs)

    def weigh(self, advantages_B: torch.Tensor, values_BK: torch.Tensor, group: int, scale: str) -> torch.Tensor:
        """The advantages of a generation of all processes, whole adjacent groups, with its costs; each multiplier takes its
        step first. `values_BK`: NaN where a cost does not apply."""
        for k, cost in enumerate(self.costs):
            known = values_BK[:, k][~torch.isnan(values_BK[:, k])]
            if len(known):
                mean = float(known.double().mean())
                self.multipliers[k] = updated(self.multipliers[k], mean, cost.limit, self.rate, self.largest)
        columns = [group_advantages(values_BK[:, k].float(), group, scale) for k in range(len(self.costs))]
        return less_costs(advantages_B, torch.stack(columns, 1), self.multipliers)

    def numbers(self) -> dict[str, float]:
        """The multipliers, for the log."""
        pairs = zip(self.costs, self.multipliers, strict=True)
        return {f"cost/{cost.reward.name}/multiplier": value for cost, value in pairs}

    def save(self, checkpoint: Path) -> None:
        if PartialState().is_main_process:
            names = [cost.reward.name for cost in self.costs]
            write_whole(checkpoint / MULTIPLIERS, json.dumps(dict(zip(names, self.multipliers, strict=True))) + "\n")

    def restore(self, checkpoint: Path) -> None:
        """Go on with a checkpoint's multipliers; of a cost that it does not know, with the one at the start. Raises RunStopped
        where what it holds is no multiplier."""
        path = checkpoint / MULTIPLIERS
        kept = read_json_object(path) if path.is_file() else {}
        for k, cost in enumerate(self.costs):
            value = kept.get(cost.reward.name, self.multipliers[k])
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise RunStopped(
                    f"{path}: the multiplier of {cost.reward.name} is {value!r}, no positive number; remove the file"
                )
            self.multipliers[k] = float(value)
