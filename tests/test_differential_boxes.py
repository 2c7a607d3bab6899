"""Boxes beside the libraries that others use: overlaps of pycocotools, assignments of SciPy, from the text of a completion."""

import contextlib
import io
import json
import random

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from vlrl.answers.geometry import iou, matching_sizes, overlaps
from vlrl.rewards.detection import iou_f1
from vlrl.rewards.vlm_r1 import vlm_r1_iou, vlm_r1_map50
from vlrl.schema import Box, Sample

pytestmark = pytest.mark.quick

LABELS = ("dog", "cat")


def drawn(rng, n, most=300.0):
    found = []
    for _ in range(n):
        x, y = rng.uniform(0, most), rng.uniform(0, most)
        found.append([round(v, 2) for v in (x, y, x + rng.uniform(1, most), y + rng.uniform(1, most))])
    return found


def theirs(predicted, true):
    """IoU of every pair by pycocotools, which takes x, y, width and height."""

    def xywh(boxes):
        return np.array([[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes], dtype=float).reshape(-1, 4)

    return np.asarray(mask.iou(xywh(predicted), xywh(true), [0] * len(true))).reshape(len(predicted), len(true))


def test_iou_is_that_of_pycocotools():
    rng = random.Random(0)
    predicted, true = drawn(rng, 60), drawn(rng, 50)
    expected = theirs(predicted, true)
    for i, a in enumerate(predicted):
        for j, b in enumerate(true):
            assert iou(a, b) == pytest.approx(expected[i, j], abs=1e-9)
    # differs: two boxes that share an edge have no pixel in common; exclusive right and bottom edges in both
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == theirs([[0, 0, 10, 10]], [[10, 0, 20, 10]])[0, 0] == 0


def tagged(items):
    return f"<think>t</think><answer>{json.dumps(items)}</answer>"


def near(rng, box):
    return [round(v + rng.uniform(-15, 15), 2) for v in box]


@pytest.mark.parametrize("seed", range(40))
def test_iou_f1_is_the_assignment_of_scipy_over_the_overlaps_of_pycocotools(seed):
    rng = random.Random(seed)
    true = [(box, rng.choice(LABELS)) for box in drawn(rng, rng.randint(1, 7), 80)]
    predicted = [
        (near(rng, box), label if rng.random() < 0.8 else rng.choice(LABELS)) for box, label in true if rng.random() < 0.8
    ]
    predicted += [(box, rng.choice(LABELS)) for box in drawn(rng, rng.randint(0, 4), 80)]
    predicted = [(box, label) for box, label in predicted if box[2] > box[0] and box[3] > box[1]]
    rng.shuffle(predicted)
    sample = Sample(
        "1", "detection", "dog, cat", [{"bbox_2d": box, "label": label} for box, label in true], ("a.jpg",),
        meta={"categories": list(LABELS)},
    )  # fmt: skip
    gain = theirs([box for box, _ in predicted], [box for box, _ in true])
    same = np.array([[a == b for _, b in true] for _, a in predicted], dtype=bool).reshape(gain.shape)
    gain = np.where(same & (gain >= 0.5), gain, 0.0)
    total = gain[linear_sum_assignment(gain, maximize=True)].sum()
    found = iou_f1(tagged([{"bbox_2d": box, "label": label} for box, label in predicted]), sample)
    assert found.value == pytest.approx(2 * total / (len(predicted) + len(true)), abs=1e-9)


def test_the_largest_matching_is_scipys():
    rng = random.Random(1)
    for _ in range(200):
        predicted = [Box(*box, "dog") for box in drawn(rng, rng.randint(1, 8), 60)]
        true = [Box(*near(rng, box.xyxy), "dog") for box in predicted] + [Box(*box, "dog") for box in drawn(rng, 3, 60)]
        true = [box for box in true if box.x2 > box.x1 and box.y2 > box.y1]
        thresholds = [0.3, 0.5, 0.75]
        grid = theirs([box.xyxy for box in predicted], [box.xyxy for box in true])
        expected = [int((maximum_bipartite_matching(csr_matrix(grid >= t), perm_type="column") >= 0).sum()) for t in thresholds]
        assert matching_sizes(overlaps(predicted, true, 0.3), thresholds) == expected


def test_grounding_is_the_overlap_of_pycocotools():
    rng = random.Random(2)
    for box in drawn(rng, 40):
        other = near(rng, box)
        if other[2] <= other[0] or other[3] <= other[1]:
            continue
        sample = Sample("1", "grounding", "it", {"bbox_2d": box}, ("a.jpg",))
        assert vlm_r1_iou(tagged({"bbox_2d": other}), sample).value == pytest.approx(theirs([other], [box])[0, 0], abs=1e-9)


def official_ap50(predicted, true):
    def rows(items, **more):
        for i, item in enumerate(items, start=1):
            x1, y1, x2, y2 = item["bbox_2d"]
            yield {"id": i, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]} | more

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": 1}],
            "annotations": list(rows(true, iscrowd=0, area=10_000)),
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(list(rows(predicted, score=1.0))), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats[1]


def test_where_we_differ_from_coco_evaluation_on_purpose():
    """COCO's matching is greedy by score, and with equal scores follows the order of the list; ours does not."""
    true = [{"bbox_2d": [0, 0, 100, 100], "label": "dog"}, {"bbox_2d": [40, 0, 140, 100], "label": "dog"}]
    sample = Sample("1", "detection", "dog", true, ("a.jpg",), meta={"categories": ["dog"]})
    between = [{"bbox_2d": [18, 0, 118, 100], "label": "dog"}, {"bbox_2d": [-20, 0, 80, 100], "label": "dog"}]
    # the first box overlaps both true ones (0.69, 0.64), the second only the first (0.67): greedily, the first takes the first
    for items, coco in ((between, 0.5), (between[::-1], 1.0)):
        assert official_ap50(items, true) == pytest.approx(coco, abs=0.01)
        assert vlm_r1_map50(tagged(items), sample).value == 1.0
