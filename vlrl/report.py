"""What a run leaves for people: `summary.json`, the before/after table, `curves.png` and `samples.png`."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from vlrl.answers import read_boxes, read_span, true_boxes
from vlrl.cards import read_action
from vlrl.cards.deals import deal_of, state_sample
from vlrl.cards.transcripts import Turn, read_transcript, replay
from vlrl.gtr.diagnostics import CollapseRule
from vlrl.metrics.stats import bootstrap_mean
from vlrl.prompts import open_images
from vlrl.schema import CARD_TASKS, Metric, Prediction, Sample, Task

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRUE_COLOUR, BEFORE_COLOUR, AFTER_COLOUR = (20, 20, 20), (214, 39, 40), (31, 119, 180)
THOUGHT_CURVES = ("self_bleu2", "unique_thoughts", "sensitivity", "valid", "legal", "recognised", "corrected")
PACKAGES = ("vlrl", "torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "pycocotools")


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one model on one set."""

    metrics: dict[str, Metric]
    n: int
    n_unparsed: int
    n_truncated: int

    def to_json(self) -> dict[str, Any]:
        """Metric name -> value, ci95, n; the shares of unparsed and truncated completions stand among them."""
        return {
            name: {"value": metric.value, "ci95": None if metric.ci95 is None else list(metric.ci95), "n": metric.n}
            for name, metric in self.metrics.items()
        }


def evaluate(tasks: Mapping[str, Task], samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Evaluation:
    """Score predictions with their tasks' metrics; of several tasks each metric is named `task/metric`.

    Raises ValueError unless there is one prediction for each sample, in order.
    """
    if [s.id for s in samples] != [p.id for p in predictions]:
        raise ValueError("predictions and samples do not have the same ids in the same order")
    metrics: dict[str, Metric] = {}
    n_unparsed = 0
    for name, task in tasks.items():
        rows = [i for i, sample in enumerate(samples) if sample.task == name]
        if not rows:
            continue
        found, unparsed = task.metrics([samples[i] for i in rows], [predictions[i] for i in rows])
        metrics |= {metric if len(tasks) == 1 else f"{name}/{metric}": value for metric, value in found.items()}
        n_unparsed += unparsed
    n_truncated = sum(p.truncated for p in predictions)
    metrics["n_tokens"] = bootstrap_mean([float(p.n_tokens) for p in predictions])
    return Evaluation(metrics, len(samples), n_unparsed, n_truncated)


def headline(tasks: Mapping[str, Task]) -> str:
    """The name of the number a run is judged by: of several tasks, the first one's."""
    name, task = next(iter(tasks.items()))
    return task.headline if len(tasks) == 1 else f"{name}/{task.headline}"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_revision() -> str | None:
    """The commit of the source tree, with `-dirty` if it has changes; None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_json(path: Path, value: Any) -> None:
    """Write aside, then move into place, so that a reader never sees half a file."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def table(columns: Mapping[str, Evaluation]) -> str:
    """A plain-text table: a row a metric, a column an evaluation, every value with its 95 % interval. Metrics of single
    classes (`name[class]`) are left to `summary.json`."""
    names = list(dict.fromkeys(name for evaluation in columns.values() for name in evaluation.metrics if "[" not in name))
    rows = [["metric", *columns, "n"]]
    for name in names:
        found = [evaluation.metrics.get(name) for evaluation in columns.values()]
        rows.append([name, *(_cell(metric) for metric in found), str(next(m.n for m in found if m is not None))])
    for name in ("n_unparsed", "n_truncated"):
        rows.append([name, *(str(getattr(e, name)) for e in columns.values()), str(next(iter(columns.values())).n)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "-"
    digits = 1 if metric.value >= 10 else 3
    if metric.ci95 is None:
        return f"{metric.value:.{digits}f}"
    return f"{metric.value:.{digits}f} [{metric.ci95[0]:.{digits}f}, {metric.ci95[1]:.{digits}f}]"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a run; a half-written last line (a killed run) is dropped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def drop_after(path: Path, step: int) -> None:
    """Remove logged GRPO steps beyond `step`: a resumed run logs them again."""
    rows = [row for row in read_metrics(path) if row.get("step", 0) <= step]
    if path.is_file():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


THOUGHTS = "thoughts/"


def thoughts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What became of a run's thoughts: the first and the last numbers of each kind, and why they count as collapsed (null: they
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


def draw_curves(metrics: Path, out: Path) -> None:
    """Reward and its components, group spread, completion length and, where there are thoughts, how alike they are, over
    training steps."""
    rows = [row for row in read_metrics(metrics) if "reward" in row]
    if not rows:
        return
    steps = [row["step"] for row in rows]
    names = sorted(key for key in rows[-1] if key.startswith("rewards/") and key.endswith("/mean"))
    thoughts = [name for name in THOUGHT_CURVES if any(THOUGHTS + name in row for row in rows)]
    n = 4 if "self_bleu2" in thoughts else 3
    figure, panels = plt.subplots(1, n, figsize=(13 * n / 3, 3.6), constrained_layout=True)
    panels[0].plot(steps, [row["reward"] for row in rows], color="black", label="reward (weighted sum)")
    for name in names:
        panels[0].plot(steps, [row.get(name) for row in rows], label=name.split("/")[1], alpha=0.8)
    panels[0].set_title("sampled reward")
    panels[1].plot(steps, [row.get("reward_std") for row in rows], label="reward std")
    panels[1].plot(steps, [row.get("frac_reward_zero_std") for row in rows], label="groups with equal rewards")
    panels[1].set_title("signal within groups")
    for key, label in (("mean", "mean"), ("min", "shortest"), ("max", "longest")):
        panels[2].plot(steps, [row.get(f"completions/{key}_length") for row in rows], label=label)
    panels[2].set_title("completion length (tokens)")
    for name in thoughts if n == 4 else ():
        known = [row for row in rows if THOUGHTS + name in row]
        panels[3].plot([row["step"] for row in known], [row[THOUGHTS + name] for row in known], label=name.replace("_", " "))
        panels[3].set_title("thoughts")
    for panel in panels:
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_samples(
    samples: Sequence[Sample], before: Sequence[Prediction], after: Sequence[Prediction], out: Path, n: int = 8
) -> None:
    """The first `n` samples with true (black), before (red) and after (blue) boxes; answers without boxes as text."""
    tiles = [_tile(sample, first, last) for sample, first, last in zip(samples[:n], before[:n], after[:n], strict=True)]
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
    sheet.save(out)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _tile(sample: Sample, before: Prediction, after: Prediction, side: int = 300) -> Image.Image:
    """One sample as a picture of `side` px, its question and, for answers without boxes, the true and both given ones below."""
    boxes = sample.task in ("detection", "grounding")
    tile = Image.new("RGB", (side + 8, side + (44 if boxes else 64)), "white")
    draw = ImageDraw.Draw(tile)
    caption = sample.question
    if sample.task in CARD_TASKS:
        return _game_tile(tile, draw, sample, (before, after), side)
    found = _shown(sample, side)
    if found is not None:
        shown, scale = found
        tile.paste(shown, (4, 4))
        if boxes:
            caption += ": " + _draw_boxes(draw, sample, (before, after), scale)
    draw.text((6, side + 6), caption[:48], fill=(0, 0, 0), font=_font(15))
    if not boxes:
        said = [read_span(prediction.completion, sample).text or "unread" for prediction in (before, after)]
        draw.text((6, side + 26), f"true: {_plain(sample.answer)[:40]}", fill=TRUE_COLOUR, font=_font(13))
        draw.text((6, side + 44), f"{said[0][:22]} -> {said[1][:22]}", fill=AFTER_COLOUR, font=_font(13))
    return tile


def _game_tile(
    tile: Image.Image, draw: ImageDraw.ImageDraw, sample: Sample, predictions: Sequence[Prediction], side: int
) -> Image.Image:
    """The first state of an episode (or the one state), with the moves that were played before and after training."""
    deal = deal_of(sample)
    shown = sample if sample.images else state_sample(sample, (), good=False)
    tile.paste(open_images(shown)[0].resize((side, side)), (4, 4))
    draw.text((6, side + 6), sample.question[:48], fill=(0, 0, 0), font=_font(15))
    for line, (prediction, colour) in enumerate(zip(predictions, (BEFORE_COLOUR, AFTER_COLOUR), strict=True)):
        turns = read_transcript(prediction.completion) if deal.is_episode else [Turn(prediction.completion)]
        played = replay(deal.game, deal.seed, turns or []) if deal.is_episode else []
        said = " ".join(turn.token for turn in played) or str(read_action(prediction.completion, deal.game))
        earned = f"{sum(turn.reward for turn in played):+g}: " if played else ""
        draw.text((6, side + 26 + 18 * line), f"{earned}{said}"[:44], fill=colour, font=_font(13))
    return tile


def _shown(sample: Sample, side: int) -> tuple[Image.Image, float] | None:
    """The picture that is asked about with its longer side `side` px, and the scale; None without one. Raises ImageError."""
    pictures = open_images(sample)
    if not pictures:
        return None
    image = pictures[int(sample.meta.get("image_index", 0))]
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))), scale


