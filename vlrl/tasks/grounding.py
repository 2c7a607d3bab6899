"""Grounding: the one box that an expression or an instruction means."""

from __future__ import annotations

from vlrl.data.synthetic.shapes import grounding_sample
from vlrl.metrics.grounding import grounding_metrics
from vlrl.schema import Sample, Task, box_problem
from vlrl.tasks.answer_format import box_instruction, lay_out, write_boxes


def prompt(sample: Sample) -> str:
    return f"Find: {sample.question}\n{box_instruction(sample, 'its box in the image', several=False)}"


def completion(sample: Sample, box: dict[str, object]) -> str:
    thought = sample.meta.get("thinking", sample.question)
    return lay_out(thought, write_boxes([box], sample, several=False), sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (cheap annotation) where a sample has one."""
    return completion(sample, sample.meta.get("loose_answer", sample.answer))


def check(sample: Sample) -> str | None:
    if not isinstance(sample.answer, dict) or "bbox_2d" not in sample.answer:
        return f'a grounding answer is {{"bbox_2d": [x1, y1, x2, y2]}}, got {sample.answer!r}'
    if not sample.images and sample.video is None:
        return "a grounding sample needs an image or a video"
    size = sample.meta.get("image_size")
    return box_problem(sample.answer["bbox_2d"], tuple(size) if size else None)


TASK = Task(
    name="grounding",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: ("vlm_r1_iou", "think_answer_format"),
    metrics=grounding_metrics,
    headline="acc@0.5",
    synthetic=grounding_sample,
)
