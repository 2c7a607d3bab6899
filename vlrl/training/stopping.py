"""Ending a program on request: Ctrl-C, SIGTERM, SIGUSR1, or the end of `--max_hours`. No torch.

While steps are taken (`StopRequests.steps`), a request waits for the end of the step under way. Everywhere else it raises
`Stopped`, which loses nothing: files are written aside and moved into place. A second Ctrl-C leaves at once, and so does a
process that has not come to its end after `GRACE_S` because it waits for another one.

Not here: what is saved at the end of a step (`vlrl.training.stop_callback`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from vlrl.data.masking import masked_command

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
EXIT_TIME_UP = 75
"""Exit code of a run that `--max_hours` ended: the same command goes on (EX_TEMPFAIL of sysexits.h)."""
GRACE_S = 10.0
"""How long a process may take to end where no step is under way; torchrun waits for 30 s before it kills."""
REPEATED_S = 0.5
"""Signals that follow each other this closely are one request: terminals and launchers send several."""


@dataclass(frozen=True)
class EndRequest:
    """Why to end, in words that follow "stopped by", and the exit code."""

    why: str
    code: int


class Stopped(BaseException):
    """A request to end. Not an `Exception`, so that no library takes it for an error of its own."""

    def __init__(self, request: EndRequest) -> None:
        super().__init__(request.why)
        self.request = request


def request_of(number: int) -> EndRequest:
    """The request that a signal makes; exit codes are the shell's: 128 and the signal's number."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return EndRequest(name, 128 + number)


class StopRequests:
    """The requests to end this process, from `with StopRequests() as stop` to the end of the block; used by the main thread.

    `folder`, `go_on`: where results are written and the command that goes on with them, once there is something to go on with.
    `asked`: the options that say what could be lowered where memory runs out (`vlrl.training.out_of_memory`).
    """

    def __init__(self) -> None:
        self.request: EndRequest | None = None
        self.folder: Path | None = None
        self.go_on = ""
        self.asked: dict[str, Any] = {}
        self.is_watching = False
        self._in_steps = False
        self._time_is_up = ""
        self._limit_at = self._leave_at = self._first_at = float("inf")
        self._before: dict[int, Any] = {}
        self._endings: list[Callable[[], None]] = []
        self._pid = os.getpid()

    # -- for programs

    def at_end(self, ending: Callable[[], None]) -> None:
        """Call `ending` when the block is left, in whatever way."""
        self._endings.append(ending)

    @contextlib.contextmanager
    def steps(self) -> Iterator[None]:
        """In this block a request waits; at its end it raises Stopped."""
        self._in_steps = True
        try:
            yield
        finally:
            self._in_steps = False
        self.check()

    def check(self) -> None:
        """Raises Stopped if there was a request."""
        if self.request is not None:
            self._leave_at = time.monotonic() + GRACE_S
            self._wake()
            raise Stopped(self.request)

    def limit(self, seconds: float, why: str) -> None:
        """End by itself once this process is `seconds` old."""
        self._limit_at = time.monotonic() + seconds - process_age_s()
        self._time_is_up = why
        self._wake()

    @property
    def seconds_left(self) -> float:
        """Until the limit; infinite without one."""
        return self._limit_at - time.monotonic()

    def time_up(self) -> EndRequest:
        """The request that the limit makes."""
        return EndRequest(self._time_is_up, EXIT_TIME_UP)

    # -- listening

    def __enter__(self) -> StopRequests:
        global _current
        if threading.current_thread() is not threading.main_thread():
            return self  # Python handles signals in the main thread alone
        self._outer, _current = _current, self
        self.is_watching = True
        self._main = threading.get_ident()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:  # whoever starts a program in the background may want that
                self._before[number] = signal.signal(number, self._heard)
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(self._reader,), daemon=True, name="stop requests").start()
        return self

    def __exit__(self, *_error: object) -> None:
        global _current
        if not self.is_watching:
            return
        self.is_watching = False
        signal.set_wakeup_fd(self._fd_before)
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._writer)  # ends the thread
        _current = self._outer
        self._end()

    def _end(self) -> None:
        while self._endings:
            with contextlib.suppress(OSError):
                self._endings.pop()()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        """In the main thread, between two of its instructions."""
        if self.request is not None:
            return
        self.request = self.time_up() if self._time_is_up and self.seconds_left <= 0 else request_of(number)
        if not self._in_steps:
            raise Stopped(self.request)
        if os.environ.get("RANK", "0") == "0":
            say = f"\n{self.request.why}: a checkpoint is written after the step under way; Ctrl-C once more leaves at once\n"
            os.write(2, say.encode())  # not `print`, which may be what was interrupted

    def _wake(self) -> None:
        if self.is_watching:
            os.write(self._writer, b"\0")

    def _listen(self, reader: int) -> None:
        """In a thread of its own, which also runs while the main thread waits inside a library."""
        while True:
            waits_for = self._leave_at if self.request is not None else min(self._limit_at, self._leave_at)
            wait_s = waits_for - time.monotonic()
            ready = select.select([reader], [], [], max(0.0, min(wait_s, 3600.0)))[0]
            if ready and not (heard := os.read(reader, 64)):
                os.close(reader)
                return
            for number in heard if ready else b"":
                if number in SIGNALS:
                    self._count(number)
            now = time.monotonic()
            if now >= self._leave_at:
                self._leave()
            if now >= self._limit_at and self.request is None and self.is_watching:
                signal.pthread_kill(self._main, signal.SIGUSR1)
                time.sleep(REPEATED_S)

    def _count(self, number: int) -> None:
        now = time.monotonic()
        if self._first_at == float("inf"):
            self._first_at = now
            if not self._in_steps:
                self._leave_at = now + GRACE_S
        elif number == signal.SIGINT and now - self._first_at > REPEATED_S:
            self._leave()

    def _leave(self) -> None:
        """End this process here and now."""
        request = self.request or request_of(signal.SIGTERM)
        if os.environ.get("RANK", "0") == "0":
            go_on = f" Go on with: {self.go_on}" if self.go_on else ""
            os.write(2, f"\nstopped by {request.why}, at once.{go_on}\n".encode())
        self._end()
        os._exit(request.code)

    def forget_in_child(self) -> None:
        """After a fork: the child is not the program that was asked to end."""
        if self.is_watching and os.getpid() != self._pid:
            with contextlib.suppress(ValueError):
                signal.set_wakeup_fd(-1)
                for number in self._before:
                    signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
            self.is_watching = False
            self._endings.clear()


