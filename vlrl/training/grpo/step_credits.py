"""Station 4, credits of steps: a reward that pays steps one by one gives the tokens of a completion different advantages.

Each token's return is what its completion earns by all other rewards, and by this one from the token's step on
(`Score.credits`). Not here: what a step is paid (`vlrl.rewards.model_reward`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate.utils import gather_object

from vlrl.gtr.masks import CharSpan, token_spans
from vlrl.schema import Score
from vlrl.training.grpo.batch import Batch, TrainerCalls
from vlrl.training.grpo.endpoint_failures import filled_in, missing_scores

KnownOfRow = TypeVar("KnownOfRow")
"""What a process knows of a completion."""
_EPSILON = 1e-4
"""As TRL adds it to a standard deviation."""


@dataclass(frozen=True)
class Return:
    """Of one completion: what its steps return, one number or more, NaN where no reward applied."""

    steps: tuple[float, ...]


def returns_of(rewards_R: Sequence[float], weights_R: Sequence[float], scores_R: Sequence[Score | None]) -> Return:
    """The weighted sum of a completion's rewards (NaN: does not apply), those that have credits step by step.

    G_k = sum of w_r s_r over rewards without credits + sum of w_r c_rk over those with.
    """
    known = [r for r, reward in enumerate(rewards_R) if not math.isnan(reward)]
    if not known:
        return Return((math.nan,))
    credited = [r for r in known if (score := scores_R[r]) is not None and score.credits]
    whole = math.fsum(weights_R[r] * rewards_R[r] for r in known if r not in credited)
    by_step = [[weights_R[r] * credit for _, credit in scores_R[r].credits] for r in credited]  # type: ignore[union-attr]
    return Return(tuple(whole + math.fsum(step) for step in zip(*by_step, strict=True)) if by_step else (whole,))


def advantages_of(returns: Sequence[Return], group_size: int, scale: str) -> list[tuple[float, ...]]:
    """Each step's advantage (G_ik - b) / (s + 1e-4) in its group of completions; 0 where there is no return.

    b: the mean over completions of the mean over their steps. s^2 = sum_i mean_k (G_ik - b)^2 / (N - 1), over the group
    (`scale="group"`) or all groups (`"batch"`, about their mean); `"none"`: no division. Completions of one return each get
    GRPO's own advantages. Source: DeepSeekMath (arXiv 2402.03300), section 4.1.3, process supervision. differs: returns are
    brought to scale, not step rewards before they are added up, so that rewards that cancel (refine=delta) still do; each
    completion counts once, however many steps it has.
    """
    found: list[tuple[float, ...]] = []
    overall = _spread(returns, _mean(returns)) if scale == "batch" else 0.0
    for start in range(0, len(returns), group_size):
        group = returns[start : start + group_size]
        mean = _mean(group)
        divisor = 1.0 if scale == "none" else _EPSILON + (overall if scale == "batch" else _spread(group, mean))
        found += [tuple(0.0 if math.isnan(step) else (step - mean) / divisor for step in one.steps) for one in group]
    return found


def _mean(returns: Sequence[Return]) -> float:
    means = [math.fsum(one.steps) / len(one.steps) for one in returns if not math.isnan(one.steps[0])]
    return math.fsum(means) / len(means) if means else math.nan


def _spread(returns: Sequence[Return], mean: float) -> float:
    parts = [
        math.fsum((step - mean) ** 2 for step in one.steps) / len(one.steps) for one in returns if not math.isnan(one.steps[0])
    ]
    return math.sqrt(math.fsum(parts) / (len(parts) - 1)) if len(parts) > 1 else 0.0


def step_of_tokens(spans: Sequence[CharSpan], ends: Sequence[int]) -> list[int]:
    """For each token the step it belongs to: the first that ends behind the token's first character; what follows the last step
    (an end of sequence) belongs to it."""
    found, step = [], 0
    for start, _ in spans:
        while step < len(ends) - 1 and start >= ends[step]:
            step += 1
        found.append(step)
    return found


class StepCredits:
    """Gives a batch advantages (B, T) where a reward pays steps. `asks_R`: which rewards may fail to come, from a judge.
    `decode`: ids to the text that was scored, special tokens left out."""

    def __init__(
        self, engine: TrainerCalls, weights_R: Sequence[float], asks_R: Sequence[bool], decode: Callable[[Sequence[int]], str]
    ) -> None:
        self.engine, self.weights_R, self.asks_R, self.decode = engine, list(weights_R), list(asks_R), decode

    def __call__(self, batch: Batch, scores: Sequence[Sequence[Score | None]]) -> Batch:
        """The batch with advantages (B, T); what is logged of a completion is the mean over its steps. `scores`: row by row,
        one a reward. A completion that no step of is paid by itself has TRL's advantage."""
        rewards_BR, rows, first = self.of_everyone(batch, [list(row) for row in scores])
        returns = [returns_of(r, self.weights_R, s) for r, s in zip(rewards_BR.tolist(), rows, strict=True)]
        advantages = self.advantages(returns)
        made = batch.made
        advantages_BT = torch.zeros(made.completion_ids_BT.shape, device=made.advantages_B.device)
        for i, (completion, row) in enumerate(zip(batch.completions, scores, strict=True)):
            own = advantages[first + i]
            credited = next((score for score in row if score is not None and score.credits), None)
            if credited is None or len(own) == 1:
                advantages_BT[i] = own[0]
                continue
            steps = step_of_tokens(token_spans(completion.ids, self.decode), [end for end, _ in credited.credits])
            advantages_BT[i, : len(steps)] = torch.tensor([own[step] for step in steps])
        return batch.with_advantages(advantages_BT)

    def of_everyone(self, batch: Batch, own: Sequence[KnownOfRow]) -> tuple[torch.Tensor, list[KnownOfRow], int]:
        """The rewards (B of all processes, R), those that failed to come at their group's mean; what is known of each of these
        completions (`own`: row by row of this process); and how many stand before this process' own."""
        assert batch.scores_BR is not None
        rank = int(self.engine.accelerator.process_index)
        everyone = gather_object([(batch.scores_BR.tolist(), list(own))])
        rewards_BR = torch.tensor([row for rewards, _ in everyone for row in rewards])
        group = self.engine.num_generations
        rewards_BR = filled_in(rewards_BR, missing_scores(rewards_BR, self.asks_R, group), group)
        first = sum(len(rewards) for rewards, _ in everyone[:rank])
        return rewards_BR, [row for _, rows in everyone for row in rows], first

    def advantages(self, returns: Sequence[Return]) -> list[tuple[float, ...]]:
        """Of all processes' completions, as the run scales them; the completions log has the mean of each."""
        advantages = advantages_of(returns, self.engine.num_generations, str(self.engine.args.scale_rewards))
        logged = self.engine.completions_log["advantages"]
        for i, one in enumerate(advantages):
            logged[len(logged) - len(advantages) + i] = math.fsum(one) / len(one)
        return advantages