def draw_answer(sample: Sample, prediction: Prediction, side: int = 420) -> Image.Image | None:
    """The picture that is asked about, its longer side `side` px, with true (black) and given (blue) boxes; None without one.
    Raises ImageError."""
    found = _shown(sample, side)
    if found is None:
        return None
    shown, scale = found
    if sample.task in ("detection", "grounding"):
        draw = ImageDraw.Draw(shown)
        parsed, _ = read_boxes(prediction.completion, sample)
        given = [] if parsed is None else [box.xyxy for box in parsed.items]
        for boxes, colour, width in (([b.xyxy for b in true_boxes(sample)], TRUE_COLOUR, 4), (given, AFTER_COLOUR, 2)):
            for box in boxes:
                draw.rectangle([corner * scale for corner in box], outline=colour, width=width)
    return shown


def _draw_boxes(draw: ImageDraw.ImageDraw, sample: Sample, predictions: Sequence[Prediction], scale: float) -> str:
    """Draw true and predicted boxes; returns how many there are."""
    true = [box.xyxy for box in true_boxes(sample)]
    drawn = [(true, TRUE_COLOUR, 3)]
    found = []
    for prediction, colour in zip(predictions, (BEFORE_COLOUR, AFTER_COLOUR), strict=True):
        parsed, _ = read_boxes(prediction.completion, sample)
        drawn.append(([] if parsed is None else [box.xyxy for box in parsed.items], colour, 2))
        found.append("unread" if parsed is None else str(len(parsed.items)))
    for boxes, colour, width in drawn:
        for x1, y1, x2, y2 in boxes:
            corners = (4 + x1 * scale, 4 + y1 * scale, 4 + x2 * scale, 4 + y2 * scale)
            draw.rectangle(corners, outline=colour, width=width)
    return f"{len(true)} true, found {' -> '.join(found)}"


def _plain(answer: Any) -> str:
    return ", ".join(
        map(str, answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list) else [answer])
    )
