"""Visual-RFT's rewards on boxes (arXiv 2503.01785): detection with confidences, and the one box of an instruction (LISA).

`variant="released"` is the released formula on a well-formed answer, to reproduce a run. Both read answers as all our rewards
do; the released code's symbolic maths check (a right first y1 passed for the whole answer) is in neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlrl.answers.geometry import giou, iou
from vlrl.answers.read import read_box, read_boxes, true_boxes
from vlrl.rewards.detection import BoxSets, BoxVariant, as_json, both_sides
from vlrl.schema import Box, Sample, Score

MIN_IOU = 0.5
"""A pair matches above this IoU, not at it."""


def visual_rft_iou(text: str, sample: Sample) -> Score:
    """Sum of matched IoU / max(n_true, n_pred), in 0..1.

    Exact duplicates (box and label) count once. From the highest confidence down, each prediction takes the free true box of
    largest IoU if that is above 0.5; labels must agree where the true box has one. Source: Visual-RFT's released code (an
    earlier form divided by n_pred alone). differs: no maths check, any box format is read, boxes without confidence count,
    and an explicit none is 1 where nothing is there.
    """
    sets = both_sides(text, sample)
    if isinstance(sets, Score):
        return sets
    predicted, n_pred = _distinct(sets)
    found = _taken_iou(predicted, sets.true)
    n_matched, total = sum(overlap > 0 for overlap in found), sum(found)
    why = f"{n_matched} of {sets.n_true} found, IoU sum {total:.3f}, {n_pred} different boxes"
    return Score(total / max(sets.n_true, n_pred), as_json(sets.predicted), why)


def visual_rft_confidence(text: str, sample: Sample, *, variant: BoxVariant = "default") -> Score:
    """Mean over predictions of c where matched (as in `visual_rft_iou`), else 1 - c, in 0..1; c = confidence, 0..1.

    A prediction without a confidence, or with two (the same box twice), contributes 0. Source: Visual-RFT. differs: nothing
    matched is 0, however unsure (released: 1.0 for one wrong box at 0.0); an unmatched prediction counts only where it lowers
    the mean, so that adding unsure wrong boxes never raises it; an explicit none where nothing is there is 1 (released: 0).
    `variant="released"`: the plain mean, 0 if any confidence is missing, the first of two for one box, 0 without boxes.
    """
    if variant == "released":
        return _released_confidence(text, sample)
    sets = both_sides(text, sample)
    if isinstance(sets, Score):
        return sets
    predicted, n_pred = _distinct(sets)
    found = _taken_iou(predicted, sets.true)
    pairs = list(zip(predicted, found, strict=True))
    sure = [box.confidence or 0.0 for box, overlap in pairs if overlap > 0]
    if not sure:
        return Score(0.0, as_json(sets.predicted), f"none of {sets.n_true} found")
    unsure = [0.0 if box.confidence is None else 1 - box.confidence for box, overlap in pairs if overlap == 0]
    total, n = sum(sure), len(sure)
    for share in sorted([*unsure, *[0.0] * (n_pred - len(predicted))]):
        if share * n >= total:
            break
        total, n = total + share, n + 1
    return Score(total / n, as_json(sets.predicted), f"{len(sure)} of {n_pred} boxes matched, mean over {n}")


def visual_rft_giou(text: str, sample: Sample) -> Score:
    """GIoU + 1 of the one box in the tagged answer, in 0..2. Boxes that do not overlap score above 0 too, as published.

    Source: Visual-RFT (LISA). differs: a reversed box is 0 (published: 2.0 against itself), every box format is read, and two
    different boxes are no answer (their first corners were mixed).
    """
    box, why = read_box(text, sample, tags=True)
    if box is None:
        return Score(0.0, None, why)
    value = min(giou(box.xyxy, true_boxes(sample)[0].xyxy), 1.0)
    return Score(value + 1, as_json([box]), f"GIoU {value:.3f}")


def _distinct(sets: BoxSets) -> tuple[list[Box], int]:
    """The predictions with exact duplicates as one, and the number of items that leaves, invalid ones included."""
    first: dict[tuple[object, ...], Box] = {}
    for box in sets.predicted:
        key = (box.xyxy, box.label)
        seen = first.setdefault(key, box)
        if seen.confidence != box.confidence:
            first[key] = Box(*box.xyxy, box.label)
    return list(first.values()), sets.n_pred - len(sets.predicted) + len(first)


def _taken_iou(predicted: Sequence[Box], true: Sequence[Box], in_order: bool = False) -> list[float]:
    """For each prediction its IoU with the true box it takes, 0 if it takes none. `in_order`: equal confidences are taken in
    the order of the answer, as released, instead of by IoU and coordinates."""

    def overlap(p: Box, t: Box) -> float:
        return iou(p.xyxy, t.xyxy) if p.label == t.label or t.label is None else 0.0

    overlaps = [[overlap(p, t) for t in true] for p in predicted]

    def turn(i: int) -> tuple[float, ...]:
        confidence = predicted[i].confidence
        first = math.inf if confidence is None else -confidence
        return (first,) if in_order else (first, -max(overlaps[i], default=0.0), *predicted[i].xyxy)

    free = list(range(len(true)))
    taken = [0.0] * len(predicted)
    for i in sorted(range(len(predicted)), key=turn):
        best = max(free, key=lambda j: overlaps[i][j], default=None)
        if best is not None and overlaps[i][best] > MIN_IOU:
            taken[i] = overlaps[i][best]
            free.remove(best)
    return taken


def _released_confidence(text: str, sample: Sample) -> Score:
    parsed, why = read_boxes(text, sample)
    if parsed is None or not parsed.n_pred:
        return Score(0.0, None, why or "no boxes: the release scores them 0, nothing there or not")
    first: dict[tuple[float, ...], Box] = {}
    for box in parsed.items:
        first.setdefault(box.xyxy, box)
    predicted, answer = list(first.values()), as_json(parsed.items)
    if not parsed.all_valid or any(box.confidence is None for box in predicted):
        return Score(0.0, answer, "a box without coordinates or confidence: the release reads nothing")
    found = _taken_iou(predicted, [Box(*box.xyxy) for box in true_boxes(sample)], in_order=True)
    sure = [(box.confidence or 0.0, overlap > 0) for box, overlap in zip(predicted, found, strict=True)]
    shares = [confidence if matched else 1 - confidence for confidence, matched in sure]
    return Score(sum(shares) / len(shares), answer, f"mean over {len(shares)} boxes")
