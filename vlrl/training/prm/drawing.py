"""Pictures of a reward-model run: the loss with the calibration, and held-out solutions with the value of every step."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from vlrl.data.images import open_image
from vlrl.data.step_values import StepRecord

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N_SAMPLES, PER_ROW = 8, 2
WIDTH_PX, HEIGHT_PX, PICTURE_PX = 560, 190, 170


def draw_curves(rows: Sequence[Mapping[str, Any]], calibration: Sequence[Mapping[str, Any]], out: Path) -> None:
    """The training loss over steps; mean true value against mean prediction in ten bins."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    logged = [row for row in rows if row.get("loss") is not None]
    panels[0].plot([row["step"] for row in logged], [row["loss"] for row in logged], color="black")
    panels[0].set_title("training loss")
    panels[0].set_xlabel("step")
    known = [row for row in calibration if row["n"]]
    panels[1].plot([0, 1], [0, 1], color="grey", linestyle="--")
    panels[1].plot([row["predicted"] for row in known], [row["value"] for row in known], marker="o")
    panels[1].set_title("held-out steps: mean value of ten bins")
    panels[1].set_xlabel("predicted")
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_samples(records: Sequence[StepRecord], values: Sequence[Sequence[float]], out: Path) -> None:
    """The first solutions of as many questions: picture, question, each step with its predicted and true value."""
    firsts = {record.question_key: i for i, record in reversed(list(enumerate(records)))}
    chosen = sorted(firsts.values())[:N_SAMPLES]
    sheet = Image.new("RGB", (PER_ROW * WIDTH_PX, -(-len(chosen) // PER_ROW) * HEIGHT_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for place, i in enumerate(chosen):
        left, top = place % PER_ROW * WIDTH_PX, place // PER_ROW * HEIGHT_PX
        record = records[i]
        if record.image is not None:
            picture = open_image(record.image)
            picture.thumbnail((PICTURE_PX, PICTURE_PX))
            scale = PICTURE_PX / max(picture.size)
            sheet.paste(picture.resize((int(picture.width * scale), int(picture.height * scale))), (left + 8, top + 8))
        x, y = left + PICTURE_PX + 18, top + 8
        for line in textwrap.wrap(record.question, 52)[:2]:
            draw.text((x, y), line, fill=(0, 0, 0), font=ImageFont.load_default(13))
            y += 17
        for step, value, true in zip(record.steps, values[i], record.values, strict=True):
            told = f"{value:.2f}" + ("" if true is None else f" (true {true:g})")
            wrong = true is not None and (value >= 0.5) != (true >= 0.5)
            draw.text((x, y + 4), told, fill=(198, 40, 40) if wrong else (46, 125, 50), font=ImageFont.load_default(12))
            y += 17
            for line in textwrap.wrap(step, 54)[:2]:
                draw.text((x + 14, y + 2), line, fill=(60, 60, 60), font=ImageFont.load_default(12))
                y += 15
    sheet.save(out)
