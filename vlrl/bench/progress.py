"""How far a benchmark is: what is counted, how fast, and how long it still takes.

A bar on a terminal. In a log file one line now and then: the first after a minute, each later than the one before it, so that
a run of hours leaves a dozen lines and a short one none.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

FIRST_LINE_S, LONGEST_WAIT_S, SLOWER = 60.0, 1800.0, 1.5
"""Seconds to the first line of a log file; the most between two; each wait as a multiple of the one before."""
_BAR = "{desc} |{bar}| {rate_noinv_fmt}, {remaining} left"


class Progress:
    """`total` things called `unit` ("requests"), of the work called `name`. `stream`: default standard error; `shown=False`:
    nothing at all."""

    def __init__(self, name: str, total: int, unit: str, *, shown: bool = True, stream: TextIO | None = None) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self.stream = sys.stderr if stream is None else stream
        self.shown = shown and total > 0
        self._bar: Any = None
        self._wait_s = FIRST_LINE_S

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._due = self._started + self._wait_s
        if self.shown and self.stream.isatty():
            shown = {"total": self.total, "desc": self.counted(), "unit": f" {self.unit}"}
            self._bar = tqdm(**shown, bar_format=_BAR, file=self.stream, leave=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, n: int) -> None:
        """`n` more are done."""
        self.done += n
        if self._bar is not None:
            self._bar.set_description_str(self.counted(), refresh=False)
            self._bar.update(n)
        elif self.shown and 0 < self.done < self.total and (now := time.monotonic()) >= self._due:
            print(f"{self.counted()}, {self.speed(now - self._started)}", file=self.stream, flush=True)
            self._wait_s = min(self._wait_s * SLOWER, LONGEST_WAIT_S)
            self._due = now + self._wait_s

    def counted(self) -> str:
        """As in "qa: 120 of 720 requests"."""
        return f"{self.name}: {self.done:,} of {self.total:,} {self.unit}"

    def speed(self, seconds: float) -> str:
        """As in "3.4 a second, about 3 min left"."""
        rate = self.done / seconds
        return f"{rate_text(rate)}, about {time_text((self.total - self.done) / rate)} left"


def rate_text(per_s: float) -> str:
    """A rate in the largest unit of time that needs no more than one decimal: a second, a minute, an hour."""
    for factor, unit in ((1, "a second"), (60, "a minute")):
        if per_s * factor >= 1:
            return f"{per_s * factor:.1f} {unit}"
    return f"{per_s * 3600:.1f} an hour"


def time_text(seconds: float) -> str:
    """A duration in whole seconds, minutes, or hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