_current = StopRequests()


def current() -> StopRequests:
    """The requests that are being listened to; of a program that does not listen, ones that never come."""
    return _current


os.register_at_fork(after_in_child=lambda: _current.forget_in_child())


def leave_on_signals() -> None:
    """Until `StopRequests` listens: end with one line in place of a traceback. For the seconds in which libraries load."""

    def leave(number: int, _frame: FrameType | None) -> None:
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"\nstopped by {request_of(number).why}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)


def process_age_s() -> float:
    """Seconds since this process was started; 0 where that is not known."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return max(0.0, uptime_s - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


# ---- the command that goes on


def command_words(words: Sequence[str], script: str = "vlrl/train.py") -> list[str]:
    """The command line of this program with `words` as its flags, as a person typed it: `vlrl train`, `python x.py`, `torchrun`
    with its own flags."""
    typed = list(sys.orig_argv)
    flags = list(sys.argv[1:])
    head = typed[: len(typed) - len(flags)] if flags and typed[-len(flags) :] == flags else []
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = _words_of(os.getppid())
        if flags and launcher[-len(flags) :] == flags:
            head = launcher[: len(launcher) - len(flags)]
        else:
            head = ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1"), script]
    elif not head or flags[len(flags) - len(words) :] != list(words):
        return ["python", script, *words]
    if len(head) > 1 and Path(head[0]).name.startswith("python") and Path(head[1]).parent.name in ("bin", "Scripts"):
        head = [Path(head[1]).name, *head[2:]]  # a console script: torchrun, vlrl
    return [*head, *flags]


def _words_of(pid: int) -> list[str]:
    """The command line of a process; empty where that is not known."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        return []


def resume_command(words: Sequence[str], folder: Path | str) -> str:
    """The typed command with the flags that go on with the run in `folder`, quoted for a shell."""
    kept: list[str] = []
    skip = False
    for word in command_words(words):
        name = word.partition("=")[0].replace("-", "_") if word.startswith("--") else ""
        if name in ("__output_dir", "__resume_from_checkpoint"):
            skip = "=" not in word
        elif not skip or word.startswith("--"):
            kept.append(word)
            skip = False
        else:
            skip = False
    return shlex.join([*masked_command(kept), "--output_dir", str(folder), "--resume_from_checkpoint", "true"])
