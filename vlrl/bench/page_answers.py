"""The answers of a result page as data for its script: texts, boxes with their IoU, images, and the part of the prompt that
differs from row to row.

What all prompts of a task share stands on the page once. Not here: drawing any of it (`page_assets/report.js`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlrl.answers.geometry import best_matching
from vlrl.bench.page_images import PageImages, page_images
from vlrl.bench.suite import Suite, as_logged
from vlrl.data.markup import readable
from vlrl.schema import OUTCOMES, Box, Prediction, Row, Sample, Task
from vlrl.tasks.evaluate import Scored, boxes_of

MAX_TEXT, MAX_SHORT = 4_000, 600
"""Characters of a completion, and of a question, ground truth or answer, at most."""
MAX_ALL_TEXT = 24_000_000
"""Characters of all completions together: of many rows each is cut earlier, but not below `MAX_SHORT`."""
MAX_BOXES, MAX_SCORES = 60, 12


@dataclass(frozen=True)
class Answer:
    """One scored answer. `sample`: as the model saw it."""

    task: int
    row: Row
    sample: Sample
    prediction: Prediction
    prompt: str


@dataclass(frozen=True)
class Prompts:
    """What the prompts of a task share: their first and last lines, and the system message. `same`: they are all equal."""

    start: str
    end: str
    system: str
    same: bool


def answers_of(
    suite: Suite, scored: Sequence[Scored], by_id: Mapping[str, Sample], predictions: Mapping[str, Prediction]
) -> tuple[list[Answer], int]:
    """All answers that the page may show, and how many it may not."""
    found: list[Answer] = []
    n_hidden = 0
    for number, one in enumerate(scored):
        for row in one.rows:
            sample = by_id.get(row.id)
            if sample is None:  # a row of several answers
                continue
            if not suite.shows_answers(sample):
                n_hidden += 1
                continue
            prediction = predictions[row.id]
            seen = as_logged(sample, prediction)
            asked = prediction.meta.get("prompt")
            prompt = asked if isinstance(asked, str) else suite.tasks[sample.task].prompt(seen)
            found.append(Answer(number, row, seen, prediction, prompt))
    return found, n_hidden


def answers_json(
    suite: Suite, scored: Sequence[Scored], answers: Sequence[Answer], n_images: int
) -> tuple[dict[str, Any], PageImages]:
    """What the script reads: `tasks`, and `rows` in the order of the data. The images are those of the worst answers."""
    worst_first = sorted(answers, key=goodness)
    images = page_images([image_of(suite.tasks[one.sample.task], one.sample) for one in worst_first], n_images)
    shared = [shared_prompt(suite, [one for one in answers if one.task == number]) for number in range(len(scored))]
    tasks = [
        {
            "name": readable(one.name),
            "headline": readable(one.headline),
            **{key: readable(getattr(prompts, key)) for key in ("start", "end", "system")},
            "same": prompts.same,
        }
        for one, prompts in zip(scored, shared, strict=True)
    ]
    most = max(MAX_SHORT, min(MAX_TEXT, MAX_ALL_TEXT // max(1, len(answers))))
    rows = [_row_json(suite, one, shared[one.task], images, most) for one in answers]
    return {"outcomes": OUTCOMES, "tasks": tasks, "rows": rows}, images


def image_of(task: Task, sample: Sample) -> Sample:
    """The sample whose images stand for this one: of an episode, its first state."""
    return replace(task.shown_as(sample), id=sample.id) if task.is_episode(sample) else sample


def shared_prompt(suite: Suite, answers: Sequence[Answer]) -> Prompts:
    """The lines that all prompts of a task begin with, and those they end with."""
    if not answers:
        return Prompts("", "", "", False)
    system = suite.tasks[answers[0].sample.task].system
    all_lines = [one.prompt.split("\n") for one in answers]
    first = all_lines[0]
    if all(lines == first for lines in all_lines):
        return Prompts("\n".join(first), "", system, True)
    shortest = min(map(len, all_lines))
    n_start = next((i for i in range(shortest) if any(lines[i] != first[i] for lines in all_lines)), shortest)
    rest = shortest - n_start
    n_end = next((i for i in range(rest) if any(lines[-1 - i] != first[-1 - i] for lines in all_lines)), rest)
    return Prompts("\n".join(first[:n_start]), "\n".join(first[len(first) - n_end :]), system, False)


def own_prompt(prompt: str, shared: Prompts) -> str:
    """The lines of a prompt that others do not share."""
    lines = prompt.split("\n")
    n_start = len(shared.start.split("\n")) if shared.start else 0
    n_end = len(shared.end.split("\n")) if shared.end else 0
    return "" if shared.same else "\n".join(lines[n_start : len(lines) - n_end])


def _row_json(suite: Suite, one: Answer, shared: Prompts, images: PageImages, most: int) -> dict[str, Any]:
    row, sample, prediction = one.row, one.sample, one.prediction
    found: dict[str, Any] = {
        "t": one.task,
        "i": _cut(row.id, 300),
        "o": OUTCOMES.index(row.outcome),
        "v": _value(row),
        "q": _cut(own_prompt(one.prompt, shared), 3 * MAX_SHORT),
        "g": _cut(row.ground_truth, MAX_SHORT),
        "a": _cut(row.answer, MAX_SHORT),
        "c": _cut(prediction.completion, most),
        "n": prediction.n_tokens,
        "x": int(prediction.truncated),
        "s": [[_cut(name, 80), _finite(top / bottom)] for name, (top, bottom) in row.parts.items() if bottom][:MAX_SCORES],
    }
    if places := images.of_sample.get(row.id):
        found |= {"p": places, "w": int(sample.facts.get("image_index", 0)), "m": len(sample.images)}
    if problem := images.problems.get(row.id):
        found["e"] = _cut(problem, MAX_SHORT)
    boxes = boxes_of(suite.tasks[sample.task], sample, prediction)
    if boxes is not None:
        found |= _boxes_json(boxes[0], boxes[1], _size_of(sample, found, images))
    return found


def _size_of(sample: Sample, row: Mapping[str, Any], images: PageImages) -> tuple[float, float] | None:
    """Width and height in pixels of the image that the boxes are on, where they are known."""
    places: Sequence[int | None] = row.get("p", ())
    place: int | None = places[row["w"]] if row.get("w", 0) < len(places) else None
    if place is not None:
        return images.thumbnails[place].size_px
    size = sample.facts.get("image_size")
    return (float(size[0]), float(size[1])) if size else None


def _boxes_json(true: Sequence[Box], predicted: Sequence[Box] | None, size: tuple[float, float] | None) -> dict[str, Any]:
    """`true` and `pred`: corners in thousandths of the image, label, confidence; `pairs`: predicted box, true box, their IoU;
    `u`: the mean over true boxes of the IoU with their partner, None where there are none. Boxes are paired by IoU alone, so
    that a wrong label can be seen beside the box it belongs to."""
    plain = [[replace(box, label="") for box in side] for side in (predicted or (), true)]
    pairs = best_matching(plain[0], plain[1], 0.0)
    found: dict[str, Any] = {"u": round(sum(pair[2] for pair in pairs) / len(true), 4) if true else None}
    scale: tuple[float, ...] = (math.nan,) * 4 if size is None else (1000 / size[0], 1000 / size[1]) * 2
    for key, side in (("true", true), ("pred", predicted or ())):
        found[key] = [
            [
                *(_finite(v * by, 1) for v, by in zip(box.xyxy, scale, strict=True)),
                _cut(box.label or "", 80),
                None if box.confidence is None else _finite(box.confidence, 3),
            ]
            for box in side[:MAX_BOXES]
        ]
    found["pairs"] = [[i, j, round(overlap, 3)] for i, j, overlap in pairs if i < MAX_BOXES and j < MAX_BOXES]
    found["more"] = max(0, len(true) - MAX_BOXES) + max(0, len(predicted or ()) - MAX_BOXES)
    found["unread"] = int(predicted is None)
    return found


def _cut(text: str, most: int) -> str:
    """The first `most` characters, readable, and how many follow."""
    rest = len(text) - most
    return readable(text[:most]) + (f" … ({rest:,} more characters)" if rest > 0 else "")


def _value(row: Row) -> float | None:
    """A row's share of the headline; None for a row that has no number."""
    return _finite(row.value) if row.parts else None


def goodness(one: Answer) -> tuple[float, bool]:
    """What the worst answers have least of. Of equal ones those that could not be read come first."""
    value = _value(one.row)
    return (1.0 if value is None else value, one.row.outcome != "unparsed")


def _finite(value: float, digits: int = 4) -> float | None:
    """A number as JSON holds it, within a million; None for infinity and NaN."""
    return round(min(max(value, -1e6), 1e6), digits) if math.isfinite(value) else None
