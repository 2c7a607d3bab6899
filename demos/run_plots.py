"""What runs have logged, as plots: one number a plot, raw and smoothed, two runs over each other. What never changes is left
out.

Not here: how a plot is drawn, which is gradio's `LinePlot` in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demos.runs import file_of, read_lines
from vlrl.data.markup import readable
from vlrl.training.run_status import finite
from vlrl.training.smoothing import SMOOTHED_FROM, smoothed

MAX_PLOTS = 12
MAX_POINTS = 400
"""Of one line that are sent to the browser: of more, every n-th."""
COLOURS = ("#2f6fde", "#d9730d")
"""Of the first run and of the one it is compared with; visible on light and on dark."""
RAW_ALPHA = "59"
"""Appended to a colour: a third of its strength."""
LINES = ("smoothed", "compared")
RAW = "{} (as logged)"
LINE_COLOURS = {
    name: colour + alpha
    for line, colour in zip(LINES, COLOURS, strict=True)
    for name, alpha in ((line, ""), (RAW.format(line), RAW_ALPHA))
}
"""Every line that a plot may have, the same for all runs: gradio's plot keeps the lines that it was made with."""
KNOWN = (
    ("reward", "reward (mean of a batch)"),
    ("rewards/*/mean", "reward: *"),
    ("eval_*", "held-out: *"),
    ("reward_std", "spread of rewards within a group"),
    ("frac_reward_zero_std", "share of groups with equal rewards"),
    ("completions/mean_length", "length of completions (tokens)"),
    ("completions/clipped_ratio", "share of completions cut off"),
    ("kl", "KL to the reference model"),
    ("entropy", "entropy of sampled tokens"),
    ("grad_norm", "norm of the gradient"),
    ("mean_token_accuracy", "token accuracy"),
    ("loss", "loss"),
    ("thoughts/self_bleu2", "how alike thoughts are (self-BLEU)"),
    ("thoughts/corrected", "share of thoughts corrected"),
    ("step_time", "seconds of a step"),
    ("learning_rate", "learning rate"),
)
"""Key in `metrics.jsonl` ("*": any name) -> title, the most telling first."""
LEFT_OUT = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_n_tokens")
MAX_NAMED = 3
"""Plots of one pattern; further ones come last, where there is room."""
LONGEST_NAME = 40


@dataclass(frozen=True)
class RunPlot:
    """One plot. `rows`: step, value and which of `LINE_COLOURS` each belongs to."""

    title: str
    rows: Sequence[tuple[float, float, str]]


def run_plots(folders: Mapping[str, Path]) -> list[RunPlot]:
    """The plots of one run, or of two over each other, at most `MAX_PLOTS`."""
    logs = {name: logged_rows(folder) for name, folder in folders.items()}
    made = [plot for key, title in _keys(logs.values()) if (plot := _plot(key, title, logs)) is not None]
    return made[:MAX_PLOTS]


def logged_rows(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run; of one that has not begun GRPO those of its supervised stage."""
    for names in (("metrics.jsonl",), ("sft", "metrics.jsonl")):
        rows = [row for row in read_lines(file_of(folder, *names)) if _drawable(row.get("step")) is not None]
        if rows:
            return rows
    return []


def _keys(logs: Any) -> list[tuple[str, str]]:
    """Keys that are logged and their titles, in the order in which they are shown."""
    logged = sorted({key for rows in logs for row in rows for key in row if isinstance(key, str)})
    first: list[tuple[str, str]] = []
    last: list[tuple[str, str]] = []
    for pattern, title in KNOWN:
        start, star, end = pattern.partition("*")
        if not star:
            first += [(pattern, title)] if pattern in logged else []
            continue
        found = [
            key for key in logged if key.startswith(start) and key.endswith(end) and "[" not in key and key not in LEFT_OUT
        ]
        named = [(key, title.replace("*", _named(key[len(start) : len(key) - len(end)]))) for key in found]
        first += named[:MAX_NAMED]
        last += named[MAX_NAMED:]
    return [*first, *last]


def _named(name: str) -> str:
    return _cut(name.replace("_", " "))


def _cut(text: str) -> str:
    line = " ".join(readable(text[: 4 * LONGEST_NAME]).split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def _plot(key: str, title: str, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> RunPlot | None:
    """None where no line ever changes."""
    lines = {name: _line(rows, key) for name, rows in logs.items()}
    if all(len({value for _, value in line}) < 2 for line in lines.values()):
        return None
    rows: list[tuple[float, float, str]] = []
    for line, name in zip(lines.values(), LINES, strict=False):
        values = [value for _, value in line]
        drawn = smoothed(values) if len(line) >= SMOOTHED_FROM else values
        every = 1 + len(line) // MAX_POINTS
        for label, series in ((RAW.format(name), values), (name, drawn)):
            points = list(zip((step for step, _ in line), series, strict=True))
            kept = points[::every]
            kept += [points[-1]] if points and kept[-1] != points[-1] else []
            rows += [(step, _rounded(value), label) for step, value in kept]
    return RunPlot(title, rows)


def shown_names(runs: Sequence[str]) -> list[str]:
    """The names of runs that lie over each other, cut where they are long and still different."""
    cut = [_cut(name) for name in runs]
    return cut if len(set(cut)) == len(runs) else [f"{i + 1}: {name}" for i, name in enumerate(cut)]


def _line(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = [(_drawable(row.get("step")), _drawable(row.get(key))) for row in rows]
    return [(step, value) for step, value in points if step is not None and value is not None]


def _drawable(value: Any) -> float | None:
    """A number that a browser can lay out."""
    known = finite(value)
    return known if known is not None and abs(known) < 1e30 else None


def _rounded(value: float) -> float:
    """Five digits, which no plot shows more of."""
    return 0.0 if value == 0 else round(value, 5 - math.ceil(math.log10(abs(value))))
