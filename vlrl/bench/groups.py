"""`--group_by meta.source,meta.platform+meta.kind`: the numbers of a run by what its samples state, in every benchmark.

A key is a path into a sample's `meta`; `+` crosses keys, commas make several groupings. Each group has the benchmark's own
numbers, `accuracy[source=COCO]`, and over the groups of a grouping their plain mean, `accuracy/mean_over_source` (ODinW's mean
over sets, ScreenSpot's over its six columns). A value that is a list puts a sample into several groups; a sample without the
key is in none, and counted. Not here: which numbers there are (`vlrl.metrics`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vlrl.bench.results import MEAN_OVER
from vlrl.bench.suite import Predictions, Suite
from vlrl.data.name_values import nearest
from vlrl.metrics.accuracy import means
from vlrl.metrics.composite import composite_metric
from vlrl.metrics.tables import text_table
from vlrl.schema import Metric, Row, Sample, Task
from vlrl.tasks.evaluate import Scored

META_PREFIX = "meta."
MAX_GROUPS = 1000
MAX_VALUE_CHARS = 100
N_GROUPS_SHOWN = 40
"""Groups of a grouping that the console shows; `result.json` holds all."""


@dataclass(frozen=True)
class Grouping:
    """`keys`: paths into `meta`, crossed."""

    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.keys)


Groups = dict[str, list[int]]
"""Group -> the places of its rows."""


def read_groupings(text: str | None) -> tuple[Grouping, ...]:
    """The groupings of `--group_by`. Raises ValueError for one that names nothing."""
    found = []
    for part in text.split(",") if text is not None else ():
        keys = tuple(key.strip().removeprefix(META_PREFIX) for key in part.split("+"))
        if not all(keys):
            raise ValueError(f"--group_by {text}: name keys of meta, as meta.source,meta.platform+meta.kind")
        found.append(Grouping(keys))
    if len(set(found)) < len(found):
        raise ValueError(f"--group_by {text}: a grouping is named twice")
    return tuple(found)


def with_groups(suite: Suite, text: str | None) -> Suite:
    """The suite with the numbers of groups beside its own. Raises ValueError for a key that no sample of the first stage has,
    where these are known."""
    groupings = read_groupings(text)
    if not groupings:
        return suite
    if suite.stages and (samples := list(suite.stages[0]({}))):
        metas = [_meta(suite, sample.id, {sample.id: sample}) for sample in samples]
        for grouping in groupings:
            for key in grouping.keys:
                _refuse_unknown(key, metas)
            _refuse_many(grouping, rows_by_group(metas, grouping)[0])

    def score(samples: Sequence[Sample], predictions: Predictions) -> list[Scored]:
        by_id = {sample.id: sample for sample in samples}
        found = []
        for one in suite.score(samples, predictions):
            metas = [_meta(suite, row.id, by_id) for row in one.rows]
            for grouping in groupings:
                one = grouped(one, grouping, metas, suite.tasks.get(one.name))
            found.append(one)
        return found

    return replace(suite, score=score)


def _meta(suite: Suite, row_id: str, by_id: Mapping[str, Sample]) -> Mapping[str, Any]:
    """What a row's sample states; {} for a row of none."""
    if suite.meta_of is not None:
        return suite.meta_of(row_id)
    return by_id[row_id].meta if row_id in by_id else {}


def _refuse_unknown(key: str, metas: Sequence[Mapping[str, Any]]) -> None:
    if any(_values(meta, key) for meta in metas):
        return
    known = list(dict.fromkeys(name for meta in metas for name in meta))
    listed = f" (there are {', '.join(known[:20])})" if known else ", and they state no meta at all"
    raise ValueError(f"--group_by: no sample states {META_PREFIX}{key}{nearest(key, known)}{listed}")


def _refuse_many(grouping: Grouping, groups: Groups) -> None:
    if len(groups) > MAX_GROUPS:
        raise ValueError(
            f"--group_by {grouping.name}: {len(groups)} groups, {MAX_GROUPS} at most; name a key with fewer values"
        )


def _values(meta: Mapping[str, Any], path: str) -> list[str]:
    """The groups that a key's value names: none where it is absent, several of a list."""
    value: Any = meta
    for part in [path] if path in meta else path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list | tuple) else [value]
    texts = [_shown(str(one)) for one in values if one is not None and not isinstance(one, Mapping | list)]
    return list(dict.fromkeys(text for text in texts if text))


