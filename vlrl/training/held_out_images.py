"""`held_out_images/`: small images of held-out samples, with boxes, texts and scores before and after training, so that a page
can open a sample when the data are elsewhere by then. Those that changed most come first; not every sample has one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlrl.data.files import write_json_lines, write_whole
from vlrl.data.images import ImageError, open_image
from vlrl.data.masking import without_remembered
from vlrl.rewards.scoring import logged_answer, score_rows
from vlrl.schema import Box, Prediction, Reward, Sample, Score, Task, TaskError
from vlrl.tasks.evaluate import Evaluation, boxes_of
from vlrl.tasks.rubric import Rubric

FOLDER, INDEX = "held_out_images", "samples.jsonl"
MAX_SAMPLES = 200
"""Half of them those that changed most, half the first ones."""
SIDE_PX = 640
"""The longer side of an image; smaller ones stay as they are."""
NOT_ASKED_AGAIN = "not asked again: it waits for an endpoint"
WHOLE_GROUPS = "scores whole groups of completions, not one alone"


def write_held_out_images(
    rubric: Rubric,
    samples: Sequence[Sample],
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]],
    evaluations: tuple[Evaluation, Evaluation],
    folder: Path,
    step: int,
) -> None:
    """Write the folder of a run at its end. `predictions`, `evaluations`: before and after training; `step`: the last one.
    Raises OSError."""
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    chosen = chosen_places(_changes(samples, evaluations))
    picked = [samples[i] for i in chosen]
    sides = [[made[i] for i in chosen] for made in predictions]
    scores = [scores_of(rubric, picked, made, step) for made in sides]
    rows = []
    for k, sample in enumerate(picked):
        task = rubric.tasks[sample.task]
        row: dict[str, Any] = {"id": sample.id, "question": sample.question, **_image(task, sample, out / f"{k}.jpg")}
        found = [boxes_of(task, sample, made[k]) for made in sides]
        row["true"] = None if found[0] is None else [_box(box) for box in found[0][0]]
        for side, made, boxes, scored in zip(("before", "after"), sides, found, scores, strict=True):
            predicted = None if boxes is None or boxes[1] is None else [_box(box) for box in boxes[1]]
            row[side] = {"completion": made[k].completion, "boxes": predicted, "rewards": scored[k]}
        rows.append(row)
    write_json_lines(out / INDEX, rows)


def chosen_places(changes: Sequence[float | None], most: int = MAX_SAMPLES) -> list[int]:
    """Which samples are kept, in order: half of `most` by how much their value changed, the rest from the first on."""
    by_change = sorted(range(len(changes)), key=lambda i: (-abs(changes[i] or 0.0), i))
    kept = dict.fromkeys(by_change[: most // 2])
    for i in range(len(changes)):
        if len(kept) >= most:
            break
        kept[i] = None
    return sorted(kept)


def scores_of(rubric: Rubric, samples: Sequence[Sample], made: Sequence[Prediction], step: int) -> list[dict[str, Any]]:
    """Of each completion the value, parsed answer and reason of each reward that applies, by the reward's name. Episodes have
    the rewards of their steps, so none here. A reward that fails says so in its reason."""
    found: list[dict[str, Any]] = [{} for _ in samples]
    base = _scores(rubric.base, samples, made, step, None) if rubric.base is not None else None
    values = None if base is None else [one.value for one in base]
    for reward in rubric.rewards:
        places = [
            i
            for i, sample in enumerate(samples)
            if rubric.applies(reward, sample) and not rubric.tasks[sample.task].is_episode(sample)
        ]
        part = None if values is None else [values[i] for i in places]
        scored = _scores(reward, [samples[i] for i in places], [made[i] for i in places], step, part)
        for i, one in zip(places, scored, strict=True):
            found[i][reward.name] = {
                "value": one.value,
                "answer": logged_answer(one.answer),
                "why": without_remembered(one.why),
            }
    return found


def _scores(
    reward: Reward, samples: Sequence[Sample], made: Sequence[Prediction], step: int, base: Sequence[float | None] | None
) -> list[Score]:
    if reward.needs & {"network", "group"}:
        why = NOT_ASKED_AGAIN if "network" in reward.needs else WHOLE_GROUPS
        return [Score(None, None, why) for _ in samples]
    counts = [one.n_tokens for one in made]
    n_tokens = None if None in counts else [int(n) for n in counts if n is not None]
    scores = []
    for i, (sample, one) in enumerate(zip(samples, made, strict=True)):
        tokens = None if n_tokens is None else [n_tokens[i]]
        try:
            scores += score_rows(reward, [one.completion], [sample], step, tokens, None if base is None else [base[i]])
        except TaskError as error:
            scores.append(Score(None, None, str(error)))
    return scores


def _changes(samples: Sequence[Sample], evaluations: tuple[Evaluation, Evaluation]) -> list[float | None]:
    first, last = (evaluation.by_id for evaluation in evaluations)
    return [
        None if sample.id not in first or sample.id not in last else last[sample.id].value - first[sample.id].value
        for sample in samples
    ]


def _image(task: Task, sample: Sample, out: Path) -> dict[str, Any]:
    """Write the image that a sample asks about; returns its file's name and its size in pixels before it was made smaller. Of a
    video, and of an image that is gone, none is kept."""
    shown = task.shown_as(sample)
    if not shown.images:
        return {"image": None}
    try:
        image = open_image(shown.images[int(shown.facts.get("image_index", 0))]).convert("RGB")
    except ImageError:  # removed while the run trained
        return {"image": None}
    size = {"image": out.name, "width_px": image.width, "height_px": image.height}
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=88)
    write_whole(out, written.getvalue())
    return size


def _box(box: Box) -> dict[str, Any]:
    return {"bbox_2d": [float(v) for v in box.xyxy], "label": box.label}
