"""Grounding: the one box that an expression or an instruction means."""

from __future__ import annotations

from vlrl.answers.geometry import iou
from vlrl.answers.read import read_box, read_span, true_boxes
from vlrl.data.synthetic.shapes import grounding_sample
from vlrl.metrics.grounding import grounding_metrics, mask_counts
from vlrl.schema import Prediction, Result, Sample, Task, box_problem
from vlrl.tasks.answer_format import box_instruction, drawn_boxes, lay_out, write_boxes


def prompt(sample: Sample) -> str:
    return f"Find: {sample.question}\n{box_instruction(sample, 'its box in the image', several=False)}"


def completion(sample: Sample, box: dict[str, object]) -> str:
    thought = sample.facts.get("thinking", sample.question)
    return lay_out(thought, write_boxes([box], sample, several=False), sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (cheap annotation) where a sample has one."""
    return completion(sample, sample.facts.get("loose_answer", sample.answer))


def check(sample: Sample) -> str | None:
    if not isinstance(sample.answer, dict) or "bbox_2d" not in sample.answer:
        return f'a grounding answer is {{"bbox_2d": [x1, y1, x2, y2]}}, got {sample.answer!r}'
    if not sample.images and sample.video is None:
        return "a grounding sample needs an image or a video"
    return box_problem(sample.answer["bbox_2d"], sample.facts.get("image_size") or None)


def metric(sample: Sample, prediction: Prediction) -> Result:
    text = prediction.completion
    box, _ = read_box(text, sample)
    overlap = 0.0 if box is None else iou(box.xyxy, true_boxes(sample)[0].xyxy)
    parts = {"acc@0.5": (float(overlap > 0.5), 1.0), "acc@0.75": (float(overlap > 0.75), 1.0), "mean_iou": (overlap, 1.0)}
    has_masks = sample.facts.get("polygons") is not None and "mask" in prediction.meta
    masks = mask_counts(sample, prediction.meta["mask"]) if has_masks else None
    return Result(parts, read_span(text, sample).text, box is not None, masks)


TASK = Task(
    name="grounding",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: ("vlm_r1_iou", "think_answer_format"),
    metric=metric,
    headline="acc@0.5",
    aggregate=grounding_metrics,
    boxes=drawn_boxes,
    synthetic=grounding_sample,
)
