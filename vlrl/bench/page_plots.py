"""The pictures of a result page, as HTML and SVG in the page's own colours: intervals, outcomes, confusion, calibration."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.bench.composite_plot import composite_figure
from vlrl.data.markup import Markup, in_base64, joined, markup
from vlrl.schema import OUTCOMES, Metric, Row
from vlrl.tasks.evaluate import Scored

NOT_KNOWN = "–"
"""What stands for a number that is not known."""
HEAT_STEPS = 6


def value_text(value: float | None) -> str:
    """Three decimals, one from ten on; a dash where there is no value."""
    if value is None:
        return NOT_KNOWN
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def interval_text(metric: Metric) -> str:
    """The 95 % interval as in "0.269 to 0.361"; nothing where there is none."""
    if metric.value is None or metric.ci95 is None:
        return ""
    return f"{value_text(metric.ci95[0])} to {value_text(metric.ci95[1])}"


def is_share(metric: Metric) -> bool:
    """Whether value and interval lie in 0..1, so that a bar can show them."""
    ends = (metric.value, *(metric.ci95 or ()))
    return all(end is not None and 0 <= end <= 1 for end in ends)


def interval_bar(metric: Metric) -> Markup:
    """A bar from 0 to 1 with the interval as a line; nothing for other numbers. The number itself stands beside it."""
    if not is_share(metric) or metric.value is None:
        return markup("")
    low, high = metric.ci95 or (metric.value, metric.value)
    return markup(
        '<svg class="interval" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/><rect class="bar" width="{}" height="10"/>'
        '<rect class="whisker" x="{}" y="4" width="{}" height="2"/></svg>',
        f"{100 * metric.value:.2f}", f"{100 * low:.2f}", f"{max(0.4, 100 * (high - low)):.2f}",
    )  # fmt: skip


def interval_rows(metrics: Mapping[str, Metric]) -> Markup:
    """A table of numbers with bars, in the order given."""
    rows = joined(
        markup(
            '<tr><th scope="row">{}</th><td class="plot">{}</td><td class="n">{}</td><td class="n small">{}</td>'
            '<td class="n small">{}</td></tr>',
            name, interval_bar(metric), value_text(metric.value), interval_text(metric), f"{metric.n:,}",
        )
        for name, metric in metrics.items()
    )  # fmt: skip
    head = Markup('<tr><th scope="col"></th><td class="plot"></td><th scope="col">value</th><th scope="col">95 % interval</th>')
    return markup('<table class="intervals">{}<th scope="col">n</th></tr>{}</table>', head, rows)


def outcome_bar(rows: Sequence[Row]) -> Markup:
    """How many answers are right, partly right, wrong and unparsed, as one bar with its numbers below."""
    counts = Counter(row.outcome for row in rows)
    n = sum(counts.values())
    if not n:
        return markup("")
    parts, keys, left = [], [], 0.0
    for outcome in OUTCOMES:
        if not counts[outcome]:
            continue
        width = 100 * counts[outcome] / n
        parts.append(markup('<rect class="{}" x="{}" width="{}" height="10"/>', f"is-{outcome}", f"{left:.2f}", f"{width:.2f}"))
        text = f"{outcome} {counts[outcome]:,} ({width:.0f} %)"
        keys.append(markup('<li><span class="key {}"></span>{}</li>', f"bg-{outcome}", text))
        left += width
    return markup(
        '<svg class="outcomes" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
        '<ul class="keys">{}</ul>',
        joined(parts), joined(keys),
    )  # fmt: skip


def plots_of(one: Scored) -> list[Markup]:
    """The picture of scores that are made of others, confusion matrices, and the table of stated confidence, each a figure."""
    summary = composite_figure(list(one.composites), {one.name: one.metrics})
    drawn = [] if summary is None else [_picture("scores, each made of several numbers, with 95 % intervals", summary)]
    matrices = one.extra.get("confusion")
    named = matrices.items() if isinstance(matrices, Mapping) else ()
    drawn += [_matrix(str(name), matrix) for name, matrix in named if _is_matrix(matrix)]
    table = one.extra.get("reliability")
    return [*drawn, *([_reliability(table)] if table else [])]


def _picture(caption: str, figure: Any) -> Markup:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    image = markup('<img alt="{}" src="data:image/png;base64,{}">', caption, in_base64(buffer.getvalue()))
    return markup("<figure>{}<figcaption>{}</figcaption></figure>", image, caption)


def _is_matrix(matrix: Any) -> bool:
    """Whether this is {true word: {predicted word: count}}; a task of the user's may keep anything under this name."""
    rows = list(matrix.values()) if isinstance(matrix, Mapping) else []
    return bool(rows) and all(isinstance(row, Mapping) and all(isinstance(n, int) for n in row.values()) for row in rows)


def _matrix(name: str, matrix: Mapping[str, Mapping[str, int]]) -> Markup:
    predicted = list(next(iter(matrix.values())))
    most = max((n for row in matrix.values() for n in row.values()), default=0) or 1
    head = joined(markup('<th scope="col">{}</th>', word[:60]) for word in predicted)
    rows = []
    for true, row in matrix.items():
        cells = joined(
            markup('<td class="n {}">{}</td>', f"heat{round(HEAT_STEPS * row.get(word, 0) / most)}", f"{row.get(word, 0):,}")
            for word in predicted
        )
        rows.append(markup('<tr><th scope="row">{}</th>{}</tr>', true[:60], cells))
    return markup(
        '<figure><figcaption>{}: ground truth (rows) and prediction (columns)</figcaption><div class="wide" tabindex="0">'
        '<table class="matrix"><tr><td></td>{}</tr>{}</table></div></figure>',
        name[:60], head, joined(rows),
    )  # fmt: skip


def _reliability(table: Sequence[Mapping[str, Any]]) -> Markup:
    """Stated confidence and the share of right answers, by tenths of confidence."""
    found = {f"{row['low']:.1f} to {row['high']:.1f}": Metric(row["accuracy"], None, row["n"]) for row in table if row["n"]}
    return markup(
        "<figure><figcaption>share of right answers by stated confidence</figcaption>{}</figure>", interval_rows(found)
    )
