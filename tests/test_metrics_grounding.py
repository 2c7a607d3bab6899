"""Numbers on one box a question, and masks against exact areas."""

import numpy as np
import pytest
from pycocotools import mask as rle

from vlrl.metrics.bootstrap import wilson
from vlrl.metrics.grounding import mask_counts, rasterised
from vlrl.schema import ModelView, Prediction, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import measure, numbers

pytestmark = pytest.mark.quick

TRUE = [100, 100, 200, 200]


def one(i, image=None, coords="px", **meta):
    meta, view = {"image_size": [400, 300], **meta}, ModelView(coords)
    return Sample(f"g{i}", "grounding", "the dog", {"bbox_2d": TRUE}, (image or f"{i}.jpg",), meta=meta, view=view)


def measured(samples, texts, masks=None):
    metas = [{} if mask is MISSING else {"mask": mask} for mask in masks or [MISSING] * len(samples)]
    predictions = [Prediction(s.id, t, 1, False, m) for s, t, m in zip(samples, texts, metas, strict=True)]
    rows = measure(TASKS["grounding"], samples, predictions)
    return numbers(TASKS["grounding"], rows), sum(row.outcome == "unparsed" for row in rows)


MISSING = object()


def box(*xyxy):
    return f'<think>t</think><answer>{{"bbox_2d": {list(xyxy)}}}</answer>'


def test_accuracy_at_two_thresholds_and_mean_iou():
    # IoU 1, exactly 0.5 (not above), 0.6, 0.8, two boxes (no answer), prose.
    texts = [
        box(*TRUE),
        box(100, 100, 200, 150),
        box(100, 100, 200, 160),
        box(100, 100, 200, 180),
        box(*TRUE) + box(1, 1, 2, 2),
        "there",
    ]
    samples = [one(i) for i in range(6)]
    metrics, n_unparsed = measured(samples, texts)
    assert metrics["acc@0.5"] == wilson(3, 6)
    assert metrics["acc@0.75"] == wilson(2, 6)
    assert metrics["mean_iou"].value == pytest.approx((1 + 0.5 + 0.6 + 0.8) / 6)
    assert metrics["mean_iou"].ci95[0] < metrics["mean_iou"].value < metrics["mean_iou"].ci95[1]
    assert n_unparsed == 2
    assert set(metrics) == {"acc@0.5", "acc@0.75", "mean_iou"}


def test_boxes_are_compared_in_original_pixels():
    sample = one(0, coords="norm1000")
    metrics, _ = measured([sample], [box(250, 333.3333, 500, 666.6667)])
    assert metrics["mean_iou"].value == pytest.approx(1, abs=1e-4)


def test_questions_about_one_picture_are_resampled_together():
    texts = [box(*TRUE)] * 10 + ["x"] * 10
    apart, _ = measured([one(i) for i in range(20)], texts)
    shared, _ = measured([one(i, image=f"{i // 10}.jpg") for i in range(20)], texts)
    assert apart["acc@0.5"].value == shared["acc@0.5"].value == 0.5
    assert shared["acc@0.5"].ci95 == (0, 1)
    assert apart["acc@0.5"].ci95 != (0, 1)


SQUARE = [[100, 100], [200, 100], [200, 200], [100, 200]]
RIGHT_HALF = [[150, 100], [200, 100], [200, 200], [150, 200]]
FAR = [[300, 200], [320, 200], [320, 220], [300, 220]]


def test_polygons_become_masks():
    mask = rasterised([SQUARE, [300, 200, 320, 200, 320, 220, 300, 220], [[1, 1], [2, 2]]], 400, 300)
    assert mask.shape == (300, 400)
    assert mask.sum() == 100 * 100 + 20 * 20
    assert mask[150, 150]
    assert not mask[150, 250]
    overlapping = rasterised([SQUARE, RIGHT_HALF], 400, 300)
    assert overlapping.sum() == 100 * 100
    assert rasterised([], 400, 300).sum() == 0


def encoded(mask):
    return rle.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_mask_overlap_leaves_the_ignore_region_out():
    plain = one(0, polygons=[SQUARE])
    assert mask_counts(plain, [RIGHT_HALF]) == (5000, 10000)
    assert mask_counts(plain, [RIGHT_HALF, FAR]) == (5000, 10400)
    assert mask_counts(plain, encoded(rasterised([RIGHT_HALF, FAR], 400, 300))) == (5000, 10400)
    assert mask_counts(plain, None) == (0, 10000)
    ignoring = one(0, polygons=[SQUARE], ignore_polygons=[RIGHT_HALF, FAR])
    assert mask_counts(ignoring, [RIGHT_HALF, FAR]) == (0, 5000)
    assert mask_counts(ignoring, [SQUARE, FAR]) == (5000, 5000)
    as_json = {
        **encoded(rasterised([RIGHT_HALF], 400, 300)),
        "counts": encoded(rasterised([RIGHT_HALF], 400, 300))["counts"].decode(),
    }
    assert mask_counts(plain, as_json) == (5000, 10000)
    uncompressed = {"size": [300, 400], "counts": [0, 300 * 400]}
    assert mask_counts(plain, uncompressed) == (10000, 300 * 400)


def test_giou_is_a_mean_and_ciou_a_share_of_totals():
    samples = [one(0, polygons=[SQUARE]), one(1, polygons=[FAR]), one(2, polygons=[SQUARE]), one(3)]
    metrics, _ = measured(samples, ["x"] * 4, [[RIGHT_HALF], [FAR], None, [SQUARE]])
    assert metrics["giou"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics["ciou"].value == pytest.approx((5000 + 400) / (10000 + 400 + 10000))
    assert metrics["giou"].n == metrics["ciou"].n == 3
    nothing, _ = measured([one(0, polygons=[])], ["x"], [None])
    assert nothing["giou"].value == 1
    assert nothing["ciou"].value is None
    without, _ = measured([one(0, polygons=[SQUARE])], ["x"])
    assert "giou" not in without


def test_masks_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match=r"mask of size \[400, 300\], image of \[300, 400\]"):
        mask_counts(one(0, polygons=[SQUARE]), encoded(np.zeros((400, 300))))
    with pytest.raises(ValueError, match=r"needs meta\.image_size"):
        mask_counts(Sample("g", "grounding", "x", {"bbox_2d": TRUE}, ("a.jpg",), meta={"polygons": [SQUARE]}), None)


def test_nothing_to_measure():
    metrics, n_unparsed = measured([], [])
    assert all(metric.value is None for metric in metrics.values())
    assert n_unparsed == 0
