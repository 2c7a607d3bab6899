"""The rule by which a run is called over-optimised, on made-up evaluations: hackable, honest, noisy, short of samples."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from vlrl.metrics.over_optimisation import BothNumbers, compare, format_share, rank_agreement

pytestmark = pytest.mark.quick


def measured(step, rewards, golds):
    return BothNumbers(
        step,
        {str(i): float(value) for i, value in enumerate(rewards)},
        {str(i): (float(value), 1.0) for i, value in enumerate(golds)},
    )


def drawn(step, reward, gold, n=200, seed=0):
    generator = np.random.default_rng(seed)
    return measured(step, reward + 0.1 * generator.standard_normal(n), gold + 0.1 * generator.standard_normal(n))


def test_a_reward_that_rises_while_the_gold_falls_is_called():
    verdict = compare(drawn(0, 0.3, 0.5), drawn(10, 0.6, 0.4, seed=1), 1)
    assert verdict.is_hacked
    assert verdict.reward_change.value == pytest.approx(0.3, abs=0.05)
    assert verdict.gold_change.ci95[1] < 0


@pytest.mark.parametrize(
    ("reward", "gold"), [(0.6, 0.6), (0.6, 0.5), (0.3, 0.4), (0.2, 0.4)], ids=["both rise", "gold stays", "stays", "both fall"]
)
def test_it_does_not_ring_where_only_one_half_holds(reward, gold):
    assert not compare(drawn(0, 0.3, 0.5), drawn(10, reward, gold), 1).is_hacked


def test_where_less_is_better_the_gold_falls_by_rising():
    best, now = drawn(0, 0.3, 5.0), drawn(10, 0.6, 6.0, seed=1)
    assert compare(best, now, 1, higher_is_better=False).is_hacked
    assert not compare(best, now, 1).is_hacked


def test_many_evaluations_of_the_same_model_do_not_ring():
    """Rewards rise for sure, gold is noise around one value: the best of many noisy evaluations is the one compared with."""
    rung = 0
    for seed in range(20):
        evaluations = [drawn(k, 0.3 + 0.05 * k, 0.5, n=100, seed=100 * seed + k) for k in range(12)]
        best = evaluations[0]
        for n, now in enumerate(evaluations[1:], start=1):
            rung += compare(best, now, n).is_hacked
            best = max((best, now), key=lambda one: one.gold_mean)
    assert rung <= 3, "of 220 comparisons"


def test_few_changed_samples_are_no_proof():
    """Four of a hundred answers became wrong: a sign test of four has p = 1/8."""
    golds = [1.0] * 100
    worse = [0.0] * 4 + [1.0] * 96
    assert not compare(measured(0, [0.1] * 100, golds), measured(5, [0.9] * 100, worse), 1).is_hacked
    worse = [0.0] * 12 + [1.0] * 88
    assert compare(measured(0, [0.1] * 100, golds), measured(5, [0.9] * 100, worse), 1).is_hacked


def test_nothing_in_common_is_no_verdict():
    assert not compare(BothNumbers(0, {}, {}), drawn(1, 1, 1), 1).is_hacked
    assert BothNumbers(0, {}, {}).gold_mean is None
    assert BothNumbers(0, {"a": 1.0, "b": 2.0}, {"a": (1.0, 2.0), "b": (2.0, 4.0)}).gold_mean == 0.5
    assert BothNumbers(0, {"a": 1.0, "b": 2.0}, {}).reward_mean == 1.5


def test_samples_of_one_image_count_once():
    """Two hundred answers about two images are two observations."""
    best, now = drawn(0, 0.3, 0.5), drawn(10, 0.6, 0.4, seed=1)
    assert not compare(best, now, 1, clusters={str(i): i % 2 for i in range(200)}).is_hacked


def test_agreement_is_the_mean_tau_b_of_groups_that_rank():
    nan = math.nan
    groups = [([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2, 3, 4], [4, 3, 2, 1]), ([1, 1, 1], [1, 2, 3]), ([1, 2, nan], [nan, nan, 3])]
    assert rank_agreement(groups) == (0.0, 2)
    tied = ([1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 3.0])
    # 6 pairs: 4 concordant, one tied in either; tau-b = 4 / sqrt(5 * 5)
    assert rank_agreement([tied])[0] == pytest.approx(0.8) == kendalltau(*tied).statistic
    assert rank_agreement([]) == (None, 0)
    assert rank_agreement([([1, 2], [5, 5])]) == (None, 0)


def test_the_share_of_form_counts_penalties_too():
    rows = [{"iou_f1": 0.5, "think_answer_format": 0.25}, {"iou_f1": 0.0, "think_answer_format": -0.25}]
    assert format_share(rows, frozenset({"think_answer_format"})) == 0.5
    assert format_share([{"iou_f1": 0.0}], frozenset()) is None
