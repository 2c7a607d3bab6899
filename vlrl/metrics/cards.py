"""Card games: success, return, length, legality and what is recognised, over whole episodes of the plain environment.

Returns of episodes that training cut short do not belong here: they are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlrl.metrics.stats import bootstrap_mean, bootstrap_ratio, wilson
from vlrl.schema import Metric


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One episode to its end. Counts are of steps. `n_recognised=None`: not measured. `solvable`, `pressed_equals`: of games
    with formulas alone; whether the deal can be won, and whether the formula was finished."""

    total: float
    n_steps: int
    n_legal: int
    n_valid: int
    n_recognised: int | None = None
    solvable: bool | None = None
    pressed_equals: bool | None = None

    @property
    def won(self) -> bool:
        return self.total > 0


def card_metrics(rows: Sequence[EpisodeRow]) -> dict[str, Metric]:
    """Metrics by name.

    - "success": a return above 0 (Wilson's interval); with one move too many on the number line it is 0, a failure.
    - "return", "steps": means over episodes (bootstrap over episodes).
    - "legal", "valid", "recognised": shares of steps, whole episodes resampled.
    - "success_solvable": success among deals that can be won; "finished": episodes that pressed `=`; "solvable": the bound.
    """
    steps = [row.n_steps for row in rows]
    metrics = {
        "success": wilson(sum(row.won for row in rows), len(rows)),
        "return": bootstrap_mean([row.total for row in rows]),
        "steps": bootstrap_mean(steps),
        "legal": bootstrap_ratio([row.n_legal for row in rows], steps),
        "valid": bootstrap_ratio([row.n_valid for row in rows], steps),
    }
    read = [(row.n_recognised, row.n_steps) for row in rows if row.n_recognised is not None]
    if read:
        metrics["recognised"] = bootstrap_ratio([right for right, _ in read], [n_steps for _, n_steps in read])
    known = [row for row in rows if row.solvable is not None]
    if known:
        winnable = [row for row in known if row.solvable]
        metrics["solvable"] = wilson(len(winnable), len(known))
        metrics["success_solvable"] = wilson(sum(row.won for row in winnable), len(winnable))
    asked = [row.pressed_equals for row in rows if row.pressed_equals is not None]
    if asked:
        metrics["finished"] = wilson(sum(asked), len(asked))
    return metrics
