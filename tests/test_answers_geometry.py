import itertools
import random

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vlrl.answers.geometry import best_matching, from_original_px, giou, iou, to_original_px
from vlrl.schema import Box

pytestmark = pytest.mark.quick

SIZE, INPUT = (640, 480), (644, 476)  # the specification's worked example: sides no multiple of 28
TRUE = (100, 100, 300, 300)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        (TRUE, TRUE, 1.0),
        (TRUE, (150, 100, 350, 300), 0.6),
        (TRUE, (200, 100, 400, 300), 1 / 3),
        (TRUE, (300, 100, 400, 300), 0.0),
        (TRUE, (300, 300, 100, 100), 0.0),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),
        ((0.1, 0.1, 0.2, 0.2), (0.1, 0.1, 0.2, 0.2), 1.0),
    ],
)
def test_iou(a, b, value):
    assert iou(a, b) == pytest.approx(value)
    assert iou(b, a) == pytest.approx(value)


@pytest.mark.parametrize(
    ("box", "value"),
    [
        (TRUE, 1.0),
        ((150, 100, 350, 300), 0.6),
        ((200, 100, 400, 300), 1 / 3),
        ((150, 150, 250, 250), 0.25),
        ((0, 0, 1000, 1000), 0.04),
        ((600, 600, 800, 800), -0.8367),
    ],
)
def test_giou(box, value):
    assert giou(TRUE, box) == pytest.approx(value, abs=1e-4)


def random_boxes(rng, n, labels="ab"):
    boxes = []
    for _ in range(n):
        x, y, w, h = rng.randint(0, 30), rng.randint(0, 30), rng.randint(5, 40), rng.randint(5, 40)
        boxes.append(Box(x, y, x + w, y + h, rng.choice(labels)))
    return boxes


def test_matching_equals_the_assignment_problem_on_1000_random_sets():
    rng = random.Random(0)
    for _ in range(1000):
        predicted, true = random_boxes(rng, rng.randint(0, 6)), random_boxes(rng, rng.randint(0, 6))
        threshold = rng.choice([0.0, 0.3, 0.5, 0.75])
        gain = np.zeros((len(predicted), len(true)))
        for (i, p), (j, t) in itertools.product(enumerate(predicted), enumerate(true)):
            overlap = iou(p.xyxy, t.xyxy)
            gain[i, j] = overlap if p.label == t.label and overlap >= threshold else 0
        expected = gain[linear_sum_assignment(gain, maximize=True)].sum()
        found = best_matching(predicted, true, threshold)
        assert sum(overlap for _, _, overlap in found) == pytest.approx(expected)
        assert len({i for i, _, _ in found}) == len({j for _, j, _ in found}) == len(found)
        for i, j, overlap in found:
            assert predicted[i].label == true[j].label
            assert overlap == iou(predicted[i].xyxy, true[j].xyxy) >= threshold


def test_a_box_without_label_matches_nothing():
    assert best_matching([Box(0, 0, 1, 1)], [Box(0, 0, 1, 1)], 0.0) == []


def test_worked_example_of_the_dialects():
    assert to_original_px(TRUE, "px", None) == TRUE
    exact = tuple(v * s for v, s in zip(TRUE, (644 / 640, 476 / 480) * 2, strict=True))
    assert exact == pytest.approx((100.625, 99.1667, 301.875, 297.5), abs=1e-4)
    assert from_original_px(TRUE, "resized_px", SIZE, INPUT) == (101, 99, 302, 298)
    back = to_original_px((101, 99, 302, 298), "resized_px", SIZE, INPUT)
    assert back == pytest.approx((100.373, 99.832, 300.124, 300.504), abs=1e-3)
    assert iou(back, TRUE) == pytest.approx(0.9942, abs=1e-4)
    copied = to_original_px(TRUE, "resized_px", SIZE, INPUT)
    assert copied == pytest.approx((99.38, 100.84, 298.14, 302.52), abs=1e-2)
    assert iou(copied, TRUE) == pytest.approx(0.9713, abs=1e-4)
    assert from_original_px(TRUE, "norm1000", SIZE) == (156, 208, 469, 625)
    back = to_original_px((156, 208, 469, 625), "norm1000", SIZE)
    assert back == pytest.approx((99.84, 99.84, 300.16, 300.0))
    assert iou(back, TRUE) == pytest.approx(0.9976, abs=1e-4)
    assert iou(to_original_px(TRUE, "norm1000", SIZE), TRUE) == pytest.approx(0.0839, abs=1e-4)
    assert from_original_px(TRUE, "norm1", SIZE) == (0.1562, 0.2083, 0.4688, 0.625)


@pytest.mark.parametrize("coords", ["px", "resized_px", "norm1000", "norm1"])
def test_round_trip_is_within_half_a_unit(coords):
    rng = random.Random(1)
    unit = {"px": (0, 0), "resized_px": (640 / 644, 480 / 476), "norm1000": (0.64, 0.48), "norm1": (0.064, 0.048)}[coords]
    for _ in range(200):
        box = (rng.uniform(0, 600), rng.uniform(0, 400), rng.uniform(601, 640), rng.uniform(401, 480))
        back = to_original_px(from_original_px(box, coords, SIZE, INPUT), coords, SIZE, INPUT)
        for k in range(4):
            assert abs(back[k] - box[k]) <= unit[k % 2] / 2 + 1e-9


def test_norm1000_is_clipped_and_missing_sizes_are_bugs():
    assert from_original_px((-5, 0, 645, 480), "norm1000", SIZE) == (0, 0, 1000, 1000)
    with pytest.raises(ValueError, match="size the model saw"):
        to_original_px(TRUE, "resized_px", SIZE)
    with pytest.raises(ValueError, match="image's size"):
        to_original_px(TRUE, "norm1000", None)
    with pytest.raises(ValueError, match="unknown coords"):
        to_original_px(TRUE, "metres", SIZE)


def test_iou_is_0_where_the_union_underflows():
    assert iou((0, 0, 1e-200, 1e-200), (0, 0, 1e-200, 1e-200)) == 0
