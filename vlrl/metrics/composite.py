"""One number of several: the mean over components, each the ratio of sums of one part, or the lowest of several.

A component with several cells is the lowest of their ratios (the accuracy of the worst group). Rows hold `parts`: name ->
(numerator, denominator), as `vlrl.tasks.evaluate.Row` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlrl.metrics.bootstrap import FloatArray, bootstrap_sums
from vlrl.schema import Metric

Composite = Sequence[Sequence[str]]
"""Components, each the names of the parts that are its cells."""
RowParts = Mapping[str, Sequence[float]]


def cells_of(composite: Composite) -> list[str]:
    """The names of all parts that a composite reads, each once."""
    return list(dict.fromkeys(name for component in composite for name in component))


def columns_of(parts: RowParts, composite: Composite) -> list[float]:
    """A row's numerators and denominators for `statistic_of`, in the order of `cells_of`; zeros for parts that it lacks."""
    return [float(value) for name in cells_of(composite) for value in parts.get(name, (0.0, 0.0))]


def statistic_of(composite: Composite) -> Callable[[FloatArray], FloatArray]:
    """From sums [R, 2 x cells] to values [R]; nan where a cell has no denominator."""
    place = {name: i for i, name in enumerate(cells_of(composite))}
    components = [[place[name] for name in component] for component in composite]

    def statistic(sums_RC: FloatArray) -> FloatArray:
        tops, bottoms = sums_RC[:, 0::2], sums_RC[:, 1::2]
        ratios: FloatArray = np.full(tops.shape, np.nan)
        np.divide(tops, bottoms, out=ratios, where=bottoms > 0)
        values: FloatArray = np.mean([ratios[:, component].min(axis=1) for component in components], axis=0)
        return values

    return statistic


def composite_metric(rows: Sequence[RowParts], composite: Composite, clusters: Sequence[str]) -> Metric:
    """The value with its 95 % bootstrap interval. `clusters`: the image of each row; rows of an image are drawn together."""
    wanted = set(cells_of(composite))
    kept = [i for i, parts in enumerate(rows) if wanted & parts.keys()]
    if not kept:
        return Metric(None, None, 0)
    table = [columns_of(rows[i], composite) for i in kept]
    return bootstrap_sums(table, statistic_of(composite), clusters=[clusters[i] for i in kept], n=len(kept))


def with_holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for testing many at once, by Holm's step-down rule (Scandinavian Journal of Statistics 6, 1979)."""
    found, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = highest
    return found


def without_parts(compared: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """Of records of paired differences those that a reader looks at first, and how many others there are: of a task with
    composites (records with `p_holm`) those alone."""
    summarised = {one["task"] for one in compared if "p_holm" in one}
    shown = [one for one in compared if one["task"] not in summarised or "p_holm" in one]
    return shown, len(compared) - len(shown)
