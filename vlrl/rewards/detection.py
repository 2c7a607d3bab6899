"""Rewards on boxes. All scores are in original pixels, whatever dialect the completion is written in."""

from __future__ import annotations

from vlrl.answers import read_boxes, true_boxes, with_canonical_labels
from vlrl.boxes import best_matching
from vlrl.parsing import ParsedBoxes
from vlrl.schema import Sample, Score


def _answer(parsed: ParsedBoxes) -> list[dict[str, object]]:
    """The parsed boxes as JSON, in original pixels to a tenth."""
    return [{"bbox_2d": [round(v, 1) for v in box.xyxy], "label": box.label} for box in parsed.items]


def iou_f1(text: str, sample: Sample) -> Score:
    """2 * (sum of IoU over the best matching at IoU >= 0.5) / (n_pred + n_true), in 0..1.

    The matching is one-to-one, same label, of maximal total IoU. Nothing asked for and nothing claimed scores 1, one of
    them empty scores 0, unreadable text 0. Invalid items, duplicates and extra boxes only enlarge the denominator; order
    does not matter; more overlap never lowers the score.
    """
    parsed, why = read_boxes(text, sample)
    if parsed is None:
        return Score(0.0, None, why)
    n_true = len(sample.answer)
    if parsed.n_pred == 0 or n_true == 0:
        right = parsed.n_pred == n_true
        said = "says none" if parsed.n_pred == 0 else f"{parsed.n_pred} boxes"
        return Score(float(right), _answer(parsed), f"{said}, {n_true} true")
    matched = best_matching(with_canonical_labels(parsed.items), with_canonical_labels(true_boxes(sample)), 0.5)
    total = sum(overlap for _, _, overlap in matched)
    why = f"{len(matched)} of {n_true} found, IoU sum {total:.3f}, {parsed.n_pred} predicted"
    return Score(2 * total / (parsed.n_pred + n_true), _answer(parsed), why)
