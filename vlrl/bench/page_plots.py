"""The plots of a result page: numbers with intervals, outcomes, confusion matrices, stated confidence against accuracy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from vlrl.bench.composite_plot import composite_figure
from vlrl.data.markup import Markup, in_base64, markup, plot_label
from vlrl.tasks.evaluate import OUTCOMES, Scored

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUTCOME_COLOURS = {"right": "#2e7d32", "partly": "#c08000", "wrong": "#c62828", "unparsed": "#757575"}


def plots_of(one: Scored) -> list[Markup]:
    """The plots of a task's numbers, each an HTML figure."""
    summary = composite_figure(list(one.composites), {one.name: one.metrics})
    drawn = [_plot("scores, each made of several numbers, with 95 % intervals", summary)]
    drawn += [_plot("numbers in 0..1 with 95 % intervals", _bars(one)), _plot("answers", _outcomes(one))]
    for name, matrix in (one.extra.get("confusion") or {}).items():
        drawn.append(_plot(f"{name}: ground truth (rows) and prediction (columns)", _matrix(matrix)))
    if one.extra.get("reliability"):
        drawn.append(_plot("stated confidence and share of right answers", _reliability(one.extra["reliability"])))
    return [plot for plot in drawn if plot]


def picture(text: str, kind: str, data: bytes) -> Markup:
    """An image inside the page; `text`: what it shows."""
    return markup('<img alt="{}" src="data:image/{};base64,{}">', text, kind, in_base64(data))


def _plot(caption: str, figure: Any) -> Markup:
    if figure is None:
        return markup("")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    image = picture(caption, "png", buffer.getvalue())
    return markup("<figure>{}<figcaption>{}</figcaption></figure>", image, caption)


def _bars(one: Scored) -> Any:
    values = {
        name: metric
        for name, metric in one.metrics.items()
        if metric.value is not None and 0 <= metric.value <= 1 and name != "n_tokens"
    }
    values = dict(list(values.items())[:40])
    if not values:
        return None
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.27 * len(values)), constrained_layout=True)
    for place, (name, metric) in enumerate(reversed(values.items())):
        axis.barh(place, metric.value or 0.0, color="#1f77b4" if name == one.headline else "#9ecae1")
        if metric.ci95 is not None:
            axis.plot(metric.ci95, (place, place), color="black", linewidth=1.5)
    axis.set_yticks(range(len(values)), [plot_label(name) for name in reversed(values)], fontsize=8)
    axis.set_xlim(0, 1)
    axis.grid(axis="x", alpha=0.3)
    return figure


def _outcomes(one: Scored) -> Any:
    counts = {outcome: sum(row.outcome == outcome for row in one.rows) for outcome in OUTCOMES}
    if not any(counts.values()):
        return None
    figure, axis = plt.subplots(figsize=(9, 1.1), constrained_layout=True)
    left = 0
    for outcome, n in counts.items():
        if n:
            axis.barh(0, n, left=left, color=OUTCOME_COLOURS[outcome], label=f"{outcome} {n}")
            left += n
    axis.set_yticks([])
    axis.set_xlim(0, left)
    axis.legend(ncol=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    return figure


def _matrix(matrix: Mapping[str, Mapping[str, int]]) -> Any:
    predicted = list(next(iter(matrix.values())))
    counts = [[row[word] for word in predicted] for row in matrix.values()]
    figure, axis = plt.subplots(figsize=(1.5 + 0.9 * len(predicted), 1.2 + 0.45 * len(matrix)), constrained_layout=True)
    axis.imshow(counts, cmap="Blues", aspect="auto")
    most = max(max(row) for row in counts) or 1
    for y, row in enumerate(counts):
        for x, n in enumerate(row):
            axis.text(x, y, str(n), ha="center", va="center", fontsize=8, color="white" if n > most / 2 else "black")
    axis.set_xticks(range(len(predicted)), [plot_label(word, 30) for word in predicted], fontsize=7, rotation=30, ha="right")
    axis.set_yticks(range(len(matrix)), [plot_label(word, 30) for word in matrix], fontsize=7)
    return figure


def _reliability(table: Sequence[Mapping[str, Any]]) -> Any:
    figure, axis = plt.subplots(figsize=(4.5, 4), constrained_layout=True)
    axis.plot((0, 1), (0, 1), color="grey", linestyle="--", linewidth=1)
    for row in table:
        if row["n"]:
            axis.bar((row["low"] + row["high"]) / 2, row["accuracy"], width=0.09, color="#9ecae1")
            axis.plot(row["confidence"], row["accuracy"], "o", color="#1f77b4")
            axis.text(row["confidence"], min(1.0, row["accuracy"] + 0.03), f"n={row['n']}", fontsize=7, ha="center")
    axis.set_xlabel("stated confidence")
    axis.set_ylabel("share of right answers")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.05)
    return figure
