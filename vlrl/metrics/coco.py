"""Detection numbers over a set: official COCO AP beside order-free F1, precision, recall and mean IoU, with intervals.

AP is pycocotools' `COCOeval` (bbox, area "all", maxDets 100 unless stated), with every sample as an image of its own:
one prompt is one question, and two questions about one image are graded apart. Intervals resample images
(`DetectionRow.image`), because questions about one image are not independent; with one sample an image that is
resampling samples. Matching happens once; a resample only re-accumulates precision over recall (`ApTable`, equal to
pycocotools on the resampled set). With few images a label, AP of a resample tends to be higher than that of the set
(copies smooth the precision-recall curve), so that interval sits a little high. Not here: masks, and what single benchmarks
add: NMS-AP, AP by size and by frequency (`vlrl.metrics.detection_protocols`).
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vlrl.answers.geometry import best_matching
from vlrl.answers.span import canon
from vlrl.metrics.bootstrap import FloatArray, IntArray, bootstrap_indices
from vlrl.schema import Box, Metric

MAX_DETS = 100
ANY_SIZE = (0.0, float("inf"))
N_AP_RESAMPLES = 1000
CONSTANT_SCORE = 1.0
"""Score of a box without a confidence. With one score for all, AP depends on the order of the boxes in the answer and
of the rows (ties keep their order), which is why F1 is the headline where the format holds no confidence."""
_NAMES = ("f1@0.5", "precision@0.5", "recall@0.5", "mean_iou", "negatives_accuracy", "ap", "ap50", "ap75")


@dataclass(frozen=True, slots=True)
class DetectionRow:
    """One graded sample; boxes in ORIGINAL pixels, labels compared by `canon`.

    `image`: key of the image, shared by questions about it. `predicted=None`: the completion could not be read,
    graded as no boxes (but not as the answer "none"). `n_pred`: items the completion held, invalid ones included;
    None counts `predicted`.

    What single protocols need (`vlrl.metrics.detection_protocols`): `areas`, of the true objects in square pixels, None where
    they are those of the boxes; `asked`, the labels that were asked for (canonical), None where that is not stated;
    `not_exhaustive`, those of which the image has more objects than `true` holds; `frequency`, label -> "r", "c" or "f".
    """

    id: str
    image: str
    true: tuple[Box, ...]
    predicted: tuple[Box, ...] | None
    n_pred: int | None = None
    areas: tuple[float, ...] | None = None
    asked: frozenset[str] | None = None
    not_exhaustive: frozenset[str] = frozenset()
    frequency: Mapping[str, str] = field(default_factory=dict)


def detection_metrics(
    rows: Sequence[DetectionRow],
    *,
    per_category: bool = False,
    max_dets: int = MAX_DETS,
    n_resamples: int = N_AP_RESAMPLES,
    seed: int = 0,
) -> dict[str, Metric]:
    """All metrics of a set, each in [0, 1], or `value=None` where it does not apply (0 / 0).

    - "f1@0.5" = 2 TP / (n_pred + n_true), "precision@0.5" = TP / n_pred, "recall@0.5" = TP / n_true, sums over the
      set; TP by the one-to-one matching of same-label pairs with IoU >= 0.5 that maximises total IoU. An empty truth
      answered by none adds 0 to every sum: it neither helps nor hurts, while a box there is a false positive. `n` =
      samples.
    - "negatives_accuracy": share of samples with empty truth answered with an explicit empty list; unreadable or
      invalid items are wrong. `n` = those samples; absent when there are none.
    - "mean_iou": mean over true boxes of the IoU with the partner in the matching that maximises total IoU (same label,
      no threshold), 0 without partner. `n` = true boxes.
    - "ap", "ap50", "ap75": COCO AP, mean over the labels that occur in the truth. `n` = samples. With `per_category`
      also "ap[<label>]", `n` = true boxes of that label. Of an image's boxes of one label the first `max_dets` by score count.

    differs from the official script: exact duplicates (label, box and confidence) are removed, boxes larger than 1e10
    square pixels are not ignored, and a label that occurs in no truth of the set costs nothing (as there) in AP only.
    Raises ValueError for a repeated id or a true box without label.
    """
    if not rows:
        return {name: Metric(None, None, 0) for name in _NAMES if name != "negatives_accuracy"}
    table = _Table(rows, per_category, max_dets)
    metrics = bootstrap_indices(
        table.values, len(rows), clusters=[row.image for row in rows], n_resamples=n_resamples, seed=seed
    )
    return table.named(metrics)


def f1_parts(row: DetectionRow) -> tuple[float, float]:
    """What one sample adds to "f1@0.5": 2 TP, and n_pred + n_true."""
    tp, n_pred, n_true, *_ = _counts(canonical_row(row))
    return 2 * tp, n_pred + n_true


def detection_difference(
    rows_a: Sequence[DetectionRow],
    rows_b: Sequence[DetectionRow],
    *,
    per_category: bool = False,
    n_resamples: int = N_AP_RESAMPLES,
    seed: int = 0,
) -> dict[str, Metric]:
    """Metrics of run b minus those of run a over the ids both hold, by paired bootstrap (same resamples for both).

    Raises ValueError where no id is shared or the true boxes of an id differ.
    """
    b_by_id = {row.id: row for row in rows_b}
    pairs = [(row, b_by_id[row.id]) for row in rows_a if row.id in b_by_id]
    if not pairs:
        raise ValueError(f"the runs share no sample id ({len(rows_a)} and {len(rows_b)} rows); compare runs on the same data")
    for a, b in pairs:
        if sorted(map(repr, a.true)) != sorted(map(repr, b.true)):
            raise ValueError(f"sample {a.id!r} has other true boxes in run b than in run a; score both on the same data")
    table_a, table_b = (_Table(rows, per_category) for rows in zip(*pairs, strict=True))
    metrics = bootstrap_indices(
        lambda index: table_b.values(index) - table_a.values(index),
        len(pairs),
        clusters=[a.image for a, _ in pairs],
        n_resamples=n_resamples,
        seed=seed,
    )
    return table_a.named(metrics)


class _Table:
    """Per-sample counts and matches of a set, ready to be summed over any resample."""

    def __init__(self, rows: Sequence[DetectionRow], per_category: bool, max_dets: int = MAX_DETS) -> None:
        rows = [canonical_row(row) for row in rows]
        ids = [row.id for row in rows]
        if len(set(ids)) != len(ids):
            twice = next(key for i, key in enumerate(ids) if key in ids[:i])
            raise ValueError(f"id {twice!r} occurs twice; give one row a sample")
        self.counts_NC = np.array([_counts(row) for row in rows], dtype=np.float64)
        self.labels = sorted({box.label for row in rows for box in row.true if box.label is not None})
        self.per_category = per_category
        self.ap = ApTable(official_evaluation(rows, max_dets))

    def values(self, index: IntArray) -> FloatArray:
        """The numbers of `_NAMES` for the samples `index` (repeats allowed), then AP of each label if asked for."""
        tp, n_pred, n_true, iou_sum, n_negatives_right, n_negatives = self.counts_NC[index].sum(axis=0)
        ap_TK = self.ap.at(index)
        values = [
            _share(2 * tp, n_pred + n_true),
            _share(tp, n_pred),
            _share(tp, n_true),
            _share(iou_sum, n_true),
            _share(n_negatives_right, n_negatives),
            mean_ap(ap_TK),
            mean_ap(ap_TK[0]),
            mean_ap(ap_TK[5]),
        ]
        return np.array([*values, *(ap_TK.mean(axis=0) if self.per_category else ())])

    def named(self, metrics: Sequence[Metric]) -> dict[str, Metric]:
        """`metrics` (in the order of `values`) by name, with what each one counts."""
        _, _, n_true, _, _, n_negatives = (int(total) for total in self.counts_NC.sum(axis=0))
        named = dict(zip(_NAMES, metrics[: len(_NAMES)], strict=True))
        named["mean_iou"] = replace(named["mean_iou"], n=n_true)
        named["negatives_accuracy"] = replace(named["negatives_accuracy"], n=n_negatives)
        if not n_negatives:
            del named["negatives_accuracy"]
        if self.per_category:
            n_true_K = self.ap.n_true_NK.sum(axis=0)
            for label, metric, n in zip(self.labels, metrics[len(_NAMES) :], n_true_K, strict=True):
                named[f"ap[{label}]"] = replace(metric, n=int(n))
        return named


def canonical_row(row: DetectionRow) -> DetectionRow:
    for box in row.true:
        if box.label is None:
            raise ValueError(f"sample {row.id!r}: true box {list(box.xyxy)} has no label; detection truth names every box")

    def canonical(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
        return tuple(replace(box, label=None if box.label is None else canon(box.label)) for box in boxes)

    return replace(row, true=canonical(row.true), predicted=None if row.predicted is None else canonical(row.predicted))


def _counts(row: DetectionRow) -> tuple[float, ...]:
    """tp, n_pred, n_true, sum of partner IoUs, negative answered right, negative."""
    predicted = row.predicted or ()
    n_pred = len(predicted) if row.n_pred is None else row.n_pred
    if n_pred < len(predicted):
        raise ValueError(f"sample {row.id!r}: n_pred={n_pred} but {len(predicted)} boxes; n_pred counts invalid items too")
    iou_sum = sum(overlap for _, _, overlap in best_matching(predicted, row.true, 0.0))
    tp = len(best_matching(predicted, row.true, 0.5))
    negative = not row.true
    return tp, n_pred, len(row.true), iou_sum, negative and row.predicted is not None and n_pred == 0, negative


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def mean_ap(ap: FloatArray) -> float:
    """Mean over the labels present (a label is absent at all IoU thresholds or at none)."""
    present = ap[~np.isnan(ap)]
    return float(present.mean()) if len(present) else float("nan")


def official_evaluation(
    rows: Sequence[DetectionRow], max_dets: int = MAX_DETS, area_px2: tuple[float, float] = ANY_SIZE
) -> Any:
    """pycocotools' `COCOeval` after `evaluate()`: image i+1 is row i, category k+1 the k-th true label, sorted.

    `max_dets`: boxes of one label in one row that count, the highest scores first. `area_px2`: only objects of such an area
    (of `DetectionRow.areas`, else of the box) are true; others, and predictions of other sizes that match none, count neither
    way. Call `.accumulate()` on it for the official precision array. Labels must be canonical.
    """
    labels = sorted({box.label for row in rows for box in row.true if box.label is not None})
    category_of = {label: number for number, label in enumerate(labels, start=1)}
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id, row in enumerate(rows, start=1):
        areas: Sequence[float | None] = row.areas or [None] * len(row.true)
        for box, area in zip(row.true, areas, strict=True):
            truth.append({"image_id": image_id, "iscrowd": 0, **_annotation(box, category_of, area)})
        # dict keys keep the first of equal boxes and the order of the answer
        for box in dict.fromkeys(row.predicted or ()):
            if box.label in category_of:
                found.append({"image_id": image_id, "score": score_of(box), **_annotation(box, category_of)})
    images = [{"id": image_id} for image_id in range(1, len(rows) + 1)]
    categories = [{"id": number, "name": label} for label, number in category_of.items()]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_indexed(images, categories, truth), _indexed(images, categories, found), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(area_px2)], ["all"]
        evaluation.params.maxDets = [max_dets]
        _evaluate(evaluation)
    return evaluation


def score_of(box: Box) -> float:
    """What a predicted box is ranked by."""
    return CONSTANT_SCORE if box.confidence is None else box.confidence


def _evaluate(evaluation: Any) -> None:
    """`COCOeval.evaluate`, which visits every label in every image, for the pairs that hold a box: the others add nothing and
    are nearly all (5,000 images and 80 labels: 400,000 pairs, 50,000 with boxes). Overlaps and matches are pycocotools' own."""
    evaluation._prepare()
    params = evaluation.params
    held = sorted({*evaluation._gts, *evaluation._dts})
    evaluation.ious = {pair: evaluation.computeIoU(*pair) for pair in held}
    place_of = {label: k * len(params.imgIds) for k, label in enumerate(params.catIds)}
    evaluation.evalImgs = [None] * (len(params.catIds) * len(params.imgIds))
    for image, label in held:  # image ids count from 1
        found = evaluation.evaluateImg(image, label, params.areaRng[0], params.maxDets[-1])
        evaluation.evalImgs[place_of[label] + image - 1] = found
    evaluation._paramsEval = copy.deepcopy(params)


