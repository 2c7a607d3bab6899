"""`samples.png`: held-out samples with what the model answered before and after training, gains and losses first."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from vlrl.answers.geometry import best_matching
from vlrl.data.files import write_whole
from vlrl.data.images import open_images
from vlrl.data.markup import readable
from vlrl.schema import Box, Boxes, Prediction, Row, Sample, Task
from vlrl.tasks.evaluate import Evaluation, as_text, boxes_of

TRUE_COLOUR, BEFORE_COLOUR, AFTER_COLOUR = (20, 20, 20), (214, 39, 40), (31, 119, 180)
N_GAINS, N_TYPICAL, N_LOSSES = 4, 2, 2
"""How many samples of each kind are drawn."""
PER_ROW = 4


def draw_samples(
    tasks: Mapping[str, Task],
    samples: Sequence[Sample],
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]],
    evaluations: tuple[Evaluation, Evaluation],
    out: Path,
    n: int = N_GAINS + N_TYPICAL + N_LOSSES,
) -> None:
    """Write `samples_sheet`, where there is any sample. Raises OSError, ImageError."""
    sheet = samples_sheet(tasks, samples, predictions, evaluations, n)
    if sheet is not None:
        write_image(sheet, out)


def samples_sheet(
    tasks: Mapping[str, Task],
    samples: Sequence[Sample],
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]],
    evaluations: tuple[Evaluation, Evaluation],
    n: int = N_GAINS + N_TYPICAL + N_LOSSES,
) -> Image.Image | None:
    """`n` samples with true (black), before (red) and after (blue) boxes, chosen by `chosen_samples`; answers without boxes as
    text. `predictions` and `evaluations`: before and after training. None where there are no samples. Raises ImageError."""
    rows = [evaluation.by_id for evaluation in evaluations]
    chosen = chosen_samples([_change(sample, rows) for sample in samples], n)
    tiles = [
        _tile(tasks[samples[i].task], samples[i], kind, (predictions[0][i], predictions[1][i]), _rows_of(samples[i], rows))
        for i, kind in chosen
    ]
    if not tiles:
        return None
    width, height = tiles[0].width, max(tile.height for tile in tiles)
    n_rows = -(-len(tiles) // PER_ROW)
    legend = 30
    sheet = Image.new("RGB", (min(PER_ROW, len(tiles)) * width, n_rows * height + legend), "white")
    draw = ImageDraw.Draw(sheet)
    x = 8
    for text, colour in (("true", TRUE_COLOUR), ("before", BEFORE_COLOUR), ("after", AFTER_COLOUR)):
        draw.rectangle((x, 8, x + 14, 22), outline=colour, width=3)
        draw.text((x + 20, 7), text, fill=(0, 0, 0), font=_font(14))
        x += 34 + int(draw.textlength(text, font=_font(14)))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, ((i % PER_ROW) * width, legend + (i // PER_ROW) * height))
    return sheet


def write_image(image: Image.Image, out: Path) -> None:
    """A PNG file, whole or not there. Raises OSError."""
    drawn = io.BytesIO()
    image.save(drawn, format="PNG")
    write_whole(out, drawn.getvalue())


def _change(sample: Sample, rows: Sequence[Mapping[str, Row]]) -> float | None:
    """How much a sample's value rose; None where it has none before or after."""
    first, last = (some.get(sample.id) for some in rows)
    return None if first is None or last is None else last.value - first.value


def _rows_of(sample: Sample, rows: Sequence[Mapping[str, Row]]) -> list[Row | None]:
    return [some.get(sample.id) for some in rows]


