"""A written solution as steps: by explicit markers, else blank lines, else lines, else one step. Nothing is lost but the
white space between steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_CHARS = 3
METHODS = ("markers", "blank lines", "lines", "one step", "given")
_MARKER = re.compile(
    r"^[ \t]{0,8}[#>*_\-]{0,6}[ \t]{0,4}(?:\*\*|__)?step[ \t]{0,4}\d{1,3}[ \t]{0,4}[*_]{0,3}[ \t]{0,4}[:.]", re.I | re.M
)
_BLANK = re.compile(r"\n[ \t\r]*\n\s*")


@dataclass(frozen=True)
class SplitSolution:
    """The steps of a solution and how they were found (one of `METHODS`)."""

    steps: tuple[str, ...]
    method: str


def split_steps(text: str) -> SplitSolution:
    """Split a solution. Text before the first marker joins step 1, whatever follows the last marker stays with it. A step
    shorter than 3 characters joins the one before. An empty text is one empty step."""
    starts = [match.start() for match in _MARKER.finditer(text)]
    if starts:
        ends = [*starts[1:], len(text)]
        parts, method = [text[start:end] for start, end in zip([0, *starts[1:]], ends, strict=True)], "markers"
    elif len(parts := _BLANK.split(text.strip())) > 1:
        method = "blank lines"
    elif len(parts := text.strip().splitlines()) > 1:
        method = "lines"
    else:
        return SplitSolution((text.strip(),), "one step")
    joined = _join_short([part.strip() for part in parts])
    return SplitSolution(tuple(joined), method)


def step_starts(text: str, steps: Sequence[str]) -> tuple[int, ...]:
    """Where each step of a split text begins in it, in characters, and where the last one ends (one number more than steps).

    Splitting loses white space alone, so the characters that are none are counted. Text before the first step (white space)
    belongs to it: the first number is 0.
    """
    places = [i for i, character in enumerate(text) if not character.isspace()]
    starts, n = [0], 0
    for step in steps:
        n += sum(not character.isspace() for character in step)
        starts.append(places[n] if n < len(places) else len(text))
    return tuple(starts)


def _join_short(parts: Sequence[str]) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (len(part) < MIN_CHARS or len(joined[-1]) < MIN_CHARS):
            joined[-1] = f"{joined[-1]}\n{part}".strip()
        else:
            joined.append(part)
    return joined


def step_ends(text: str) -> tuple[int, ...]:
    """Where each step of `split_steps(text)` ends in the text, in characters; the last at the end of the text. Only white space
    lies between an end and what follows it."""
    ends: list[int] = []
    at = 0
    for step in split_steps(text).steps:
        left = sum(not character.isspace() for character in step)
        while left:
            left -= not text[at].isspace()
            at += 1
        ends.append(at)
    return (*ends[:-1], len(text))


def statistics(splits: Sequence[SplitSolution]) -> dict[str, Any]:
    """Number of steps (mean, 10th, 90th percentile), the methods used, the share of solutions left whole."""
    counts = [len(one.steps) for one in splits]
    low, high = np.percentile(counts, [10, 90]) if counts else (0.0, 0.0)
    return {
        "n": len(splits),
        "mean": float(np.mean(counts)) if counts else None,
        "p10": float(low),
        "p90": float(high),
        "methods": dict(Counter(one.method for one in splits)),
        "unsplit": sum(n == 1 for n in counts) / len(counts) if counts else None,
    }
