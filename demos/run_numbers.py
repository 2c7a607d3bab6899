"""Metrics before and after training with their intervals, as a picture in each row of a table; of one run or of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demos import page
from demos.runs import MAX_ROWS, summary
from vlrl.bench.runs_list import text_on_one_line
from vlrl.data.markup import Markup, joined, markup
from vlrl.training.run_status import finite

SIDES = ("before", "after")
WIDTH, HEIGHT = 200, 34


@dataclass(frozen=True)
class Measured:
    """A metric with its 95 % interval, where it has one."""

    value: float
    low: float | None
    high: float | None

    @property
    def words(self) -> str:
        return f"{self.value:.3f}" + ("" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]")


def measured(metric: Any) -> Measured | None:
    """A metric of `summary.json`; None for what is none."""
    if not isinstance(metric, dict) or (value := finite(metric.get("value"))) is None:
        return None
    ends = metric.get("ci95")
    known = [end for end in map(finite, ends) if end is not None] if isinstance(ends, list) else []
    return Measured(value, *known) if len(known) == 2 else Measured(value, None, None)


def numbers(folders: Mapping[str, Path]) -> Markup:
    """A table: metric, picture, before, after, of each run. Metrics of single classes are left out."""
    found = {name: summary(folder) or {} for name, folder in folders.items()}
    columns = [(name, side) for name in found for side in SIDES]
    tables = {(name, side): _object(found[name].get(side)) for name, side in columns}
    names = [name for name in dict.fromkeys(key for table in tables.values() for key in table) if "[" not in name]
    headline = next((str(one["headline"]) for one in found.values() if one.get("headline")), "")
    names.sort(key=lambda name: name != headline)
    rows = [row for name in names[:MAX_ROWS] if (row := _row(name, [measured(tables[one].get(name)) for one in columns]))]
    if not rows:
        return page.note("No numbers yet: a run measures its model before training, and again after it.")
    heads = [side if len(found) == 1 else f"{side} · {name}" for name, side in columns]
    head = joined(markup("<th scope='col'>{}</th>", text_on_one_line(one)) for one in ("metric", "", *heads))
    return markup(
        "<p class='vl-soft'>On held-out samples, with 95 % intervals."
        " <span class='vl-key'><i class='vl-is-before'></i>before</span>"
        "<span class='vl-key'><i class='vl-is-after'></i>after training</span></p>"
        "<div class='vl-scroll' tabindex='0' role='region' aria-label='metrics before and after'><table class='vl-table'>"
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        head, joined(rows),
    )  # fmt: skip


def _row(name: str, cells: Sequence[Measured | None]) -> Markup | None:
    if not any(cells):
        return None
    texts = joined(markup("<td class='vl-value'>{}</td>", "–" if cell is None else cell.words) for cell in cells)
    return markup("<tr><th scope='row'>{}</th><td>{}</td>{}</tr>", text_on_one_line(name), ranges(cells), texts)


def ranges(cells: Sequence[Measured | None]) -> Markup:
    """The picture: a dot at each value on a line over its interval, before and after by turns, on one axis. The axis goes from
    0 to 1 for what lies there, else over what is shown."""
    known = [one for one in cells if one is not None]
    ends = [end for one in known for end in (one.value, one.low, one.high) if end is not None]
    low, high = (0.0, 1.0) if min(ends) >= 0 and max(ends) <= 1 else (min(ends), max(ends))
    span = (high - low) or 1.0

    def x(value: float) -> str:
        return f"{4 + (WIDTH - 8) * (value - low) / span:.1f}"

    gap = HEIGHT / (len(cells) + 1)
    marks = []
    for i, one in enumerate(cells):
        if one is None:
            continue
        y, kind = f"{gap * (i + 1):.1f}", SIDES[i % 2]
        if one.low is not None and one.high is not None:
            marks.append(
                markup(
                    "<line class='vl-{}' x1='{}' x2='{}' y1='{}' y2='{}' stroke-width='2'/>",
                    kind, x(one.low), x(one.high), y, y,
                )
            )  # fmt: skip
        marks.append(markup("<circle class='vl-{}' cx='{}' cy='{}' r='3.5'/>", kind, x(one.value), y))
    said = ", ".join(f"{SIDES[i % 2]} {one.words}" for i, one in enumerate(cells) if one is not None)
    frame = [markup("<line class='vl-axis' x1='{}' x2='{}' y1='0' y2='{}'/>", x(end), x(end), HEIGHT) for end in (low, high)]
    return markup(
        "<svg class='vl-range' viewBox='0 0 {} {}' role='img' aria-label='{}'>{}{}</svg>",
        WIDTH, HEIGHT, said, joined(frame), joined(marks),
    )  # fmt: skip


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
