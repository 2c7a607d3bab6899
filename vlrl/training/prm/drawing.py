"""Images of a reward-model run: the loss with the calibration, and held-out solutions with the value of every step."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vlrl.data.images import open_image
from vlrl.data.step_values import StepRecord
from vlrl.training.curves import Panel, draw_panels
from vlrl.training.sample_images import write_image

N_SAMPLES, PER_ROW = 8, 2
WIDTH_PX, HEIGHT_PX, IMAGE_PX = 560, 190, 170


def draw_loss_and_calibration(rows: Sequence[Mapping[str, Any]], calibration: Sequence[Mapping[str, Any]], out: Path) -> None:
    """The training loss over steps; mean true value against mean prediction in ten bins."""
    logged = [row for row in rows if row.get("loss") is not None]
    known = [row for row in calibration if row["n"]]
    loss = Panel("training loss", {"loss": ([row["step"] for row in logged], [row["loss"] for row in logged])}, bold="loss")
    ten_bins = ([row["predicted"] for row in known], [row["value"] for row in known])
    lines: dict[str, tuple[Sequence[float], Sequence[float | None]]] = {"perfect": ([0, 1], [0, 1]), "this model": ten_bins}
    draw_panels([loss, Panel("held-out steps: mean value of ten bins", lines, "predicted", bold="this model")], out)


def draw_step_values(records: Sequence[StepRecord], values: Sequence[Sequence[float]], out: Path) -> None:
    """The first solutions of as many questions: image, question, each step with its predicted and true value."""
    firsts = {record.question_key: i for i, record in reversed(list(enumerate(records)))}
    chosen = sorted(firsts.values())[:N_SAMPLES]
    sheet = Image.new("RGB", (PER_ROW * WIDTH_PX, -(-len(chosen) // PER_ROW) * HEIGHT_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for place, i in enumerate(chosen):
        left, top = place % PER_ROW * WIDTH_PX, place // PER_ROW * HEIGHT_PX
        record = records[i]
        if record.image is not None:
            image = open_image(record.image)
            image.thumbnail((IMAGE_PX, IMAGE_PX))
            scale = IMAGE_PX / max(image.size)
            sheet.paste(image.resize((int(image.width * scale), int(image.height * scale))), (left + 8, top + 8))
        x, y = left + IMAGE_PX + 18, top + 8
        for line in textwrap.wrap(record.question, 52)[:2]:
            draw.text((x, y), line, fill=(0, 0, 0), font=ImageFont.load_default(13))
            y += 17
        for step, value, true in zip(record.steps, values[i], record.values, strict=True):
            shown = f"{value:.2f}" + ("" if true is None else f" (true {true:g})")
            wrong = true is not None and (value >= 0.5) != (true >= 0.5)
            draw.text((x, y + 4), shown, fill=(198, 40, 40) if wrong else (46, 125, 50), font=ImageFont.load_default(12))
            y += 17
            for line in textwrap.wrap(step, 54)[:2]:
                draw.text((x + 14, y + 2), line, fill=(60, 60, 60), font=ImageFont.load_default(12))
                y += 15
    write_image(sheet, out)
