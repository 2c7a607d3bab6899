"""The scorecard of a result page: the headline number with its interval, the next numbers, groups from the worst to the best.

What a reader needs in one look. All numbers are in a folded table below.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlrl.bench.composite_plot import CARD_MARKS
from vlrl.bench.page_plots import NOT_KNOWN, interval_bar, interval_rows, interval_text, outcome_bar, plots_of, value_text
from vlrl.data.markup import Markup, joined, markup
from vlrl.schema import Metric
from vlrl.tasks.evaluate import Scored

_NONE = Metric(None, None, 0)
MAX_TILES, MAX_GROUPS = 8, 8
"""Numbers beside the headline; groups that are not folded."""


def scorecard(one: Scored, number: int) -> Markup:
    """The card of one task. `number`: its place on the page."""
    note = markup('<p class="note">{}</p>', one.label) if one.label else markup("")
    body = _composites(one) if one.composites else joined([_headline(one), _tiles(one), outcome_bar(one.rows), _groups(one)])
    return markup(
        '<section class="card" aria-labelledby="{}"><h2 id="{}">{}</h2>{}<p class="counts">{}</p>{}</section>',
        f"task{number}", f"task{number}", one.name, note, _counts(one), body,
    )  # fmt: skip


def _counts(one: Scored) -> str:
    """How many answers were measured, and what is the matter with some of them."""
    parts = [f"{one.n:,} answers"]
    for n, what in (
        (one.n_unparsed, "could not be read"),
        (one.n_truncated, "cut off at the token limit"),
        (one.n_missing_image, "samples without their image left out"),
    ):
        parts += [f"{n:,} {what}"] if n else []
    return " · ".join(parts)


def arrow(one: Scored, name: str) -> str:
    return "lower is better" if name in one.lower_is_better else "higher is better"


def _headline(one: Scored) -> Markup:
    metric = one.metrics.get(one.headline)
    if metric is None:
        return markup("")
    interval = interval_text(metric)
    return markup(
        '<p class="headline"><span class="value">{}</span> <span class="name">{}</span> '
        '<span class="small">{}{}, n = {}</span></p>{}',
        value_text(metric.value), one.headline, f"95 % interval {interval}, " if interval else "", arrow(one, one.headline),
        f"{metric.n:,}", interval_bar(metric),
    )  # fmt: skip


def plain_metrics(one: Scored) -> dict[str, Metric]:
    """The numbers of the whole set: those of single groups are written `name[group]`."""
    return {name: metric for name, metric in one.metrics.items() if "[" not in name}


def _tiles(one: Scored) -> Markup:
    others = [(name, metric) for name, metric in plain_metrics(one).items() if name != one.headline][:MAX_TILES]
    tiles = joined(
        markup(
            '<li><span class="name">{}</span><span class="value">{}</span><span class="small">{}</span></li>',
            name, value_text(metric.value), interval_text(metric) or ("not known" if metric.value is None else ""),
        )
        for name, metric in others
    )  # fmt: skip
    return markup('<ul class="tiles">{}</ul>', tiles) if others else markup("")


def _groups(one: Scored) -> Markup:
    """The headline by group, the worst first; of a task whose headline has no groups, the number that has most."""
    by_name: dict[str, dict[str, Metric]] = {}
    for name, metric in one.metrics.items():
        if "[" in name and name.endswith("]") and metric.value is not None:
            whole, _, group = name[:-1].partition("[")
            by_name.setdefault(whole, {})[group] = metric
    if not by_name:
        return markup("")
    whole = one.headline if one.headline in by_name else max(by_name, key=lambda name: len(by_name[name]))
    worst_first = sorted(by_name[whole].items(), key=lambda pair: pair[1].value or 0.0, reverse=whole in one.lower_is_better)
    shown, folded = dict(worst_first[:MAX_GROUPS]), dict(worst_first[MAX_GROUPS:])
    more = (
        markup("<details><summary>{} more groups</summary>{}</details>", f"{len(folded):,}", interval_rows(folded))
        if folded
        else markup("")
    )
    return markup("<h3>{} by group, the worst first</h3>{}{}", whole, interval_rows(shown), more)


def _composites(one: Scored) -> Markup:
    """The numbers that are made of several others, each with what stands beside it (`name_other`)."""
    endings: dict[str, None] = {}
    for made in one.composites:
        for name in one.metrics:
            if name.startswith(f"{made}_"):
                endings[name.removeprefix(f"{made}_")] = None
    rows = []
    for made in one.composites:
        metric = one.metrics.get(made, _NONE)
        others = [one.metrics.get(f"{made}_{end}", _NONE) for end in endings]
        beside = joined(markup('<td class="n">{}</td>', value_text(other.value)) for other in others)
        rows.append(
            markup(
                '<tr><th scope="row">{}</th><td class="plot">{}</td><td class="n"><b>{}</b></td>'
                '<td class="n small">{}</td>{}</tr>',
                made.rpartition("/")[2], interval_bar(metric), value_text(metric.value), interval_text(metric), beside,
            )
        )  # fmt: skip
    words = {end.removeprefix("_"): name for end, (_, name) in CARD_MARKS.items()}
    heads = joined(markup('<th scope="col">{}</th>', words.get(end, end)) for end in endings)
    first = Markup('<th scope="col"></th><td class="plot"></td><th scope="col">score</th><th scope="col">95 % interval</th>')
    head = markup("<tr>{}{}</tr>", first, heads)
    return markup('<div class="wide" tabindex="0"><table class="intervals">{}{}</table></div>', head, joined(rows))


def all_numbers(one: Scored) -> Markup:
    """Every number of a task, and its plots."""
    plots = joined(plots_of(one))
    return markup("<h3>{}</h3>{}{}", one.name, _table(one, one.metrics), plots)


def _table(one: Scored, metrics: Mapping[str, Metric]) -> Markup:
    heads = ("metric", "", "value", "standard error", "95 % interval", "n")
    head = joined(markup('<th scope="col">{}</th>', word) if word else markup("<td></td>") for word in heads)
    rows = []
    for name, metric in metrics.items():
        stderr = "" if metric.value is None or metric.stderr is None else f"{metric.stderr:.4f}"
        value = NOT_KNOWN if metric.value is None else f"{metric.value:.4f}"
        texts = (value, stderr, interval_text(metric), f"{metric.n:,}")
        cells = joined(markup('<td class="n">{}</td>', cell) for cell in texts)
        title = markup("<b>{}</b>", name) if name == one.headline else name
        sign = markup('<span title="{}">{}</span>', arrow(one, name), "↓" if name in one.lower_is_better else "↑")
        rows.append(markup('<tr><th scope="row">{}</th><td>{}</td>{}</tr>', title, sign, cells))
    return markup('<div class="wide" tabindex="0"><table class="numbers"><tr>{}</tr>{}</table></div>', head, joined(rows))
