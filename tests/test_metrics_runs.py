"""Several runs: by hand, against scipy, and what must hold of any scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean

from vlrl.metrics.runs import compare_runs, improvement_probability, interquartile_mean

SCORES = st.lists(st.floats(0, 1).map(lambda v: round(v, 3)), min_size=2, max_size=12)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([0.9, 0.1, 0.5, 0.3]) == pytest.approx(0.4)  # of four, the middle two
    assert interquartile_mean([0, 1, 2, 3, 100]) == pytest.approx(2.0)  # of five, one leaves at each end
    assert interquartile_mean([1, 2, 9]) == pytest.approx(4.0)  # of three, none
    assert interquartile_mean([0, 0, 1, 2, 3, 4, 50, 60]) == pytest.approx(2.5)


@given(SCORES)
def test_interquartile_mean_is_scipys(scores):
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25), abs=1e-12)
    assert interquartile_mean(np.stack([scores, scores])) == pytest.approx([trim_mean(scores, 0.25)] * 2, abs=1e-12)


def test_improvement_by_hand():
    # of 2 x 3 pairs b is higher in 4, equal in 1
    assert improvement_probability([1.0, 3.0], [2.0, 3.0, 4.0]) == pytest.approx((4 + 0.5) / 6)


@given(SCORES, SCORES)
def test_improvement_is_scipys_mann_whitney_u(a, b):
    expected = mannwhitneyu(b, a).statistic / (len(a) * len(b))
    assert improvement_probability(a, b) == pytest.approx(expected, abs=1e-12)


def test_comparison_by_hand():
    made = compare_runs({"x": [0.2, 0.4], "y": [0.6, 0.8]}, {"x": [0.3, 0.5], "y": [0.9, 0.9]}, n_resamples=500)
    assert made.a.value == pytest.approx(0.5)  # 0.4 and 0.6 of the four
    assert made.b.value == pytest.approx(0.7)  # 0.5 and 0.9 of 0.3, 0.5, 0.9, 0.9
    assert made.difference.value == pytest.approx(0.2)
    assert made.improvement.value == pytest.approx((3 / 4 + 1) / 2)
    assert (made.a.n, made.b.n, made.difference.n) == (2, 2, 2)
    # within strata: no resample holds x's values alone
    assert made.a.ci95[0] >= 0.2 + 1e-9
    assert made.a.ci95 == pytest.approx((0.4, 0.6))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8), st.randoms(), st.booleans())
def test_the_order_of_runs_does_not_matter(pairs, random, paired):
    shuffled = random.sample(pairs, len(pairs))
    first, second = (
        compare_runs({"t": [a for a, _ in some]}, {"t": [b for _, b in some]}, paired=paired, n_resamples=50)
        for some in (pairs, shuffled)
    )
    assert first == second


@settings(max_examples=40, deadline=None)
@given(SCORES, SCORES)
def test_intervals_stay_within_the_scores_and_hold_the_number(a, b):
    made = compare_runs({"t": a}, {"t": b}, n_resamples=400)
    for metric, scores in ((made.a, a), (made.b, b)):
        low, high = metric.ci95
        assert min(scores) - 1e-12 <= low <= metric.value + 1e-12
        assert metric.value - 1e-12 <= high <= max(scores) + 1e-12
    low, high = made.improvement.ci95
    assert 0 <= low <= made.improvement.value <= high <= 1
    swapped = compare_runs({"t": b}, {"t": a}, n_resamples=400)
    assert swapped.difference.value == pytest.approx(-made.difference.value)
    assert swapped.improvement.value == pytest.approx(1 - made.improvement.value)


@given(st.floats(0, 1), st.integers(2, 9), st.booleans())
def test_identical_scores_have_that_score_and_no_width(score, n, paired):
    made = compare_runs({"t": [score] * n}, {"t": [score] * n}, paired=paired, n_resamples=20)
    assert (made.a.value, made.a.ci95) == (pytest.approx(score), pytest.approx((score, score)))
    assert made.difference.value == pytest.approx(0)
    assert made.improvement.value == 0.5


def test_pairs_take_away_what_both_sides_share():
    seeds = np.linspace(0, 1, 10)
    a, b = list(seeds), list(seeds + 0.05)
    widths = {}
    for paired in (False, True):
        low, high = compare_runs({"t": a}, {"t": b}, paired=paired).difference.ci95
        widths[paired] = high - low
    assert widths[True] < 1e-9 < 0.2 < widths[False]


def test_lower_may_be_better():
    made = compare_runs({"error": [0.3, 0.4]}, {"error": [0.1, 0.2]}, lower_is_better=["error"], n_resamples=20)
    assert made.improvement.value == 1
    assert made.difference.value == pytest.approx(-0.2)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truth, n_trials = 0.5, 200
    inside = 0
    for trial in range(n_trials):
        runs = {"t": list(generator.normal(truth, 0.1, 20))}
        low, high = compare_runs(runs, runs, n_resamples=300, seed=trial).a.ci95
        inside += low <= truth <= high
    assert 0.85 < inside / n_trials <= 1


def test_misuse_is_named():
    one = compare_runs({"t": [0.1]}, {"t": [0.2, 0.3]})
    assert one.a.ci95 is one.difference.ci95 is None
    assert one.b.ci95 is not None
    with pytest.raises(ValueError, match="share no number"):
        compare_runs({"t": [0.1]}, {"u": [0.2]})
    with pytest.raises(ValueError, match="finite"):
        compare_runs({"t": [float("nan"), 0.1]}, {"t": [0.2, 0.3]})
    with pytest.raises(ValueError, match="2 and 1 runs cannot be paired"):
        compare_runs({"t": [0.1, 0.2]}, {"t": [0.2]}, paired=True)
