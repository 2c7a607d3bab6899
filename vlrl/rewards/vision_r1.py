"""Vision-R1's rewards on box lists (arXiv 2503.18013): precision and recall by the quality of boxes, and the JSON form.

`adaptive` is the paper's curriculum: thresholds that tighten at `stage_step` optimizer steps; the released launcher leaves it
off. `variant="released"` is the formula of the released functions on a well-formed answer, to reproduce a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlrl.answers.box_items import roles_of
from vlrl.answers.boxes import MAX_CHARS, ParsedBoxes, parse_boxes
from vlrl.answers.geometry import best_pairs, giou, overlaps
from vlrl.answers.literals import strict_json
from vlrl.answers.read import frame_of, read_span
from vlrl.answers.span import Span
from vlrl.rewards.detection import BoxSets, BoxVariant, as_json, both_sides, read_sets
from vlrl.schema import Sample, Score

Quality = Literal["iou", "giou"]
STAGE_STEP = 1500.0
"""About half of one epoch of 49k samples at 16 prompts a step."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """Quality below the first of a pair of bounds scores 0, above the second 1; `found` is the quality of a found box."""

    precision: tuple[float, float]
    found: float
    recall: tuple[float, float]


_FIXED = _Stage((0.0, 1.0), 0.5, (0.0, 1.0))
_EARLY = _Stage((0.5, 0.75), 0.5, (0.5, 0.75))
_LATE = _Stage((0.75, 0.9), 0.75, (0.5, 0.75))


def vision_r1_precision(
    text: str,
    sample: Sample,
    *,
    step: int | None,
    adaptive: bool = False,
    stage_step: float = STAGE_STEP,
    quality: Quality = "iou",
    variant: BoxVariant = "default",
) -> Score:
    """Sum of f(q) over matched boxes / n_pred, in 0..1; f(q) is 0 below the stage's lower bound, 1 above its upper, else q.

    q is the IoU (`quality="giou"`: GIoU) of the same-label matching with the best total. `stage_step`: the optimizer step from
    which an `adaptive` run is strict, at least 1; the run turns a share of the planned steps into a step before it comes here.
    Raises ValueError for less than 1, and for `adaptive` without a step. Source: Vision-R1. differs: divided by n_pred
    (released: by the number matched, so that more boxes were free), same label required, and the matching looks at quality
    alone. `variant="released"`: mean of f(GIoU) over the released matching (`quality` is then always GIoU); nothing readable
    where nothing is there is 1.
    """
    stage = _stage(step, adaptive, stage_step)
    if variant == "released":
        return _released(text, sample, lambda q, n: _mean([_clip(one, stage.precision) for one in q]))
    sets = both_sides(text, sample)
    if isinstance(sets, Score):
        return sets
    credits = [_clip(q, stage.precision) for q in _qualities(sets, quality)]
    return _score(sum(credits) / sets.n_pred, sets, f"{len(credits)} matched")


def vision_r1_recall(
    text: str,
    sample: Sample,
    *,
    step: int | None,
    adaptive: bool = False,
    stage_step: float = STAGE_STEP,
    quality: Quality = "iou",
    variant: BoxVariant = "default",
) -> Score:
    """f(share of true boxes found), in 0..1; found: matched with at least the stage's quality. f as in `vision_r1_precision`.

    Matching, options, errors and source as there. differs: same label required, and a box of exactly the required quality
    is found (released: it counts as that quality).
    """
    stage = _stage(step, adaptive, stage_step)
    if variant == "released":
        exact = (stage.found, stage.found)
        return _released(text, sample, lambda q, n: _clip(sum(_clip(one, exact) for one in q) / n, stage.recall))
    sets = both_sides(text, sample)
    if isinstance(sets, Score):
        return sets
    found = sum(q >= stage.found for q in _qualities(sets, quality))
    return _score(_clip(found / sets.n_true, stage.recall), sets, f"{found} found")


def vision_r1_format(text: str, sample: Sample, *, variant: BoxVariant = "default") -> Score:
    """1 if the answer, without a fence around it, is a JSON list of objects with four numbers and a label, else 0.

    An empty list and an explicit none are right on any sample. Tags may stand around the answer unless the sample requests
    none. Source: Vision-R1. differs: other JSON (`3`, `{"a":1}`, items without the keys) is 0 (released: 1), and samples with
    nothing to find give no credit for bad JSON. `variant="released"` does both.
    """
    span = Span(text.strip()) if sample.facts.get("answer_format") == "none" else read_span(text, sample)
    answer = span.text
    if answer is None or span.truncated or len(answer) > MAX_CHARS:
        return Score(0.0, None, span.why or ("the answer is cut short" if span.truncated else f"over {MAX_CHARS} characters"))
    if variant == "released":
        right = _is_released_json(answer)
        inverted = not sample.answer
        why = f"{'JSON' if right else 'no JSON'}{', scored the other way round as nothing is there' if inverted else ''}"
        return Score(float(right != inverted), answer[:80], why)
    if _is_none(answer, sample):
        return Score(1.0, [], "an explicit none")
    items = _json(_without_fence(answer))
    if not isinstance(items, list):
        return Score(0.0, None, "not a JSON list")
    wrong = sum(not _is_labelled_box(item) for item in items)
    return Score(float(not wrong), len(items), f"{wrong} of {len(items)} items are no labelled box")


def _stage(step: int | None, adaptive: bool, stage_step: float) -> _Stage:
    if not stage_step >= 1:
        raise ValueError(f"stage_step={stage_step} is below 1; a share of a run must become a step before scoring")
    if not adaptive:
        return _FIXED
    if step is None:
        raise ValueError("adaptive=true needs the training step; leave it off where there is none")
    return _EARLY if step < stage_step else _LATE


def _clip(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return 0.0 if value < low else 1.0 if value > high else value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _score(value: float, sets: BoxSets, what: str) -> Score:
    return Score(value, as_json(sets.predicted), f"{what}, {sets.n_pred} predicted, {sets.n_true} true")


def _qualities(sets: BoxSets, quality: Quality) -> list[float]:
    """The qualities of the pairs of the same-label matching of best total quality; pairs of none are left out."""
    pairs = overlaps(sets.predicted, sets.true, 0.0)
    if quality == "giou":  # never above the IoU, so no pair is missing
        gious = [(i, j, giou(sets.predicted[i].xyxy, sets.true[j].xyxy)) for i, j, _ in pairs]
        pairs = [pair for pair in gious if pair[2] > 0]
    return [q for _, _, q in best_pairs(pairs)]


def _released(text: str, sample: Sample, value_of: Callable[[Sequence[float], int], float]) -> Score:
    """`value_of(GIoU of each matched pair, n_true)` over the released matching: least L1 distance of the corners in pixels,
    less 1 for the same label, less GIoU; as many pairs as the smaller side has boxes."""
    sets = read_sets(text, sample)
    if isinstance(sets, str):
        value = float(not sample.answer)
        return Score(value, [] if value else None, f"{sets}: the release sees no boxes")
    if not sets.predicted or not sets.true:
        return _score(float(not sets.predicted and not sets.true), sets, "one side is empty")
    from scipy.optimize import linear_sum_assignment  # half a second, which a misspelt flag need not wait for

    quality = np.array([[giou(p.xyxy, t.xyxy) for t in sets.true] for p in sets.predicted])
    same = np.array([[float(p.label is not None and p.label == t.label) for t in sets.true] for p in sets.predicted])
    corners, targets = (np.array([box.xyxy for box in side]) for side in (sets.predicted, sets.true))
    distance = np.abs(corners[:, None] - targets[None]).sum(-1)
    chosen = quality[linear_sum_assignment(distance - same - quality)].tolist()
    return _score(value_of(chosen, sets.n_true), sets, f"{len(chosen)} matched")


def _is_none(answer: str, sample: Sample) -> bool:
    parsed = parse_boxes(answer, frame_of(sample, as_written=True))
    return isinstance(parsed, ParsedBoxes) and parsed.explicit_none


def _without_fence(text: str) -> str:
    """The text inside one fence around all of it; other text unchanged."""
    if not (text.startswith("```") and text.endswith("```") and text.count("```") == 2):
        return text
    inside = text[3:-3]
    head, newline, rest = inside.partition("\n")
    if newline and head.strip().casefold() in ("", "json"):
        return rest.strip()
    return inside.strip()


def _json(text: str) -> Any:
    """The value of a text of strict JSON, else None."""
    try:
        return strict_json(text)
    except ValueError:
        return None


def _is_labelled_box(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    roles = roles_of(tuple(item))
    if len(roles.boxes) != 1 or not roles.labels:
        return False
    corners, label = item[roles.boxes[0]], item[roles.labels[0]]
    if not isinstance(corners, list) or len(corners) != 4 or not isinstance(label, str):
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in corners)


def _is_released_json(text: str) -> bool:
    """Whether the release takes a text for JSON: fences anywhere dropped, any value, only boxes of other lengths are wrong."""
    value = _json(text.replace("```json\n", "").replace("\n```", "").strip())
    if value is None:
        return text.strip() == "null"
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    boxes = [item["bbox_2d"] for item in items if "bbox_2d" in item and "label" in item]
    return all(isinstance(box, list) and len(box) == 4 for box in boxes)
