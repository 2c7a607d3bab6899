"""Advantages of the steps of a group of episodes, for GRPO where a completion is one step of many.

A group is G episodes from the same deal. Rewards come in units of the environment and are divided by the reward of success.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

CREDITS = ("episode", "return_to_go", "same_state")
EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class Credit:
    """`kind`: "episode" gives every step its episode's return; "return_to_go" the discounted sum from that step on, compared
    within the group; "same_state" the same, compared among steps of the exact same state where two or more share it (after
    GiGPO, arXiv 2505.10978). `format_weight` is added at each step whose reply is valid, to that step alone."""

    kind: str = "episode"
    gamma: float = 0.9
    format_weight: float = 0.5
    success_reward: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in CREDITS or not 0 <= self.gamma <= 1 or self.success_reward <= 0:
            raise ValueError(f"{self}: give one of {', '.join(CREDITS)}, gamma in 0..1, a positive success_reward")

    def advantages(
        self,
        rewards: Sequence[Sequence[float]],
        valid: Sequence[Sequence[bool]],
        states: Sequence[Sequence[Hashable]] | None = None,
        extras: Sequence[Sequence[float]] | None = None,
    ) -> list[list[float]]:
        """Per episode and step of one group. `states` is needed for "same_state" alone; `extras` are added as
        `format_weight` is, each at its step, undiscounted. Without variance all are 0.

        The standard deviation is that of a sample, as in TRL. "episode" compares episodes, so that long ones do not weigh
        more; the others compare steps.
        """
        values = [
            [value + self.format_weight * ok for value, ok in zip(self._values(episode), oks, strict=True)]
            for episode, oks in zip(rewards, valid, strict=True)
        ]
        if extras is not None:
            values = [[v + e for v, e in zip(row, more, strict=True)] for row, more in zip(values, extras, strict=True)]
        if self.kind == "episode":
            return _normalised(values, [[1 / len(episode)] * len(episode) for episode in values])
        if self.kind == "return_to_go" or states is None:
            if self.kind == "same_state":
                raise ValueError("credit same_state needs the states of the steps")
            return _normalised(values, [[1.0] * len(episode) for episode in values])
        return self._within_states(values, states)

    def _values(self, episode: Sequence[float]) -> list[float]:
        scaled = [reward / self.success_reward for reward in episode]
        if self.kind == "episode":
            return [sum(scaled)] * len(scaled)
        found: list[float] = []
        for reward in reversed(scaled):
            found.append(reward + self.gamma * (found[-1] if found else 0.0))
        return found[::-1]

    def _within_states(self, values: list[list[float]], states: Sequence[Sequence[Hashable]]) -> list[list[float]]:
        found = _normalised(values, [[1.0] * len(episode) for episode in values])
        sharing: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
        for i, episode in enumerate(states):
            for t, state in enumerate(episode):
                sharing[state].append((i, t))
        for places in sharing.values():
            if len(places) > 1:
                [normalised] = _normalised([[values[i][t] for i, t in places]], [[1.0] * len(places)])
                for (i, t), value in zip(places, normalised, strict=True):
                    found[i][t] = value
        return found


def _normalised(values: list[list[float]], weights: list[list[float]]) -> list[list[float]]:
    """Minus the weighted mean, over the standard deviation; the sum of weights counts as the number of members."""
    pairs = [(v, w) for row, ws in zip(values, weights, strict=True) for v, w in zip(row, ws, strict=True)]
    n = sum(w for _, w in pairs)
    mean = sum(v * w for v, w in pairs) / n
    spread = math.sqrt(max(0.0, sum(w * (v - mean) ** 2 for v, w in pairs) / (n - 1))) if n > 1.5 else 0.0
    return [[(v - mean) / (spread + EPSILON) for v in row] for row in values]
