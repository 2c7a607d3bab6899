"""95 % intervals and standard errors of numbers over a set: seeded percentile bootstrap, Wilson's interval for a proportion.

What is drawn anew is a *unit*: one sample, or one cluster of samples that are not independent of each other (say, all
questions about one image). Arguments are plain arrays with one row a sample; axes are `N` samples, `R` resamples, `U`
units and `C` columns. The same arguments and seed give the same numbers. No correction for bias or for small sets is
made: with few units a percentile interval is too narrow, and with one unit there is none (`ci95=None`).

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval); Wilson, JASA 22,
1927 (proportion).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlrl.schema import Metric

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Clusters = Sequence[Hashable]

N_RESAMPLES = 2000
"""Resamples unless stated otherwise; the ends of an interval then move by about 2 % of its width from seed to seed."""
N_EXCHANGES = 10_000
"""Exchanges of two runs' numbers that a p-value is counted over; the smallest it can be is one in so many."""
_DRAWS_AT_ONCE = 4_000_000
_FEW_UNITS = 6
"""So few units are drawn in at most 462 ways: a costly statistic is then computed once a way, not once a resample."""


def bootstrap_mean(
    values: ArrayLike, *, clusters: Clusters | None = None, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Metric:
    """Mean of one value a sample (`values` [N]), interval over samples or, if given, over `clusters` (N keys)."""
    values_N = _column(values)
    return bootstrap_ratio(values_N, np.ones_like(values_N), clusters=clusters, n_resamples=n_resamples, seed=seed)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    clusters: Clusters | None = None,
    n: int | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Metric:
    """sum(numerators) / sum(denominators), both [N]: a micro average such as 2TP / (n_pred + n_true).

    `value=None` where the denominators sum to 0. `n` is what the metric says it counts (default: the samples).
    """
    sums_NC = np.stack([_column(numerators), _column(denominators)], axis=1)
    return bootstrap_sums(sums_NC, ratio, clusters=clusters, n=n, n_resamples=n_resamples, seed=seed)


def bootstrap_sums(
    rows: ArrayLike,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    clusters: Clusters | None = None,
    n: int | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Metric:
    """Any statistic of the column sums of `rows` [N, C]: F1 from counts, macro averages from a confusion matrix.

    `statistic` takes sums [R, C] to values [R]; nan where it is not defined. Undefined resamples are left out of the
    interval, an undefined value is `None`.
    """
    rows_NC = _finite(np.asarray(rows, dtype=np.float64))
    if rows_NC.ndim != 2:
        raise ValueError(f"rows must be [samples, columns], got shape {rows_NC.shape}")
    n = len(rows_NC) if n is None else n
    if len(rows_NC) == 0:
        return Metric(None, None, n)
    unit_N, n_units = _units(len(rows_NC), clusters)
    sums_UC = np.zeros((n_units, rows_NC.shape[1]))
    np.add.at(sums_UC, unit_N, rows_NC)
    draws = [statistic(counts_RU @ sums_UC) for counts_RU in _draws(n_units, n_resamples, seed)]
    return _metric(float(statistic(sums_UC.sum(axis=0, keepdims=True))[0]), np.concatenate(draws), n_units, n)


def bootstrap_indices(
    statistic: Callable[[IntArray], ArrayLike],
    n_samples: int,
    *,
    clusters: Clusters | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> list[Metric]:
    """For statistics that need the samples themselves (AP). `statistic` takes sorted sample indices, repeats included,
    to one or more numbers (nan: not defined), and is called at most `n_resamples + 1` times. One Metric a number.

    All numbers see the same resamples, so a difference of two runs is
    `bootstrap_indices(lambda index: statistic_b(index) - statistic_a(index), n)`.
    """
    if n_samples == 0:
        raise ValueError("no samples to resample; report Metric(None, None, 0) instead")
    unit_N, n_units = _units(n_samples, clusters)
    index_N = np.arange(n_samples)
    values = np.atleast_1d(np.asarray(statistic(index_N), dtype=np.float64))
    known: dict[bytes, FloatArray] = {}  # few units are drawn in few ways

    def at(counts_U: IntArray) -> FloatArray:
        key = counts_U.tobytes() if n_units <= _FEW_UNITS else b""
        if key in known:
            return known[key]
        found = np.atleast_1d(np.asarray(statistic(np.repeat(index_N, counts_U[unit_N])), dtype=np.float64))
        if key:
            known[key] = found
        return found

    draws = [at(counts_U) for counts_RU in _draws(n_units, n_resamples, seed) for counts_U in counts_RU]
    return [
        _metric(float(value), draws_R, n_units, n_samples)
        for value, draws_R in zip(values, np.stack(draws, axis=1), strict=True)
    ]


def paired_difference(
    a: Mapping[str, ArrayLike],
    b: Mapping[str, ArrayLike],
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Metric:
    """The difference of `paired_test` alone."""
    return paired_test(a, b, statistic, clusters=clusters, n_resamples=n_resamples, seed=seed)[0]


def paired_test(
    a: Mapping[str, ArrayLike],
    b: Mapping[str, ArrayLike],
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[Metric, float | None]:
    """statistic(b) - statistic(a) over the sample ids both runs hold, and the two-sided p-value of no difference; both runs
    are resampled together. The p-value is that of `paired_p_value` with a's and b's numbers exchanged a unit at a time.

    `a` and `b` map a sample id to a number or a row of numbers. Without `statistic` the first number is averaged;
    otherwise `statistic` is that of `bootstrap_sums` (`ratio` is one). `clusters` maps id to cluster. `n` counts the
    common ids. Raises ValueError where there are none.
    """
    ids = sorted(a.keys() & b.keys())
    if not ids:
        raise ValueError(f"the runs share no sample id ({len(a)} and {len(b)} ids); compare runs on the same data")
    rows_a, rows_b = (np.stack([np.atleast_1d(np.asarray(run[key], dtype=np.float64)) for key in ids]) for run in (a, b))
    n_columns = rows_a.shape[1]
    if rows_b.shape[1] != n_columns:
        raise ValueError(f"run a has {n_columns} numbers a sample, run b has {rows_b.shape[1]}; give both the same columns")

    def difference(sums_RC: FloatArray) -> FloatArray:
        if statistic is not None:
            return statistic(sums_RC[:, n_columns:-1]) - statistic(sums_RC[:, :n_columns])
        return (sums_RC[:, n_columns] - sums_RC[:, 0]) / sums_RC[:, -1]

    rows = np.concatenate([rows_a, rows_b, np.ones((len(ids), 1))], axis=1)
    keys = None if clusters is None else [clusters[key] for key in ids]
    metric = bootstrap_sums(rows, difference, clusters=keys, n_resamples=n_resamples, seed=seed)
    return metric, _exchanged(rows_a, rows_b, statistic, keys, seed)


def ratio(sums_RC: FloatArray) -> FloatArray:
    """Column 0 over column 1, nan where column 1 is 0: the `statistic` of a micro average."""
    numerators_R, denominators_R = sums_RC[:, 0], sums_RC[:, 1]
    values_R: FloatArray = np.full(len(sums_RC), np.nan)
    np.divide(numerators_R, denominators_R, out=values_R, where=denominators_R != 0)
    return values_R


def wilson(n_right: int, n: int) -> Metric:
    """Share of `n_right` among `n` independent trials, with Wilson's score interval, which stays useful at 0 and n."""
    if not 0 <= n_right <= n:
        raise ValueError(f"n_right={n_right} is not between 0 and n={n}")
    if n == 0:
        return Metric(None, None, 0)
    z = 1.959963984540054  # standard normal quantile at 0.975
    share = n_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if n_right == 0 else max(0.0, centre - half)
    high = 1.0 if n_right == n else min(1.0, centre + half)
    return Metric(share, (low, high), n, math.sqrt(share * (1 - share) / n))


def paired_p_value(
    differences: ArrayLike, *, clusters: Clusters | None = None, n_resamples: int = N_EXCHANGES, seed: int = 0
) -> float | None:
    """Two-sided p-value of a mean paired difference [N]: the share of sign flips, a unit at a time, with a mean as far from 0
    (a paired permutation test, the observed one counted; Good, Permutation Tests, 2000). None for fewer than two units."""
    values_N1 = _column(differences)[:, None]
    return _exchanged(np.zeros_like(values_N1), values_N1, None, clusters, seed, n_resamples)


def _exchanged(
    a_NC: FloatArray,
    b_NC: FloatArray,
    statistic: Callable[[FloatArray], FloatArray] | None,
    clusters: Clusters | None,
    seed: int,
    n_resamples: int = N_EXCHANGES,
) -> float | None:
    """The share of exchanges of a's and b's rows, a unit at a time, whose statistic(b) - statistic(a) (without `statistic`:
    of column 0's sums) is as far from 0 as the observed one, which counts as one of them. None for fewer than two units, or
    where the observed difference is not defined."""
    unit_N, n_units = _units(len(a_NC), clusters) if len(a_NC) else (np.zeros(0, dtype=np.int64), 0)
    if n_units < 2:
        return None
    a_UC, b_UC = np.zeros((n_units, a_NC.shape[1])), np.zeros((n_units, a_NC.shape[1]))
    np.add.at(a_UC, unit_N, a_NC)
    np.add.at(b_UC, unit_N, b_NC)
    both_C, gap_UC = (a_UC + b_UC).sum(axis=0), b_UC - a_UC
    value = statistic or (lambda sums_RC: sums_RC[:, 0])

    def differences(signs_RU: FloatArray) -> FloatArray:
        gaps_RC = signs_RU @ gap_UC
        return value((both_C + gaps_RC) / 2) - value((both_C - gaps_RC) / 2)

    observed = abs(float(differences(np.ones((1, n_units), dtype=np.float64))[0]))
    if math.isnan(observed):
        return None
    generator, far = np.random.default_rng(seed), observed - 1e-12 * max(1.0, observed)
    n_far = 0
    for start in range(0, n_resamples, rows_at_once := max(1, _DRAWS_AT_ONCE // n_units)):
        n_rows = min(rows_at_once, n_resamples - start)
        signs_RU = generator.choice(np.array([-1.0, 1.0]), size=(n_rows, n_units))
        n_far += int((np.abs(differences(signs_RU)) >= far).sum())
    return (n_far + 1) / (n_resamples + 1)


def _column(values: ArrayLike) -> FloatArray:
    column_N = np.asarray(values, dtype=np.float64)
    if column_N.ndim != 1:
        raise ValueError(f"expected one number a sample, got an array of shape {column_N.shape}")
    return column_N


def _finite(rows: FloatArray) -> FloatArray:
    """`rows`, or ValueError naming the first row with nan or infinity: a missing value is not a number to average."""
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        raise ValueError(f"row {bad[0][0]} holds {rows[tuple(bad[0])]}; leave samples out that have no value")
    return rows


def _units(n_samples: int, clusters: Clusters | None) -> tuple[IntArray, int]:
    """The unit of each sample [N], numbered by first appearance, and how many units there are."""
    if clusters is None:
        return np.arange(n_samples), n_samples
    if len(clusters) != n_samples:
        raise ValueError(f"{len(clusters)} cluster keys for {n_samples} samples; give one a sample")
    number_of: dict[Hashable, int] = {}
    unit_N = np.array([number_of.setdefault(key, len(number_of)) for key in clusters], dtype=np.int64)
    return unit_N, len(number_of)


def _draws(n_units: int, n_resamples: int, seed: int) -> Iterator[IntArray]:
    """How often each unit was drawn, [rows, U] a piece, `n_resamples` rows in all."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples} draws nothing; use 1000 or more")
    generator = np.random.default_rng(seed)
    n_left = n_resamples
    while n_left:
        n_rows = min(n_left, max(1, _DRAWS_AT_ONCE // n_units))
        drawn = generator.integers(n_units, size=(n_rows, n_units)) + n_units * np.arange(n_rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n_rows * n_units).reshape(n_rows, n_units)
        n_left -= n_rows


def _metric(value: float, draws_R: FloatArray, n_units: int, n: int) -> Metric:
    if math.isnan(value):
        return Metric(None, None, n)
    defined_R = draws_R[~np.isnan(draws_R)]
    if n_units < 2 or len(defined_R) == 0:
        return Metric(value, None, n)
    low, high = np.percentile(defined_R, [2.5, 97.5])
    stderr = float(defined_R.std(ddof=1)) if len(defined_R) > 1 else None
    return Metric(value, (float(low), float(high)), n, stderr)
