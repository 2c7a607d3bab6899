"""What runs have logged, as curves: drawn once for all who look, again when a log has changed."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from demos.runs import file_of, read_lines, stamp
from vlrl.data.markup import plot_label
from vlrl.training.run_status import finite

CURVES = (
    ("reward", ("reward", "rewards/*/mean")),
    ("spread within groups", ("reward_std", "frac_reward_zero_std")),
    ("completion length (tokens)", ("completions/mean_length",)),
    (
        "thoughts",
        ("thoughts/self_bleu2", "thoughts/sensitivity", "thoughts/valid", "thoughts/recognised", "thoughts/corrected"),
    ),
)
MAX_KEYS, MAX_POINTS = 12, 2000
"""Curves in one panel, and points of one curve that are drawn: of more, every n-th."""
KEPT = 32
"""Drawn plots that are kept."""
_drawn: OrderedDict[Any, str | None] = OrderedDict()
_drawing = threading.Lock()


def drawn(folders: Mapping[str, Path]) -> str | None:
    """The curves as a `data:` address of a PNG; None where nothing is logged. One plot is drawn at a time."""
    key = tuple((name, stamp(file_of(folder, "metrics.jsonl"))) for name, folder in folders.items())
    with _drawing:
        if key not in _drawn:
            figure = curves(folders)
            _drawn[key] = None if figure is None else _png(figure)
            while len(_drawn) > KEPT:
                _drawn.popitem(last=False)
        _drawn.move_to_end(key)
        return _drawn[key]


def _png(figure: Figure) -> str:
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def curves(folders: Mapping[str, Path]) -> Figure | None:
    """What a run (or two, the second dashed) has logged so far."""
    logs = {name: _logged(folder) for name, folder in folders.items()}
    logs = {name: rows for name, rows in logs.items() if rows}
    panels = [(title, keys) for title, keys in CURVES if any(_keys(rows, keys) for rows in logs.values())]
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained", dpi=100)
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, patterns) in zip(axes[0], panels, strict=True):
        for place, rows in enumerate(logs.values()):
            for colour, key in enumerate(_keys(rows, patterns)):
                points = [(row["step"], value) for row in rows if (value := _drawable(row.get(key))) is not None]
                points = points[:: 1 + len(points) // MAX_POINTS]
                label = key.removeprefix("rewards/").removeprefix("thoughts/").removesuffix("/mean").replace("_", " ")
                axis.plot(
                    [step for step, _ in points], [value for _, value in points], color=f"C{colour % 10}",
                    linestyle="-" if place == 0 else "--", label=plot_label(label, 30) if place == 0 else None,
                )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    return figure


def _logged(folder: Path) -> list[dict[str, Any]]:
    rows = read_lines(file_of(folder, "metrics.jsonl"))
    return [row for row in rows if "reward" in row and _drawable(row.get("step")) is not None]


def _drawable(value: Any) -> float | None:
    """A number within what matplotlib can lay out."""
    known = finite(value)
    return known if known is not None and abs(known) < 1e30 else None


def _keys(rows: list[dict[str, Any]], patterns: tuple[str, ...]) -> list[str]:
    known = sorted({key for row in rows for key in row})
    found: list[str] = []
    for pattern in patterns:
        start, star, end = pattern.partition("*")
        found += [key for key in known if (key.startswith(start) and key.endswith(end)) if star or key == pattern]
    return found[:MAX_KEYS]
