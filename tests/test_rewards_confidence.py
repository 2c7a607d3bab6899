"""`calibrated_confidence`: the honest confidence earns most, and leaving it out earns least."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.rewards import REWARDS
from vlrl.rewards.confidence import calibrated_confidence
from vlrl.schema import Sample
from vlrl.tasks import TASKS

QA = Sample("a", "qa", "How many?", "4")


def score(confidence, answer="4"):
    said = "" if confidence is None else f" Confidence: {confidence}"
    return calibrated_confidence(f"<think>so{said}</think><answer>{answer}</answer>", QA)


@pytest.mark.parametrize(
    ("confidence", "answer", "value"),
    [
        ("100 %", "4", 1.0),
        ("80 %", "4", 1 - 0.04),
        ("0 %", "4", 0.0),
        ("0 %", "5", 0.0),
        ("30 %", "5", -0.09),
        ("100 %", "5", -1.0),
        (None, "4", -1.0),
        (None, "5", -1.0),
        ("lots", "4", -1.0),
    ],
)
def test_closed_form(confidence, answer, value):
    found = score(confidence, answer)
    assert found.value == pytest.approx(value)
    assert REWARDS["calibrated_confidence"].low <= found.value <= REWARDS["calibrated_confidence"].high


def test_boxes_are_right_when_all_are_found_and_none_is_too_many():
    sample = TASKS["detection"].draw(0, "heldout", 1)
    right = TASKS["detection"].oracle(sample).replace("</think>", " Confidence: 80 %</think>")
    assert calibrated_confidence(right, sample).value == pytest.approx(0.96)
    more = right.replace("}]", '}, {"bbox_2d": [0, 0, 5, 5], "label": "blue circle"}]')
    assert more != right
    assert calibrated_confidence(more, sample).value == pytest.approx(-0.64)


@cache
def value(percent, answer="4"):
    return score(f"{percent} %", answer).value


def earned(p, percent):
    """What a model that is right with probability p earns on average with that confidence."""
    return p * value(percent) + (1 - p) * value(percent, "5")


@given(st.integers(0, 100), st.integers(0, 100))
def test_the_honest_confidence_earns_most_and_none_earns_least(honest, stated):
    p = honest / 100
    assert earned(p, honest) >= earned(p, stated) - 1e-9
    assert earned(p, honest) == pytest.approx(p * p)
    assert earned(p, stated) >= score(None).value
