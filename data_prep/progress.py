"""A progress bar on a terminal, for whatever a converter goes through one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
FROM = 2000
"""Fewer items take no time worth a bar."""


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """`items`, with a bar on standard error where that is a terminal. `total`: how many there are, if known."""
    n = len(items) if isinstance(items, Sized) else total
    shown: Iterable[T] = tqdm(items, desc=what, total=n, disable=True if n is not None and n < FROM else None, leave=False)
    return shown
