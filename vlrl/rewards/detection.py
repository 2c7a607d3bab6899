"""`iou_f1`, and what all rewards on sets of boxes share: reading both sides, and the rule for empty ones.

All scores are in original pixels, whatever box format the completion is written in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlrl.answers.geometry import best_matching
from vlrl.answers.read import read_boxes, true_boxes, unlabelled, with_canonical_labels
from vlrl.answers.span import canon
from vlrl.schema import Box, Sample, Score

BoxVariant = Literal["default", "released"]
"""`released`: the formula of the published code on a well-formed answer, to reproduce a run."""


@dataclass(frozen=True, slots=True)
class BoxSets:
    """What was predicted and what is true, in original pixels, labels comparable by `==`.

    `n_pred` counts invalid items too; `unusable` are the labels of those, and of the items after the 300th. `remark`: what
    else there is to say of the answer, or "".
    """

    predicted: Sequence[Box]
    true: Sequence[Box]
    n_pred: int
    unusable: Sequence[str | None] = ()
    remark: str = ""

    @property
    def n_true(self) -> int:
        return len(self.true)


def read_sets(text: str, sample: Sample, *, tags: bool = False) -> BoxSets | str:
    """Both sides of a detection or grounding sample's score, either may be empty; or why the text cannot be read."""
    parsed, why = read_boxes(text, sample, tags=tags)
    if parsed is None:
        return why
    unusable = [label if label is None else canon(label) for label in parsed.unusable]
    predicted, true = with_canonical_labels(parsed.items), with_canonical_labels(true_boxes(sample))
    remark = unlabelled(parsed, sample) if parsed.n_unlabelled else ""
    return BoxSets(predicted, true, parsed.n_pred, unusable, remark)


def both_sides(text: str, sample: Sample, *, tags: bool = False) -> BoxSets | Score:
    """Both sides where neither is empty, else the score: 1 where nothing is there and nothing is predicted, 0 for the rest."""
    sets = read_sets(text, sample, tags=tags)
    if isinstance(sets, str):
        return Score(0.0, None, sets)
    if sets.n_pred and sets.true:
        return sets
    predicted = f"{sets.n_pred} boxes" if sets.n_pred else "an explicit none"
    return Score(float(sets.n_pred == sets.n_true), as_json(sets.predicted), f"{predicted}, {sets.n_true} true")


def as_json(boxes: Sequence[Box]) -> list[dict[str, object]]:
    """Boxes as they are logged, in original pixels to a tenth."""
    return [{"bbox_2d": [round(v * 10) / 10 for v in box.xyxy], "label": box.label} for box in boxes]


def iou_f1(text: str, sample: Sample) -> Score:
    """2 * (sum of IoU over the best matching at IoU >= 0.5) / (n_pred + n_true), in 0..1.

    The matching is one-to-one, same label, of maximal total IoU. Nothing there and nothing predicted scores 1, one of
    the two empty scores 0, unreadable text 0. Invalid items, duplicates and extra boxes only enlarge the denominator; order
    does not matter; more overlap never lowers the score.
    """
    sets = both_sides(text, sample)
    if isinstance(sets, Score):
        return sets
    matched = best_matching(sets.predicted, sets.true, 0.5)
    total = sum(overlap for _, _, overlap in matched)
    why = f"{len(matched)} of {sets.n_true} found, IoU sum {total:.3f}, {sets.n_pred} predicted"
    why = f"{why}; {sets.remark}" if sets.remark else why
    return Score(2 * total / (sets.n_pred + sets.n_true), as_json(sets.predicted), why)
