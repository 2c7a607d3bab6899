"""Where the answer stands in a completion: think and answer tags, and the form in which texts compare.

A completion is laid out in one of four ways (`vlrl.schema.ANSWER_FORMATS`). Nothing here raises or guesses: two answers are no
answer, a thought without one is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vlrl.answers.normalise import normalised
from vlrl.answers.phrases import last_replacement

THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
MAX_CACHED_CHARS = 500


@dataclass(frozen=True, slots=True)
class Span:
    """Where the answer of a completion stands. `text=None`: there is none, and `why` says so. `tagged`: it stood in
    answer tags. `truncated`: its answer tag was never closed."""

    text: str | None
    tagged: bool = False
    truncated: bool = False
    why: str = ""


def canon(text: str) -> str:
    """The form in which labels compare: normalised (`vlrl.answers.normalise`), case folded, underscores and runs of white space
    as one space."""
    return _canon_short(text) if len(text) <= MAX_CACHED_CHARS else _canon(text)


def _canon(text: str) -> str:
    return " ".join(normalised(text).casefold().replace("_", " ").split())


_canon_short = lru_cache(maxsize=4096)(_canon)


def is_think_answer(text: str) -> bool:
    """The strict form: `<think>..</think><answer>..</answer>`, white space around and between, each tag once."""
    return _is_blocks(text, (THINK, END_THINK, ANSWER, END_ANSWER))


def is_in_format(text: str, answer_format: str) -> bool:
    """Whether the whole text has the strict form of one of `ANSWER_FORMATS`; "none" is any text without these tags."""
    if answer_format == "think_answer":
        return is_think_answer(text)
    if answer_format == "answer_think":
        return _is_blocks(text, (ANSWER, END_ANSWER, THINK, END_THINK))
    if answer_format == "answer":
        return _is_blocks(text, (ANSWER, END_ANSWER)) and THINK not in text and END_THINK not in text
    return bool(text.strip()) and not any(tag in text for tag in (THINK, END_THINK, ANSWER, END_ANSWER))


def _is_blocks(text: str, tags: tuple[str, ...]) -> bool:
    """Whether the stripped text is these pairs of tags in this order, each tag once, only white space between pairs."""
    text = text.strip()
    if any(text.count(tag) != 1 for tag in tags) or not text.startswith(tags[0]) or not text.endswith(tags[-1]):
        return False
    at = 0
    for opening, closing in zip(tags[::2], tags[1::2], strict=True):
        start, end = text.find(opening), text.find(closing)
        if start < at or text[at:start].strip() or end < start + len(opening):
            return False
        at = end + len(closing)
    return True


def answer_span(text: str) -> Span:
    """Find the answer: what follows the thought, inside the one answer block; or the bare text if it has no tags.

    Of several blocks the last one counts where the text before it says that it replaces the former ("No:", "wait", "更正").
    """
    _, thought, rest = text.partition(END_THINK)
    rest = rest if thought else text
    blocks: list[str] = []
    gap = ""
    start = rest.find(ANSWER)
    while start >= 0:
        end = rest.find(END_ANSWER, start)
        if end < 0:
            break
        blocks.append(rest[start + len(ANSWER) : end])
        before, start = end + len(END_ANSWER), rest.find(ANSWER, end)
        gap = rest[before:start] if start >= 0 else gap
    if len(blocks) == 1:
        return Span(blocks[0].strip(), tagged=True)
    if blocks and start < 0 and len(gap) <= MAX_CACHED_CHARS and last_replacement(gap) is not None:
        return Span(blocks[-1].strip(), tagged=True)
    if blocks:
        return Span(None, why=f"{len(blocks)} answer blocks")
    if start >= 0:
        return Span(rest[start + len(ANSWER) :].strip(), tagged=True, truncated=True)
    if END_ANSWER in rest:
        return Span(None, why="an answer tag is closed but never opened")
    if thought or THINK in text:
        return Span(None, why="a thought without an answer")
    return Span(text.strip())


def answer_first_span(text: str) -> Span:
    """The answer of a completion that answers first and thinks after: a whole answer block before any thought."""
    before, thought, _ = text.partition(THINK)
    if not thought or END_ANSWER not in before:
        return answer_span(text)
    return answer_span(before)
