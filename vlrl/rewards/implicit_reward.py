"""`prime[:FOLDER][,option=value]` among a run's rewards: tokens are rewarded by a model that learns on the way from outcomes.

It scores no text by itself, so it is taken out of `--rewards` before these are read (`split_prime`). Not here: the model, its
steps and the equations (`vlrl.training.grpo.implicit_reward`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlrl.rewards.options import with_options
from vlrl.schema import Reward

PRIME = "prime"


@dataclass(frozen=True, kw_only=True)
class PrimeOptions:
    """What a user says of it. `folder`: the weights its model starts from, default the run's own start. `beta`: factor of the
    log-ratios. `lr`: learning rate of its model. `outcome`: the reward that is its label, default the first one, 1 from
    `threshold` on and else 0. `update`: whether its model learns from a batch `after` or `before` the batch is rewarded."""

    folder: str = ""
    beta: float = 0.05
    lr: float = 1e-6
    outcome: str = ""
    threshold: float = 0.5
    update: Literal["after", "before"] = "after"


@dataclass(frozen=True)
class Prime:
    """The implicit reward of a run and its weight among the others."""

    options: PrimeOptions
    weight: float = 1.0

    def column(self, names: Sequence[str]) -> int:
        """Where the outcome stands among the run's other rewards. Raises ValueError where it is not there."""
        if not names:
            raise ValueError(
                "reward prime learns from the outcome of another reward; name one beside it: --rewards math_equal prime"
            )
        if self.options.outcome and self.options.outcome not in names:
            raise ValueError(f"reward prime: outcome={self.options.outcome} is not among --rewards ({', '.join(names)})")
        return names.index(self.options.outcome) if self.options.outcome else 0


@dataclass(frozen=True)
class SplitRewards:
    """`--rewards` and their weights without `prime`, and `prime` by itself."""

    rewards: list[str] | None
    weights: list[float] | None
    prime: Prime | None = None


def is_prime(spec: str) -> bool:
    """Whether a reward as written is this one."""
    return spec == PRIME or spec.startswith((f"{PRIME}:", f"{PRIME},"))


def split_prime(rewards: Sequence[str] | None, weights: Sequence[Any] | None) -> SplitRewards:
    """Raises ValueError for options that cannot be, `prime` twice, and weights that are too few or too many beside it."""
    places = [i for i, spec in enumerate(rewards or ()) if is_prime(spec)]
    if not places or rewards is None:
        return SplitRewards(None if rewards is None else list(rewards), None if weights is None else list(weights))
    if len(places) > 1:
        raise ValueError("--rewards names prime twice")
    (place,) = places
    options = read_prime(rewards[place])
    others = [spec for i, spec in enumerate(rewards) if i != place]
    if weights is None:
        return SplitRewards(others, None, Prime(options))
    if len(weights) != len(rewards):
        raise ValueError(f"{len(weights)} reward_weights for {len(rewards)} rewards ({', '.join(rewards)})")
    rest = [float(weight) for i, weight in enumerate(weights) if i != place]
    return SplitRewards(others, rest, Prime(options, float(weights[place])))


def read_prime(spec: str) -> PrimeOptions:
    """The options of `prime:FOLDER,name=value` (a comma may stand for the colon). Raises ValueError."""
    words = [word for word in spec.removeprefix(PRIME)[1:].split(",") if word.strip()]
    if words and "=" not in words[0]:
        words[0] = f"folder={words[0]}"
    read = with_options(Reward(PRIME, PrimeOptions, -math.inf, math.inf), ",".join(words))
    found: PrimeOptions = read.function()
    for name in ("beta", "lr"):
        if getattr(found, name) <= 0:
            raise ValueError(f"reward prime: {name}={getattr(found, name):g} must be more than 0")
    return found


def prime_words(prime: Prime, names: Sequence[str]) -> str:
    """What is learnt from what, in one line for a run's banner. `names`: the run's other rewards."""
    options = prime.options
    start = options.folder or "the run's start"
    return (
        f"prime: tokens rewarded by {options.beta:g} x the log-ratio of a model from {start} to the run's start; it learns from"
        f" {names[prime.column(names)]} >= {options.threshold:g}, learning rate {options.lr:g}, {options.update} each batch is"
        " rewarded"
    )
