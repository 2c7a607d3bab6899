"""Geometry of boxes: overlap, one-to-one matching, and the coordinate conventions that models write in (`coords`).

A box here is `(x1, y1, x2, y2)` with exclusive right and bottom edge, so its area is `(x2 - x1) * (y2 - y1)`. Overlaps do
not depend on the unit as long as both boxes share it. Not here: reading boxes from text (`vlrl.answers.boxes`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlrl.schema import Box

XYXY = tuple[float, float, float, float]
Pair = tuple[int, int, float]
"""Index of a predicted box, index of a true box, and their overlap (or another measure of agreement)."""


def box_problem(xyxy: Any, size_wh: Sequence[float] | None) -> str | None:
    """What is wrong with a ground-truth box in original pixels (`size_wh` = image width, height; 1 px of slack)."""
    if not isinstance(xyxy, list | tuple) or len(xyxy) != 4:
        return f"a box is [x1, y1, x2, y2], got {xyxy!r}"
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in xyxy):
        return f"box {list(xyxy)} has a value that is not a finite number"
    x1, y1, x2, y2 = xyxy
    if x2 <= x1 or y2 <= y1:
        return f"box {list(xyxy)} has no area (x2 must exceed x1 and y2 must exceed y1)"
    if size_wh is not None:
        width, height = size_wh
        if min(width, height) > 8 and x1 >= 0 and y1 >= 0 and x2 <= 1 and y2 <= 1:
            return (
                f"box {list(xyxy)} lies within 0..1, so its values are shares of the {width}x{height} image; boxes are original"
                " pixels"
            )
        if x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
            return (
                f"box {list(xyxy)} lies outside the {width}x{height} image; boxes are original pixels, not resized or 0..1000"
            )
    return None


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union, in 0..1; 0 where the union is 0 or a box is reversed."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if width <= 0 or height <= 0 or ax2 <= ax1 or ay2 <= ay1 or bx2 <= bx1 or by2 <= by1:
        return 0.0
    inside = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inside
    return inside / union if union > 0 else 0.0


def giou(a: Sequence[float], b: Sequence[float]) -> float:
    """Generalised IoU, in -1..1 (arXiv 1902.09630): IoU - (C - U) / C with C the enclosing box, U the union."""
    overlap = iou(a, b)
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    enclosing = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    if a[2] <= a[0] or a[3] <= a[1] or b[2] <= b[0] or b[3] <= b[1] or enclosing <= 0:
        return -1.0
    union = (area_a + area_b) / (1 + overlap)
    return overlap - (enclosing - union) / enclosing


def overlaps(predicted: Sequence[Box], true: Sequence[Box], min_iou: float) -> list[Pair]:
    """All pairs with the same label and 0 < IoU >= `min_iou`. Labels must be comparable by `==` (callers canonicalise);
    `None` matches nothing."""
    pairs: list[Pair] = []
    of_label: dict[str | None, list[tuple[int, XYXY]]] = {}
    for j, t in enumerate(true):
        of_label.setdefault(t.label, []).append((j, t.xyxy))
    for i, p in enumerate(predicted):
        if p.label is None or p.label not in of_label:
            continue
        corners = x1, y1, x2, y2 = p.xyxy
        for j, other in of_label[p.label]:
            # Most pairs are apart, which costs less to see than their IoU.
            if x1 < other[2] and other[0] < x2 and y1 < other[3] and other[1] < y2:
                overlap = iou(corners, other)
                if overlap > 0 and overlap >= min_iou:
                    pairs.append((i, j, overlap))
    return pairs


def best_matching(predicted: Sequence[Box], true: Sequence[Box], min_iou: float) -> list[Pair]:
    """The one-to-one matching of maximal total IoU among `overlaps`, independent of the order of either list up to ties."""
    return best_pairs(overlaps(predicted, true, min_iou))


def best_pairs(pairs: list[Pair]) -> list[Pair]:
    """The one-to-one choice of pairs with the greatest total of their third members, which must be positive.

    The assignment problem is SciPy's; pairs that need no weighing against each other are chosen without it.
    """
    chosen = _without_rivals(pairs)
    if chosen is not None:
        return chosen
    from scipy.optimize import linear_sum_assignment  # half a second, which a misspelt flag need not wait for

    rows = {i: k for k, i in enumerate(sorted({pair[0] for pair in pairs}))}
    columns = {j: k for k, j in enumerate(sorted({pair[1] for pair in pairs}))}
    gain = np.zeros((len(rows), len(columns)))
    for i, j, quality in pairs:
        gain[rows[i], columns[j]] = quality
    best = set(zip(*(axis.tolist() for axis in linear_sum_assignment(gain, maximize=True)), strict=True))
    return [pair for pair in pairs if (rows[pair[0]], columns[pair[1]]) in best]


def _without_rivals(pairs: list[Pair]) -> list[Pair] | None:
    """The best one-to-one choice where one side has a single candidate each, so that every member of the other side takes
    its best; None where both sides have rivals."""
    n_rows, n_columns = len({i for i, _, _ in pairs}), len({j for _, j, _ in pairs})
    if len(pairs) == n_rows == n_columns:
        return pairs
    if len(pairs) not in (n_rows, n_columns):
        return None
    side = 1 if len(pairs) == n_rows else 0
    best: dict[float, Pair] = {}
    for pair in pairs:
        if pair[side] not in best or pair[2] > best[pair[side]][2]:
            best[pair[side]] = pair
    return list(best.values())


def matching_sizes(pairs: list[Pair], thresholds: Sequence[float]) -> list[int]:
    """For each of the ascending `thresholds`: how many pairs of at least that IoU a one-to-one matching can hold.

    The largest matching above one threshold is a start for the next lower one, which only needs augmenting paths.
    """
    chosen = _without_rivals(pairs)
    if chosen is not None:
        found = sorted(overlap for _, _, overlap in chosen)
        return [len(found) - bisect_left(found, threshold) for threshold in thresholds]
    if len({i for i, _, _ in pairs}) > len({j for _, j, _ in pairs}):
        pairs = [(j, i, overlap) for i, j, overlap in pairs]  # paths start on the smaller side: few attempts fail
    waiting = sorted(pairs, key=lambda pair: pair[2])
    candidates: dict[int, list[int]] = {}
    partner_of: dict[int, int] = {}
    matched: set[int] = set()
    sizes = []
    for threshold in reversed(thresholds):
        while waiting and waiting[-1][2] >= threshold:
            i, j, _ = waiting.pop()
            candidates.setdefault(i, []).append(j)
        for i in candidates:
            if i not in matched and _augment(i, candidates, partner_of):
                matched.add(i)
        sizes.append(len(matched))
    return sizes[::-1]


def _augment(start: int, candidates: Mapping[int, Sequence[int]], partner_of: dict[int, int]) -> bool:
    """Find `start` a partner along an augmenting path, breadth first, moving others on where needed. `partner_of`: of each
    member of the far side, changed in place."""
    reached_from: dict[int, int] = {}
    queue = [start]
    for i in queue:
        for j in candidates[i]:
            if j in reached_from:
                continue
            reached_from[j] = i
            if j in partner_of:
                queue.append(partner_of[j])
                continue
            previous = {i: j for j, i in partner_of.items()} if i != start else {}
            while True:
                i = reached_from[j]
                partner_of[j] = i
                if i == start:
                    return True
                j = previous[i]
    return False


def px_per_unit(coords: str, image_size: Sequence[int] | None, input_size: Sequence[int] | None) -> tuple[float, float]:
    """Pixels of the original image for one unit of `coords`, along x and y. Raises ValueError where a size is missing."""
    if coords == "px":
        return 1.0, 1.0
    if image_size is None:
        raise ValueError(f"coords {coords!r} needs the image's size")
    width, height = image_size
    if coords == "resized_px":
        if input_size is None:
            raise ValueError("coords 'resized_px' needs the size the model saw (meta.input_size)")
        return width / input_size[0], height / input_size[1]
    if coords == "norm1000":
        return width / 1000, height / 1000
    if coords == "norm1":
        return float(width), float(height)
    raise ValueError(f"unknown coords {coords!r}; known: px, resized_px, norm1000, norm1")


def to_original_px(
    box: Sequence[float], coords: str, image_size: Sequence[int] | None, input_size: Sequence[int] | None = None
) -> XYXY:
    """A box as a model writes it -> original pixels. `image_size` is the original width and height, `input_size` those
    the model saw (needed by `resized_px`). Raises ValueError where a needed size is missing."""
    x, y = px_per_unit(coords, image_size, input_size)
    x1, y1, x2, y2 = box
    return x1 * x, y1 * y, x2 * x, y2 * y


def from_original_px(
    box: Sequence[float], coords: str, image_size: Sequence[int] | None, input_size: Sequence[int] | None = None
) -> tuple[float, ...]:
    """Original pixels -> the numbers to print: unchanged in `px`, integers in `resized_px` and `norm1000` (clipped to
    0..1000), four decimals in `norm1`. Raises ValueError where a needed size is missing."""
    x, y = px_per_unit(coords, image_size, input_size)
    x1, y1, x2, y2 = box
    values = (x1 / x, y1 / y, x2 / x, y2 / y)
    if coords == "px":
        return values if any(v != int(v) for v in values) else tuple(int(v) for v in values)
    if coords == "norm1":
        return tuple(round(v, 4) for v in values)
    rounded = tuple(round(v) for v in values)
    return tuple(min(max(v, 0), 1000) for v in rounded) if coords == "norm1000" else rounded


def tidy(value_px: float) -> float:
    """To 4 decimals, whole numbers as int."""
    rounded = round(value_px, 4)
    return int(rounded) if rounded == int(rounded) else rounded
