"""The logged numbers of a run so far, as those that look for trouble ask for them. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

EARLY_STEPS = 10
"""What a run is compared with: its first steps."""
LASTING_STEPS = 20
"""How long a state lasts before it counts, where nothing else is stated."""
MIN_ROWS = 3
"""Logged steps that a finding rests on, at least."""
AT_BEST = 0.99
"""The share of its highest value from which a reward counts as reached."""
RISEN = 0.25
"""How much the reward has risen or fallen when it counts, in spreads of a batch at the start."""


@dataclass(frozen=True)
class RewardFacts:
    """A reward of a run: its range, and whether it looks at the form of an answer alone."""

    name: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_format(self) -> bool:
        return "format" in self.name

    @property
    def is_accuracy(self) -> bool:
        """Whether it is about the answer itself; penalties (never above 0) and rewards of length are not."""
        return not self.is_format and self.high > 0 and "length" not in self.name


@dataclass(frozen=True)
class RunFacts:
    """What a recorder must know of a run. `scale_moves`: rewards or questions become harder on the way."""

    stage: str = "grpo"
    rewards: tuple[RewardFacts, ...] = ()
    max_length: int | None = None
    scale_moves: bool = False


@dataclass
class Series:
    """One logged number: steps and values, and how many steps each value stands for."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    covers: list[int] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        self.covers.append(step - self.steps[-1] if self.steps else step)
        self.steps.append(step)
        self.values.append(value)

    def early(self) -> list[float]:
        """The first values: of `EARLY_STEPS` steps, at least `MIN_ROWS` of them; empty while there are fewer."""
        n = _enough(self.covers, EARLY_STEPS)
        return self.values[:n]

    def last(self, n_steps: int = LASTING_STEPS, apart: bool = False) -> list[float]:
        """The last values, of `n_steps` steps, at least `MIN_ROWS` of them; empty while there are fewer, or, where they are to
        be `apart` from the early ones, while they would overlap."""
        n = _enough(reversed(self.covers), n_steps)
        if not n or (apart and n + len(self.early()) > len(self.values)):
            return []
        return self.values[-n:]


def _enough(covers: Iterable[int], n_steps: int) -> int:
    """How many of these it takes to stand for `n_steps` steps; 0 where all do not."""
    covered = 0
    for n, steps in enumerate(covers, start=1):
        covered += steps
        if covered >= n_steps and n >= MIN_ROWS:
            return n
    return 0


class History:
    """The logged numbers of a run so far."""

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts
        self._series: dict[str, Series] = {}

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                series = self._series.setdefault(key, Series())
                if not series.steps or step > series.steps[-1]:
                    series.add(step, float(value))

    def __getitem__(self, key: str) -> Series:
        return self._series.get(key) or Series()

    def of_reward(self, reward: RewardFacts) -> Series:
        return self[f"rewards/{reward.name}/mean"]

    def change(self) -> float:
        """How much the reward has risen since the start, in spreads of a batch at the start; 0 where that is not known."""
        early, last, spread = self["reward"].early(), self["reward"].last(), self["reward_std"].early()
        if not early or not last or not spread:
            return 0.0
        return (median(last) - median(early)) / max(median(spread), 1e-6)

    def does_well(self) -> bool:
        """Whether the answers are as good as can be, or better than at the start: then little is wrong."""
        bounded = [one for one in self.facts.rewards if one.is_accuracy and one.high < math.inf and self.of_reward(one).values]
        at_best = bool(bounded) and all(self.of_reward(one).values[-1] >= AT_BEST * one.high for one in bounded)
        return at_best or self.change() >= RISEN
