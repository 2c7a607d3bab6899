"""From the values of a model to what is paid: steps refined, several models combined, scales made alike. Plain arithmetic.

Sources: Gao et al. 2024, On Designing Effective RL Reward at Training Time for LLM Reasoning (arXiv 2410.15115); Coste et al.
2023, Reward Model Ensembles Help Mitigate Overoptimization (arXiv 2310.02743); Setlur et al. 2024, Rewarding Progress
(arXiv 2410.08146). Not here: which model gives the values (`vlrl.rewards.model_reward`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean, pvariance

_Values = Sequence[float]


def clipped(values: _Values, eta: float) -> list[float]:
    """r'_k = min(r_k, eta) - eta, at most 0: a step that is good enough earns nothing, so that more such steps earn nothing
    either. Source: Gao et al., the Clip mechanism."""
    return [min(value, eta) - eta for value in values]


def deltas(values: _Values) -> list[float]:
    """r'_k = r_k - r_{k+1} for k < K - 1, r'_{K-1} = r_{K-1}, r'_K = 0: the rewards from step k on add up to r_k alone, and the
    last step earns nothing. Source: Gao et al., the Delta mechanism."""
    if not values:
        return []
    kept = [*values[:-1], 0.0]
    return [a - b for a, b in zip(kept, [*kept[1:], 0.0], strict=True)]


def refined(values: _Values, how: str, eta: float) -> list[float]:
    """Step rewards by `how`: "none", "clip", "delta", or "clip+delta": clipped first, then differences. Raises ValueError."""
    if how not in ("none", "clip", "delta", "clip+delta"):
        raise ValueError(f"refine={how}: must be none, clip, delta or clip+delta")
    found = clipped(values, eta) if "clip" in how else list(values)
    return deltas(found) if "delta" in how else found


def returns(rewards: _Values) -> list[float]:
    """What is earned from step k on: G_k = r_k + r_{k+1} + ... + r_K."""
    return list(accumulate(reversed(rewards)))[::-1]


def progress(values: _Values) -> list[float]:
    """A_k = V_k - V_{k-1}: how much step k changes the chance that the prover ends right; 0 for the first step, before which
    the model has no value. Source: Setlur et al., the process advantage under a prover. differs: V before the first step, equal
    for all completions of a question, is not known."""
    return [0.0, *(b - a for a, b in pairwise(values))] if values else []


def combined(members: Sequence[float], how: str, coefficient: float) -> float:
    """One number of several models' numbers.

    "mean"; "min" and "wco" (worst case): min_i r_i; "uwo" (uncertainty weighted): mean_i r_i - coefficient * variance_i r_i,
    the variance over all members (divided by their number). Source: Coste et al., equations 2 and 3. Raises ValueError."""
    if how == "mean":
        return fmean(members)
    if how in ("min", "wco"):
        return min(members)
    if how == "uwo":
        return fmean(members) - coefficient * pvariance(members)
    raise ValueError(f"combine={how}: must be mean, min, wco or uwo")


def standardised(values: _Values) -> list[float]:
    """(r - mean) / standard deviation over these; 0 where all are equal."""
    mean = fmean(values)
    std = math.sqrt(pvariance(values, mean))
    return [(value - mean) / std if std > 1e-9 else 0.0 for value in values]