def _shown(text: str) -> str:
    """A value as it stands in names and tables: on one line, cut."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."


def rows_by_group(metas: Iterable[Mapping[str, Any]], grouping: Grouping) -> tuple[Groups, int]:
    """The groups in the order of their names, and how many rows are in none."""
    found: Groups = {}
    n_outside = 0
    for at, meta in enumerate(metas):
        values = [_values(meta, key) for key in grouping.keys]
        n_outside += not all(values)
        for one in product(*values):
            label = ", ".join(f"{key}={value}" for key, value in zip(grouping.keys, one, strict=True))
            found.setdefault(label, []).append(at)
    return dict(sorted(found.items())), n_outside


def grouped(one: Scored, grouping: Grouping, metas: Sequence[Mapping[str, Any]], task: Task | None) -> Scored:
    """`one` with the numbers of each group, their means over groups, and a table of the headline. Its rows have a part for the
    group's headline, so that `bench diff` compares groups. Raises ValueError for more groups than anyone reads."""
    groups, n_outside = rows_by_group(metas, grouping)
    _refuse_many(grouping, groups)
    if n_outside:
        note = f"{n_outside} of {len(metas)} answers of {one.name} state no {META_PREFIX}{grouping.name}: they are in no group"
        print(f"note: {note}", file=sys.stderr)
    if not groups:
        return one
    numbers = _numbers_of(task)
    by_group = {label: numbers([one.rows[i] for i in places]) for label, places in groups.items()}
    metrics = dict(one.metrics)
    lower = set(one.lower_is_better)
    plain = [name for name in one.metrics if "[" not in name and MEAN_OVER not in name]
    for name in plain:
        found = {label: own[name] for label, own in by_group.items() if name in own}
        if not found:
            continue
        mean = f"{name}{MEAN_OVER}{grouping.name}"
        made = {f"{name}[{label}]": metric for label, metric in found.items()}
        metrics |= {mean: _mean_over(name, one.rows, groups, by_group), **made}
        lower |= {mean, *made} if name in one.lower_is_better else set()
    rows = _with_parts(one, groups)
    counted = {label: len(places) for label, places in groups.items()}
    extra = {**one.extra, "groups": {**one.extra.get("groups", {}), grouping.name: counted}}
    table = _table(one, grouping, groups, metrics)
    return replace(one, metrics=metrics, rows=rows, extra=extra, lower_is_better=frozenset(lower), tables=(*one.tables, table))


def _numbers_of(task: Task | None) -> Callable[[Sequence[Row]], Mapping[str, Metric]]:
    """The task's own numbers, else the mean of each part of the rows."""
    return means if task is None or task.aggregate is None else task.aggregate


def _mean_over(name: str, rows: Sequence[Row], groups: Groups, by_group: Mapping[str, Mapping[str, Metric]]) -> Metric:
    """The mean of a number over groups, None where a group has none.

    A ratio of parts is resampled by image, all groups together. Of any other number (AP) the interval takes the groups for
    independent: 1.96 times the root of the summed squared standard errors over the number of groups.
    """
    found = [own.get(name) for own in by_group.values()]
    values = [metric.value for metric in found if metric is not None and metric.value is not None]
    n = sum(metric.n for metric in found if metric is not None)
    if len(values) < len(groups):
        return Metric(None, None, n)
    mean = sum(values) / len(values)
    if all(name in rows[i].parts for places in groups.values() for i in places):
        parts: list[dict[str, tuple[float, float]]] = [{} for _ in rows]
        for label, places in groups.items():
            for i in places:
                parts[i][label] = rows[i].parts[name]
        made = composite_metric(parts, [[label] for label in groups], [row.image for row in rows])
        if made.value is not None and math.isclose(made.value, mean, rel_tol=1e-9, abs_tol=1e-12):
            return made
    errors = [metric.stderr for metric in found if metric is not None and metric.stderr is not None]
    if len(errors) < len(groups):
        return Metric(mean, None, n)
    stderr = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return Metric(mean, (mean - 1.96 * stderr, mean + 1.96 * stderr), n, stderr)


def _with_parts(one: Scored, groups: Groups) -> Sequence[Row]:
    rows = list(one.rows)
    for label, places in groups.items():
        for i in places:
            if one.headline in rows[i].parts:
                parts = {**rows[i].parts, f"{one.headline}[{label}]": rows[i].parts[one.headline]}
                rows[i] = replace(rows[i], parts=parts)
    return rows


def _table(one: Scored, grouping: Grouping, groups: Groups, metrics: Mapping[str, Metric]) -> str:
    """The headline of each group, as the console shows it; where groups lack it (a mean over groups), the first number that
    most of them have."""
    found = {name: sum(_is_known(metrics.get(f"{name}[{label}]")) for label in groups) for name in (one.headline, *one.metrics)}
    head = max(found, key=lambda name: found[name])  # the first of those that most groups have
    lines = []
    for label, places in list(groups.items())[:N_GROUPS_SHOWN]:
        lines.append([label, str(len(places)), *_cells(metrics.get(f"{head}[{label}]"))])
    mean = metrics.get(f"{head}{MEAN_OVER}{grouping.name}")
    lines.append([f"mean of {len(groups)} groups", "", *_cells(mean)])
    more = len(groups) - N_GROUPS_SHOWN
    table = text_table([f"{one.name} by {grouping.name}", "n", head, "95 % interval"], lines, markdown=True)
    return f"{table}\n{more} more groups are in result.json" if more > 0 else table


def _is_known(metric: Metric | None) -> bool:
    return metric is not None and metric.value is not None


def _cells(metric: Metric | None) -> list[str]:
    if metric is None or metric.value is None:
        return ["N/A", "N/A"]
    interval = "N/A" if metric.ci95 is None else f"[{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]"
    return [f"{metric.value:.4f}", interval]
