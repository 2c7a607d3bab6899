"""Several runs a side (seeds): interquartile mean, its stratified bootstrap interval, probability of improvement.

A stratum is one number of one task, with one value a run; runs are drawn anew within their stratum. Numbers do not depend on
the order of runs or strata. With few runs a percentile interval is too narrow, and with one there is none (`ci95=None`).

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021, arXiv 2108.13264.
differs: runs that were made with the same seeds on both sides may be drawn together (`paired`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlrl.metrics.bootstrap import N_RESAMPLES, FloatArray, IntArray
from vlrl.schema import Metric

Strata = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Comparison:
    """Interquartile means of both sides, their difference b - a, and how probable it is (0..1, ties count half) that a run of b
    is better than one of a, averaged over strata. `n` counts runs: of the side, of the smaller side for the last two."""

    a: Metric
    b: Metric
    difference: Metric
    improvement: Metric


def interquartile_mean(values: ArrayLike) -> FloatArray:
    """Mean of the middle half over the last axis: a quarter of the values, rounded down, is left out at each end."""
    sorted_N = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    n = sorted_N.shape[-1]
    cut = n // 4
    mean: FloatArray = np.asarray(sorted_N[..., cut : n - cut].mean(axis=-1))
    return mean


def improvement_probability(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Share of pairs of a run of `b` [..., M] and one of `a` [..., N] in which b's value is higher, ties counting half."""
    a_1N, b_M1 = np.asarray(a, dtype=np.float64)[..., None, :], np.asarray(b, dtype=np.float64)[..., :, None]
    share: FloatArray = np.asarray(((b_M1 > a_1N) + 0.5 * (b_M1 == a_1N)).mean(axis=(-2, -1)))
    return share


def compare_runs(
    a: Strata,
    b: Strata,
    *,
    lower_is_better: Collection[str] = (),
    paired: bool = False,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two sides over the strata both hold, a value a run each. `paired`: the i-th runs of both sides belong together in
    every stratum. Raises ValueError for no common stratum, no runs, values that are not finite, or pairs of unequal number."""
    names = sorted(a.keys() & b.keys())
    if not names:
        raise ValueError("the sides share no number; compare runs of the same tasks")
    generator = np.random.default_rng(seed)
    drawn: list[tuple[FloatArray, FloatArray]] = []
    whole: list[tuple[FloatArray, FloatArray]] = []
    for name in names:
        a_N, b_M = _in_order(name, a[name], b[name], paired)
        index_a, index_b = _draws(generator, len(a_N), len(b_M), paired, n_resamples)
        whole.append((a_N, b_M))
        drawn.append((a_N[index_a], b_M[index_b]))
    signs = [-1.0 if name in lower_is_better else 1.0 for name in names]

    def statistics(strata: Sequence[tuple[FloatArray, FloatArray]]) -> list[FloatArray]:
        mean_a, mean_b = (interquartile_mean(np.concatenate([one[side] for one in strata], axis=-1)) for side in (0, 1))
        better = np.mean([improvement_probability(s * x, s * y) for s, (x, y) in zip(signs, strata, strict=True)], axis=0)
        return [mean_a, mean_b, mean_b - mean_a, better]

    n_a, n_b = (min(len(one[side]) for one in whole) for side in (0, 1))
    found = zip(statistics(whole), statistics(drawn), (n_a, n_b, min(n_a, n_b), min(n_a, n_b)), strict=True)
    return Comparison(
        *(_metric(float(value), draws_R, n, min(n_a, n_b) if i > 1 else n) for i, (value, draws_R, n) in enumerate(found))
    )


def _in_order(name: str, a: Sequence[float], b: Sequence[float], paired: bool) -> tuple[FloatArray, FloatArray]:
    """Values of a stratum in an order of their own, so that the order of runs does not matter."""
    a_N, b_M = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(a_N) or not len(b_M) or not np.isfinite(a_N).all() or not np.isfinite(b_M).all():
        raise ValueError(f"{name}: every run needs a finite value, got {list(a)} and {list(b)}")
    if not paired:
        return np.sort(a_N), np.sort(b_M)
    if len(a_N) != len(b_M):
        raise ValueError(f"{name}: {len(a_N)} and {len(b_M)} runs cannot be paired")
    order = np.lexsort((b_M, a_N))
    return a_N[order], b_M[order]


def _draws(generator: np.random.Generator, n_a: int, n_b: int, paired: bool, n_resamples: int) -> tuple[IntArray, IntArray]:
    index_a = generator.integers(n_a, size=(n_resamples, n_a))
    return index_a, index_a if paired else generator.integers(n_b, size=(n_resamples, n_b))


def _metric(value: float, draws_R: FloatArray, n: int, n_smallest: int) -> Metric:
    if n_smallest < 2:
        return Metric(value, None, n)
    low, high = np.percentile(draws_R, [2.5, 97.5])
    return Metric(value, (float(low), float(high)), n, float(draws_R.std(ddof=1)))
