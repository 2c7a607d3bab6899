"""`curves.png`: what a run has logged over its steps, raw and smoothed, with the headline before and after training."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from vlrl.data.files import write_whole
from vlrl.data.markup import plot_label
from vlrl.schema import Metric
from vlrl.training.evaluation_flags import PREFIX
from vlrl.training.metrics_log import read_metrics
from vlrl.training.report import THOUGHTS
from vlrl.training.smoothing import SMOOTHED_FROM, smoothed

matplotlib.use("Agg")
import matplotlib.pyplot as plt

THOUGHT_CURVES = ("self_bleu2", "unique_thoughts", "sensitivity", "valid", "legal", "recognised", "corrected")
Line = tuple[Sequence[float], Sequence[float | None]]
"""x and y; y with None where there is no number."""


@dataclass(frozen=True)
class Headline:
    """The number that a run is judged by, before and after training. `name`: as in `summary.json`."""

    name: str
    before: Metric | None
    after: Metric | None


@dataclass(frozen=True)
class Panel:
    """One plot. `lines`: name (may be "") -> x and y."""

    title: str
    lines: Mapping[str, Line]
    x_label: str = "step"
    bold: str | None = None
    """The line drawn in black, the others being lighter."""
    is_smoothed: bool = False
    """Whether long lines are drawn smoothed, over the raw ones."""
    points: Mapping[str, tuple[float, Metric]] | None = None
    """Numbers with their intervals: name -> x and the number."""


def draw_panels(panels: Sequence[Panel], out: Path) -> None:
    """Plots as one image, up to three beside each other; four are two rows of two. Raises OSError."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    n_rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(n_rows, columns, figsize=(4.4 * columns, 3.6 * n_rows), constrained_layout=True, squeeze=False)
    for panel, axis in zip(panels, axes.flat, strict=False):
        _draw_panel(panel, axis)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    write_whole(out, drawn.getvalue())


def _draw_panel(panel: Panel, axis: Any) -> None:
    for name, (xs, ys) in panel.lines.items():
        style: dict[str, Any] = {"color": "black"} if name == panel.bold else {"alpha": 0.8}
        known = [math.nan if y is None else y for y in ys]
        if panel.is_smoothed and len(known) >= SMOOTHED_FROM:
            (drawn,) = axis.plot(xs, smoothed(known), label=plot_label(name), **style)
            axis.plot(xs, known, color=drawn.get_color(), alpha=0.25, linewidth=0.8)
        else:
            axis.plot(xs, known, label=plot_label(name), **style)
    for name, (x, metric) in (panel.points or {}).items():
        low, high = metric.ci95 or (metric.value, metric.value)
        value = float(metric.value or 0.0)
        spread = [[max(0.0, value - float(low or 0.0))], [max(0.0, float(high or 0.0) - value)]]
        axis.errorbar(
            [x], [value], yerr=spread, fmt="o", capsize=4, color="C3" if name == "before" else "C2", label=plot_label(name)
        )
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_label)
    axis.grid(alpha=0.3)
    if any(panel.lines) or panel.points:
        axis.legend(fontsize=8)


def draw_curves(metrics: Path, out: Path, headline: Headline | None = None) -> None:
    """Reward and its components, the headline before, during and after training, the spread of rewards within groups, the
    length of completions and, where a corrector guides them, how alike thoughts are. A panel whose lines never change is left
    out."""
    every = read_metrics(metrics)
    rows = [row for row in every if "reward" in row]
    if not rows:
        return

    def line(key: str) -> Line:
        known = [row for row in every if key in row]
        return [row["step"] for row in known], [row[key] for row in known]

    names = sorted(key for key in rows[-1] if key.startswith("rewards/") and key.endswith("/mean"))
    total = "reward (weighted sum)"
    lengths = {
        label: line(f"completions/{key}_length") for key, label in (("mean", "mean"), ("min", "shortest"), ("max", "longest"))
    }
    rewards = {total: line("reward"), **{name.split("/")[1]: line(name) for name in names}}
    spread = {"reward std": line("reward_std"), "zero-variance groups": line("frac_reward_zero_std")}
    panels = [
        Panel("sampled reward", rewards, bold=total, is_smoothed=True),
        _measured(every, line, headline),
        Panel("signal within groups", spread, is_smoothed=True),
        Panel("completion length (tokens)", lengths, is_smoothed=True),
    ]
    thoughts = [name for name in THOUGHT_CURVES if any(THOUGHTS + name in row for row in rows)]
    if "self_bleu2" in thoughts and any(row.get(f"{THOUGHTS}corrected") for row in rows):
        curves = {name.replace("_", " "): line(THOUGHTS + name) for name in thoughts}
        panels.append(Panel("thoughts", {name: one for name, one in curves.items() if not is_flat(one)}))
    draw_panels([panel for panel in panels if panel.points or not is_constant(panel)] or panels[:1], out)


def _measured(every: Sequence[Mapping[str, Any]], line: Any, headline: Headline | None) -> Panel:
    """Held-out samples: the headline before and after with its intervals, and what was measured on the way. Other metrics are
    drawn only where there is no headline: they need not be between 0 and 1."""
    keys = sorted({key for row in every for key in row if key.startswith(PREFIX) and "[" not in key})
    if headline is None:
        left_out = {f"{PREFIX}{name}" for name in ("n_tokens", "n_unparsed", "n_truncated", "runtime")}
        return Panel("held-out samples", {key.removeprefix(PREFIX): line(key) for key in keys if key not in left_out})
    last = max((float(row["step"]) for row in every), default=0.0)
    points = {
        name: (x, metric)
        for name, x, metric in (("before", 0.0, headline.before), ("after", last, headline.after))
        if metric is not None and metric.value is not None
    }
    shown = {headline.name: line(PREFIX + headline.name)} if PREFIX + headline.name in keys else {}
    return Panel(f"held-out samples: {headline.name}"[:60], shown, points=points)


def is_constant(panel: Panel) -> bool:
    """Whether no line of a plot ever changes, or there is none."""
    return all(map(is_flat, panel.lines.values()))


def is_flat(line: Line) -> bool:
    """Whether a line has at most one value."""
    return len({y for y in line[1] if y is not None}) < 2
