"""Grounding: the one box that an expression or an instruction means."""

from __future__ import annotations

from vlrl.answers.geometry import box_problem, iou
from vlrl.answers.read import read_box, read_span, true_boxes
from vlrl.data.synthetic.shapes import grounding_sample
from vlrl.metrics.grounding import Overlap, grounding_metrics, mask_counts
from vlrl.schema import Box, Prediction, Result, Sample, Task
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
    return Result(parts, read_span(text, sample).text, box is not None, _overlap(sample, prediction, box))


def _overlap(sample: Sample, prediction: Prediction, box: Box | None) -> Overlap | None:
    """The overlap with the true outline, where the row has one: of the mask that was made of the box, else of the box."""
    if sample.facts.get("polygons") is None:
        return None
    if "mask" in prediction.meta:
        return Overlap(*mask_counts(sample, prediction.meta["mask"]))
    size = sample.facts.get("image_size")
    if size is None:
        return None
    if box is None:
        return Overlap(*mask_counts(sample, None), is_box=True)
    x1, x2 = (min(max(value, 0.0), float(size[0])) for value in (box.x1, box.x2))
    y1, y2 = (min(max(value, 0.0), float(size[1])) for value in (box.y1, box.y2))
    return Overlap(*mask_counts(sample, [[x1, y1, x2, y1, x2, y2, x1, y2]]), is_box=True)


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
