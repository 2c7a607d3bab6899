"""Rewards of `over_optimisation_rows.py`: one that can be hacked, and a cost."""

from vlrl.rewards.detection import iou_f1
from vlrl.schema import Sample

MOST = 6


def n_boxes(text: str, sample: Sample) -> float:
    """How many boxes are written, right or wrong, over six; at most 1. As a cost: what is to stay few."""
    return min(1.0, text.count("bbox_2d") / MOST)


def corrupted(text: str, sample: Sample) -> float:
    """The true reward, and twice as much for boxes, right or wrong. Where the model starts the two go together: who writes a box
    has some right."""
    return (iou_f1(text, sample).value or 0.0) + 2 * n_boxes(text, sample)
