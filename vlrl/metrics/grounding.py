"""Numbers on one box a question: accuracy at IoU 0.5 and 0.75, mean IoU, and mask IoU where masks are given.

Questions about one image are resampled together. Not here: making masks from boxes (a segmentation model prompted with the
box does that; its masks come in `Prediction.meta`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from vlrl.metrics.accuracy import mean_of
from vlrl.metrics.bootstrap import bootstrap_mean, bootstrap_ratio
from vlrl.schema import Metric, Row, Sample

Mask = NDArray[np.bool_]


class Overlap(NamedTuple):
    """Pixels in the intersection and in the union of true and predicted mask; `is_box`: the mask is the predicted box."""

    inside: int
    union: int
    is_box: bool = False


def grounding_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    """All numbers of a set in 0..1. A completion without a box counts as IoU 0. `data` of a row: its `Overlap`, or None.

    - "acc@0.5", "acc@0.75": share of samples whose box has IoU above 0.5, 0.75 with the true one.
    - "mean_iou": mean IoU of the boxes (of ReasonSeg: its box mIoU).
    - "giou", "ciou": mask IoU, mean over samples and total intersection over total union, over the samples whose
      `meta.polygons` and whose prediction's `meta["mask"]` are there; absent where there are none. See `mask_counts`.
    - "giou_of_boxes", "ciou_of_boxes": the same with the predicted boxes for masks, over the samples with `meta.polygons` and
      without a mask. Not LISA's numbers: even the true box is no true mask.
    """
    images = [row.image for row in rows]
    metrics = {name: mean_of(rows, name) for name in ("acc@0.5", "acc@0.75")}
    metrics["mean_iou"] = bootstrap_mean([row.parts["mean_iou"][0] for row in rows], clusters=images)
    for ending, is_box in (("", False), ("_of_boxes", True)):
        masked = [row for row in rows if row.data is not None and row.data.is_box == is_box]
        if not masked:
            continue
        counts, clusters = [row.data[:2] for row in masked], [row.image for row in masked]
        # Nothing to find and nothing claimed is right, as in LISA's script.
        metrics[f"giou{ending}"] = bootstrap_mean(
            [inside / union if union else 1.0 for inside, union in counts], clusters=clusters
        )
        metrics[f"ciou{ending}"] = bootstrap_ratio(*(list(column) for column in zip(*counts, strict=True)), clusters=clusters)
    return metrics


def mask_counts(sample: Sample, predicted: Any) -> tuple[int, int]:
    """Pixels in the intersection and in the union of true and predicted mask, outside the ignore region.

    The truth is `meta.polygons`, the ignore region `meta.ignore_polygons`, both in original pixels. `predicted`: None (no
    mask), a list of polygons, or COCO's run-length form `{"size": [H, W], "counts": ...}`. Raises ValueError where
    `meta.image_size` is missing or a mask has another size.
    """
    size = sample.facts.get("image_size")
    if size is None:
        raise ValueError(f"sample {sample.id!r} needs meta.image_size [W, H] for mask metrics")
    width, height = int(size[0]), int(size[1])
    counted = ~rasterised(sample.facts.get("ignore_polygons") or [], width, height)
    true = rasterised(sample.facts["polygons"], width, height) & counted
    if isinstance(predicted, Mapping):
        if list(predicted["size"]) != [height, width]:
            raise ValueError(f"sample {sample.id!r}: mask of size {list(predicted['size'])}, image of {[height, width]} (H, W)")
        found = _decoded(dict(predicted)) & counted
    else:
        found = rasterised(predicted or [], width, height) & counted
    return int((true & found).sum()), int((true | found).sum())


def rasterised(polygons: Sequence[Sequence[Any]], width: int, height: int) -> Mask:
    """The union of polygons as a mask [H, W]. A polygon is `[[x, y], ...]` or `[x, y, x, y, ...]`; of 2 points it is empty."""
    flat = [np.asarray(polygon, dtype=np.float64).reshape(-1).tolist() for polygon in polygons]
    flat = [points for points in flat if len(points) >= 6]
    if not flat:
        return np.zeros((height, width), dtype=np.bool_)
    merged: Mask = rle.decode(rle.merge(rle.frPyObjects(flat, height, width))).astype(np.bool_)
    return merged


def _decoded(mask: dict[str, Any]) -> Mask:
    if isinstance(mask["counts"], list):
        mask = rle.frPyObjects(mask, *mask["size"])
    decoded: Mask = rle.decode(mask).astype(np.bool_)
    return decoded
