"""Geometry of boxes: overlap, one-to-one matching, and the coordinate dialects models write in.

A box here is `(x1, y1, x2, y2)` with exclusive right and bottom edge, so its area is `(x2 - x1) * (y2 - y1)`. Overlaps do
not depend on the unit as long as both boxes share it. Not here: reading boxes from text (`vlrl.parsing`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlrl.schema import Box

XYXY = tuple[float, float, float, float]


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


def best_matching(predicted: Sequence[Box], true: Sequence[Box], min_iou: float) -> list[tuple[int, int, float]]:
    """The one-to-one matching of maximal total IoU among pairs with the same label and 0 < IoU >= `min_iou`.

    Labels must be comparable by `==` (callers canonicalise); `None` matches nothing. Returns (predicted index, true
    index, IoU), independent of the order of either list up to ties. The assignment problem is SciPy's; a set in which
    no box has two candidates needs none.
    """
    edges: list[tuple[int, int, float]] = []
    for i, p in enumerate(predicted):
        if p.label is None:
            continue
        corners = p.xyxy
        for j, t in enumerate(true):
            if p.label == t.label:
                overlap = iou(corners, t.xyxy)
                if overlap > 0 and overlap >= min_iou:
                    edges.append((i, j, overlap))
    n = len(edges)
    if n == len({edge[0] for edge in edges}) == len({edge[1] for edge in edges}):
        return edges
    rows = {i: k for k, i in enumerate(sorted({edge[0] for edge in edges}))}
    columns = {j: k for k, j in enumerate(sorted({edge[1] for edge in edges}))}
    gain = np.zeros((len(rows), len(columns)))
    for i, j, overlap in edges:
        gain[rows[i], columns[j]] = overlap
    chosen = set(zip(*(axis.tolist() for axis in linear_sum_assignment(gain, maximize=True)), strict=True))
    return [edge for edge in edges if (rows[edge[0]], columns[edge[1]]) in chosen]


def _scale(coords: str, image_size: Sequence[int] | None, input_size: Sequence[int] | None) -> tuple[float, float]:
    """Pixels of the original image for one unit of the dialect, along x and y."""
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
    x, y = _scale(coords, image_size, input_size)
    x1, y1, x2, y2 = box
    return x1 * x, y1 * y, x2 * x, y2 * y


def from_original_px(
    box: Sequence[float], coords: str, image_size: Sequence[int] | None, input_size: Sequence[int] | None = None
) -> tuple[float, ...]:
    """Original pixels -> the numbers to print: unchanged in `px`, integers in `resized_px` and `norm1000` (clipped to
    0..1000), four decimals in `norm1`. Raises ValueError where a needed size is missing."""
    x, y = _scale(coords, image_size, input_size)
    x1, y1, x2, y2 = box
    values = (x1 / x, y1 / y, x2 / x, y2 / y)
    if coords == "px":
        return values if any(v != int(v) for v in values) else tuple(int(v) for v in values)
    if coords == "norm1":
        return tuple(round(v, 4) for v in values)
    rounded = tuple(round(v) for v in values)
    return tuple(min(max(v, 0), 1000) for v in rounded) if coords == "norm1000" else rounded
