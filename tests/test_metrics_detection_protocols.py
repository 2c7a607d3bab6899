"""AP by size against pycocotools, NMS-AP and LVIS AP against the published rules restated here, and all of them by hand."""

import contextlib
import io
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_metrics_coco import random_rows, row

from vlrl.metrics.coco import ApTable, DetectionRow, canonical_row, detection_metrics, mean_ap, official_evaluation
from vlrl.metrics.detection_protocols import DETECTION_PROTOCOLS, OBJECT_SIZES, limited, protocol_metrics, without_rivals
from vlrl.schema import Box, Metric, Prediction, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import measure, numbers
from vlrl.tasks.protocols import with_protocol

pytestmark = pytest.mark.quick

CAT = Box(0, 0, 100, 100, "cat")


def measured(rows, name, max_dets=None):
    found = protocol_metrics(rows, DETECTION_PROTOCOLS[name], max_dets, n_resamples=3)
    return {key: metric.value for key, metric in found.items()}


# ---- COCO: by size, max_dets


def with_areas(rows, seed=0):
    """Areas of outlines, smaller than the boxes: what is small by one may be of middle size by the other."""
    generator = np.random.default_rng(seed)
    made = []
    for r in rows:
        shares = generator.uniform(0.2, 1.0, len(r.true))
        made.append(replace(r, areas=tuple((b.x2 - b.x1) * (b.y2 - b.y1) * s for b, s in zip(r.true, shares, strict=True))))
    return made


def official_stats(rows):
    """The twelve numbers of pycocotools as its demo makes them, each row an image of its own."""
    labels = sorted({box.label for r in rows for box in r.true})
    annotations, results = [], []
    for i, r in enumerate(rows, start=1):
        areas = r.areas or [(b.x2 - b.x1) * (b.y2 - b.y1) for b in r.true]
        for box, area in zip(r.true, areas, strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": labels.index(box.label) + 1}
            annotations.append({**annotation, "iscrowd": 0, "area": area, "bbox": as_xywh(box)})
        for box in dict.fromkeys(r.predicted or ()):
            if box.label in labels:
                score = 1.0 if box.confidence is None else box.confidence
                results.append(
                    {"image_id": i, "category_id": labels.index(box.label) + 1, "bbox": as_xywh(box), "score": score}
                )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(1, len(rows) + 1)],
            "annotations": annotations,
            "categories": [{"id": k, "name": label} for k, label in enumerate(labels, start=1)],
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def as_xywh(box):
    return [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]


COCO_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar@1", "ar@10", "ar@100")


@pytest.mark.parametrize("seed", range(6))
def test_ap_by_size_and_ar_equal_pycocotools(seed):
    rows = with_areas(random_rows(seed, n_samples=12, scores=seed % 2 == 0), seed)
    if seed % 3 == 0:  # small ones too
        rows = [shrunk(r, 0.25) for r in rows]
    found, stats = measured(rows, "coco"), official_stats(rows)
    expected = [None if value == -1 else pytest.approx(value, abs=1e-12) for value in stats[:9]]
    assert [found[name] for name in COCO_NAMES] == expected


def shrunk(r, by):
    def smaller(boxes):
        return tuple(Box(b.x1 * by, b.y1 * by, b.x2 * by, b.y2 * by, b.label, b.confidence) for b in boxes)

    predicted = None if r.predicted is None else smaller(r.predicted)
    return replace(r, true=smaller(r.true), predicted=predicted, areas=tuple(area * by * by for area in r.areas))


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_with_ignored_boxes_equals_pycocotools_on_the_resampled_set(seed):
    rows = with_areas(random_rows(seed, n_samples=10), seed)
    index = np.sort(np.random.default_rng(seed).integers(len(rows), size=len(rows)))
    stats = official_stats([rows[i] for i in index])
    tables = [ApTable(official_evaluation(rows, area_px2=area)) for area in OBJECT_SIZES.values()]
    assert any(table.counted_TD is not None for table in tables)
    found = [mean_ap(table.at(index)) for table in tables]
    assert found == [pytest.approx(np.nan if value == -1 else value, abs=1e-12, nan_ok=True) for value in stats[3:6]]


