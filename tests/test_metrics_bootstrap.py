"""Intervals: right on cases that can be worked out, the same for the same seed, wider where samples hang together."""

import math

import numpy as np
import pytest

from vlrl.metrics import bootstrap as stats
from vlrl.schema import Metric

pytestmark = pytest.mark.quick


def width(metric: Metric) -> float:
    assert metric.ci95 is not None
    return metric.ci95[1] - metric.ci95[0]


def test_mean_of_bernoulli_is_close_to_the_normal_interval():
    values = np.array([1.0] * 120 + [0.0] * 280)
    metric = stats.bootstrap_mean(values, n_resamples=5000)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert metric.value == pytest.approx(0.3)
    assert metric.n == 400
    assert metric.ci95 == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)


def test_interval_covers_the_truth_about_95_times_in_100():
    draws = np.random.default_rng(7).normal(2.0, 1.0, size=(300, 60))
    intervals = [stats.bootstrap_mean(sample, n_resamples=400, seed=i).ci95 for i, sample in enumerate(draws)]
    covered = np.mean([low <= 2.0 <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.98


def test_same_seed_same_numbers_other_seed_other_numbers():
    values = np.random.default_rng(0).random(50)
    assert stats.bootstrap_mean(values, seed=3) == stats.bootstrap_mean(values, seed=3)
    assert stats.bootstrap_mean(values, seed=3) != stats.bootstrap_mean(values, seed=4)


def test_global_random_state_is_neither_read_nor_changed():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = stats.bootstrap_mean([0.0, 1.0, 1.0])
    np.random.seed(1)
    assert stats.bootstrap_mean([0.0, 1.0, 1.0]) == first
    np.random.seed(0)
    assert (np.random.get_state()[1] == before).all()


def test_large_sets_are_drawn_in_pieces_without_losing_any(monkeypatch):
    monkeypatch.setattr(stats, "_DRAWS_AT_ONCE", 25)
    pieces = list(stats._draws(10, 7, seed=0))
    assert [len(piece) for piece in pieces] == [2, 2, 2, 1]
    assert all((piece.sum(axis=1) == 10).all() for piece in pieces)


def test_copies_in_one_cluster_add_no_certainty():
    values = np.random.default_rng(1).random(40)
    copies = np.repeat(values, 9)
    clusters = [f"image-{i // 9}" for i in range(len(copies))]
    single, clustered = stats.bootstrap_mean(values), stats.bootstrap_mean(copies, clusters=clusters)
    assert clustered.ci95 == pytest.approx(single.ci95)
    assert clustered.n == 360
    assert width(stats.bootstrap_mean(copies)) == pytest.approx(width(single) / 3, rel=0.2)


def test_ratio_of_sums_is_not_the_mean_of_ratios():
    metric = stats.bootstrap_ratio([1, 0, 6], [1, 1, 8])
    assert metric.value == pytest.approx(7 / 10)
    assert metric.ci95[0] >= 0
    assert metric.ci95[1] <= 1
    # the three samples can be drawn in 10 ways; the worst is the second alone, the best the first alone
    assert metric.ci95 == pytest.approx((0.0, 1.0))


def test_resamples_without_denominator_are_left_out():
    metric = stats.bootstrap_ratio([0, 0, 3], [0, 0, 4])
    assert metric == Metric(0.75, (0.75, 0.75), 3)
    assert stats.bootstrap_ratio([0, 0], [0, 0]) == Metric(None, None, 2)


def test_sums_takes_any_statistic_of_the_column_sums():
    # balanced accuracy from a 2x2 confusion matrix
    rows = [[1, 0, 0, 0]] * 8 + [[0, 1, 0, 0]] * 2 + [[0, 0, 0, 1]] * 3 + [[0, 0, 1, 0]] * 1

    def balanced(sums):
        with np.errstate(invalid="ignore"):  # a resample without one of the classes is nan, hence left out
            return (sums[:, 0] / (sums[:, 0] + sums[:, 1]) + sums[:, 3] / (sums[:, 2] + sums[:, 3])) / 2

    assert stats.bootstrap_sums(rows, balanced).value == pytest.approx((0.8 + 0.75) / 2)


def test_indices_and_sums_agree_on_the_same_resamples():
    values = np.random.default_rng(5).random(30)
    clusters = [i // 3 for i in range(30)]
    by_sums = stats.bootstrap_mean(values, clusters=clusters, n_resamples=300, seed=9)
    by_index, doubled = stats.bootstrap_indices(
        lambda index: [values[index].mean(), 2 * values[index].mean()], 30, clusters=clusters, n_resamples=300, seed=9
    )
    assert by_index.value == pytest.approx(by_sums.value)
    assert by_index.ci95 == pytest.approx(by_sums.ci95)
    assert doubled.ci95 == pytest.approx([2 * end for end in by_sums.ci95])


def test_paired_difference_uses_common_ids_and_their_pairing():
    generator = np.random.default_rng(2)
    hard = generator.random(80)
    a = {f"s{i}": value for i, value in enumerate(hard)}
    b = {f"s{i}": value + 0.05 + 0.001 * generator.standard_normal() for i, value in enumerate(hard)} | {"only-b": 9.0}
    del a["s0"]
    metric = stats.paired_difference(a, b)
    assert metric.n == 79
    assert metric.value == pytest.approx(0.05, abs=0.001)
    assert metric.ci95[0] > 0.049, "unpaired, the interval would be about 0.12 wide"
    assert width(metric) < 0.001
    backwards = stats.paired_difference(b, a)
    assert backwards.value == pytest.approx(-metric.value)


def test_paired_difference_of_a_ratio_and_with_clusters():
    a = {f"s{i}": (i % 2, 1 + i % 3) for i in range(30)}
    b = {f"s{i}": (1, 1 + i % 3) for i in range(30)}
    expected = 30 / 60 - 15 / 60
    assert stats.paired_difference(a, b, stats.ratio).value == pytest.approx(expected)
    clusters = {f"s{i}": i // 10 for i in range(30)}
    clustered = stats.paired_difference(a, b, stats.ratio, clusters=clusters)
    assert clustered.value == pytest.approx(expected)
    assert clustered.ci95 != stats.paired_difference(a, b, stats.ratio).ci95


def test_paired_difference_does_not_depend_on_the_order_of_ids():
    a, b = {"x": 1.0, "y": 0.0, "z": 0.5}, {"z": 1.0, "x": 0.0, "y": 1.0}
    assert stats.paired_difference(a, b) == stats.paired_difference(dict(sorted(a.items(), reverse=True)), b)


def test_no_samples_and_one_sample():
    assert stats.bootstrap_mean([]) == Metric(None, None, 0)
    assert stats.bootstrap_mean([0.4]) == Metric(0.4, None, 1)
    assert stats.bootstrap_mean([0.4, 0.6], clusters=["one", "one"]).ci95 is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.bootstrap_mean([0.1, float("nan")]), "row 1 holds nan"),
        (lambda: stats.bootstrap_mean([[0.1], [0.2]]), "one number a sample"),
        (lambda: stats.bootstrap_mean([0.1, 0.2], clusters=["a"]), "1 cluster keys for 2 samples"),
        (lambda: stats.bootstrap_mean([0.1, 0.2], n_resamples=0), "n_resamples=0"),
        (lambda: stats.bootstrap_sums([0.1, 0.2], stats.ratio), "samples, columns"),
        (lambda: stats.bootstrap_indices(lambda index: 0.0, 0), "no samples"),
        (lambda: stats.paired_difference({"a": 1.0}, {"b": 1.0}), "share no sample id"),
        (lambda: stats.paired_difference({"a": 1.0}, {"a": (1.0, 2.0)}), "same columns"),
        (lambda: stats.wilson(3, 2), "n_right=3"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wilson_against_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    for n_right, n in [(0, 10), (3, 10), (10, 10), (71, 72), (500, 1000)]:
        expected = scipy_stats.binomtest(n_right, n).proportion_ci(0.95, method="wilson")
        metric = stats.wilson(n_right, n)
        assert metric.value == n_right / n
        assert metric.ci95 == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert stats.wilson(0, 0) == Metric(None, None, 0)


def test_standard_errors_are_those_of_the_closed_forms():
    values = np.array([1.0] * 120 + [0.0] * 280)
    assert stats.wilson(120, 400).stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 400))
    assert stats.bootstrap_mean(values, n_resamples=5000).stderr == pytest.approx(math.sqrt(0.3 * 0.7 / 400), rel=0.05)
    alone = stats.bootstrap_mean(values, clusters=["one"] * 400)
    assert (alone.ci95, alone.stderr) == (None, None), "one cluster tells nothing"
    assert Metric(0.5, None, 2, 0.1) == Metric(0.5, None, 2), "a metric is its value, interval and n"


def test_p_values_are_even_without_an_effect_and_small_with_one():
    rng = np.random.default_rng(5)
    found = []
    for i in range(200):
        a, b = rng.normal(size=(2, 40))
        found.append(stats.paired_test(dict(enumerate_ids(a)), dict(enumerate_ids(b)), n_resamples=400, seed=i)[1])
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.11
    assert 0.4 <= np.mean(found) <= 0.6
    a = dict(enumerate_ids(rng.normal(size=40)))
    shifted = {key: value + 1 + 0.1 * rng.normal() for key, value in a.items()}
    metric, p_value = stats.paired_test(a, shifted)
    assert p_value == pytest.approx(1 / 10_001)
    assert metric == stats.paired_difference(a, shifted)
    assert stats.paired_test(a, a)[1] == 1
    assert stats.paired_test({"x": [0, 0]}, {"x": [1, 0]}, stats.ratio)[1] is None


def test_exchanges_are_of_units_and_exact_for_few():
    rng = np.random.default_rng(0)
    found = [stats.paired_p_value(rng.normal(size=40), n_resamples=400, seed=i) for i in range(200)]
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    one_picture = np.repeat(rng.normal(size=4), 25)
    alone, together = (stats.paired_p_value(one_picture + 0.3, clusters=c) for c in (None, list(np.repeat(range(4), 25))))
    assert together > alone
    assert stats.paired_p_value([1.0]) is None
    assert stats.paired_p_value([]) is None
    # Of the 8 ways to exchange three equal gains, 2 are as far from 0.
    assert stats.paired_p_value([1.0, 1.0, 1.0]) == pytest.approx(2 / 8, abs=0.02)
    a = {"x": (0.0, 2.0), "y": (1.0, 3.0), "z": (0.0, 1.0)}
    b = {"x": (2.0, 2.0), "y": (2.0, 3.0), "z": (0.0, 1.0)}
    # Of the 4 ways to exchange x and y (z is equal) the ratios differ by 3/6, 1/6, -1/6, -3/6.
    assert stats.paired_test(a, b, stats.ratio)[1] == pytest.approx(2 / 4, abs=0.02)


def enumerate_ids(values):
    return ((str(i), float(value)) for i, value in enumerate(values))
