"""What single detection benchmarks measure beside COCO's AP: AP by size, NMS-AP (OVDEval), federated AP by frequency (LVIS).

Each protocol adds numbers to those of `vlrl.metrics.coco`, or replaces its AP by the benchmark's own. Matches are pycocotools'
in all of them; what differs is which boxes take part. Intervals resample images, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlrl.answers.geometry import iou
from vlrl.metrics.bootstrap import IntArray, bootstrap_indices
from vlrl.metrics.coco import (
    MAX_DETS,
    N_AP_RESAMPLES,
    ApTable,
    DetectionRow,
    canonical_row,
    detection_metrics,
    mean_ap,
    official_evaluation,
    score_of,
)
from vlrl.schema import Box, Metric

OBJECT_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's sizes of objects, in square pixels; an area on a border belongs to both."""
FREQUENCIES = {"rare": "r", "common": "c", "frequent": "f"}
"""LVIS' groups of categories by the number of training images that hold one: up to 10, up to 100, more."""
NMS_IOU = 0.5
LVIS_AREA = (0.0, 1e10)
NO_LIMIT = 1_000_000
"""More boxes than an answer can hold: LVIS limits those of an image, not those of one label."""

PartValues = Callable[[IntArray], Sequence[float]]
MetricPart = tuple[tuple[str, ...], PartValues]
"""Names of metrics, and their values over the samples of an index."""


@dataclass(frozen=True)
class DetectionProtocol:
    """`max_dets`: the boxes that count, of a label in an image (LVIS: of an image), unless a run says otherwise."""

    about: str
    headline: str
    max_dets: int
    parts: Callable[[Sequence[DetectionRow], int], Iterator[MetricPart]]


def protocol_metrics(
    rows: Sequence[DetectionRow],
    protocol: DetectionProtocol | None,
    max_dets: int | None = None,
    *,
    n_resamples: int = N_AP_RESAMPLES,
    seed: int = 0,
) -> dict[str, Metric]:
    """The numbers of `detection_metrics` and of a protocol; one of both names is the protocol's. None: the former alone.

    Raises ValueError where rows do not say what the protocol needs.
    """
    limit = max_dets or (MAX_DETS if protocol is None else protocol.max_dets)
    found = detection_metrics(rows, max_dets=limit, n_resamples=n_resamples, seed=seed)
    if protocol is None:
        return found
    if not rows:
        return {**found, protocol.headline: Metric(None, None, 0)}
    parts = list(protocol.parts([canonical_row(row) for row in rows], limit))
    names = [name for some, _ in parts for name in some]
    metrics = bootstrap_indices(
        lambda index: [value for _, values in parts for value in values(index)],
        len(rows),
        clusters=[row.image for row in rows],
        n_resamples=n_resamples,
        seed=seed,
    )
    return {**found, **dict(zip(names, metrics, strict=True))}


def coco_parts(rows: Sequence[DetectionRow], max_dets: int) -> Iterator[MetricPart]:
    """COCO's other numbers: "ap_small", "ap_medium", "ap_large", and "ar@1", "ar@10", "ar@100", the mean share of true boxes
    found among so many boxes of a label in an image, over labels and IoU .50:.05:.95."""
    yield from size_parts(rows, max_dets)
    for n in sorted({min(n, max_dets) for n in (1, 10, max_dets)}):
        yield (f"ar@{n}",), _recall(ApTable(official_evaluation(rows, n)))


def size_parts(rows: Sequence[DetectionRow], max_dets: int) -> Iterator[MetricPart]:
    """AP of the objects of each of COCO's sizes. The area is that of the object (`DetectionRow.areas`), else of its box."""
    for size, area_px2 in OBJECT_SIZES.items():
        yield (f"ap_{size}",), _ap(ApTable(official_evaluation(rows, max_dets, area_px2)))


def ovdeval_parts(rows: Sequence[DetectionRow], max_dets: int) -> Iterator[MetricPart]:
    """ "nms_ap", "nms_ap50": AP of what `without_rivals` leaves."""
    table = ApTable(official_evaluation(without_rivals(rows), max_dets))

    def values(index: IntArray) -> Sequence[float]:
        ap_TK = table.at(index)
        return mean_ap(ap_TK), mean_ap(ap_TK[0])

    yield ("nms_ap", "nms_ap50"), values


def without_rivals(rows: Sequence[DetectionRow], min_iou: float = NMS_IOU) -> list[DetectionRow]:
    """The rows without predicted boxes that lose against another one over the same object, whatever their labels.

    For each true box of an image: of all boxes predicted in the image with an IoU above `min_iou`, the highest score is kept,
    the last one of equals, and the others go unless another true box keeps them. So a detector gains nothing by putting every
    label it was asked for on one object. Source: OVDEval (arXiv 2308.13177), its released evaluation, which sorts by score and
    turns the order round. differs: boxes without a label, or of one that was not asked for, do not compete; there is none in
    its files.
    """
    of_image: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        of_image.setdefault(row.image, []).append(at)
    kept: dict[int, list[Box]] = {}
    for places in of_image.values():
        found = [(at, box) for at in places for box in _asked_boxes(rows[at])]
        winners: set[int] = set()
        losers: set[int] = set()
        for true in dict.fromkeys(box.xyxy for at in places for box in rows[at].true):
            near = [n for n, (_, box) in enumerate(found) if iou(true, box.xyxy) > min_iou]
            if near:
                best = max(near, key=lambda n: (score_of(found[n][1]), n))
                winners.add(best)
                losers.update(n for n in near if n != best)
        for at in places:
            kept[at] = [box for n, (own, box) in enumerate(found) if own == at and n not in losers - winners]
    return [replace(row, predicted=None if row.predicted is None else tuple(kept[at])) for at, row in enumerate(rows)]


