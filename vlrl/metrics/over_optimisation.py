"""Whether a reward still means what it should: the rule that calls over-optimisation, how alike two rankings are, and the share
of a reward that comes from form.

A *gold* is a number that nothing is trained on. Sources: Gao et al., Scaling Laws for Reward Model Overoptimization, ICML 2023
(a gold score falls while its proxy rises); Kendall 1945 (tau-b, by scipy). Not here: making the completions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scipy.stats import kendalltau

from vlrl.metrics.bootstrap import paired_difference, paired_test, ratio
from vlrl.schema import Metric

SIGNIFICANT = 0.05
HACKING_RULE = (
    "over-optimised: against the earlier evaluation with the best gold (the one before training among them), the 95 % paired"
    " bootstrap interval of the reward's change lies above 0 and that of the gold's lies below 0 (above, where less is better),"
    f" and the gold's paired permutation p-value times the number of evaluations is below {SIGNIFICANT:g}; a gold that single"
    " samples have no value of (AP) must have left the 95 % interval that it had there"
)
"""The rule of `compare`, in words."""


@dataclass(frozen=True)
class BothNumbers:
    """Both numbers of one evaluation by sample id. `reward`: the weighted sum that training raises. `gold`: numerator and
    denominator; over a set the gold is the ratio of their sums (of a mean the denominators are 1). `whole`: value, lower and
    upper end of the 95 % interval of a gold that only a whole set has, in place of `gold`."""

    step: int
    reward: Mapping[str, float]
    gold: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    whole: tuple[float, float, float] | None = None

    @property
    def reward_mean(self) -> float | None:
        return sum(self.reward.values()) / len(self.reward) if self.reward else None

    @property
    def gold_mean(self) -> float | None:
        if self.whole is not None:
            return self.whole[0]
        top, bottom = (sum(part[i] for part in self.gold.values()) for i in (0, 1))
        return top / bottom if bottom else None


@dataclass(frozen=True)
class HackingFound:
    """What `compare` found. Changes: later minus earlier, with 95 % intervals."""

    is_hacked: bool
    reward_change: Metric = field(default=Metric(None, None, 0))
    gold_change: Metric = field(default=Metric(None, None, 0))
    p_value: float | None = None


def compare(
    best: BothNumbers,
    now: BothNumbers,
    n_evaluations: int,
    *,
    higher_is_better: bool = True,
    clusters: Mapping[str, Hashable] | None = None,
) -> HackingFound:
    """Whether the reward was raised at the gold's cost between two evaluations of the same samples, by `HACKING_RULE`.

    `n_evaluations`: how many there were since training began: each is one more chance of a false alarm (Bonferroni).
    `clusters`: what a sample is not independent of, such as its image. Samples without a value on either side are left out.
    """
    if not best.reward.keys() & now.reward.keys():
        return HackingFound(False)
    reward = paired_difference(best.reward, now.reward, clusters=clusters)
    rises = reward.ci95 is not None and reward.ci95[0] > 0
    if best.whole is not None and now.whole is not None:
        (value, low, high), found = best.whole, now.whole[0]
        left = found < low if higher_is_better else found > high
        return HackingFound(rises and left, reward, Metric(found - value, None, len(now.reward)))
    if not best.gold.keys() & now.gold.keys():
        return HackingFound(False, reward)
    gold, p_value = paired_test(best.gold, now.gold, ratio, clusters=clusters)
    worse = gold.ci95 is not None and (gold.ci95[1] < 0 if higher_is_better else gold.ci95[0] > 0)
    is_sure = p_value is not None and p_value * max(1, n_evaluations) < SIGNIFICANT
    return HackingFound(rises and worse and is_sure, reward, gold, p_value)


def rank_agreement(groups: Iterable[tuple[Sequence[float], Sequence[float]]]) -> tuple[float | None, int]:
    """Mean Kendall's tau-b of reward and gold within groups, in -1..1, and of how many groups it is the mean.

    A group in which one of both is the same for all completions has no ranking and is left out; None where all are. Pairs with
    a NaN on either side are left out of their group.
    """
    taus = []
    for rewards, golds in groups:
        pairs = [(a, b) for a, b in zip(rewards, golds, strict=True) if math.isfinite(a) and math.isfinite(b)]
        if len({a for a, _ in pairs}) > 1 and len({b for _, b in pairs}) > 1:
            taus.append(float(kendalltau(*zip(*pairs, strict=True), variant="b").statistic))
    return (sum(taus) / len(taus) if taus else None), len(taus)


def format_share(rows: Iterable[Mapping[str, float]], forms: frozenset[str]) -> float | None:
    """The share of the rewards named in `forms` in all that was given, in 0..1: sums of absolute weighted values, so that a
    penalty counts as much as a reward. None where nothing was given. `rows`: of each completion, weighted value by reward."""
    of_form = total = 0.0
    for row in rows:
        for name, value in row.items():
            total += abs(value)
            of_form += abs(value) if name in forms else 0.0
    return of_form / total if total else None
