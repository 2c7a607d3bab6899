"""Detection: every box of the asked categories, or an explicit None.

Also the home of the prompt's wording. Not here: reading completions (`vlrl.parsing`) and paying them (`vlrl.rewards`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vlrl import synthetic
from vlrl.answers import asked_categories, read_boxes, true_boxes
from vlrl.boxes import from_original_px
from vlrl.metrics.coco import DetectionRow, detection_metrics
from vlrl.schema import Metric, Prediction, Sample, Task, box_problem
from vlrl.tags import canon

FORMAT = '<think>reasoning</think><answer>[{"bbox_2d":[x1,y1,x2,y2],"label":"name"}]</answer>'


def prompt(sample: Sample) -> str:
    unit = " Coordinates are integers from zero to one thousand." if sample.meta.get("coords") == "norm1000" else ""
    return (
        f"Find every: {', '.join(asked_categories(sample))}\n"
        "First think, then answer with a box for each one in the image, or with None if there is none."
        f"{unit}\n{FORMAT}"
    )


def completion(sample: Sample, items: Sequence[dict[str, Any]]) -> str:
    """A thought and an answer stating `items` (boxes in original pixels), in the sample's dialect."""
    meta = sample.meta
    written = [
        {
            "bbox_2d": list(
                from_original_px(item["bbox_2d"], meta.get("coords", "px"), meta.get("image_size"), meta.get("input_size"))
            ),
            "label": item["label"],
        }
        for item in items
    ]
    answer = json.dumps(written, separators=(",", ":"), ensure_ascii=False) if written else "None"
    return f"<think>{len(written) or 'no'} {', '.join(asked_categories(sample))}</think><answer>{answer}</answer>"


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (cheap annotation) where a sample has one."""
    return completion(sample, sample.meta.get("loose_answer", sample.answer))


def check(sample: Sample) -> str | None:
    if not isinstance(sample.answer, list):
        return f"a detection answer is a list of boxes, got {sample.answer!r}"
    size = sample.meta.get("image_size")
    asked = {canon(name) for name in asked_categories(sample)} if sample.answer or sample.meta.get("categories") else set()
    if not asked:
        return "an empty answer needs meta.categories: nothing is asked for"
    for item in sample.answer:
        if not isinstance(item, dict) or not isinstance(item.get("label"), str) or "bbox_2d" not in item:
            return f'an answer item is {{"bbox_2d": [x1, y1, x2, y2], "label": "name"}}, got {item!r}'
        problem = box_problem(item["bbox_2d"], tuple(size) if size else None)
        if problem:
            return problem
        if canon(item["label"]) not in asked:
            return f"label {item['label']!r} is not among meta.categories {sorted(asked)}"
    if not sample.images:
        return "a detection sample needs an image"
    return None


def metrics(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[dict[str, Metric], int]:
    rows, n_unparsed = [], 0
    for sample, prediction in zip(samples, predictions, strict=True):
        parsed, _ = read_boxes(prediction.completion, sample)
        n_unparsed += parsed is None
        rows.append(
            DetectionRow(
                id=sample.id,
                image=sample.images[0],
                true=true_boxes(sample),
                predicted=None if parsed is None else parsed.items,
                n_pred=0 if parsed is None else parsed.n_pred,
            )
        )
    return detection_metrics(rows), n_unparsed


TASK = Task(
    name="detection",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: ("iou_f1", "think_answer_format"),
    metrics=metrics,
    headline="f1@0.5",
    synthetic=synthetic.detection_sample,
)
