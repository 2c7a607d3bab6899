"""VLM-R1's rewards on boxes (arXiv 2504.07615): IoU of one box, and forms of average precision (AP) for sets.

Completions carry no confidences, so all scores are equal. COCO's AP then depends on the order of the answer, and wrong boxes at
its end cost nothing; neither is so in the default forms. `variant="released"` is the released formula on a well-formed answer,
to reproduce a run; it reads boxes in any format, as the defaults do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from vlrl.answers.boxes import ParsedBoxes
from vlrl.answers.geometry import Pair, iou, matching_sizes, overlaps
from vlrl.answers.read import read_box, read_boxes, read_span, true_boxes
from vlrl.rewards.detection import BoxSets, BoxVariant, as_json, both_sides
from vlrl.schema import Box, Sample, Score

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's IoU thresholds .50:.05:.95, to the last bit, so that an IoU on a threshold falls where pycocotools lets it fall."""
RECALLS = tuple(np.linspace(0.0, 1.0, 101).tolist())
"""COCO's recall points, to the last bit."""
MAX_PER_LABEL = 100
"""Predictions of one label that COCO's AP looks at."""
POSITION, COMPLETENESS = 0.7, 0.3
"""Weights in `vlm_r1_weighted`; that of the label's own term is 0."""


def vlm_r1_iou(text: str, sample: Sample) -> Score:
    """IoU of the one box in the tagged answer with the true one, not thresholded, in 0..1.

    Source: VLM-R1's REC reward. differs: floats and negative numbers are read; an overlap of a pixel or less and normalised
    coordinates count; several boxes are no answer (published: the first); all coordinates are converted.
    """
    box, why = read_box(text, sample, tags=True)
    if box is None:
        return Score(0.0, None, why)
    value = iou(box.xyxy, true_boxes(sample)[0].xyxy)
    return Score(value, as_json([box]), f"IoU {value:.3f}")


def vlm_r1_map(text: str, sample: Sample, *, variant: BoxVariant = "default") -> Score:
    """AP averaged over IoU .50:.05:.95 and labels, the answer taken as one tied group, in 0..1.

    Per label (true or predicted) and threshold, with TP = size of a largest one-to-one matching: AP = (floor(100 TP / n_true)
    + 1) / 101 * TP / n_pred, 0 for a label that is not true. Where every prediction is a true positive this is pycocotools'
    value (up to 9 true boxes a label; above, its rounding can move one of 101 points). Source: VLM-R1's od_ap. differs: no
    dependence on order, no free boxes at the end or of labels that are not true, labels compare by `canon`, any box format,
    and only an explicit none says that nothing is there. `variant="released"`: COCO's AP in the order of the answer, labels
    as written, and an answer without any box is an empty list.
    """
    return _map(text, sample, THRESHOLDS, variant)


def vlm_r1_map50(text: str, sample: Sample, *, variant: BoxVariant = "default") -> Score:
    """As `vlm_r1_map`, at IoU .50 alone. Source: VLM-R1's od_ap50."""
    return _map(text, sample, THRESHOLDS[:1], variant)


def vlm_r1_odlength(text: str, sample: Sample, *, variant: BoxVariant = "default") -> Score:
    """AP * (1 if n_true >= n_pred else n_true / n_pred), in 0..1.

    This AP takes the best order, true positives first, (floor(100 TP / n_true) + 1) / 101 averaged over the true labels, as
    the factor already charges for the rest; n_pred counts every item. Source: VLM-R1's odLength. differs: wrong boxes first
    do not halve the value; the rest as in `vlm_r1_map`. `variant="released"`: AP in the order of the answer.
    """
    if variant == "released":
        return _released_ap(text, sample, THRESHOLDS, with_length=True)
    sets = both_sides(text, sample, tags=True)
    if isinstance(sets, Score):
        return sets
    precision = _mean_ap(sets, THRESHOLDS, best_order=True)
    factor = min(1.0, sets.n_true / sets.n_pred)
    why = f"AP {precision:.3f}, {sets.n_pred} predicted, {sets.n_true} true"
    return Score(precision * factor, as_json(sets.predicted), why)


def vlm_r1_weighted(text: str, sample: Sample, *, variant: BoxVariant = "default") -> Score:
    """0.7 * position + 0.3 * completeness, in 0..1.

    Pairs are taken from the largest IoU down to 0.5 over ALL labels (same label first among equals); a pair of different
    labels stays matched, with IoU 0. position = sum of IoU / n_true; completeness = 1 - (unmatched true / n_true + unmatched
    predictions / n_pred) / 2. Source: VLM-R1's weighted_sum, whose label term has weight 0. differs: a missing label is a
    wrong one (released: a crash), small overlaps count, any box format and any explicit none are read.
    `variant="released"`: pairs of equal IoU in the order of the answer, overlaps of a pixel or less are none, and `None` is
    the only way to say that nothing is there.
    """
    released = variant == "released"
    sets = both_sides(text, sample)
    if isinstance(sets, Score):
        answer = (read_span(text, sample).text or "").rstrip(".").lower()
        if released and sets.value and answer != "none":
            return Score(0.0, sets.answer, f"the answer is {answer:.20}: the release takes `None` alone")
        return sets
    matched = _greedy_pairs(sets, released)
    agreeing = [overlap for i, j, overlap in matched if sets.predicted[i].label == sets.true[j].label]
    missed, surplus = 1 - len(matched) / sets.n_true, 1 - len(matched) / sets.n_pred
    value = POSITION * sum(agreeing) / sets.n_true + COMPLETENESS * (1 - (missed + surplus) / 2)
    why = f"{len(matched)} matched, {len(agreeing)} with the right label, {sets.n_pred} predicted, {sets.n_true} true"
    return Score(value, as_json(sets.predicted), why)


