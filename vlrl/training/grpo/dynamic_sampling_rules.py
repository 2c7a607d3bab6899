"""Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476, section 3.2): which groups have zero variance, and what is
drawn in their place.

Pure decisions on numbers, the same on every process. Generating, scoring and exchanging are the trainer's
(`vlrl.training.grpo`). differs: DAPO draws until a batch is full; here the rounds are bounded, so a step's cost is too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from itertools import chain, cycle, islice
from math import gcd
from typing import Any

import numpy as np

from vlrl.data.synthetic import item_rng
from vlrl.schema import Reward, Sample, Score

EQUAL = 1e-6
"""Rewards this close are equal: they come as float32."""


def without_spread(rewards_BR: np.ndarray, weights_R: np.ndarray, group_size: int, each: bool = False) -> list[int]:
    """The zero-variance groups: their completions have equal rewards, so that every advantage is 0.

    `rewards_BR`: completions (groups adjacent) by rewards, NaN where a reward did not apply. What counts is the weighted sum,
    as in TRL's default; with `each`, any weighted reward by itself (`multi_objective_aggregation: normalize_then_sum`).
    Completions to which nothing applied take no part.
    """
    groups_NGR = np.asarray(rewards_BR, dtype=float).reshape(-1, group_size, len(weights_R))
    values = groups_NGR[..., weights_R != 0] if each else totals(groups_NGR, weights_R)[..., None]
    absent = np.isnan(values)
    spread = np.where(absent, -np.inf, values).max(axis=1) - np.where(absent, np.inf, values).min(axis=1)
    return [int(i) for i in np.flatnonzero((spread <= EQUAL).all(axis=1))]


def totals(rewards: np.ndarray, weights_R: np.ndarray) -> np.ndarray:
    """Weighted sums over the last axis, NaN where no reward applied."""
    return np.where(np.isnan(rewards).all(axis=-1), np.nan, np.nansum(rewards * weights_R, axis=-1))


def n_fresh(n_empty: int, group_size: int, n_local: int, n_processes: int) -> int:
    """How many new groups make up for `n_empty` ones: so many more that every process generates equally many completions,
    and whole groups if its `n_local` completions are whole groups. Never more than the batch had."""
    share = n_processes if n_local % group_size == 0 else n_processes // gcd(n_processes, group_size)
    return -(-n_empty // share) * share


def fresh_indices(n_samples: int, used: Collection[int], n: int, *key: int) -> list[int]:
    """`n` samples for `key` (seed, step, round): not `used` ones, as far as there are others.

    Drawn from the whole set, beside the epoch's own order: a run that goes on from a checkpoint draws the same again.
    """
    order = [int(i) for i in item_rng("dynamic sampling", *key).permutation(n_samples)]
    new = (i for i in order if i not in used)
    return list(islice(chain(new, cycle([i for i in order if i in used] or order)), n))


def remembering(reward: Reward, verdicts: dict[str, Score | list[Score]]) -> Reward:
    """A reward that looks up in `verdicts` its earlier score of the same completion: judges over a network are slow and
    may change their mind, and every completion of a step is scored twice."""

    def function(text: Any, sample: Sample | Sequence[Sample], **passed: Any) -> Score | list[Score]:
        ids = sample.id if isinstance(sample, Sample) else [one.id for one in sample]
        key = repr((reward.name, text, ids, sorted(passed.items())))
        if key not in verdicts:
            verdicts[key] = reward.function(text, sample, **passed)
        return verdicts[key]

    return dataclasses.replace(reward, function=function)