def lvis_parts(rows: Sequence[DetectionRow], max_dets: int) -> Iterator[MetricPart]:
    """LVIS' numbers: "ap", "ap50", "ap75", "ap_rare", "ap_common", "ap_frequent" and AP by size.

    Federated: a predicted box of a label that its image was not searched for (`asked`) is left out, and one of a label that is
    not annotated in full there (`not_exhaustive`) is no mistake where it matches nothing. `max_dets` boxes of an image count,
    over all labels. Source: LVIS (arXiv 1908.03195) and its released evaluation. Raises ValueError for a label without a
    frequency.
    """
    frequency = {label: kind for row in rows for label, kind in row.frequency.items()}
    labels = sorted({box.label for row in rows for box in row.true if box.label is not None})
    unknown = [label for label in labels if frequency.get(label) not in FREQUENCIES.values()]
    if unknown:
        raise ValueError(
            f"the frequency of {unknown[0]!r} and {len(unknown) - 1} more of {len(labels)} categories is not stated (r, c or f"
            " in meta.frequency); data_prep/lvis.py --for_ap writes it"
        )
    shown = [replace(row, predicted=_federated(row)) for row in limited(rows, max_dets)]

    def table_of(area_px2: tuple[float, float]) -> ApTable:
        evaluation = official_evaluation(shown, NO_LIMIT, area_px2)
        _excuse_unsearched(evaluation, shown, labels)
        return ApTable(evaluation)

    whole = table_of(LVIS_AREA)
    groups = [np.array([frequency[label] == kind for label in labels], dtype=bool) for kind in FREQUENCIES.values()]

    def values(index: IntArray) -> Sequence[float]:
        ap_TK = whole.at(index)
        return [mean_ap(ap_TK), mean_ap(ap_TK[0]), mean_ap(ap_TK[5]), *(mean_ap(ap_TK[:, group]) for group in groups)]

    yield ("ap", "ap50", "ap75", *(f"ap_{name}" for name in FREQUENCIES)), values
    for size, area_px2 in OBJECT_SIZES.items():
        yield (f"ap_{size}",), _ap(table_of(area_px2))


def _ap(table: ApTable) -> PartValues:
    return lambda index: [mean_ap(table.at(index))]


def _recall(table: ApTable) -> PartValues:
    return lambda index: [mean_ap(table.recall_at(index))]


def _asked_boxes(row: DetectionRow) -> Sequence[Box]:
    return [box for box in row.predicted or () if box.label is not None and (row.asked is None or box.label in row.asked)]


def _federated(row: DetectionRow) -> tuple[Box, ...] | None:
    return None if row.predicted is None else tuple(_asked_boxes(row))


def limited(rows: Sequence[DetectionRow], max_dets: int) -> list[DetectionRow]:
    """The rows with the `max_dets` boxes of highest score of each image, over all its rows and labels; equals in order."""
    of_image: dict[str, list[tuple[int, Box]]] = {}
    for at, row in enumerate(rows):
        # exact duplicates are one box, as in AP
        of_image.setdefault(row.image, []).extend((at, box) for box in dict.fromkeys(row.predicted or ()))
    kept: dict[int, list[Box]] = {}
    for found in of_image.values():
        for at, box in sorted(found, key=lambda one: -score_of(one[1]))[:max_dets]:
            kept.setdefault(at, []).append(box)
    return [replace(row, predicted=None if row.predicted is None else tuple(kept.get(at, ()))) for at, row in enumerate(rows)]


def _excuse_unsearched(evaluation: Any, rows: Sequence[DetectionRow], labels: Sequence[str]) -> None:
    """Let predicted boxes that match nothing count neither way where their label is not annotated in full."""
    found = evaluation.evalImgs
    place_of = {label: k for k, label in enumerate(labels)}
    for number, row in enumerate(rows):
        for label in row.not_exhaustive & place_of.keys():
            one = found[place_of[label] * len(rows) + number]
            if one is not None:
                one["dtIgnore"] = np.asarray(one["dtIgnore"], dtype=bool) | (np.asarray(one["dtMatches"]) == 0)


DETECTION_PROTOCOLS = {
    "coco": DetectionProtocol("COCO's AP by size and AR", "ap", MAX_DETS, coco_parts),
    "ovdeval": DetectionProtocol("OVDEval's NMS-AP", "nms_ap", MAX_DETS, ovdeval_parts),
    "lvis": DetectionProtocol("LVIS' federated AP by frequency", "ap", 300, lvis_parts),
}
