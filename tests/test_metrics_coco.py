"""Detection metrics: worked by hand, equal to pycocotools, indifferent to the order of boxes."""

import contextlib
import io
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vlrl.answers.span import canon
from vlrl.metrics import coco
from vlrl.metrics.coco import DetectionRow, detection_difference, detection_metrics
from vlrl.schema import Box, Metric

CAT = Box(0, 0, 100, 100, "cat")
DOG = Box(200, 200, 300, 300, "dog")
CAT_HALF = Box(0, 0, 100, 50, "cat")  # IoU with CAT exactly 0.5
CAT_FAR = Box(400, 400, 500, 500, "cat")


def row(key, true, predicted, n_pred=None, image=None):
    return DetectionRow(key, image or key, tuple(true), None if predicted is None else tuple(predicted), n_pred)


def values(rows, **options):
    return {name: metric.value for name, metric in detection_metrics(rows, n_resamples=20, **options).items()}


def random_rows(seed, n_samples=12, labels=("a", "b", "c"), scores=True, max_true=6):
    """Truth, jittered copies of most of it, some boxes at random: every IoU threshold decides something."""
    generator = np.random.default_rng(seed)

    def box(label):
        x, y = generator.uniform(0, 400, 2)
        w, h = generator.uniform(20, 120, 2)
        return Box(float(x), float(y), float(x + w), float(y + h), label)

    rows = []
    for i in range(n_samples):
        true = [box(labels[generator.integers(len(labels))]) for _ in range(generator.integers(0, max_true + 1))]
        predicted = []
        for t in true:
            if generator.random() < 0.8:
                d = generator.normal(0, 5, 4)
                predicted.append(Box(t.x1 + d[0], t.y1 + d[1], t.x2 + d[2], t.y2 + d[3], t.label))
        predicted += [
            box([*labels, "never true"][generator.integers(len(labels) + 1)]) for _ in range(generator.integers(0, 4))
        ]
        if scores:  # a few values only, so that ties happen
            predicted = [replace(p, confidence=float(generator.integers(0, 8)) / 8) for p in predicted]
        rows.append(row(f"s{i}", true, predicted if i % 5 else None, image=f"image-{i // 2}"))
    return rows


def plain_pycocotools(rows):
    """AP, AP50, AP75 of the official judge."""
    return judged(rows).stats[:3]


def judged(rows):
    """The official judge as the pycocotools demo runs it: COCO, loadRes, evaluate, accumulate, summarize."""
    labels = sorted({canon(box.label) for r in rows for box in r.true})
    annotations, results = [], []
    for i, r in enumerate(rows):
        for box in r.true:
            w, h = box.x2 - box.x1, box.y2 - box.y1
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": labels.index(canon(box.label)), "iscrowd": 0}
                | {"bbox": [box.x1, box.y1, w, h], "area": w * h}
            )
        for box in r.predicted or ():
            if canon(box.label) in labels:
                results.append(
                    {"image_id": i, "category_id": labels.index(canon(box.label))}
                    | {"bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]}
                    | {"score": 1.0 if box.confidence is None else box.confidence}
                )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(rows))],
            "annotations": annotations,
            "categories": [{"id": k, "name": label} for k, label in enumerate(labels)],
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def test_worked_example():
    rows = [
        row("right", [CAT, DOG], [DOG, CAT]),
        row("half", [CAT], [CAT_HALF, CAT_FAR]),  # TP at exactly 0.5, and one false positive
        row("label", [CAT], [replace(CAT, label="dog")]),  # right box, wrong label
        row("unread", [DOG], None),
    ]
    found = values(rows)
    # TP 3, n_pred 5, n_true 5
    assert found["f1@0.5"] == pytest.approx(2 * 3 / 10)
    assert found["precision@0.5"] == pytest.approx(3 / 5)
    assert found["recall@0.5"] == pytest.approx(3 / 5)
    assert found["mean_iou"] == pytest.approx((1 + 1 + 0.5 + 0 + 0) / 5)
    assert "negatives_accuracy" not in found


