"""Stated confidence: what is read, and the error against a plain second implementation."""

import random

import pytest

from vlrl.answers.stated_confidence import stated_confidence
from vlrl.metrics.calibration import bin_number, calibration_error, reliability

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<confidence>0.8</confidence>", 0.8),
        ("<answer>x</answer><confidence> 80 % </confidence>", 0.8),
        ("Confidence: 75%", 0.75),
        ("my confidence is .5.", 0.5),
        ("confidence: 0.2 ... Confidence = 0.9", 0.9),
        ("confidence: 1", 1.0),
        ("confidence: 80", None),
        ("<confidence>high</confidence>", None),
        ("confidence: 120%", None),
        ("confidently 0.8", None),
        ("confidence: 0.8.2", None),
        ("", None),
    ],
)
def test_what_is_a_stated_confidence(text, value):
    assert stated_confidence(text) == value


def test_the_error_of_a_hand_made_set():
    confidences, rights = [0.95, 0.95, 0.95, 0.95, 0.25], [1, 1, 1, 0, 0]
    metric = calibration_error(confidences, rights)
    assert metric.value == pytest.approx((4 * (0.95 - 0.75) + 0.25) / 5)
    assert metric.n == 5
    assert calibration_error([1.0] * 4, [1] * 4).value == 0
    assert calibration_error([], []).value is None


def test_agrees_with_a_plain_implementation():
    rng = random.Random(0)
    confidences = [rng.random() for _ in range(500)]
    rights = [float(rng.random() < c**2) for c in confidences]
    bins = [[i for i, c in enumerate(confidences) if bin_number(c) == b] for b in range(10)]
    expected = sum(
        len(rows) / 500 * abs(sum(confidences[i] for i in rows) / len(rows) - sum(rights[i] for i in rows) / len(rows))
        for rows in bins
        if rows
    )
    metric = calibration_error(confidences, rights)
    assert metric.value == pytest.approx(expected)
    assert metric.ci95[0] < metric.value < metric.ci95[1]
    assert [row["n"] for row in reliability(confidences, rights)] == list(map(len, bins))


def test_a_confidence_outside_its_range_is_an_error():
    with pytest.raises(ValueError, match=r"1\.5"):
        bin_number(1.5)
    assert (bin_number(1.0), bin_number(0.0)) == (9, 0)
