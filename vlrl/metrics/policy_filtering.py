"""Which completions of a group are trained on, by the rank of their reward, and how well the reward of those follows a gold.

Source: Zhang et al., Policy Filtration for RLHF to Mitigate Noise in Reward Models, ICML 2025 (arXiv 2409.06957, PF-PPO): a
reward model is surer of its best and worst completions than of those between, so only these are kept; which strategy is
promising for a reward, the R² between rewards and actual scores on what is kept says. Not here: training on them
(`vlrl.training.grpo.filtering`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlrl.data.synthetic import item_rng

BEST, BEST_WORST, BEST_RANDOM = "best", "best_worst", "best_random"
STRATEGIES = (BEST, BEST_WORST, BEST_RANDOM)


@dataclass(frozen=True)
class Filtering:
    """`strategy`: one of `STRATEGIES`. `n`: how many completions of each group are kept."""

    strategy: str
    n: int

    def __str__(self) -> str:
        return f"{self.strategy}:{self.n}"


def read_filtering(text: str) -> Filtering:
    """`best_worst:4`. Raises ValueError in one line."""
    strategy, colon, n = text.partition(":")
    if strategy not in STRATEGIES or not colon or not n.isascii() or not n.isdigit():
        raise ValueError(f"{text!r}: write STRATEGY:N, as in best_worst:4; strategies are {', '.join(STRATEGIES)}")
    least = 1 if strategy == BEST else 2
    if int(n) < least:
        raise ValueError(f"{text}: {strategy} keeps {least} completions of a group or more")
    if strategy == BEST_WORST and int(n) % 2:
        raise ValueError(f"{text}: best_worst keeps as many of the best as of the worst; give an even number")
    return Filtering(strategy, int(n))


def kept_rows(rewards: Sequence[float], filtering: Filtering, rng: np.random.Generator) -> list[bool]:
    """Which completions of one group are kept; of equal rewards the earlier ranks higher.

    `best`: the n of the highest rewards. `best_worst`: the n/2 highest and the n/2 lowest. `best_random`: the n/2 highest
    (rounded up) and as many of the others, drawn, as make n. Rewards that are NaN (none applies) are never kept; a group
    of n others or fewer is kept whole.
    """
    order = sorted((i for i, one in enumerate(rewards) if not math.isnan(one)), key=lambda i: (-rewards[i], i))
    n = filtering.n
    if len(order) <= n:
        chosen = set(order)
    elif filtering.strategy == BEST:
        chosen = set(order[:n])
    elif filtering.strategy == BEST_WORST:
        chosen = {*order[: n // 2], *order[-(n // 2) :]}
    else:
        n_best = (n + 1) // 2
        drawn = rng.permutation(len(order) - n_best)[: n - n_best]
        chosen = {*order[:n_best], *(order[n_best + int(i)] for i in drawn)}
    return [i in chosen for i in range(len(rewards))]


def r_squared(rewards: Sequence[float], golds: Sequence[float]) -> float | None:
    """R² of the straight line that fits the golds to the rewards best: 1 - Σ (g - ĝ)² / Σ (g - ḡ)², the square of Pearson's
    correlation; in 0..1. None for fewer than three, or where one of both does not vary."""
    x, y = np.asarray(rewards, dtype=float), np.asarray(golds, dtype=float)
    if len(x) < 3 or math.isclose(x.min(), x.max()) or math.isclose(y.min(), y.max()):
        return None
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) ** 2 / ((x @ x) * (y @ y)))


@dataclass(frozen=True)
class StrategyNumbers:
    """What a strategy keeps of many groups: how many completions, the R² between reward and gold on them, and the means of
    both. `filtering` None: all completions."""

    filtering: Filtering | None
    n: int
    r_squared: float | None
    reward_mean: float
    gold_mean: float


def strategy_numbers(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]], filterings: Sequence[Filtering | None], seed: int = 0
) -> list[StrategyNumbers]:
    """Of each strategy, over groups of (rewards, golds). Completions without one of both take no part. Raises ValueError where
    none has both."""
    known = [_with_both(rewards, golds) for rewards, golds in groups]
    if not any(rewards for rewards, _ in known):
        raise ValueError("no completion has both a reward and a gold")
    found = []
    for filtering in filterings:
        rewards, golds = [], []
        for number, (own, theirs) in enumerate(known):
            rng = item_rng("policy filtering", seed, number)
            keep = [True] * len(own) if filtering is None else kept_rows(own, filtering, rng)
            rewards += [one for one, is_kept in zip(own, keep, strict=True) if is_kept]
            golds += [one for one, is_kept in zip(theirs, keep, strict=True) if is_kept]
        means = math.fsum(rewards) / len(rewards), math.fsum(golds) / len(golds)
        found.append(StrategyNumbers(filtering, len(rewards), r_squared(rewards, golds), *means))
    return found


def _with_both(rewards: Sequence[float], golds: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [(r, g) for r, g in zip(rewards, golds, strict=True) if math.isfinite(r) and math.isfinite(g)]
    return [r for r, _ in pairs], [g for _, g in pairs]
