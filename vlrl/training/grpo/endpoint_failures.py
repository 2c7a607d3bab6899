"""Rows that an endpoint gave no score, and runs whose endpoint does not answer.

A row without a score is neither wrong nor right: in its group it stands where the others' mean stands, so that it pulls
nowhere; logs and files show it without a value. A run whose judge stays silent ends. What the endpoints do themselves (tries,
pauses, counts) is in `vlrl.rewards.endpoint`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.gtr.remote import RemoteCorrector
from vlrl.rewards.budget import as_numbers, summed_counts
from vlrl.rewards.endpoint import DEAD_BATCHES, Endpoint
from vlrl.rewards.judge import judges
from vlrl.schema import Reward
from vlrl.training.checkpoints import RunStopped
from vlrl.training.events import Event, EventLog
from vlrl.training.grpo.episodes import Episodes

SKIP, STOP = "skip", "stop"


def missing_scores(rewards_BR: torch.Tensor, asks_R: Sequence[bool], group_size: int) -> torch.Tensor:
    """Which scores (B, R) failed to come: those of rewards that ask an endpoint, of rows whose group has others by it. A group
    without any is as one to which the reward does not apply."""
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


class EndpointFailures(Episodes):
    """`Episodes` whose rewards and corrections may come from endpoints."""

    events: EventLog | None
    _on_failure = SKIP
    _asks_R: tuple[bool, ...] = ()
    _missing_BR: torch.Tensor | None = None
    _true_BR: torch.Tensor | None = None

    def _start_asking(self, policy: str, rewards: Sequence[Reward]) -> None:
        self._on_failure, self._asks_R = policy, tuple("network" in reward.needs for reward in rewards)

    def _safe(self) -> str:
        raise NotImplementedError  # `FiniteSteps` says it

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        rewards_BR: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        are_groups = rewards_BR.shape[1] == len(self._asks_R) and len(rewards_BR) % self.num_generations == 0
        if not any(self._asks_R) or not self.model.training or not are_groups:
            return rewards_BR
        missing_BR = missing_scores(rewards_BR, self._asks_R, self.num_generations)
        self._missing_BR, self._true_BR = (missing_BR, rewards_BR) if bool(missing_BR.any()) else (None, None)
        return rewards_BR if self._missing_BR is None else filled_in(rewards_BR, missing_BR, self.num_generations)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if self._missing_BR is not None and self._true_BR is not None:
            self._show_missing(self._missing_BR, self._true_BR)
            self._missing_BR = self._true_BR = None
        if self.model.training:
            self._check_endpoints()
        return batch

    def _show_missing(self, missing_BR: torch.Tensor, true_BR: torch.Tensor) -> None:
        """What was filled in has no value in completions, and no part in the means."""
        for column in sorted({column for _, column in missing_BR.nonzero().tolist()}):
            name = self.reward_func_names[column]
            values = self._logs["rewards"][name]
            for row in missing_BR[:, column].nonzero().flatten().tolist():
                values[len(values) - len(missing_BR) + row] = math.nan
            given = true_BR[:, column][~torch.isnan(true_BR[:, column])]
            self._metrics["train"][f"rewards/{name}/mean"][-1] = float(given.mean())
            self._metrics["train"][f"rewards/{name}/std"][-1] = float(given.std()) if len(given) > 1 else 0.0

    def _check_endpoints(self) -> None:
        """Says once that an endpoint fails, and ends the run where it must. Raises RunStopped, on every process alike."""
        found = [trouble(one, self._on_failure, True) for one in judges()] if any(self._asks_R) else []
        if isinstance(self._guide.corrector, RemoteCorrector):
            found.append(trouble(self._guide.corrector.endpoint, self._on_failure, False))
        elif not any(self._asks_R):
            return
        told = [one for one in gather_object(found) if one[0]]
        if not told:
            return
        message, ends = max(told, key=lambda one: one[1])
        step = self.state.global_step + 1
        if self.events is not None:
            self.events.add_once(Event(step, "endpoint_failures", message))
        if ends:
            why = "--on_endpoint_failure stop" if self._on_failure == STOP else f"the limit is {DEAD_BATCHES} batches"
            raise RunStopped(f"{message}; the run ends ({why}). {self._safe()}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if any(self._asks_R) and "loss" in logs and self.model.training:
            numbers = [as_numbers(one.counts) for one in judges()] or [[0.0] * 5]
            own = torch.tensor([[sum(column) for column in zip(*numbers, strict=True)]], device=self.accelerator.device)
            logs |= summed_counts("judge", self.accelerator.gather(own).sum(0).tolist())
        super().log(logs, start_time)
