"""Detection: every box of the requested categories, or an explicit None.

Not here: reading completions (`vlrl.answers.read`) and rewarding them (`vlrl.rewards`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vlrl.answers.geometry import box_problem
from vlrl.answers.read import read_boxes, read_span, requested_categories, true_boxes
from vlrl.answers.span import canon
from vlrl.answers.text import is_number
from vlrl.data.synthetic.shapes import detection_sample
from vlrl.metrics.coco import DetectionRow, detection_metrics, f1_parts
from vlrl.schema import Box, Prediction, Result, Sample, Task
from vlrl.tasks.answer_format import box_instruction, drawn_boxes, lay_out, no_object, write_boxes


def prompt(sample: Sample) -> str:
    what = f"a box for each one in the image, or with {no_object(sample)} if there is none"
    return f"Find every: {', '.join(requested_categories(sample))}\n{box_instruction(sample, what, several=True)}"


def completion(sample: Sample, items: Sequence[dict[str, Any]]) -> str:
    """A thought and an answer stating `items` (boxes in original pixels), in the sample's forms."""
    thought = f"{len(items) or 'no'} {', '.join(requested_categories(sample))}"
    return lay_out(sample.facts.get("thinking", thought), write_boxes(items, sample), sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (cheap annotation) where a sample has one."""
    return completion(sample, sample.facts.get("loose_answer", sample.answer))


def check(sample: Sample) -> str | None:
    if not isinstance(sample.answer, list):
        return f"a detection answer is a list of boxes, got {sample.answer!r}"
    size = sample.facts.get("image_size")
    asked = {canon(name) for name in requested_categories(sample)} if sample.answer or sample.facts.get("categories") else set()
    if not asked:
        return "an empty answer needs meta.categories: nothing is asked for"
    for item in sample.answer:
        if not isinstance(item, dict) or not isinstance(item.get("label"), str) or "bbox_2d" not in item:
            return f'an answer item is {{"bbox_2d": [x1, y1, x2, y2], "label": "name"}}, got {item!r}'
        problem = box_problem(item["bbox_2d"], size or None)
        if problem:
            return problem
        if "area" in item and not (is_number(item["area"]) and math.isfinite(item["area"]) and item["area"] >= 0):
            return f"an item's area is a number of square pixels, got {item['area']!r}"
        if canon(item["label"]) not in asked:
            return f"label {item['label']!r} is not among meta.categories {sorted(asked)}"
    if not sample.images and sample.video is None:
        return "a detection sample needs an image or a video"
    return None


def detection_row(sample: Sample, prediction: Prediction) -> DetectionRow:
    """True and predicted boxes of one sample, as the metrics take them."""
    parsed, _ = read_boxes(prediction.completion, sample)
    true = true_boxes(sample)
    areas = tuple(_area_px2(item, box) for item, box in zip(sample.answer, true, strict=True))
    facts = sample.facts
    return DetectionRow(
        id=sample.id,
        image=sample.video or sample.images[0],
        true=true,
        predicted=None if parsed is None else parsed.items,
        n_pred=0 if parsed is None else parsed.n_pred,
        areas=areas if any("area" in item for item in sample.answer) else None,
        asked=frozenset(map(canon, requested_categories(sample))),
        not_exhaustive=frozenset(map(canon, facts.get("not_exhaustive", ()))),
        frequency={canon(name): kind for name, kind in facts.get("frequency", {}).items()},
    )


def _area_px2(item: dict[str, Any], box: Box) -> float:
    """The area of an object: its own where the row states it (of a mask), else that of its box."""
    return float(item["area"]) if "area" in item else (box.x2 - box.x1) * (box.y2 - box.y1)


def metric(sample: Sample, prediction: Prediction) -> Result:
    row = detection_row(sample, prediction)
    parts = {"f1@0.5": f1_parts(row)}
    return Result(parts, read_span(prediction.completion, sample).text, row.predicted is not None, row)


TASK = Task(
    name="detection",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: ("iou_f1", "think_answer_format"),
    metric=metric,
    headline="f1@0.5",
    aggregate=lambda rows: detection_metrics([row.data for row in rows]),
    boxes=drawn_boxes,
    synthetic=detection_sample,
)
