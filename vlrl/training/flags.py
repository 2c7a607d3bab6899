"""The one rule that all commands share: `-` and `_` are the same inside a flag."""

from __future__ import annotations

from collections.abc import Sequence


def with_underscores(words: Sequence[str]) -> list[str]:
    """A command line with `-` inside flags written `_`; values stay as they are."""
    changed = []
    for word in words:
        flag, equals, value = word.partition("=")
        changed.append("--" + flag[2:].replace("-", "_") + equals + value if word.startswith("--") else word)
    return changed
