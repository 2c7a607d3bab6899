"""What a run leaves for people: `summary.json`, the before/after table, `curves.png` and `samples.png`."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from vlrl.data.files import read_json_object, write_whole
from vlrl.data.images import open_images
from vlrl.data.markup import plot_label, readable
from vlrl.data.masking import masked_command
from vlrl.gtr.diagnostics import CollapseRule
from vlrl.schema import Boxes, Prediction, Row, Sample, Task
from vlrl.tasks.evaluate import Evaluation, as_text, boxes_of, git_revision, table, versions
from vlrl.training import model_card
from vlrl.training.evaluation_flags import PREFIX
from vlrl.training.events import EVENTS_FILE
from vlrl.training.metrics_log import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRUE_COLOUR, BEFORE_COLOUR, AFTER_COLOUR = (20, 20, 20), (214, 39, 40), (31, 119, 180)
NOT_DRAWN = {f"{PREFIX}{name}" for name in ("n_tokens", "n_unparsed", "n_truncated", "runtime")}
"""What is logged of an evaluation and is no metric between 0 and 1."""
THOUGHT_CURVES = ("self_bleu2", "unique_thoughts", "sensitivity", "valid", "legal", "recognised", "corrected")


def run_summary(
    *,
    task: str,
    model: str | None,
    data: str,
    stage: str,
    seed: int,
    steps: int,
    seconds: float,
    headline: str,
    evaluations: Mapping[str, Evaluation],
) -> dict[str, Any]:
    """What `summary.json` holds of every kind of run. `evaluations`: by name, `before` and `after` among them."""
    return {
        "task": task,
        "model": model,
        "data": data,
        "stage": stage,
        "seed": seed,
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "versions": versions(),
        "git": git_revision(),
        "command": " ".join(["vlrl/train.py", *masked_command(sys.argv[1:])]),
        "headline": headline,
        **{name: evaluation.to_json() for name, evaluation in evaluations.items()},
        "n_unparsed": evaluations["after"].n_unparsed,
        "n_truncated": evaluations["after"].n_truncated,
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """`summary.json` of a run, None where it is not there."""
    path = folder / "summary.json"
    return read_json_object(path) if path.is_file() else None


def last_step(rows: Sequence[Mapping[str, Any]]) -> int:
    """The last logged step; 0 where nothing was logged."""
    return max((row["step"] for row in rows), default=0)


def closing_lines(title: str, evaluations: Mapping[str, Evaluation], notes: Sequence[str], summary: Path) -> str:
    """The last lines of a run: the numbers, notes, and the path of what was written."""
    return "\n".join(["", title, table(evaluations), *(f"\n{note}" for note in notes), f"\n{summary}"])


def events_noted(events: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """The closing line of a run's events, if it had any."""
    return [f"events: {model_card.events(events)}; see {folder / EVENTS_FILE}"] if events else []


THOUGHTS = "thoughts/"
ENDPOINTS = ("corrector", "judge")


def thought_changes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How a run's thoughts changed: the first and the last numbers of each kind, and why they count as collapsed (null: they
    do not), with the thresholds. None for a run without thoughts."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for row in rows:
        found = {key.removeprefix(THOUGHTS): value for key, value in row.items() if key.startswith(THOUGHTS)}
        first, last = {**found, **first}, {**last, **found}
    if "self_bleu2" not in last:
        return None
    rule = CollapseRule()
    return {"first": first, "last": last, "collapsed": rule.why(first, last), "rule": asdict(rule)}