def test_the_area_is_that_of_the_object_where_the_row_states_it():
    box = Box(0, 0, 40, 40, "cat")  # 1,600 square pixels: of middle size; its outline has 800: small
    plain, outlined = row("s", [box], [box]), replace(row("s", [box], [box]), areas=(800.0,))
    assert (measured([plain], "coco")["ap_small"], measured([plain], "coco")["ap_medium"]) == (None, 1.0)
    assert (measured([outlined], "coco")["ap_small"], measured([outlined], "coco")["ap_medium"]) == (1.0, None)


def test_max_dets_cuts_by_score():
    spam = [Box(200 + i, 0, 210 + i, 10, "cat", 0.9) for i in range(3)]
    rows = [row("s", [CAT], [*spam, replace(CAT, confidence=0.5)])]
    assert detection_metrics(rows, n_resamples=2)["ap"].value == pytest.approx(0.25)
    assert detection_metrics(rows, max_dets=3, n_resamples=2)["ap"].value == 0
    assert measured(rows, "coco", 3)["ap"] == 0


# ---- OVDEval: NMS-AP


def published_nms(rows):
    """OVDEval's rule, restated: per image, for each true box the predictions above IoU 0.5 by falling score; the first is kept,
    the others go unless they are kept for another true box."""
    made = []
    for r in rows:
        predicted = list(r.predicted or ())
        keep, remove = [], []
        for t in r.true:
            near = []
            for n, p in enumerate(predicted):
                w, h = max(0, min(t.x2, p.x2) - max(t.x1, p.x1)), max(0, min(t.y2, p.y2) - max(t.y1, p.y1))
                union = (t.x2 - t.x1) * (t.y2 - t.y1) + (p.x2 - p.x1) * (p.y2 - p.y1) - w * h
                if union and w * h / union > 0.5:
                    near.append(n)
            scores = np.array([predicted[n].confidence for n in near])
            order = [near[i] for i in np.argsort(scores, kind="stable")[::-1]]
            keep += order[:1]
            remove += order[1:]
        gone = set(remove) - set(keep)
        made.append(replace(r, predicted=tuple(p for n, p in enumerate(predicted) if n not in gone)))
    return made


@pytest.mark.parametrize("seed", range(8))
def test_nms_ap_equals_pycocotools_after_the_published_rule(seed):
    rows = [replace(r, image=r.id) for r in random_rows(seed, n_samples=10)]
    generator = np.random.default_rng(seed + 100)
    doubled = []
    for r in rows:  # each true box is predicted under several labels
        extra = [replace(b, label=str(generator.choice(["a", "b", "c"])), confidence=float(generator.random())) for b in r.true]
        doubled.append(replace(r, predicted=(*(r.predicted or ()), *extra)))
    found, stats = measured(doubled, "ovdeval"), official_stats(published_nms(doubled))
    assert (found["nms_ap"], found["nms_ap50"]) == pytest.approx((stats[0], stats[1]), abs=1e-12)
    assert found["ap"] == pytest.approx(official_stats(doubled)[0], abs=1e-12)


def test_nms_ap_by_hand():
    red, blue = Box(0, 0, 100, 100, "red car"), Box(200, 0, 300, 100, "blue car")
    # every label on every car: plain AP pays for it, NMS-AP does not
    both = [replace(box, label=label, confidence=c) for box, label, c in [
        (red, "red car", 0.6), (red, "blue car", 0.9), (blue, "red car", 0.8), (blue, "blue car", 0.7)]]  # fmt: skip
    rows = [row("s", [red, blue], both)]
    # Plain: each label has two boxes, the wrong one first: precision 1/2 at full recall.
    assert measured(rows, "ovdeval")["ap"] == pytest.approx(0.5)
    # The wrong label wins over both cars, so nothing right is left.
    assert measured(rows, "ovdeval")["nms_ap"] == 0
    right = [replace(box, confidence=1 - box.confidence) for box in both]
    assert measured([row("s", [red, blue], right)], "ovdeval")["nms_ap"] == 1.0
    assert [box.label for box in without_rivals([row("s", [red, blue], right)])[0].predicted] == ["red car", "blue car"]


