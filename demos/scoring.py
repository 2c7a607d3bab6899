"""What the page shows of a completion: the parsed answer, every reward with its reason, the boxes on the image. No model, no
torch."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from vlrl.answers.kind import BOX, BOXES, answer_kinds
from vlrl.answers.read import read_span
from vlrl.data.images import open_image
from vlrl.rewards import load_reward, score_rows
from vlrl.schema import Box, Prediction, Sample, Task
from vlrl.tasks.evaluate import boxes_of
from vlrl.tasks.rubric import own_specs

TRUE_COLOUR, PREDICTED_COLOUR = (46, 160, 67), (219, 68, 55)
SIDE_PX = 480


@dataclass(frozen=True)
class Scored:
    """The score of one completion by one reward."""

    reward: str
    value: float | None
    answer: Any
    why: str
    low: float
    high: float


def nearly(sample: Sample) -> Sample:
    """The sample with every true box a little to the right of where it is; others as they are."""
    if not answer_kinds(sample) & {BOX, BOXES}:
        return sample

    def moved(item: dict[str, Any]) -> dict[str, Any]:
        x1, y1, x2, y2 = item["bbox_2d"]
        shift = round((x2 - x1) / 8)
        return {**item, "bbox_2d": [x1 + shift, y1, x2 + shift, y2]}

    answer = sample.answer
    return dataclasses.replace(sample, answer=[moved(i) for i in answer] if isinstance(answer, list) else moved(answer))


def score(
    sample: Sample, texts: Sequence[str], tasks: Mapping[str, Task], names: Sequence[str] | None = None
) -> list[list[Scored]]:
    """For each completion of one group: the scores by each reward (its task's own unless named). Rewards that need a network
    or more than text and sample are left out. Raises ValueError (TaskError where a user's code fails)."""
    columns = []
    for spec in names or own_specs(sample, tasks):
        reward = load_reward(spec)
        if reward.needs & {"network", "base"} or (reward.answers and not reward.answers & answer_kinds(sample)):
            continue
        made = score_rows(reward, list(texts), [sample] * len(texts), 0, [len(text) // 4 for text in texts])
        columns.append([Scored(reward.name, one.value, one.answer, one.why, reward.low, reward.high) for one in made])
    return [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in texts]


def total(scored: Sequence[Scored]) -> float | None:
    values = [one.value for one in scored if one.value is not None]
    return sum(values) if values else None


def advantages(rewards: Sequence[float | None]) -> list[float | None]:
    """What GRPO makes of a group's rewards (arXiv 2402.03300): minus the mean, over the sample standard deviation plus 1e-4,
    as in TRL. None where a completion has no reward."""
    known = [value for value in rewards if value is not None]
    if not known:
        return [None] * len(rewards)
    mean = sum(known) / len(known)
    variance = sum((value - mean) ** 2 for value in known) / max(1, len(known) - 1)
    return [None if value is None else (value - mean) / (variance**0.5 + 1e-4) for value in rewards]


def parts(text: str, sample: Sample) -> tuple[str, str]:
    """Thought and answer of a completion, each "" where there is none."""
    thought = text.partition("<think>")[2].partition("</think>")[0] if "<think>" in text else ""
    return thought.strip(), read_span(text, sample).text or ""


def parsed(scored: Sequence[Scored], text: str, sample: Sample) -> str:
    """What the first reward has read in a completion; a user's plain number tells nothing of it."""
    if not scored:
        return ""
    first = scored[0]
    if first.answer == first.value:
        return parts(text, sample)[1]
    return json.dumps(first.answer, ensure_ascii=False, default=str)


def own_file(image: Image.Image) -> Image.Image:
    """The image, marked so that it gets a file of its own on the server: gradio names files by their content and writes them
    again each time, so a visitor could be sent one that is being written."""
    image.info["shown"] = secrets.token_hex(8)
    return image


def draw_image(task: Task, sample: Sample, text: str | None, image: Image.Image | None = None) -> Image.Image | None:
    """The sample's image with its ground truth boxes (green) and those predicted in `text` (red), where its task has boxes.
    None for a sample without an image. `image`: an uploaded one."""
    if image is None:
        if not sample.images:
            return None
        image = open_image(sample.images[int(sample.facts.get("image_index", 0))])
    scale = SIDE_PX / max(image.size)
    shown = own_file(image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))))
    draw = ImageDraw.Draw(shown)
    true, predicted = drawn_boxes(task, sample, text)
    for boxes, colour, width in ((true, TRUE_COLOUR, 5), (predicted, PREDICTED_COLOUR, 3)):
        for box in boxes:
            x1, y1, x2, y2 = (scale * value for value in box.xyxy)
            draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=width)
    return shown


def drawn_boxes(task: Task, sample: Sample, text: str | None) -> tuple[Sequence[Box], Sequence[Box]]:
    """Ground truth and predicted boxes in the image's pixels; none of a kind where they are not known or not there."""
    known = sample.answer not in (None, "")
    # A sample without an answer, as for an uploaded image, is read like one whose answer is no box.
    with_answer = sample if known else dataclasses.replace(sample, answer=[])
    found = boxes_of(task, with_answer, Prediction(sample.id, text or "", 0, truncated=False))
    if found is None:
        return (), ()
    true, predicted = found
    return (true if known else ()), (predicted or () if text else ())
