"""Rows that a judge gave no score, and runs whose endpoint does not answer.

A row without a score is neither wrong nor right: in its group it stands where the others' mean stands, so that it pulls
nowhere; logs and files show it without a value. A run whose judge stays silent ends. What the endpoints do themselves (tries,
pauses, counts) is in `vlrl.rewards.endpoint`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from accelerate.utils import gather_object

from vlrl.gtr.corrector import Corrector
from vlrl.gtr.remote import RemoteCorrector
from vlrl.rewards.budget import as_numbers, summed_counts
from vlrl.rewards.endpoint import DEAD_BATCHES, Endpoint
from vlrl.rewards.judge import judges
from vlrl.rewards.judge_model import may_lack_scores
from vlrl.schema import Reward
from vlrl.training.checkpoints import RunStopped
from vlrl.training.events import Event, EventLog
from vlrl.training.grpo.batch import TrainerCalls

SKIP, STOP = "skip", "stop"


def missing_scores(rewards_BR: torch.Tensor, asks_R: Sequence[bool], group_size: int) -> torch.Tensor:
    """Which scores (B, R) failed to come: those of rewards that ask a judge (`asks_R`), of rows whose group has others by it. A
    group without any is as one to which the reward does not apply."""
    absent_NGR = torch.isnan(rewards_BR).view(-1, group_size, rewards_BR.shape[1])
    some_NGR = absent_NGR & ~absent_NGR.all(dim=1, keepdim=True)
    asks = torch.tensor(list(asks_R), device=rewards_BR.device)
    return (some_NGR & asks).view(rewards_BR.shape)


def filled_in(rewards_BR: torch.Tensor, missing_BR: torch.Tensor, group_size: int) -> torch.Tensor:
    """The rewards with those that are missing at their group's mean, where their advantage is that of the other rewards."""
    groups_NGR = rewards_BR.view(-1, group_size, rewards_BR.shape[1])
    means_BR = torch.nanmean(groups_NGR, dim=1, keepdim=True).expand_as(groups_NGR).reshape(rewards_BR.shape)
    return torch.where(missing_BR, means_BR, rewards_BR)


def trouble(endpoint: Endpoint, policy: str, is_needed: bool) -> tuple[str, bool]:
    """What is wrong with an endpoint after a batch ("" where nothing is), and whether the run ends for it. `is_needed`: rewards
    come from it. One whose budget is spent is no trouble unless it is needed."""
    n = endpoint.n_dead_batches
    if (not n and not endpoint.breaker.n_pauses) or (endpoint.is_spent and not is_needed):
        return "", False
    batches = f"{n} batches in a row" if n > 1 else "a batch"
    line = f"{endpoint.name} answered nothing in {batches}" if n else f"{endpoint.name} fails too often, asking is paused"
    return f"{line} ({endpoint.last_why})", policy == STOP or (is_needed and n >= DEAD_BATCHES)


class EndpointFailures:
    """Watches the endpoints that a run's rewards and corrections come from. `policy`: `SKIP` or `STOP`. `safe`: a sentence
    about what was saved so far."""

    def __init__(
        self,
        engine: TrainerCalls,
        policy: str,
        rewards: Sequence[Reward],
        corrector: Corrector | None,
        events: EventLog | None,
        safe: Callable[[], str],
    ) -> None:
        self.engine, self.policy, self.rewards, self.events, self.safe = engine, policy, list(rewards), events, safe
        self.asks = any("network" in reward.needs for reward in rewards)
        self.lacking_R = tuple(map(may_lack_scores, rewards))
        self.corrector = corrector if isinstance(corrector, RemoteCorrector) else None
        self._filled: tuple[torch.Tensor, torch.Tensor] | None = None
        """Of the latest batch, where scores are missing: which, and the rewards without them."""

    def fill(self, rewards_BR: torch.Tensor) -> torch.Tensor:
        """The rewards of all processes' completions, those that failed to come at their group's mean. Rows that are no whole
        groups stay as they are."""
        are_groups = len(rewards_BR) % self.engine.num_generations == 0
        if not any(self.lacking_R) or not self.engine.is_training or not are_groups:
            return rewards_BR
        missing_BR = missing_scores(rewards_BR, self.lacking_R, self.engine.num_generations)
        self._filled = (missing_BR, rewards_BR) if bool(missing_BR.any()) else None
        return rewards_BR if self._filled is None else filled_in(rewards_BR, missing_BR, self.engine.num_generations)

    def show(self) -> None:
        """What was filled in has no value in the completions log, and no part in the means."""
        if self._filled is None:
            return
        missing_BR, true_BR = self._filled
        self._filled = None
        for column in sorted({column for _, column in missing_BR.nonzero().tolist()}):
            name = self.rewards[column].name
            values = self.engine.completions_log["rewards"][name]
            for row in missing_BR[:, column].nonzero().flatten().tolist():
                values[len(values) - len(missing_BR) + row] = math.nan
            given = true_BR[:, column][~torch.isnan(true_BR[:, column])]
            self.engine.metrics[f"rewards/{name}/mean"][-1] = float(given.mean())
            self.engine.metrics[f"rewards/{name}/std"][-1] = float(given.std()) if len(given) > 1 else 0.0

    def check(self) -> None:
        """Says once that an endpoint fails, and ends the run where it must. Raises RunStopped, on every process alike."""
        found = [trouble(one, self.policy, True) for one in judges()] if self.asks else []
        if self.corrector is not None:
            found.append(trouble(self.corrector.endpoint, self.policy, False))
        elif not self.asks:
            return
        told = [one for one in gather_object(found) if one[0]]
        if not told:
            return
        message, ends = max(told, key=lambda one: one[1])
        step = self.engine.state.global_step + 1
        if self.events is not None:
            self.events.add_once(Event(step, "endpoint_failures", message))
        if ends:
            why = "--on_endpoint_failure stop" if self.policy == STOP else f"the limit is {DEAD_BATCHES} batches"
            raise RunStopped(f"{message}; the run ends ({why}). {self.safe()}")

    def judge_counts(self) -> dict[str, float]:
        """What the rewards' endpoints were asked, over all processes, for the log; called on every process alike."""
        numbers = [as_numbers(one.counts) for one in judges()] or [[0.0] * 5]
        return self._summed("judge", numbers) if self.asks else {}

    def corrector_counts(self) -> dict[str, float]:
        """The same for the corrector's endpoint."""
        return {} if self.corrector is None else self._summed("corrector", [as_numbers(self.corrector.counts)])

    def _summed(self, name: str, numbers: Sequence[Sequence[float]]) -> dict[str, float]:
        own = torch.tensor([[sum(column) for column in zip(*numbers, strict=True)]], device=self.engine.accelerator.device)
        return summed_counts(name, self.engine.accelerator.gather(own).sum(0).tolist())