def chosen_samples(changes: Sequence[float | None], n: int) -> list[tuple[int, str]]:
    """Which samples are drawn, as (index, kind): the largest gains, those nearest to the median change ("typical"), the largest
    losses, in the ratio 4 : 2 : 2. Where there are too few gains or losses, more typical ones. A tie goes to the first sample.
    """
    known = sorted((change, -i) for i, change in enumerate(changes) if change is not None)
    unknown = [i for i, change in enumerate(changes) if change is None]
    n_gains, n_losses = n * N_GAINS // (N_GAINS + N_TYPICAL + N_LOSSES), n * N_LOSSES // (N_GAINS + N_TYPICAL + N_LOSSES)
    gains = [-i for change, i in reversed(known) if change > 0][:n_gains]
    losses = sorted((change, -i) for change, i in known if change < 0)[:n_losses]
    taken = {*gains, *(i for _, i in losses)}
    median = known[len(known) // 2][0] if known else 0.0
    nearest = sorted((abs(change - median), -i) for change, i in known if -i not in taken)
    typical = [*(i for _, i in nearest), *unknown][: n - len(taken)]
    return [
        *((i, "gain") for i in gains),
        *((i, "typical") for i in typical),
        *((i, "loss") for _, i in reversed(losses)),
    ]


@cache
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings: Pillow's own font has Latin letters alone."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size - 2)


def _tile(
    task: Task,
    sample: Sample,
    kind: str,
    predictions: tuple[Prediction, Prediction],
    rows: Sequence[Row | None],
    side: int = 300,
) -> Image.Image:
    """One sample's image at `side` px, what it is an example of, its question and, for answers without boxes, the true and both
    given ones below."""
    found = [boxes_of(task, sample, prediction) for prediction in predictions]
    boxes = [one for one in found if one is not None]
    tile = Image.new("RGB", (side + 8, side + 64), "white")
    draw = ImageDraw.Draw(tile)
    shown = _shown(task.shown_as(sample), side)
    if shown is not None:
        image, scale = shown
        tile.paste(image, (4, 4))
        if boxes:
            _draw_boxes(draw, boxes, scale)
    draw.text((6, side + 6), readable(sample.question)[:48], fill=(0, 0, 0), font=_font(15))
    if boxes:
        draw.text((6, side + 27), f"{kind}: {mean_overlap_words(boxes)}"[:52], fill=(0, 0, 0), font=_font(14))
        return tile
    answers = [readable((None if row is None else row.answer) or "unread") for row in rows]
    if task.is_episode(sample):
        for line, (row, answer, colour) in enumerate(zip(rows, answers, (BEFORE_COLOUR, AFTER_COLOUR), strict=True)):
            earned = "" if row is None or "return" not in row.parts else f"{row.parts['return'][0]:+g}: "
            draw.text((6, side + 26 + 18 * line), f"{earned}{answer}"[:44], fill=colour, font=_font(13))
    else:
        draw.text((6, side + 26), f"true: {readable(as_text(sample.answer))[:40]}", fill=TRUE_COLOUR, font=_font(13))
        draw.text((6, side + 44), f"{kind}: {answers[0][:20]} → {answers[1][:20]}", fill=AFTER_COLOUR, font=_font(13))
    return tile


def _shown(sample: Sample, side: int) -> tuple[Image.Image, float] | None:
    """The image that is asked about with its longer side `side` px, and the scale; None without one. Raises ImageError."""
    images = open_images(sample)
    if not images:
        return None
    image = images[int(sample.facts.get("image_index", 0))]
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))), scale


def _draw_boxes(draw: ImageDraw.ImageDraw, found: Sequence[Boxes], scale: float) -> None:
    """Draw true and predicted boxes."""
    drawn = [(found[0][0], TRUE_COLOUR, 3)]
    drawn += [
        (predicted or (), colour, 2) for (_, predicted), colour in zip(found, (BEFORE_COLOUR, AFTER_COLOUR), strict=False)
    ]
    for boxes, colour, width in drawn:
        for box in boxes:
            corners = tuple(4 + scale * v for v in box.xyxy)
            draw.rectangle(corners, outline=colour, width=width)


def mean_overlap_words(found: Sequence[Boxes]) -> str:
    """The mean IoU of the true boxes before and after, such as "IoU 0.41 → 0.83"; where there are none, how many were found."""
    if not found[0][0]:
        counts = ["unread" if predicted is None else str(len(predicted)) for _, predicted in found]
        return f"no true box, found {' → '.join(counts)}"
    means = ["unread" if predicted is None else f"{mean_overlap(true, predicted):.2f}" for true, predicted in found]
    return f"IoU {' → '.join(means)}"


def mean_overlap(true: Sequence[Box], predicted: Sequence[Box]) -> float:
    """The mean, over the true boxes, of the IoU with the box each is matched with: one to one, of the same label where the true
    boxes have labels, so that the sum is largest. A box without a partner counts 0. In 0..1."""
    if any(box.label is None for box in true):
        true, predicted = ([dataclasses.replace(box, label="") for box in boxes] for boxes in (true, predicted))
    matched = best_matching(predicted, true, 0.0)
    return sum(overlap for _, _, overlap in matched) / len(true)