def endpoint_totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Totals of the endpoints that a run asked, by what they are for: requests, cached replies, failures, cost, seconds."""
    found: dict[str, dict[str, float]] = {}
    for name in ENDPOINTS:
        counted = (row for row in reversed(rows) if any(key.startswith(f"{name}/") for key in row))
        last: Mapping[str, Any] = next(counted, {})
        if last:
            found[name] = {key.partition("/")[2]: value for key, value in last.items() if key.startswith(f"{name}/")}
    return found


@dataclass(frozen=True)
class Panel:
    """One plot of `curves.png`. `lines`: name (may be "") -> x and y, y with None where there is no number."""

    title: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]]
    x_label: str = "step"
    bold: str | None = None
    """The line drawn in black, the others being lighter."""


def draw_panels(panels: Sequence[Panel], out: Path) -> None:
    """Plots beside each other as one image."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.6), constrained_layout=True, squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        for name, (xs, ys) in panel.lines.items():
            style: dict[str, Any] = {"color": "black"} if name == panel.bold else {"alpha": 0.8}
            axis.plot(xs, [math.nan if y is None else y for y in ys], label=plot_label(name), **style)
        axis.set_title(panel.title)
        axis.set_xlabel(panel.x_label)
        axis.grid(alpha=0.3)
        if any(panel.lines):
            axis.legend(fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    write_whole(out, drawn.getvalue())


def draw_curves(metrics: Path, out: Path) -> None:
    """Reward and its components, group spread, completion length and, where there are any, the metrics of held-out samples and
    how alike thoughts are, over training steps."""
    every = read_metrics(metrics)
    rows = [row for row in every if "reward" in row]
    if not rows:
        return

    def line(key: str) -> tuple[list[float], list[float | None]]:
        known = [row for row in every if key in row]
        return [row["step"] for row in known], [row[key] for row in known]

    names = sorted(key for key in rows[-1] if key.startswith("rewards/") and key.endswith("/mean"))
    total = "reward (weighted sum)"
    lengths = {
        label: line(f"completions/{key}_length") for key, label in (("mean", "mean"), ("min", "shortest"), ("max", "longest"))
    }
    panels = [
        Panel("sampled reward", {total: line("reward"), **{name.split("/")[1]: line(name) for name in names}}, bold=total),
        Panel("signal within groups", {"reward std": line("reward_std"), "zero-variance groups": line("frac_reward_zero_std")}),
        Panel("completion length (tokens)", lengths),
    ]
    measured = sorted({key for row in every for key in row if key.startswith(PREFIX)} - NOT_DRAWN)
    if measured := [key for key in measured if "[" not in key]:
        panels.append(Panel("held-out samples", {key.removeprefix(PREFIX): line(key) for key in measured}))
    thoughts = [name for name in THOUGHT_CURVES if any(THOUGHTS + name in row for row in rows)]
    if "self_bleu2" in thoughts:
        panels.append(Panel("thoughts", {name.replace("_", " "): line(THOUGHTS + name) for name in thoughts}))
    draw_panels(panels, out)


def draw_samples(
    tasks: Mapping[str, Task],
    samples: Sequence[Sample],
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]],
    evaluations: tuple[Evaluation, Evaluation],
    out: Path,
    n: int = 8,
) -> None:
    """The first `n` samples with true (black), before (red) and after (blue) boxes; answers without boxes as text.
    `predictions` and `evaluations`: before and after training."""
    rows = [evaluation.by_id for evaluation in evaluations]
    tiles = [
        _tile(tasks[sample.task], sample, (first, last), [some.get(sample.id) for some in rows])
        for sample, first, last in zip(samples[:n], predictions[0][:n], predictions[1][:n], strict=True)
    ]
    if not tiles:
        return
    per_row = 4
    width, height = tiles[0].width, max(tile.height for tile in tiles)
    n_rows = -(-len(tiles) // per_row)
    legend = 30
    sheet = Image.new("RGB", (min(per_row, len(tiles)) * width, n_rows * height + legend), "white")
    draw = ImageDraw.Draw(sheet)
    x = 8
    for text, colour in (("true", TRUE_COLOUR), ("before", BEFORE_COLOUR), ("after", AFTER_COLOUR)):
        draw.rectangle((x, 8, x + 14, 22), outline=colour, width=3)
        draw.text((x + 20, 7), text, fill=(0, 0, 0), font=_font(14))
        x += 34 + int(draw.textlength(text, font=_font(14)))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, ((i % per_row) * width, legend + (i // per_row) * height))
    write_image(sheet, out)


def write_image(image: Image.Image, out: Path) -> None:
    """A PNG file, whole or not there. Raises OSError."""
    drawn = io.BytesIO()
    image.save(drawn, format="PNG")
    write_whole(out, drawn.getvalue())


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _tile(
    task: Task, sample: Sample, predictions: tuple[Prediction, Prediction], rows: Sequence[Row | None], side: int = 300
) -> Image.Image:
    """One sample's image at `side` px, its question and, for answers without boxes, the true and both given ones below."""
    found = [boxes_of(task, sample, prediction) for prediction in predictions]
    boxes = [one for one in found if one is not None]
    tile = Image.new("RGB", (side + 8, side + (44 if boxes else 64)), "white")
    draw = ImageDraw.Draw(tile)
    caption = sample.question
    shown = _shown(task.shown_as(sample), side)
    if shown is not None:
        image, scale = shown
        tile.paste(image, (4, 4))
        if boxes:
            caption += ": " + _draw_boxes(draw, boxes, scale)
    draw.text((6, side + 6), readable(caption)[:48], fill=(0, 0, 0), font=_font(15))
    if boxes:
        return tile
    answers = [readable((None if row is None else row.answer) or "unread") for row in rows]
    if task.is_episode(sample):
        for line, (row, answer, colour) in enumerate(zip(rows, answers, (BEFORE_COLOUR, AFTER_COLOUR), strict=True)):
            earned = "" if row is None or "return" not in row.parts else f"{row.parts['return'][0]:+g}: "
            draw.text((6, side + 26 + 18 * line), f"{earned}{answer}"[:44], fill=colour, font=_font(13))
    else:
        draw.text((6, side + 26), f"true: {readable(as_text(sample.answer))[:40]}", fill=TRUE_COLOUR, font=_font(13))
        draw.text((6, side + 44), f"{answers[0][:22]} -> {answers[1][:22]}", fill=AFTER_COLOUR, font=_font(13))
    return tile


def _shown(sample: Sample, side: int) -> tuple[Image.Image, float] | None:
    """The picture that is asked about with its longer side `side` px, and the scale; None without one. Raises ImageError."""
    pictures = open_images(sample)
    if not pictures:
        return None
    image = pictures[int(sample.facts.get("image_index", 0))]
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))), scale


def _draw_boxes(draw: ImageDraw.ImageDraw, found: Sequence[Boxes], scale: float) -> str:
    """Draw true and predicted boxes; returns how many there are."""
    drawn = [(found[0][0], TRUE_COLOUR, 3)]
    drawn += [
        (predicted or (), colour, 2) for (_, predicted), colour in zip(found, (BEFORE_COLOUR, AFTER_COLOUR), strict=False)
    ]
    for boxes, colour, width in drawn:
        for box in boxes:
            corners = tuple(4 + scale * v for v in box.xyxy)
            draw.rectangle(corners, outline=colour, width=width)
    counts = ["unread" if predicted is None else str(len(predicted)) for _, predicted in found]
    return f"{len(found[0][0])} true, found {' -> '.join(counts)}"
