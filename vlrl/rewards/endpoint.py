"""An endpoint as a run asks it: side by side, with tries, a circuit breaker and a budget, in bounded time, and counted.

Everything that asks a model over the network goes through here: the judge, the corrector, `bench`. Not here: what is asked and
what a reply means, and the request itself (`vlrl.rewards.chat_client`).

A request may be made twice and be paid twice: a chat endpoint has no way to take back one whose reply was lost.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from vlrl.data.masking import KEY_VARIABLES, without_secrets
from vlrl.rewards.breaker import Breaker, Paused
from vlrl.rewards.budget import Counts, LimitReached, Spending
from vlrl.rewards.chat_client import ChatReply, EndpointError, cancel_requests, chat

T = TypeVar("T")
X = TypeVar("X")
DEAD_BATCHES = 10
"""After so many batches in a row without a single reply, a run that needs the endpoint's scores ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How an endpoint is asked. `timeout_s`: of one request. `n_tries`: of one question, with waits between them that grow
    between the two numbers of `backoff_s`. `n_parallel`: requests at a time.

    Asking pauses for `pause_s`, each time twice as long up to `longest_pause_s`, while more than `max_failed_share` of the last
    200 questions failed or nothing comes back at all. `waits`: a question that comes during a pause fails at once ("never"),
    waits for its end unless its batch has seen the endpoint fail ("batch"), or waits ("always"). `gives_up_after`: so many
    pauses in a row end asking for good (None: never).
    """

    timeout_s: float = 60.0
    n_tries: int = 3
    backoff_s: tuple[float, float] = (1.0, 15.0)
    n_parallel: int = 8
    max_failed_share: float = 0.2
    pause_s: float = 60.0
    longest_pause_s: float = 960.0
    waits: Literal["never", "batch", "always"] = "never"
    gives_up_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_parallel", "timeout_s", "n_tries"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name):g}: must be positive")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share={self.max_failed_share:g} is outside 0..1")


@dataclass
class Questions:
    """Questions that are asked together. They share `timeout_s` for each round of `n_parallel`, and one more."""

    n: int
    started: float
    over: threading.Event = field(default_factory=threading.Event)
    """Set where the batch is broken off, so that nobody sleeps on."""
    asked: dict[Endpoint, list[bool]] = field(default_factory=dict)
    """Whether each question to an endpoint failed."""


_batch: ContextVar[Questions | None] = ContextVar("the batch of questions under way", default=None)
_never = threading.Event()


class Unanswered(EndpointError):
    """No usable reply to a question after `n_tries` tries."""

    def __init__(self, message: str, n_tries: int, again: bool = True) -> None:
        super().__init__(message, again)
        self.n_tries = n_tries


class Endpoint:
    """Thread-safe. `name`: what reports call it, as in "judge m". `base`: its address. `key`: the option whose address this is
    (`vlrl.data.masking.KEY_VARIABLES`); it says which environment variables hold the API key. `loss`: what a failure means for
    the run, as in "such steps are not corrected".
    """

    def __init__(
        self,
        name: str,
        base: str,
        key: str,
        limits: Limits,
        spending: Spending | None = None,
        *,
        loss: str = "",
        report: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.name, self.base, self.key, self.limits, self.loss = name, base, key, limits, loss
        self.spending = Spending() if spending is None else spending
        self.report, self.clock, self._own_sleep = report, clock, sleep
        self.breaker = Breaker(limits.pause_s, limits.longest_pause_s, limits.max_failed_share, limits.timeout_s, clock)
        self.n_dead_batches = 0
        """Batches in a row in which every question failed."""
        self.last_why = ""
        self.is_spent = False
        """Whether its budget was reached."""
        self._slots = threading.BoundedSemaphore(limits.n_parallel)
        self._not_before = -math.inf
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._refused: set[str] = set()

    @property
    def counts(self) -> Counts:
        return self.spending.counts

    # ---- questions

    def ask(self, exchange: Callable[[], T]) -> tuple[T, int]:
        """What `exchange` returns, and the number of tries. It makes requests by `call` and raises EndpointError for a reply
        that cannot be used, which is another try. Raises Unanswered."""
        batch = _batch.get() or Questions(1, self.clock())
        with self._slots:
            try:
                found = self._tried(exchange, batch)
            except Unanswered as error:
                with self._lock:
                    batch.asked.setdefault(self, []).append(True)
                    if error.n_tries or not self.last_why:  # a pause has its reason already
                        self.last_why = str(error)
                raise
        with self._lock:
            batch.asked.setdefault(self, []).append(False)
        return found

    def many(self, ask: Callable[[X], T], items: Sequence[X]) -> list[T]:
        """`ask` of all items side by side, in their order."""
        with asking(len(items), self.limits.n_parallel, self.clock) as batch:
            return batch.all(ask, items)

    def _tried(self, exchange: Callable[[], T], batch: Questions) -> tuple[T, int]:
        why = ""
        for attempt in range(1, self.limits.n_tries + 1):
            try:
                is_test = self._enter(batch)
            except Paused as paused:
                raise Unanswered(why or str(paused), attempt - 1) from None
            try:
                found = exchange()
            except LimitReached as reached:
                self.is_spent = True
                self.breaker.give_way(is_test)
                self.report_once(f"{self.name}: {reached}; no more requests", "limit")
                raise Unanswered(str(reached), attempt - 1, again=False) from reached
            except EndpointError as error:
                why = f"try {attempt}: {error}"
                is_last = attempt == self.limits.n_tries or not error.again
                wait_s = self._wait_s(error.wait_s, attempt)
                is_late = not is_last and wait_s >= self._left_s(batch)
                line = self.breaker.leave(is_test, True if is_last or is_late else None)
                if is_last or is_late:
                    self.report_once(f"{self.name}: {why}{f'; {self.loss}' if self.loss else ''}", "first failure")
                self._paused(line, why)
                if is_last or is_late:
                    more = " (no time left for another)" if is_late else ""
                    raise Unanswered(why + more, attempt, error.again) from error
            except BaseException:
                self.breaker.give_way(is_test)
                raise
            else:
                self.breaker.leave(is_test, False)
                return found, attempt
            if line is None:
                self._sleep(wait_s, batch)
        raise AssertionError("the last try returns or raises")

    def _enter(self, batch: Questions) -> bool:
        """Waits for this process' turn to make a try. Returns whether it tests the endpoint after a pause. Raises Paused."""
        gives_up = self.limits.gives_up_after
        if gives_up is not None and self.breaker.n_pauses >= gives_up:
            raise Paused(f"given up after {self.breaker.n_pauses} pauses without a reply")
        if self._left_s(batch) <= 0:
            raise Paused(f"no time left: a batch has {self._bound_s(batch):g} s")

        def waits() -> bool:
            if self.limits.waits == "batch":
                return batch.started >= self.breaker.opened_at
            return self.limits.waits == "always" and not (gives_up is not None and self.breaker.n_pauses >= gives_up)

        is_test = self.breaker.enter(waits, lambda s: self._sleep(s, batch), self._deadline(batch))
        _deadline.set(self._deadline(batch))
        wait_s = self._not_before - self.clock()
        if wait_s > 0:
            self._sleep(min(wait_s, self._left_s(batch)), batch)
        return is_test

    def _wait_s(self, asked_s: float, attempt: int) -> float:
        """Seconds before the next try: longer each time and not the same for all, or as long as the endpoint asks; what it asks
        holds for the other questions too."""
        if asked_s:
            with self._lock:
                self._not_before = max(self._not_before, self.clock() + asked_s)
        low, high = self.limits.backoff_s
        own_s: float = min(high, low * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        return max(asked_s, own_s)

    # ---- time

    def _bound_s(self, batch: Questions) -> float:
        return self.limits.timeout_s * (math.ceil(batch.n / self.limits.n_parallel) + 1)

    def _deadline(self, batch: Questions) -> float:
        """When the batch ends, by the clock. A single question has as long as its tries take."""
        if batch.n == 1 or self.limits.waits == "always":
            return math.inf
        started = batch.started
        if started >= self.breaker.opened_at:
            started = max(started, self.breaker.paused_until)  # it has waited for the end of the pause
        return started + self._bound_s(batch)

    def _left_s(self, batch: Questions) -> float:
        return self._deadline(batch) - self.clock()

    def _sleep(self, seconds: float, batch: Questions) -> None:
        if self._own_sleep is not None:
            self._own_sleep(seconds)
        elif batch.over.wait(seconds):
            raise EndpointError("broken off", again=False)

    # ---- requests

    def call(self, body: dict[str, Any]) -> ChatReply:
        """One request; a setting that the endpoint refuses by name is left out from then on, which is reported. Raises
        EndpointError, LimitReached."""
        sent = self._taken(body)
        self.spending.take_call()
        started = self.clock()
        timeout_s = min(self.limits.timeout_s, max(_deadline.get() - started, 0.001))
        try:
            reply = chat(self.base, sent, timeout_s=timeout_s, api_key=api_key_of(self.key))
        except EndpointError as error:
            if error.is_silence:
                self._paused(self.breaker.silent(started), str(error))
                raise
            self.breaker.heard()
            refused = next((name for name in _OPTIONAL if name in sent and f"'{name}'" in str(error)), None)
            if refused is None or error.again:
                raise
            with self._lock:
                self._refused.add(refused)
            self.report_once(f"{self.name}: asked without {refused} from here on ({error})", refused)
            return self.call(body)
        self.breaker.heard()
        self.spending.pay(reply.usage)
        return reply

    def _taken(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request without the settings that were refused."""
        with self._lock:
            refused = set(self._refused)
        taken = {key: value for key, value in body.items() if key not in refused}
        return taken | {"max_completion_tokens": body["max_tokens"]} if "max_tokens" in refused else taken

    # ---- what is said

    def _paused(self, line: str | None, why: str) -> None:
        if line is not None:
            self.last_why = why or self.last_why
            self.report(f"{self.name}: {line}{f' ({why})' if why else ''}")

    def report_once(self, line: str, key: str) -> None:
        """Report a line, once for each `key`."""
        with self._lock:
            if key in self._reported:
                return
            self._reported.add(key)
        self.report(line)

    def note_batch(self, failed: Sequence[bool], seconds: float) -> None:
        """Count a batch of questions that is over."""
        self.n_dead_batches = self.n_dead_batches + 1 if all(failed) else 0
        self.spending.took(seconds)
        self.spending.keep()


_OPTIONAL = ("max_tokens", "temperature", "response_format")
"""Settings that some models do not take: reasoning models want `max_completion_tokens` and their own temperature."""
_deadline: ContextVar[float] = ContextVar("when the question under way has no time left", default=math.inf)


class Asking:
    """A batch of questions under way."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def submit(self, ask: Callable[[X], T], item: X) -> Future[T]:
        """Ask in a thread of the batch."""
        return self._pool.submit(copy_context().run, ask, item)

    def all(self, ask: Callable[[X], T], items: Sequence[X]) -> list[T]:
        """Ask of all items side by side; what came of it in their order."""
        waiting = [self.submit(ask, item) for item in items]
        return [one.result() for one in waiting]


@contextlib.contextmanager
def asking(n: int, n_parallel: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Asking]:
    """A batch of `n` questions, `n_parallel` side by side. However it ends, by Ctrl-C too, no thread of it goes on asking."""
    batch = Questions(n, clock())
    token = _batch.set(batch)
    pool = ThreadPoolExecutor(max(1, min(n, n_parallel)), thread_name_prefix="questions")
    try:
        yield Asking(pool)
    except BaseException:
        batch.over.set()
        pool.shutdown(wait=False, cancel_futures=True)
        cancel_requests()
        raise
    finally:
        with contextlib.suppress(ValueError):  # a generator may end in another context than it began in
            _batch.reset(token)
        pool.shutdown()
        for endpoint, failed in batch.asked.items():
            endpoint.note_batch(failed, clock() - batch.started)


def api_key_of(key: str) -> str:
    """The API key of an endpoint, by the option of its address: the first environment variable that is set, or ""."""
    return next((os.environ[name] for name in KEY_VARIABLES[key] if os.environ.get(name)), "")


def check_endpoint(
    name: str, base: str, model: str, key: str, *, image_url: str | None = None, timeout_s: float = 30.0
) -> None:
    """Ask an endpoint once, so that a wrong address, key or model is known before anything costly. Raises EndpointError whose
    message is one line. `name`: what it is for, as in "judge". `key`: as in `Endpoint`. `image_url`: an image it must take."""
    image = [] if image_url is None else [{"type": "image_url", "image_url": {"url": image_url}}]
    content: Any = [*image, {"type": "text", "text": "Reply with 1."}]
    body = {"model": model, "messages": [{"role": "user", "content": content if image else "Reply with 1."}], "max_tokens": 16}
    limits = Limits(timeout_s=timeout_s, n_tries=2, backoff_s=(1.0, 2.0))
    endpoint = Endpoint(name, base, key, limits, report=lambda _line: None)
    try:
        endpoint.ask(lambda: endpoint.call(body))
    except Unanswered as error:
        variables = " or ".join(KEY_VARIABLES[key])
        raise EndpointError(
            f"the {name} {model} at {without_secrets(base)} does not answer ({error}); check the address, the model's name and"
            f" the key in {variables}",
            error.again,
        ) from error
