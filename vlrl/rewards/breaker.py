"""When to stop asking an endpoint that does not answer, and when to try it again: a circuit breaker.

Asking pauses after too many failures. After the pause one request tries the endpoint, the others wait for what becomes of it:
an answer ends the trouble, a failure brings the next pause, twice as long. Not here: requests (`vlrl.rewards.endpoint`).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

RECENT = 200
MIN_RECENT = 10
_LONGEST_WAIT_S = 3600.0
"""Before the clock is looked at again; a lock cannot be awaited for ever."""
MIN_SILENT = 3
"""So many tries in a row that brought nothing, over at least the time-out, are enough too."""


class Paused(Exception):
    """No request now; the message says why."""


class Breaker:
    """Thread-safe. Asking pauses for `pause_s`, each time twice as long up to `longest_s`, when more than `max_failed_share` of
    the last 200 questions failed (at least 10 of them), or when nothing at all came back for `silence_s` and three tries.

    `clock`: seconds that only grow.
    """

    def __init__(
        self, pause_s: float, longest_s: float, max_failed_share: float, silence_s: float, clock: Callable[[], float]
    ) -> None:
        self.pause_s, self.longest_s, self.max_failed_share, self.silence_s = pause_s, longest_s, max_failed_share, silence_s
        self.clock = clock
        self.paused_until, self.opened_at = -math.inf, -math.inf
        self.n_pauses = 0
        """Pauses in a row, without an answer between them."""
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._next_pause_s, self._trying = pause_s, False
        self._silent_since, self._n_silent = math.inf, 0
        self._changed = threading.Condition()

    @property
    def is_open(self) -> bool:
        """Whether there was no answer since asking paused."""
        return self._trying or self.n_pauses > 0

    def enter(self, waits: Callable[[], bool], sleep: Callable[[float], object], deadline: float) -> bool:
        """To be called before a try, which `leave` or `give_way` ends. Returns whether it is the one that tests the endpoint
        after a pause; while another one does so, its end is awaited.

        `waits`: whether to wait for the end of a pause, by `sleep`. `deadline`: by the clock. Raises Paused.
        """
        while True:
            with self._changed:
                left_s = self.paused_until - self.clock()
                if left_s <= 0 and not self._trying:
                    self._trying = self.n_pauses > 0
                    return self._trying
                if left_s <= 0:
                    if deadline <= self.clock():
                        raise Paused("no time left to wait for a request that tests the endpoint")
                    self._changed.wait(min(deadline - self.clock(), _LONGEST_WAIT_S))
                    continue
            if not waits():
                raise Paused("asking is paused after too many failures")
            sleep(left_s)

    def leave(self, is_test: bool, failed: bool | None) -> str | None:
        """What became of a try: whether its question has an answer (False) or has failed for good (True); None: it is tried
        again. Returns why asking pauses from now on, or None."""
        with self._changed:
            if failed is False:
                self._recent.append(False)
                self._answered()
                return None
            if is_test:
                self._trying = False
                return self._pause("the endpoint was tried again and still fails")
            if failed:
                self._recent.append(True)
            if self.n_pauses or self._trying:
                return None
            n_failed, n = sum(self._recent), len(self._recent)
            if failed and n >= MIN_RECENT and n_failed > self.max_failed_share * n:
                return self._pause(f"{n_failed} of the last {n} requests failed")
            return None

    def silent(self, started: float) -> str | None:
        """A try that began at `started` brought no reply at all. Returns why asking pauses from now on, or None."""
        with self._changed:
            self._silent_since, self._n_silent = min(self._silent_since, started), self._n_silent + 1
            silent_s = self.clock() - self._silent_since
            if self.n_pauses or self._n_silent < MIN_SILENT or silent_s < self.silence_s:
                return None
            return self._pause(f"{self._n_silent} requests in a row brought no reply for {silent_s:.0f} s")

    def heard(self) -> None:
        """The endpoint replied, whatever it said."""
        with self._changed:
            self._silent_since, self._n_silent = math.inf, 0

    def give_way(self, is_test: bool) -> None:
        """A try that was not made, or was broken off, leaves the test to another."""
        with self._changed:
            if is_test:
                self._trying = False
                self._changed.notify_all()

    def _answered(self) -> None:
        self._trying, self.n_pauses, self._next_pause_s = False, 0, self.pause_s
        self._changed.notify_all()

    def _pause(self, why: str) -> str:
        self.opened_at = self.clock()
        self.paused_until, pause_s = self.opened_at + self._next_pause_s, self._next_pause_s
        self._next_pause_s = min(2 * self._next_pause_s, self.longest_s)
        self.n_pauses += 1
        self._recent.clear()
        self._silent_since, self._n_silent = math.inf, 0
        self._changed.notify_all()
        return f"{why}; asking pauses for {pause_s:g} s"
