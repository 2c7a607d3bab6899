"""Aggregation of step scores, and what a scorer selects of several candidates, beside its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.metrics.selection import baselines, best, headroom, majority, subsets
from vlrl.rewards.step_aggregation import aggregate

pytestmark = pytest.mark.quick


# ---- aggregation: the published example (project page)

URSA = [[0.922, 0.914, 0.922, 0.805], [0.926, 0.930, 0.297]]
VILPRM = [[0.793, 0.758, 0.719, 0.766], [0.785, 0.859, 0.816]]


def test_published_means():
    assert [round(aggregate(scores, "mean"), 3) for scores in URSA] == [0.891, 0.718]
    assert [round(aggregate(scores, "mean"), 3) for scores in VILPRM] == [0.759, 0.820]
    correct = [False, True]
    assert best([aggregate(scores, "mean") for scores in URSA], correct).accuracy == 0
    assert best([aggregate(scores, "mean") for scores in VILPRM], correct).accuracy == 1


def test_aggregations():
    scores = [1.0, 0.5, None, 0.2]
    assert aggregate(scores, "mean") == pytest.approx(1.7 / 3)
    assert aggregate(scores, "last_1") == aggregate(scores, "last") == 0.2
    assert aggregate(scores, "last_2") == 0.2
    assert aggregate(scores, "last_4") == aggregate(scores, "last_8") == aggregate(scores, "mean")
    assert aggregate(scores, "min") == 0.2
    assert aggregate(scores, "product") == pytest.approx(0.1)
    assert aggregate([0.3, None], "last_1") is None
    assert aggregate([0.3, None], "last") == 0.3
    assert aggregate([None, None], "mean") is None
    with pytest.raises(ValueError, match="median"):
        aggregate(scores, "median")


# ---- selection


def test_ties_in_expectation_and_by_first_index():
    pick = best([4, 4, 3], [True, False, True])
    assert (pick.accuracy, pick.first_index, pick.indices) == (0.5, 1.0, (0, 1))


def test_a_candidate_without_a_score_loses():
    assert best([None, 1.0], [True, False]).accuracy == 0
    assert best([None, None], [True, False]).accuracy == 0.5
    with pytest.raises(ValueError, match="1 scores for 2"):
        best([1.0], [True, False])


POOLS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([None, 1, 2, 3, 4, 5]), st.sampled_from("AB")), min_size=1, max_size=16
)


@given(POOLS)
def test_bounds(pool):
    correct, scores = [row[0] for row in pool], [row[1] for row in pool]
    answers = ["right" if row[0] else row[2] for row in pool]
    rules = baselines(answers, correct, [len(a) for a in answers], [1] * len(pool))
    assert all(0 <= value <= rules["oracle"] for value in rules.values())
    assert 0 <= best(scores, correct).accuracy <= rules["oracle"]
    assert best([3] * len(pool), correct).accuracy == pytest.approx(rules["random"])
    assert best([float(c) for c in correct], correct).accuracy == rules["oracle"]
    if len(pool) == 1:
        assert len(set(rules.values())) == 1


def test_a_reversed_scorer_does_not_exceed_random():
    pools = [[True, False], [False, True], [True, True], [False, False]]
    reverse = [best([1.0 - c for c in pool], pool).accuracy for pool in pools]
    assert sum(reverse) <= sum(sum(pool) / 2 for pool in pools)


def test_majority():
    assert majority(["a", "a", "b"], [False, False, True]) == 0
    assert majority(["a", "b"], [True, False]) == 0.5
    assert majority([None, None, "b"], [False, False, True]) == 1
    assert majority([None], [False]) == 0
    assert headroom(0.5, 0.25, 0.75) == 0.5
    assert headroom(0.5, 0.5, 0.5) is None


def test_subsets_are_seeded_and_distinct():
    assert subsets(16, 4, 3) == subsets(16, 4, 3)
    assert subsets(16, 4, 3) != subsets(16, 4, 4)
    assert all(len(set(some)) == 4 for some in subsets(16, 4, 3))
    assert subsets(4, 4, 0) == [[0, 1, 2, 3]]