def _map(text: str, sample: Sample, thresholds: Sequence[float], variant: BoxVariant) -> Score:
    if variant == "released":
        return _released_ap(text, sample, thresholds, with_length=False)
    sets = both_sides(text, sample, tags=True)
    if isinstance(sets, Score):
        return sets
    value = _mean_ap(sets, thresholds, best_order=False)
    return Score(value, as_json(sets.predicted), f"AP {value:.3f}, {sets.n_pred} predicted, {sets.n_true} true")


def _mean_ap(sets: BoxSets, thresholds: Sequence[float], best_order: bool) -> float:
    """AP over labels and thresholds of one tied group, or of the true labels with true positives in front."""
    n_true = Counter(box.label for box in sets.true)
    n_pred = Counter(box.label for box in sets.predicted)
    n_pred.update(sets.unusable)
    pairs_of: dict[str | None, list[Pair]] = {}
    for pair in overlaps(sets.predicted, sets.true, thresholds[0]):
        pairs_of.setdefault(sets.predicted[pair[0]].label, []).append(pair)
    total = 0.0
    for label, pairs in pairs_of.items():
        for tp in matching_sizes(pairs, thresholds):
            if tp:
                recalled = (100 * tp // n_true[label] + 1) / len(RECALLS)
                total += recalled if best_order else recalled * tp / n_pred[label]
    n_labels = len(n_true) if best_order else len(n_true.keys() | n_pred.keys())
    return total / (n_labels * len(thresholds))


def _greedy_pairs(sets: BoxSets, released: bool) -> list[Pair]:
    """One-to-one pairs of any labels with IoU >= 0.5, the largest first."""
    pairs: list[Pair] = []
    for i, p in enumerate(sets.predicted):
        for j, t in enumerate(sets.true):
            overlap = iou(p.xyxy, t.xyxy)
            if overlap < 0.5 or (released and not _by_more_than_a_pixel(p, t)):
                continue
            pairs.append((i, j, overlap))

    def turn(pair: Pair) -> tuple[object, ...]:
        i, j, overlap = pair
        p, t = sets.predicted[i], sets.true[j]
        return (-overlap, i, j) if released else (-overlap, p.label != t.label, p.xyxy, p.label or "", t.xyxy)

    chosen: list[Pair] = []
    for pair in sorted(pairs, key=turn):
        if all(pair[0] != i and pair[1] != j for i, j, _ in chosen):
            chosen.append(pair)
    return chosen


def _by_more_than_a_pixel(a: Box, b: Box) -> bool:
    return min(a.x2, b.x2) - max(a.x1, b.x1) > 1 and min(a.y2, b.y2) - max(a.y1, b.y1) > 1


def _released_ap(text: str, sample: Sample, thresholds: Sequence[float], with_length: bool) -> Score:
    """COCO's AP of one image, equal scores in the order of the answer, times the length factor `with_length`."""
    parsed, why = read_boxes(text, sample, tags=True)
    true = true_boxes(sample)
    if parsed is None:
        if true or not read_span(text, sample).tagged:
            return Score(0.0, None, why)
        parsed, why = ParsedBoxes((), 0), f"{why}: the release takes that for an empty list; "
    answer = as_json(parsed.items)
    if not parsed.n_pred or not true:
        value = float(parsed.n_pred == len(true))
        return Score(value, answer, f"{why}{parsed.n_pred} predicted, {len(true)} true")
    labels = dict.fromkeys(box.label for box in true)
    aps = [
        _coco_ap(
            [p for p in parsed.items if p.label == label][:MAX_PER_LABEL], [t for t in true if t.label == label], threshold
        )
        for label in labels
        for threshold in thresholds
    ]
    factor = min(1.0, len(true) / parsed.n_pred) if with_length else 1.0
    value = sum(aps) / len(aps)
    return Score(value * factor, answer, f"AP {value:.3f}, {parsed.n_pred} predicted, {len(true)} true")


def _coco_ap(predicted: Sequence[Box], true: Sequence[Box], threshold: float) -> float:
    """COCO's AP of one label: each prediction in turn takes the free true box of largest IoU, the last one among equals."""
    free = dict(enumerate(true))
    hits: list[bool] = []
    for p in predicted:
        best, best_iou = None, threshold
        for j, t in free.items():
            overlap = iou(p.xyxy, t.xyxy)
            if overlap >= best_iou:
                best, best_iou = j, overlap
        hits.append(best is not None)
        if best is not None:
            del free[best]
    precisions = [tp / (i + 1) for i, tp in enumerate(accumulate(hits))]
    ceiling = list(accumulate(reversed(precisions), max))[::-1]
    total, tp, done = 0.0, 0, 0
    for hit, precision in zip(hits, ceiling, strict=True):
        if hit:
            tp += 1
            reached = bisect_right(RECALLS, tp / len(true))
            total += precision * (reached - done)
            done = reached
    return total / len(RECALLS)