def test_nms_keeps_the_last_of_equals_what_another_true_box_keeps_and_what_is_apart():
    first, second = Box(0, 0, 100, 100, "a", 0.5), Box(0, 0, 100, 99, "b", 0.5)
    assert without_rivals([row("s", [CAT], [first, second])])[0].predicted == (second,)
    half = Box(0, 0, 100, 50, "a", 0.9)  # IoU exactly 0.5: no rival
    assert without_rivals([row("s", [CAT], [half, second])])[0].predicted == (half, second)
    wide = Box(0, 0, 160, 100, "cat")
    better, worse = Box(0, 0, 150, 100, "a", 0.9), Box(0, 0, 105, 100, "b", 0.8)
    kept = without_rivals([row("s", [CAT, wide], [better, worse])])[0].predicted
    assert kept == (better,)
    assert without_rivals([row("s", [], [better, worse])])[0].predicted == (better, worse)
    assert without_rivals([row("s", [CAT], None)])[0].predicted is None


def test_nms_is_over_all_questions_about_an_image():
    dog, cat = Box(0, 0, 100, 100, "dog", 0.9), Box(0, 0, 100, 100, "cat", 0.8)
    rows = [row("s-dog", [], [dog], image="i"), row("s-cat", [CAT], [cat], image="i")]
    assert [r.predicted for r in without_rivals(rows)] == [(dog,), ()]
    apart = [replace(r, image=r.id) for r in rows]
    assert [r.predicted for r in without_rivals(apart)] == [(dog,), (cat,)]
    unasked = [replace(rows[0], asked=frozenset({"bird"})), rows[1]]
    assert [r.predicted for r in without_rivals(unasked)] == [(), (cat,)]


# ---- LVIS


def published_lvis(rows, frequency, max_dets=300):
    """LVIS' rules, restated for one row an image: the highest scores of an image, only labels that it was searched for, boxes
    that match nothing excused where a label is not annotated in full; AP over 101 recalls, by frequency and size."""
    labels = sorted({box.label for r in rows for box in r.true})
    thresholds, recalls = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
    ranges = [(0, 1e10), *OBJECT_SIZES.values()]
    ap = np.full((len(ranges), 10, len(labels)), np.nan)
    for a, (low, high) in enumerate(ranges):
        for k, label in enumerate(labels):
            scores, hits, ignores, n_true = [], [], [], 0
            for r in rows:
                kept = sorted(r.predicted or (), key=lambda p: -p.confidence)[:max_dets]
                dts = [p for p in kept if p.label == label and label in r.asked]
                areas = r.areas or [(b.x2 - b.x1) * (b.y2 - b.y1) for b in r.true]
                gts = [(b, not low <= area <= high) for b, area in zip(r.true, areas, strict=True) if b.label == label]
                gts.sort(key=lambda one: one[1])
                n_true += sum(not ignored for _, ignored in gts)
                for t, threshold in enumerate(thresholds):
                    taken = set()
                    for p in dts:
                        best, best_iou = None, min(threshold, 1 - 1e-10)
                        for n, (b, ignored) in enumerate(gts):
                            if n in taken:
                                continue
                            if best is not None and not gts[best][1] and ignored:
                                break
                            overlap = plain_iou(p, b)
                            if overlap >= best_iou:
                                best, best_iou = n, overlap
                        if best is not None:
                            taken.add(best)
                        outside = not low <= (p.x2 - p.x1) * (p.y2 - p.y1) <= high
                        excused = best is None and (outside or label in r.not_exhaustive)
                        scores.append((t, -p.confidence))
                        hits.append(best is not None)
                        ignores.append(excused or (best is not None and gts[best][1]))
            if not n_true:
                continue
            for t in range(10):
                own = [i for i, one in enumerate(scores) if one[0] == t]
                own.sort(key=lambda i: scores[i][1])
                tp = np.cumsum([hits[i] and not ignores[i] for i in own])
                fp = np.cumsum([not hits[i] and not ignores[i] for i in own])
                precision = tp / np.maximum(tp + fp, 1e-16) if own else np.zeros(0)
                recall = tp / n_true if own else np.zeros(0)
                reached = np.searchsorted(recall, recalls, side="left")
                value = [precision[at:].max() if at < len(precision) else 0.0 for at in reached]
                ap[a, t, k] = np.mean(value)

    def mean(values):
        values = values[~np.isnan(values)]
        return pytest.approx(values.mean(), abs=1e-9) if values.size else None

    groups = [np.array([frequency[label] == kind for label in labels]) for kind in "rcf"]
    by_size = [mean(ap[i]) for i in (1, 2, 3)]
    return [mean(ap[0]), mean(ap[0, 0]), mean(ap[0, 5]), *(mean(ap[0][:, group]) for group in groups), *by_size]


