"""Equality of numbers and formulas. Plain numbers are compared here, formulas by math-verify in a process of its own.

math-verify bounds its work by `signal.alarm`, which works in a main thread only; here a worker
process is killed when it takes too long.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import selectors
import subprocess
import sys
import threading
from fractions import Fraction
from functools import lru_cache

from vlrl.answers.span import canon
from vlrl.answers.text import has_exponent, is_mathematical, number, read_text, reference_texts
from vlrl.schema import Sample, Score

MAX_FORMULA_CHARS = 512
LIMIT_S = 3.0
"""Seconds for one comparison, after the worker has started. Most take milliseconds; a nested power may never end."""
START_S = 120.0


def math_problem(sample: Sample) -> str | None:
    """Why `math_equal` cannot grade a sample's answer, or None."""
    for answer in reference_texts(sample):
        if not is_mathematical(answer):
            return f"math_equal grades numbers and LaTeX, not {answer!r}; use exact_match"
    return None


def math_equal(text: str, sample: Sample) -> Score:
    """1 if the answer's number or formula equals a right one, else 0. None where the sample's answer is neither.

    Read: the content of the last `\\boxed{}`, else the whole answer; at most 512 characters.
    Source: VLM-R1's math reward. differs: plain numbers compare exactly (fractions of decimals to one part
    in a million), a percentage also equals its number and its hundredth however they are written, a number with an exponent
    only the same characters; never applied to labels, boxes, dates or part numbers; a time-out is 0.
    """
    references = reference_texts(sample)
    if not references or not all(is_mathematical(reference) for reference in references):
        return Score(None, None, f"neither a number nor LaTeX: {sample.answer!r}")
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    candidate = last_boxed(answer)
    if candidate is None:
        return Score(0.0, None, "a box that is not closed")
    if len(candidate) > MAX_FORMULA_CHARS:
        return Score(0.0, None, f"longer than {MAX_FORMULA_CHARS} characters")
    if not _may_be_mathematical(candidate, references):
        return Score(0.0, None, "no number and no formula")
    whys = []
    for reference in references:
        equal, why = _equal(reference, candidate)
        if equal:
            return Score(1.0, candidate, f"{why} {reference}")
        whys.append(f"{why} {reference}")
    return Score(0.0, candidate, "; ".join(whys)[:200])


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}`, the text itself where there is none, None where it is not closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    depth = 0
    for at in range(start + len("\\boxed"), len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : at].strip()
    return None


_PERCENT = re.compile(r"(.*[0-9.])\s*\\?%")
_NUMERIC = re.compile(r"[0-9\\√π½¼¾]")
_FORMAL = re.compile(r"[0-9\\√π½¼¾$=^∞∅]|\b[A-Za-z]\b", re.ASCII)


def _may_be_mathematical(text: str, references: list[str]) -> bool:
    """Whether a text can equal a right answer at all; prose is turned away here, without a process."""
    return (_NUMERIC if all(_plain_value(reference) for reference in references) else _FORMAL).search(text) is not None


def _equal(reference: str, candidate: str) -> tuple[bool, str]:
    if canon(reference) == canon(candidate):
        return True, "the same as"
    true, predicted = _plain_value(reference), _plain_value(candidate)
    if has_exponent(reference) or has_exponent(candidate):
        return False, "a number with an exponent equals only the same characters, against"
    if true is not None and predicted is not None:
        return _same_number(true, predicted), "as numbers, against"
    return verified(reference, candidate)


def _plain_value(text: str) -> tuple[Fraction, bool] | None:
    """A number or fraction of numbers, and whether it is a percentage; None for anything else."""
    text = text.strip().removeprefix("$").removesuffix("$").strip()
    percent = _PERCENT.fullmatch(text)
    if percent:
        text = percent[1]
    upper, slash, lower = text.partition("/")
    value = number(upper)
    if slash and value is not None:
        below = number(lower)
        value = None if not below else value / below
    return None if value is None else (value, percent is not None)


def _same_number(true: tuple[Fraction, bool], predicted: tuple[Fraction, bool]) -> bool:
    """Equal, or for fractions of decimals within one part in a million. One percentage is also read as its number."""
    (a, a_percent), (b, b_percent) = true, predicted
    if _near(a, b):
        return True
    return a_percent != b_percent and _near(a / 100 if a_percent else a, b / 100 if b_percent else b)


def _near(a: Fraction, b: Fraction) -> bool:
    if a == b or (a.denominator == 1 and b.denominator == 1):
        return a == b
    return abs(a - b) * 1_000_000 <= max(abs(a), abs(b))


# ---- the worker

_PROGRAM = """
import json, logging, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
except ImportError:
    pass  # no such limits on this system
logging.disable(logging.CRITICAL)
from math_verify import parse, verify
answer, sys.stdout = sys.stdout, sys.stderr
print("ready", file=answer, flush=True)
for line in sys.stdin:
    reference, candidate = json.loads(line)
    sides = [parse(text, parsing_timeout=None) for text in (reference, candidate)]
    print(json.dumps([bool(verify(*sides, timeout_seconds=None)), bool(sides[0]), bool(sides[1])]), file=answer, flush=True)
"""


class _Worker:
    """One process that compares formulas, one at a time. It is started when first needed and replaced when it is late."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.pid = os.getpid()

    def ask(self, reference: str, candidate: str, limit_s: float) -> list[bool] | None:
        """Equal, reference parsed, candidate parsed; None after `limit_s` seconds or where the comparison ended the worker
        (out of its 2 GiB of memory, out of stack)."""
        with self.lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([reference, candidate]) + "\n")
                process.stdin.flush()
                line = self._line(process, limit_s)
            except BrokenPipeError:
                line = ""
            if line:
                found: list[bool] = json.loads(line)
                return found
            self.stop()
            return None

    def _running(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self._line(self.process, START_S) != "ready\n":
            self.stop()
            raise RuntimeError("math-verify does not start; try: python -c 'import math_verify'")
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


_worker = _Worker()


def _own_worker() -> _Worker:
    """This process' worker: a forked child must not share its parent's pipes or lock."""
    global _worker
    if _worker.pid != os.getpid():
        _worker = _Worker()
    return _worker


@atexit.register
def _stop_worker() -> None:
    if _worker.pid == os.getpid():
        _worker.stop()


@lru_cache(maxsize=4096)
def verified(reference: str, candidate: str, limit_s: float = LIMIT_S) -> tuple[bool, str]:
    """math-verify's `verify(reference, candidate)` within `limit_s` seconds, and the reason in words."""
    found = _own_worker().ask(reference, candidate, limit_s)
    if found is None:
        return False, f"math-verify gave up or took longer than {limit_s:g} s, against"
    if not found[1]:
        return False, "math-verify cannot read the reference answer"
    return found[0], "by math-verify, against" if found[2] else "math-verify cannot read the answer, against"