def _annotation(box: Box, category_of: dict[str, int], area_px2: float | None = None) -> dict[str, Any]:
    width, height = box.x2 - box.x1, box.y2 - box.y1
    assert box.label is not None
    area_px2 = width * height if area_px2 is None else area_px2
    return {"category_id": category_of[box.label], "bbox": [box.x1, box.y1, width, height], "area": area_px2}


def _indexed(images: list[dict[str, Any]], categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Any:
    coco = COCO()
    # ids start at 1: COCOeval stores the matched id and reads 0 as "unmatched"
    numbered = [{"id": number, "iscrowd": 0, **row} for number, row in enumerate(annotations, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": numbered}
    coco.createIndex()
    return coco


class ApTable:
    """`COCOeval`'s matches, laid out so that AP over a resample of the samples takes milliseconds.

    Axes: N samples, K labels, T IoU thresholds, D predicted boxes in the order of the samples.
    """

    def __init__(self, evaluation: Any) -> None:
        n_images, n_labels = len(evaluation.params.imgIds), len(evaluation.params.catIds)
        self.recalls: FloatArray = evaluation.params.recThrs
        self.n_thresholds = len(evaluation.params.iouThrs)
        self.n_true_NK = np.zeros((n_images, n_labels), dtype=np.int64)
        hits: list[NDArray[np.bool_]] = [np.zeros((self.n_thresholds, 0), dtype=bool)]
        ignored: list[NDArray[np.bool_]] = [np.zeros((self.n_thresholds, 0), dtype=bool)]
        keys: list[tuple[int, int, float]] = []
        held = [(i % n_images, i // n_images, found) for i, found in enumerate(evaluation.evalImgs) if found is not None]
        for image, label, found in sorted(held, key=lambda one: one[:2]):
            self.n_true_NK[image, label] = len(found["gtIds"]) - int(np.sum(found["gtIgnore"]))
            ignored.append(np.asarray(found["dtIgnore"], dtype=bool))
            hits.append((np.asarray(found["dtMatches"]) > 0) & ~ignored[-1])
            keys += [(image, label, -score) for score in found["dtScores"]]
        self.hit_TD = np.concatenate(hits, axis=1)
        ignored_TD = np.concatenate(ignored, axis=1)
        self.counted_TD = ~ignored_TD if ignored_TD.any() else None
        image_D, self.label_D, _ = np.array(keys, dtype=np.float64).reshape(-1, 3).T.astype(np.int64)
        self.first_N = np.searchsorted(image_D, np.arange(n_images))
        self.length_N = np.bincount(image_D, minlength=n_images)
        # boxes of one label by falling score; equal ranks are ties, which a stable sort leaves in the order of the
        # answer
        rank_of = {key: rank for rank, key in enumerate(sorted({key[1:] for key in keys}))}
        self.rank_D = np.array([rank_of[key[1:]] for key in keys], dtype=np.uint16 if len(rank_of) < 65536 else np.int64)

    def at(self, index: IntArray) -> FloatArray:
        """AP [T, K] over the samples `index` (sorted, repeats allowed); nan for a label without true boxes."""
        n_labels, n_thresholds = self.n_true_NK.shape[1], self.n_thresholds
        n_true_K = np.bincount(index, minlength=len(self.n_true_NK)) @ self.n_true_NK
        gathered_D = self._gathered(index)
        sorted_D = gathered_D[np.argsort(self.rank_D[gathered_D], kind="stable")]

        # Only true positives matter: between two of them precision falls. M hits lie in the order (threshold, label,
        # place), S = threshold x label segments of them.
        hit_M = np.flatnonzero(self.hit_TD.take(sorted_D, axis=1))
        start_K = np.searchsorted(self.label_D[sorted_D], np.arange(n_labels))
        start_S = (np.arange(n_thresholds)[:, None] * len(sorted_D) + start_K).ravel()
        first_S = np.searchsorted(hit_M, start_S)
        length_S = np.diff(first_S, append=len(hit_M))
        nth_M = np.arange(1, len(hit_M) + 1) - np.repeat(first_S, length_S)
        place_M = hit_M - np.repeat(start_S - 1, length_S)
        if self.counted_TD is not None:  # boxes that are ignored take no place
            before_TD = np.zeros((n_thresholds, len(sorted_D) + 1), dtype=np.int64)
            np.cumsum(self.counted_TD.take(sorted_D, axis=1), axis=1, out=before_TD[:, 1:])
            threshold_M, column_M = np.divmod(hit_M, max(1, len(sorted_D)))
            place_M = before_TD[threshold_M, column_M + 1] - np.repeat(before_TD[:, start_K].ravel(), length_S)
        precision_M = nth_M / place_M

        # Precision at each of the L recall levels: the highest from the first hit that reaches the level on.
        need_SL = np.tile(self._hits_needed(n_true_K), (n_thresholds, 1))
        reached_SL = need_SL <= length_S[:, None]
        envelope_SL = np.zeros(need_SL.shape)
        if len(hit_M):
            envelope_SL[reached_SL] = np.maximum.reduceat(precision_M, (first_S[:, None] + need_SL - 1)[reached_SL])
        envelope_SL = np.maximum.accumulate(envelope_SL[:, ::-1], axis=1)
        ap_TK = envelope_SL.mean(axis=1).reshape(n_thresholds, n_labels)
        return np.where(n_true_K > 0, ap_TK, np.nan)

    def recall_at(self, index: IntArray) -> FloatArray:
        """The share of true boxes that are found [T, K], over the samples `index`; nan for a label without true boxes."""
        n_labels = self.n_true_NK.shape[1]
        n_true_K = np.bincount(index, minlength=len(self.n_true_NK)) @ self.n_true_NK
        drawn_D = self._gathered(index)
        label_D = self.label_D[drawn_D]
        hits_TK = np.array([np.bincount(label_D, hit_D[drawn_D], minlength=n_labels) for hit_D in self.hit_TD])
        return np.where(n_true_K > 0, hits_TK / np.maximum(n_true_K, 1), np.nan)

    def _gathered(self, index: IntArray) -> IntArray:
        """The places of the predicted boxes of the samples `index`, in their order."""
        length = self.length_N[index]
        gathered_D: IntArray = np.repeat(self.first_N[index] - length.cumsum() + length, length)
        gathered_D += np.arange(len(gathered_D))
        return gathered_D

    def _hits_needed(self, n_true_K: IntArray) -> IntArray:
        """The smallest number of hits (at least 1) whose recall is a level or above it, [K, L]; compared as numbers are
        compared there, hits / true boxes against the level, both rounded."""
        n_true_K1 = np.maximum(n_true_K, 1)[:, None]
        need_KL = np.ceil(self.recalls * n_true_K1)
        need_KL -= (need_KL - 1) / n_true_K1 >= self.recalls
        need_KL += need_KL / n_true_K1 < self.recalls
        return np.maximum(need_KL, 1).astype(np.int64)
