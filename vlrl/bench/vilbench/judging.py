"""The prompts that ask a vision-language model for a score from 1 to 5, and the reader of its reply.

Source: the five grades and four aspects of the rubric are those of ViLBench's appendix; the wording is ours. It is not
published whether the judge sees the steps before the rated one: `context="prefix"` shows them, `"step"` does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

RUBRIC_VERSION = "vlrl-1"
CONTEXTS = ("prefix", "step")
LOW, HIGH = 1, 5
_RUBRIC = """Rate how much it contributes to answering the question, by its relevance, coherence, accuracy and clarity:
5 excellent; 4 good, with minor flaws; 3 fair, partly accurate or short of detail; 2 poor, with major errors or incoherent; \
1 very poor, irrelevant or without sense.
Reply in two lines:
Reasoning: why, in a sentence
Overall Score: a whole number from 1 to 5"""
_SCORE = re.compile(
    r"overall\s+score[\s*_:=]{0,12}(?P<number>[+-]?\d+(?:\.\d+)?)(?P<more>\s*(?:/|out\s+of|-|to|or|,)\s*\d)?", re.I
)


def step_prompt(question: str, steps: Sequence[str], number: int, context: str = "prefix") -> str:
    """The prompt for step `number` (from 0) of a solution. Raises ValueError for an unknown context."""
    if context not in CONTEXTS:
        raise ValueError(f"context {context!r} is unknown (known: {', '.join(CONTEXTS)})")
    before = "\n".join(steps[:number]) if context == "prefix" else ""
    shown = f"Steps before it:\n{before}\n\n" if before else ""
    return (
        "You see a picture, a question about it, and one step of a solution, which may be unfinished: other steps may follow.\n"
        f"Question: {question}\n\n{shown}Step to rate:\n{steps[number]}\n\n{_RUBRIC}"
    )


def outcome_prompt(question: str, response: str) -> str:
    """The prompt for a whole solution."""
    return (
        "You see a picture, a question about it, and a whole solution.\n"
        f"Question: {question}\n\nSolution to rate:\n{response}\n\n{_RUBRIC}"
    )


def read_score(reply: str) -> int | None:
    """The number after the last "Overall Score"; None unless it is one whole number from 1 to 5. A scale after it ("4/5",
    "4 out of 5") is allowed; a range or a choice ("3-4", "3 or 4") is not a score."""
    found = next(iter(list(_SCORE.finditer(reply))[::-1]), None)
    if found is None or "." in found["number"]:
        return None
    more = found["more"]
    if more is not None and not re.fullmatch(r"\s*(?:/|out\s+of)\s*5", more, re.I):
        return None
    value = int(found["number"]) if len(found["number"]) < 4 else 0
    return value if LOW <= value <= HIGH else None