def test_ap_worked_example():
    # One label, two true boxes, three predictions by falling score: hit, miss, hit. Precision 1 up to recall 0.5 (51 of the
    # 101 recall levels), then 2/3 (50 levels), at every threshold.
    scored = [replace(CAT, confidence=0.9), replace(CAT_FAR, confidence=0.8), replace(CAT, confidence=0.7)]
    rows = [row("one", [CAT], scored[:2]), row("two", [CAT], scored[2:])]
    found = values(rows)
    assert (found["ap"], found["ap50"]) == pytest.approx([(51 + 50 * 2 / 3) / 101] * 2)
    # IoU 0.5 counts at threshold 0.5 only, one of ten
    found = values([row("half", [CAT], [CAT_HALF])])
    assert (found["ap50"], found["ap75"]) == pytest.approx((1.0, 0.0))
    assert found["ap"] == pytest.approx(0.1)


def test_ap_per_category():
    metrics = detection_metrics([row("s", [CAT, DOG, DOG], [CAT])], per_category=True, n_resamples=5)
    assert metrics["ap[cat]"] == Metric(1.0, None, 1)
    assert metrics["ap[dog]"] == Metric(0.0, None, 2)
    assert metrics["ap"].value == 0.5


@pytest.mark.parametrize("seed", range(50))
def test_ap_equals_pycocotools(seed):
    rows = random_rows(seed, n_samples=10 + seed % 7, scores=seed % 2 == 0)
    found = values(rows)
    assert [found["ap"], found["ap50"], found["ap75"]] == pytest.approx(plain_pycocotools(rows), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_a_resample_equals_pycocotools_on_the_resampled_set(seed):
    rows = random_rows(seed, scores=seed % 2 == 0)
    index = np.sort(np.random.default_rng(seed).integers(len(rows), size=len(rows)))
    found = coco._Table(rows, False).values(index)[5:8]
    drawn = [rows[i] for i in index]
    assert found == pytest.approx(plain_pycocotools(drawn), abs=1e-12)


def test_at_most_100_boxes_an_image_count_for_ap():
    spam = [Box(i, 0, i + 0.5, 1, "cat", 0.9) for i in range(100)]
    late = row("s", [CAT], [*spam, replace(CAT, confidence=0.1)])
    assert values([late])["ap"] == 0.0
    assert values([late])["ap"] == pytest.approx(plain_pycocotools([late])[0])
    assert values([row("s", [CAT], [*spam[:99], replace(CAT, confidence=0.1)])])["ap"] == pytest.approx(1 / 100)


def test_duplicates_cost_f1_and_are_removed_for_ap():
    doubled = values([row("s", [CAT, DOG], [CAT, CAT, DOG])])
    assert doubled["f1@0.5"] == pytest.approx(2 * 2 / 5)
    assert doubled["ap"] == pytest.approx(1.0)


def test_boxes_of_any_size_are_false_positives():
    huge = Box(-1e6, -1e6, 1e6, 1e6, "cat", 0.9)
    assert values([row("s", [CAT], [huge, replace(CAT, confidence=0.5)])])["ap"] == pytest.approx(0.5)


def test_one_true_box_is_matched_once():
    found = values([row("s", [CAT], [CAT, CAT_HALF])])
    assert found["f1@0.5"] == pytest.approx(2 / 3)
    assert found["mean_iou"] == pytest.approx(1.0)


def test_matching_maximises_total_iou():
    # greedy on the first true box would leave the second with nothing
    left, right = Box(0, 0, 100, 10, "a"), Box(60, 0, 160, 10, "a")
    near, wide = Box(10, 0, 110, 10, "a"), Box(0, 0, 90, 10, "a")
    found = values([row("s", [right, left], [near, wide])])
    assert found["mean_iou"] == pytest.approx((50 / 150 + 90 / 100) / 2)


def test_labels_compare_canonically():
    rows = [row("s", [Box(0, 0, 9, 9, "Traffic_Light")], [Box(0, 0, 9, 9, "traffic  light ")])]
    found = values(rows)
    assert found["f1@0.5"] == found["ap"] == found["mean_iou"] == 1.0


def test_boxes_without_label_match_nothing():
    found = values([row("s", [CAT], [replace(CAT, label=None)])])
    assert found["f1@0.5"] == found["ap"] == found["mean_iou"] == 0.0


def test_invalid_items_count_as_predicted():
    assert values([row("s", [CAT], [CAT], n_pred=3)])["f1@0.5"] == pytest.approx(2 / 4)
    with pytest.raises(ValueError, match="n_pred=0 but 1 boxes"):
        values([row("s", [CAT], [CAT], n_pred=0)])


def test_negatives():
    negatives = [
        row("none", [], []),
        row("box", [], [CAT]),
        row("unread", [], None),
        row("invalid item", [], [], n_pred=1),
    ]
    metrics = detection_metrics([*negatives, row("cat", [CAT], [CAT])], n_resamples=50)
    assert (metrics["negatives_accuracy"].value, metrics["negatives_accuracy"].n) == (0.25, 4)
    # a false box and an invalid item weigh on precision, the other two negatives add nothing
    assert metrics["f1@0.5"].value == pytest.approx(2 / (3 + 1))
    assert metrics["precision@0.5"].value == pytest.approx(1 / 3)


def test_false_boxes_on_negatives_lower_ap():
    rows = [row("cat", [CAT], [replace(CAT, confidence=0.5)]), row("none", [], [replace(CAT, confidence=0.9)])]
    assert values(rows)["ap"] == pytest.approx(0.5)


def test_nothing_to_measure_is_none_not_zero():
    only_negatives = detection_metrics([row("none", [], [])], n_resamples=5)
    assert only_negatives["f1@0.5"].value is None
    assert only_negatives["ap"].value is None
    assert only_negatives["negatives_accuracy"] == Metric(1.0, None, 1)
    assert detection_metrics([])["ap"] == Metric(None, None, 0)
    silent = values([row("s", [CAT], [])])
    assert silent["precision@0.5"] is None
    assert silent["f1@0.5"] == silent["recall@0.5"] == silent["ap"] == 0.0


def test_f1_and_mean_iou_do_not_depend_on_order():
    rows = random_rows(3, scores=False)
    shuffled = [
        replace(
            r,
            true=tuple(reversed(r.true)),
            predicted=r.predicted and tuple(random.Random(1).sample(r.predicted, len(r.predicted))),
        )
        for r in reversed(rows)
    ]
    for name in ("f1@0.5", "precision@0.5", "recall@0.5", "mean_iou"):
        assert values(rows)[name] == pytest.approx(values(shuffled)[name], abs=1e-12)


def test_intervals_are_seeded_and_hold_what_they_count():
    rows = random_rows(1, n_samples=40)
    first, second, other = (detection_metrics(rows, n_resamples=200, seed=seed) for seed in (0, 0, 1))
    assert first == second
    assert first != other
    assert first["mean_iou"].n == sum(len(r.true) for r in rows)
    assert first["f1@0.5"].n == 40
    for metric in first.values():
        low, high = metric.ci95
        assert 0 <= low <= high <= 1
    assert first["f1@0.5"].ci95[0] < first["f1@0.5"].value < first["f1@0.5"].ci95[1]


def test_questions_about_one_picture_are_one_cluster():
    rows = random_rows(2, n_samples=40)
    single = detection_metrics([replace(r, image=r.id) for r in rows], n_resamples=300)
    copies = [replace(r, id=f"{r.id}-{i}", image=r.id) for r in rows for i in range(4)]
    clustered = detection_metrics(copies, n_resamples=300)
    alone = detection_metrics([replace(r, image=r.id) for r in copies], n_resamples=300)
    for name in ("f1@0.5", "mean_iou"):
        assert clustered[name].ci95 == pytest.approx(single[name].ci95)
        low, high = alone[name].ci95
        assert high - low < 0.7 * (clustered[name].ci95[1] - clustered[name].ci95[0]), "copies must not look like evidence"


def test_difference_of_two_runs_is_paired():
    rows_a = random_rows(4, n_samples=30)
    rows_b = [replace(r, predicted=r.true) for r in rows_a]
    metrics = detection_difference(rows_a, rows_b[::-1], n_resamples=100)
    assert metrics["f1@0.5"].value == pytest.approx(1 - values(rows_a)["f1@0.5"])
    assert metrics["ap"].value == pytest.approx(1 - values(rows_a)["ap"])
    assert metrics["f1@0.5"].ci95[0] > 0
    same = detection_difference(rows_a, rows_a, n_resamples=20)
    assert same["ap"] == Metric(0.0, (0.0, 0.0), 30)
    assert detection_difference(rows_a[:20], rows_b[10:], n_resamples=5)["ap"].n == 10


def test_misuse_is_named():
    with pytest.raises(ValueError, match="id 's' occurs twice"):
        detection_metrics([row("s", [CAT], []), row("s", [CAT], [])])
    with pytest.raises(ValueError, match=r"sample 's': true box .* has no label"):
        detection_metrics([row("s", [replace(CAT, label=None)], [])])
    with pytest.raises(ValueError, match="share no sample id"):
        detection_difference([row("s", [CAT], [])], [row("t", [CAT], [])])
    with pytest.raises(ValueError, match="other true boxes"):
        detection_difference([row("s", [CAT], [])], [row("s", [DOG], [])])


def test_nothing_is_printed(capsys):
    detection_metrics(random_rows(0), n_resamples=5)
    assert capsys.readouterr() == ("", "")


def test_a_usual_set_takes_seconds():
    rows = random_rows(0, n_samples=320, max_true=12)
    start = time.process_time()
    detection_metrics(rows)
    assert time.process_time() - start < 5


def crowd_of_rows(n_images, n_boxes, n_labels=80):
    """Truth spread over the pictures, four of five boxes found about where they are, two of five again under another label;
    a hundred confidences, so that ties happen."""
    generator = np.random.default_rng(0)
    labels = [f"label {i}" for i in range(n_labels)]
    true, found = [[] for _ in range(n_images)], [[] for _ in range(n_images)]
    for image in generator.integers(n_images, size=n_boxes):
        x, y, w, h = (float(v) for v in (*generator.uniform(0, 400, 2), *generator.uniform(20, 120, 2)))
        box = Box(x, y, x + w, y + h, labels[generator.integers(n_labels)])
        true[image].append(box)
        d = np.clip(generator.normal(0, 5, 4), -9, 9)
        near = Box(x + d[0], y + d[1], x + w + d[2], y + h + d[3], box.label)
        wrong = replace(box, x1=x - 50, label=labels[generator.integers(n_labels)])
        for guess, share in ((near, 0.8), (wrong, 0.4)):
            if generator.random() < share:
                found[image].append(replace(guess, confidence=float(generator.integers(0, 100)) / 100))
    return [row(f"s{i}", *boxes) for i, boxes in enumerate(zip(true, found, strict=True))]


@pytest.mark.parametrize(
    ("n_images", "n_boxes", "limit_s"),
    [pytest.param(600, 4320, 2, marks=pytest.mark.long), pytest.param(5000, 36000, 8, marks=pytest.mark.slow)],
)
def test_a_large_set_is_scored_as_officially_in_seconds(n_images, n_boxes, limit_s):
    rows = crowd_of_rows(n_images, n_boxes)
    start = time.process_time()
    found = values(rows, per_category=True)
    took = time.process_time() - start
    start = time.process_time()
    judge = judged(rows)
    print(f"\n{n_images} images, {n_boxes} true boxes: {took:.1f} s, pycocotools {time.process_time() - start:.1f} s")
    assert [found["ap"], found["ap50"], found["ap75"]] == pytest.approx(judge.stats[:3], abs=1e-12, rel=0)
    labels = sorted({box.label for r in rows for box in r.true})
    of_label = judge.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    assert [found[f"ap[{label}]"] for label in labels] == pytest.approx(of_label, abs=1e-12, rel=0)
    assert took < limit_s
    start = time.process_time()
    detection_metrics(rows, per_category=True)
    print(f"with the {coco.N_AP_RESAMPLES} resamples of an interval {time.process_time() - start:.1f} s")
