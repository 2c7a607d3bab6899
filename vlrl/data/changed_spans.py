"""What differs between two texts, word by word: spans of characters, as corrections of an answer are marked (RLHF-V)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

_WORD = re.compile(r"\s*\S+|\s+\Z")
TextSpan = tuple[int, int]


def changed_spans(first: str, second: str) -> tuple[tuple[TextSpan, ...], tuple[TextSpan, ...]]:
    """[start, end) in characters of what each text has and the other has not, words with the white space before them; adjacent
    spans are one. What stands outside of them is the same in both, in the same order."""
    words = (_words(first), _words(second))
    texts = [[text[start:end] for start, end in spans] for text, spans in zip((first, second), words, strict=True)]
    found: tuple[list[TextSpan], list[TextSpan]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, texts[0], texts[1], autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for spans, own, start, end in ((found[0], words[0], a, b), (found[1], words[1], c, d)):
            if end > start:
                spans.append((own[start][0], own[end - 1][1]))
    return tuple(found[0]), tuple(found[1])


def _words(text: str) -> list[TextSpan]:
    return [match.span() for match in _WORD.finditer(text)]


def shared_share(first: str, second: str) -> float:
    """The share, 0..1, of both texts' characters that the other has too, by `changed_spans`; 1 for two empty texts."""
    length = len(first) + len(second)
    changed = sum(end - start for spans in changed_spans(first, second) for start, end in spans)
    return 1 - changed / length if length else 1.0


def spans_problem(spans: object, text: str) -> str | None:
    """What is wrong with spans of a text as a file states them, or None: they are in order, apart, and inside the text."""
    if not isinstance(spans, Sequence) or isinstance(spans, str):
        return f"must be a list of [start, end], got {spans!r:.60}"
    last = 0
    for span in spans:
        is_pair = isinstance(span, Sequence) and not isinstance(span, str) and len(span) == 2
        if not is_pair or not all(isinstance(one, int) and not isinstance(one, bool) for one in span):
            return f"must be a list of [start, end] in characters, got {span!r:.60}"
        if not last <= span[0] < span[1] <= len(text):
            return f"[{span[0]}, {span[1]}] is not in order inside a text of {len(text)} characters"
        last = span[1]
    return None
