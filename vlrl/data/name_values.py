"""Names and `name=value` words as users write them: the nearest known name, and options split into pairs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'detection'?" for the known name closest to `word`, or "" where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def split_pair(word: str, what: str, known: Iterable[str] | None = None) -> tuple[str, str]:
    """`name=value` as (name, value), white space around both removed; the value may hold further `=`.

    `what` begins the message, as in "--gtr". Raises ValueError where there is no `=`, or the name is not among `known`.
    """
    name, equals, value = word.partition("=")
    name, value = name.strip(), value.strip()
    names = None if known is None else list(known)
    if names is not None and name not in names:
        listed = ", ".join(names) or "none"
        raise ValueError(
            f"{what} {word}: there is no option {name!r}{nearest(name, names)} (known: {listed}; write name=value)"
        )
    if not equals or not name:
        raise ValueError(f"{what} {word}: write name=value")
    return name, value


def split_pairs(words: Iterable[str], what: str, known: Iterable[str] | None = None) -> dict[str, str]:
    """Several `name=value` words as a dict. Raises ValueError as `split_pair` does, and for a name given twice."""
    names = None if known is None else list(known)
    pairs: dict[str, str] = {}
    for word in words:
        name, value = split_pair(word, what, names)
        if name in pairs:
            raise ValueError(f"{what}: {name} is given twice")
        pairs[name] = value
    return pairs