def plain_iou(p, t):
    w, h = max(0, min(t.x2, p.x2) - max(t.x1, p.x1)), max(0, min(t.y2, p.y2) - max(t.y1, p.y1))
    return w * h / ((t.x2 - t.x1) * (t.y2 - t.y1) + (p.x2 - p.x1) * (p.y2 - p.y1) - w * h)


LVIS_NAMES = ("ap", "ap50", "ap75", "ap_rare", "ap_common", "ap_frequent", "ap_small", "ap_medium", "ap_large")
FREQUENCY = {"a": "r", "b": "c", "c": "f", "d": "f"}


def lvis_rows(seed):
    generator = np.random.default_rng(seed)
    rows = []
    for i, r in enumerate(with_areas(random_rows(seed, n_samples=12, labels=("a", "b", "c", "d")), seed)):
        labels = {box.label for box in r.true}
        negatives = {label for label in FREQUENCY if label not in labels and generator.random() < 0.5}
        partial = {label for label in sorted(labels | negatives) if generator.random() < 0.4}
        predicted = tuple(replace(p, confidence=float(generator.random())) for p in r.predicted or ())  # no ties
        facts = {"asked": frozenset(labels | negatives), "not_exhaustive": frozenset(partial), "frequency": FREQUENCY}
        rows.append(replace(r, id=f"r{i}", image=f"i{i}", predicted=predicted, **facts))
    return rows


@pytest.mark.parametrize("max_dets", [300, 3])
@pytest.mark.parametrize("seed", range(4))
def test_lvis_ap_equals_the_published_rules(seed, max_dets):
    rows = lvis_rows(seed)
    found = measured(rows, "lvis", max_dets)
    assert [found[name] for name in LVIS_NAMES] == published_lvis(rows, FREQUENCY, max_dets)


def test_lvis_by_hand():
    ant, bee = Box(0, 0, 100, 100, "ant"), Box(200, 0, 300, 100, "bee")
    far = [Box(400, i * 20, 420, i * 20 + 15, label, 0.9) for i, label in enumerate(["ant", "bee", "cow"])]
    right = [replace(ant, confidence=0.5), replace(bee, confidence=0.5)]
    facts = {"asked": frozenset({"ant", "bee"}), "frequency": {"ant": "r", "bee": "f"}}
    plain = replace(row("s", [ant, bee], [*far, *right]), **facts)
    # each label: a false box first, then the right one; cows were not looked for
    found = measured([plain], "lvis")
    assert (found["ap_rare"], found["ap_frequent"], found["ap"]) == pytest.approx((0.5, 0.5, 0.5))
    assert found["ap_common"] is None
    partial = measured([replace(plain, not_exhaustive=frozenset({"ant"}))], "lvis")
    assert (partial["ap_rare"], partial["ap_frequent"], partial["ap"]) == pytest.approx((1.0, 0.5, 0.75))
    # 300 boxes of an image count, over all labels: here 3, the false ones
    assert measured([plain], "lvis", 3)["ap"] == 0
    assert [len(r.predicted) for r in limited([plain], 4)] == [4]
    two = [replace(plain, id="s1", predicted=tuple(far)), replace(plain, id="s2", predicted=tuple(right))]
    assert [len(r.predicted) for r in limited([replace(r, image="i") for r in two], 4)] == [3, 1]


