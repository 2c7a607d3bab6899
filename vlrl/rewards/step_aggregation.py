"""From the scores of a solution's steps to one score."""

from __future__ import annotations

import math
from collections.abc import Sequence

Scores = Sequence[float | None]
LAST_N = {"last_1": 1, "last_2": 2, "last_4": 4, "last_8": 8}
AGGREGATIONS = ("mean", *LAST_N, "last", "min", "product")
HEADLINE = "mean"


def aggregate(scores: Scores, how: str) -> float | None:
    """One score from step scores; None where no step that counts has one.

    `mean` is the published rule. Steps without a score are left out. `last_n`: the mean of the last n steps (of fewer, all);
    `last`: the last step that has a score. `product` is for scores in 0..1 (trained reward models). Raises ValueError.
    """
    if how in LAST_N:
        scores = scores[-LAST_N[how] :]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    if how in LAST_N or how == "mean":
        return math.fsum(known) / len(known)
    if how == "last":
        return known[-1]
    if how == "min":
        return min(known)
    if how == "product":
        return math.prod(known)
    raise ValueError(f"unknown aggregation {how!r} (known: {', '.join(AGGREGATIONS)})")
