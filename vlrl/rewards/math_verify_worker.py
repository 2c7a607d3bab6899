"""math-verify in a process of its own, which is started when first needed and bounded in time and memory.

math-verify bounds its own work by `signal.alarm`, which works in a main thread only and not within one long operation of
Python's integers. Here the worker loads math-verify once (about a second) and compares in a child that it forks; a
child that is late is killed and the next one, forked in milliseconds, is warm too.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from functools import lru_cache

from vlrl.rewards.scoring import TOO_LONG

LIMIT_S = 0.4
"""Seconds for one comparison in a running worker. Most take 5 to 100 ms."""
SPARE_S = 0.3
"""Seconds beyond it after which the worker itself counts as broken."""
START_S = 120.0

_PROGRAM = r"""
import json, logging, os, select, signal, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
except ImportError:
    pass  # no such limits on this system
logging.disable(logging.CRITICAL)
signal.signal(signal.SIGINT, signal.SIG_IGN)
from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
rules = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False)
LATEX, PLAIN = LatexExtractionConfig(normalization_config=rules), ExprExtractionConfig()

def side(latex):
    options = dict(fallback_mode="no_fallback", parsing_timeout=None)
    found = parse("$" + latex + "$", [LATEX], **options)
    if not found and set(latex) <= set("0123456789.+-*/() "):
        found = parse(latex, [PLAIN], **options)
    return found

def compare(reference, candidate):
    sides = [side(reference), side(candidate)]
    if not all(sides):
        return [False, bool(sides[0]), bool(sides[1])]
    options = dict(float_rounding=6, numeric_precision=15, strict=True, allow_set_relation_comp=True, timeout_seconds=None)
    return [bool(verify(*sides, **options)), True, True]

def compare_all(questions, answers):
    for line in questions:
        print(json.dumps(compare(*json.loads(line))), file=answers, flush=True)
    os._exit(0)

def start():
    question, ask = os.pipe()
    answer, reply = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ask)
        os.close(answer)
        compare_all(os.fdopen(question), os.fdopen(reply, "w"))
    os.close(question)
    os.close(reply)
    return child, ask, answer

out, sys.stdout = sys.stdout, sys.stderr
warm_up = (
    (r"x^{2}+2x+1", r"(x+1)^{2}"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"\sin^{2}x+\cos^{2}x", r"\tan(x)"),
    (r"x<1", r"-x>-1"),
    (r"2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}"),
    (r"\log_{2}8", r"e^{i\pi}"),
    (r"[0,1)", r"0\leq x<1"),
    (r"\sqrt{x}", r"\int_{0}^{1}xdx"),
)
for pair in warm_up:
    compare(*pair)
child, ask, answer = start()
print("ready", file=out, flush=True)
for line in sys.stdin:
    *pair, seconds = json.loads(line)
    os.write(ask, (json.dumps(pair) + "\n").encode())
    found = os.read(answer, 1000) if select.select([answer], [], [], seconds)[0] else b""
    if not found:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ask)
        os.close(answer)
        child, ask, answer = start()
    print(found.decode().strip() or "null", file=out, flush=True)
os.kill(child, signal.SIGKILL)
"""


class Worker:
    """One process that compares formulas, one at a time. It is started when first needed and replaced when it is late."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.is_ready = False
        self.waited_s = 0.0
        """Seconds spent so far on waiting for the process to start."""
        self.pid = os.getpid()

    def start(self) -> None:
        """Start the process, and do not wait for it."""
        if self.process is not None and self.process.poll() is None:
            return
        self.is_ready = False
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )

    def ask(self, reference: str, candidate: str, limit_s: float) -> list[bool] | None:
        """Equal, reference parsed, candidate parsed. None after `limit_s` seconds, or where the comparison ended the child (out
        of its 2 GiB of memory, out of stack). The process' start is waited for and does not count."""
        with self.lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([reference, candidate, limit_s]) + "\n")
                process.stdin.flush()
                line = self._line(process, limit_s + SPARE_S)
            except BrokenPipeError:
                line = ""
            if line:
                found: list[bool] | None = json.loads(line)
                return found
            self.stop()
            self._running()  # the next comparison must not find it cold
            return None

    def _running(self) -> subprocess.Popen[str]:
        """The process, when it is ready."""
        self.start()
        assert self.process is not None
        if not self.is_ready:
            began = time.monotonic()
            if self._line(self.process, START_S) != "ready\n":
                self.stop()
                raise RuntimeError("math-verify does not start; try: python -c 'import math_verify'")
            self.waited_s += time.monotonic() - began
            self.is_ready = True
        return self.process

    @staticmethod
    def _line(process: subprocess.Popen[str], limit_s: float) -> str:
        """The next line, or "" when none comes in time. The worker writes one line an answer, so no rest is buffered."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            return process.stdout.readline() if selector.select(limit_s) else ""

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()


_worker = Worker()


def own_worker() -> Worker:
    """This process' worker: a forked child must not share its parent's pipes or lock."""
    global _worker
    if _worker.pid != os.getpid():
        _worker = Worker()
    return _worker


@atexit.register
def _stop_worker() -> None:
    if _worker.pid == os.getpid():
        _worker.stop()


class _Late(Exception):
    """A comparison that was given up."""


@lru_cache(maxsize=4096)
def _found(reference: str, candidate: str, limit_s: float) -> tuple[bool, ...]:
    found = own_worker().ask(reference, candidate, limit_s)
    if found is None:
        raise _Late  # not kept: a busy machine may have more time later
    return tuple(found)


def verified(reference: str, candidate: str, limit_s: float = LIMIT_S) -> tuple[bool, str]:
    """math-verify's `verify(reference, candidate)` for two formulas without delimiters, and the reason in words: within
    `limit_s` seconds. The start, a few seconds once a process, is waited for and does not count."""
    try:
        found = _found(reference, candidate, limit_s)
    except _Late:
        return False, f"{TOO_LONG} to compare (limit {limit_s:g} s), against"
    if not found[1]:
        return False, "math-verify cannot read the reference answer"
    return found[0], "by math-verify, against" if found[2] else "math-verify cannot read the answer, against"