def test_a_label_without_a_frequency_is_an_error():
    with pytest.raises(ValueError, match=r"frequency of 'cat' and 0 more of 1 categories is not stated .* --for_ap"):
        protocol_metrics([row("s", [CAT], [CAT])], DETECTION_PROTOCOLS["lvis"], n_resamples=2)


def test_nothing_to_measure():
    for name, protocol in DETECTION_PROTOCOLS.items():
        assert protocol_metrics([], protocol)[protocol.headline] == Metric(None, None, 0), name
        silent = [replace(row("s", [], None), frequency={})]
        assert protocol_metrics(silent, protocol, n_resamples=2)[protocol.headline].value is None, name


# ---- the task


def sample(key, answer, **meta):
    meta = {"categories": ["ant", "bee"], "image_size": [500, 400], **meta}
    return Sample(key, "detection", "ant, bee", answer, (f"{key}.jpg",), meta=meta)


def item(box, **more):
    return {"bbox_2d": list(box.xyxy), "label": box.label, **more}


def test_rows_of_the_task_say_what_a_protocol_needs():
    ant = Box(0, 0, 100, 100, "Ant")
    asked = sample("s", [item(ant, area=500)], frequency={"ant": "r", "bee": "c"}, not_exhaustive=["ant"])
    assert TASKS["detection"].check(asked) is None
    made = [Prediction("s", f'<think>t</think><answer>[{{"bbox_2d": {list(ant.xyxy)}, "label": "ant"}}]</answer>', 1, False)]
    tasks = with_protocol({"detection": TASKS["detection"]}, "lvis", None)
    rows = measure(tasks["detection"], [asked], made)
    data = canonical_row(rows[0].data)
    assert data == DetectionRow(
        "s", "s.jpg", (replace(ant, label="ant"),), (replace(ant, label="ant"),), 1, (500.0,),
        frozenset({"ant", "bee"}), frozenset({"ant"}), {"ant": "r", "bee": "c"},
    )  # fmt: skip
    found = numbers(tasks["detection"], rows)
    assert (found["ap_rare"].value, found["ap_small"].value, found["ap_medium"].value) == (1.0, 1.0, None)
    assert tasks["detection"].headline == "ap"
    assert "ap_rare" not in numbers(TASKS["detection"], rows)


def test_what_a_protocol_cannot_use_is_named():
    both = {"detection": TASKS["detection"], "qa": TASKS["qa"]}
    with pytest.raises(
        ValueError, match=r"--protocol: unknown 'lvs'; did you mean 'lvis'\? \(known: coco, ovdeval, lvis, cvbench\)"
    ):
        with_protocol(both, "lvs")
    with pytest.raises(ValueError, match="--protocol coco is for --task detection; this run's is qa"):
        with_protocol({"qa": TASKS["qa"]}, "coco")
    with pytest.raises(ValueError, match="--max_dets 5 is for --task detection; this run's is qa"):
        with_protocol({"qa": TASKS["qa"]}, None, 5)
    with pytest.raises(ValueError, match="--max_dets is for detection; --protocol cvbench measures qa"):
        with_protocol(both, "cvbench", 5)
    assert with_protocol(both, None) == both
    checked = with_protocol(both, "lvis")["detection"].check(sample("s", []))
    assert "--protocol lvis needs meta.frequency of 'ant'" in checked
    assert "area" in TASKS["detection"].check(sample("s", [item(Box(0, 0, 9, 9, "ant"), area="big")]))


def test_the_default_numbers_are_the_same_without_a_protocol():
    rows = random_rows(3)
    assert protocol_metrics(rows, None, n_resamples=5) == detection_metrics(rows, n_resamples=5)
    of_image = defaultdict(list)
    for r in rows:
        of_image[r.image].append(r.id)
    assert max(map(len, of_image.values())) == 2, "questions share images in these rows"
