"""A picture of numbers that are made of others, such as a trust card: bars with 95 % intervals, of one result or of two.

matplotlib is imported when something is drawn. Not here: the numbers (`vlrl.metrics.composite`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.data.files import write_whole
from vlrl.data.markup import plot_label
from vlrl.schema import Metric

CARD_PICTURE = "card.png"
SIDE_COLOURS = ("#9ecae1", "#1f77b4")
CARD_MARKS = {"_reference": ("x", "released scorer"), "_constant": ("|", "best constant answer")}
"""End of a metric's name -> the sign beside the bar of the metric that it belongs to, and what it is called."""

Metrics = Mapping[str, Metric]


def metrics_in(result: Mapping[str, Any], task: str) -> dict[str, Metric]:
    """The metrics of a task in `result.json`."""
    values: Mapping[str, Any] = (result.get("results") or {}).get(task) or {}
    found = {}
    for key, value in values.items():
        name, _, kind = key.rpartition(",")
        if kind == "none" and f"{name}_n,none" in values and isinstance(value, int | float | None):
            interval = values.get(f"{name}_ci95,none")
            found[name] = Metric(value, None if interval is None else (interval[0], interval[1]), values[f"{name}_n,none"])
    return found


def composite_figure(names: Sequence[str], sides: Mapping[str, Metrics]) -> Any:
    """A matplotlib figure: a bar for each name and side, beside one side alone also `CARD_MARKS`. None where fewer than two
    names have a value on every side. Values are shares in 0..1."""
    values: dict[str, list[Any]] = {name: [getattr(side.get(name), "value", None) for side in sides.values()] for name in names}
    shown = [name for name in names if None not in values[name]]
    if len(shown) < 2:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.0 + 0.28 * len(shown) * (1 + len(sides))), layout="constrained")
    axis = figure.subplots()
    height = 0.8 / len(sides)
    colours = SIDE_COLOURS[-len(sides) :]
    for place, name in enumerate(reversed(shown)):
        for i, (side, metrics) in enumerate(sides.items()):
            y = place + 0.4 - height * (i + 0.5)
            axis.barh(y, values[name][i], height=0.9 * height, color=colours[i], label=None if place else plot_label(side))
            if (interval := metrics[name].ci95) is not None:
                axis.plot(interval, (y, y), color="black", linewidth=1.5)
        if len(sides) == 1:
            _mark(axis, name, place, next(iter(sides.values())))
    axis.set_yticks(range(len(shown)), [plot_label(name.rpartition("/")[2]) for name in reversed(shown)])
    axis.set_xlim(0, 1)
    axis.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncol=3, frameon=False)
    return figure


def _mark(axis: Any, name: str, place: int, metrics: Metrics) -> None:
    for end, (sign, words) in CARD_MARKS.items():
        other = metrics.get(name + end)
        if other is not None and other.value is not None:
            label = None if place else words
            axis.plot(other.value, place, sign, color="#c62828", markersize=11 if sign == "|" else 6, label=label, zorder=3)


def draw_composites(path: Path, sides: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """Draw the composites that results (`result.json`, by the name of their side) share into `path`, and return it. None where
    there are fewer than two. Raises OSError."""
    results = list(sides.values())
    for task, composites in (results[0].get("composites") or {}).items():
        figure = composite_figure(list(composites), {side: metrics_in(result, task) for side, result in sides.items()})
        if figure is not None:
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=110)
            write_whole(path, drawn.getvalue())
            return path
    return None
