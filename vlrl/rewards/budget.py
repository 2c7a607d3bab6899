"""What asking an endpoint has come to, and when to stop: counted over a whole run, also a resumed one."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class LimitReached(Exception):
    """A limit of calls or cost is reached; no more requests."""


@dataclass
class Counts:
    """Requests sent to the endpoint, replies taken from the cache, what became of the questions by status ("failed": no usable
    reply), the cost, in the currency of the prices, and the seconds that batches of questions took."""

    n_calls: int = 0
    n_cached: int = 0
    cost: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Spending:
    """Thread-safe. `prices`: of a million tokens read and written. `path`: the file the counts are kept in by `keep`, and go on
    from where there is one (None: in memory).

    `max_cost` is passed by what is under way when it is reached: what a call costs is known from its reply.
    """

    def __init__(
        self,
        max_calls: int | None = None,
        max_cost: float | None = None,
        prices: tuple[float, float] = (0.0, 0.0),
        path: Path | None = None,
    ) -> None:
        self.max_calls, self.max_cost, self.prices, self.path = max_calls, max_cost, prices, path
        self.counts = _read(path)
        self._lock = threading.Lock()
        self._tells_use = True

    def take_call(self) -> None:
        """Count one call that is about to be made. Raises LimitReached where it may not be."""
        with self._lock:
            if self.max_cost is not None and not self._tells_use:
                raise LimitReached("the endpoint does not tell the tokens it used, so max_cost cannot be kept (use max_calls)")
            if self.max_calls is not None and self.counts.n_calls >= self.max_calls:
                raise LimitReached(f"{self.counts.n_calls} calls made, max_calls={self.max_calls}")
            if self.max_cost is not None and self.counts.cost >= self.max_cost:
                raise LimitReached(f"{self.counts.cost:.4g} spent, max_cost={self.max_cost:g}")
            self.counts.n_calls += 1

    def pay(self, usage: Mapping[str, Any]) -> None:
        """Count what a call has cost by the `usage` of its reply, as OpenAI's endpoints write it."""
        used = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        with self._lock:
            self._tells_use &= all(isinstance(n, int) for n in used)
            self.counts.cost += sum(n * price for n, price in zip(used, self.prices, strict=True) if isinstance(n, int)) / 1e6

    def count(self, status: str, cached: bool) -> None:
        with self._lock:
            self.counts.statuses[status] += 1
            self.counts.n_cached += cached

    def took(self, seconds: float) -> None:
        """Count the time of a batch of questions."""
        with self._lock:
            self.counts.seconds += seconds

    def keep(self) -> None:
        if self.path is None:
            return
        with self._lock:
            text = json.dumps(vars(self.counts))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, self.path)


def check_prices(max_calls: int | None, max_cost: float | None, input_cost: float, output_cost: float) -> None:
    """Limits and prices that make sense together. Raises ValueError."""
    given = {"max_calls": max_calls, "max_cost": max_cost, "input_cost": input_cost, "output_cost": output_cost}
    for name, value in given.items():
        if (value or 0) < 0:
            raise ValueError(f"{name}={value:g}: must not be negative")
    if max_cost is not None and not (input_cost or output_cost):
        raise ValueError("max_cost needs input_cost and output_cost, the prices of a million tokens")


def share_of(total: int, rank: int, n: int) -> int:
    """One of `n` processes' share of calls; the shares sum to `total`."""
    return (total + n - 1 - rank) // n


NAMES = ("calls", "cached", "failed", "cost", "seconds")
"""What is logged of an endpoint, as `corrector/calls` or `judge/failed`."""


def summed_counts(what: str, counts: Sequence[float]) -> dict[str, float]:
    """Log entries of the numbers of `as_numbers`, summed over processes. `what`: "corrector" or "judge"."""
    return {f"{what}/{name}": value for name, value in zip(NAMES, counts, strict=True)}


def as_numbers(counts: Counts) -> list[float]:
    """The numbers of `NAMES`."""
    return [float(counts.n_calls), float(counts.n_cached), float(counts.statuses["failed"]), counts.cost, counts.seconds]


def _read(path: Path | None) -> Counts:
    """The counts in a file; none spent where there is no file. Raises ValueError for a file that holds something else."""
    if path is None or not path.is_file():
        return Counts()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        statuses, seconds = Counter(found["statuses"]), float(found.get("seconds", 0.0))
        return Counts(int(found["n_calls"]), int(found["n_cached"]), float(found["cost"]), statuses, seconds)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not hold what an endpoint has cost: {error}; delete it to count from nothing") from error
