"""What the page shows of a completion: the parsed answer and every reward with its reason. No model, no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlrl.answers.kind import BOX, BOXES, answer_kinds
from vlrl.answers.read import read_span
from vlrl.data.images import open_image
from vlrl.rewards import load_reward, score_rows
from vlrl.schema import Sample, Task
from vlrl.tasks.rubric import own_specs

MAX_IMAGES = 4
"""Images of a sample that are shown."""


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


def shown_images(sample: Sample, image: Image.Image | None = None) -> tuple[list[Image.Image], int]:
    """The sample's images, at most `MAX_IMAGES`, and which of them its boxes are on. `image`: an uploaded one, in their place.
    Raises ImageError."""
    if image is not None:
        return [image], 0
    on = int(sample.facts.get("image_index", 0))
    if on >= MAX_IMAGES:
        return [open_image(sample.images[on])], 0
    return [open_image(path) for path in sample.images[:MAX_IMAGES]], on
