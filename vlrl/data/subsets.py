"""Subsets of a set of samples: drawn by seed, with answers in the shares that they have in the whole set.

Files are often sorted, so the first rows show one class or one source. A smaller subset of a set is part of each larger one of
the same seed. Not here: splits without a common image (`vlrl.data.identity`).
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from vlrl.data.synthetic.items import item_rng
from vlrl.schema import Sample

_T = TypeVar("_T")
MAX_TEXT = 60
"""Answers of more characters are not compared: hardly two are equal."""


def stratum_of(sample: Sample) -> Hashable:
    """What a subset should have in the same shares as the set: the task and the answer where answers repeat (a label, a letter,
    a short text or number, the speed and path of a plan), of boxes what was asked for and whether it is there."""
    return sample.task, answer_key(sample.answer, sample.question)


def answer_key(answer: Any, question: str = "") -> Hashable:
    """The part of `stratum_of` that an answer and its question make."""
    if isinstance(answer, str | int | float | bool) or answer is None:
        text = str(answer).strip().casefold()
        return text if len(text) <= MAX_TEXT else ""
    if isinstance(answer, dict):
        if "bbox_2d" in answer:
            return "a box"
        text = json.dumps(answer, sort_keys=True, default=str)
        return text if len(text) <= MAX_TEXT else ""
    if isinstance(answer, list | tuple) and answer and not isinstance(answer[0], dict):
        return answer_key(answer[0])
    return (question.casefold() if len(question) <= MAX_TEXT else "", bool(answer))


def drawn_places(strata: Sequence[Hashable], limit: int | None, seed: int) -> list[int]:
    """The places of `limit` members (None: all), in order. A stratum has its share of them, up to rounding: one that is due at
    least one member has one."""
    n = len(strata)
    if limit is None or limit >= n:
        return list(range(n))
    numbers: dict[Hashable, int] = {}
    codes = np.fromiter((numbers.setdefault(one, len(numbers)) for one in strata), dtype=np.int64, count=n)
    return drawn_of_codes(codes, limit, seed)


def drawn_of_codes(codes: np.ndarray[Any, Any], limit: int, seed: int) -> list[int]:
    """As `drawn_places`, strata as numbers from 0.

    Systematic sampling: the members of a stratum of size m, in random order, stand at (0 + u) / m, (1 + u) / m, ... with one
    u in 0..1 a stratum; the first `limit` of all are taken.
    """
    n = len(codes)
    rng = item_rng("subset", seed)
    shuffled = rng.permutation(n)
    sizes = np.bincount(codes)
    start = rng.random(len(sizes))
    by_stratum = shuffled[np.argsort(codes[shuffled], kind="stable")]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    own = codes[by_stratum]
    rank = np.arange(n) - first[own]
    at = (rank + start[own]) / sizes[own]
    order = by_stratum[np.argsort(at, kind="stable")]
    return sorted(int(i) for i in order[:limit])


def drawn(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """`limit` of the samples (None: all), drawn by seed and stratified by answer, in their order."""
    return [samples[i] for i in drawn_places([stratum_of(sample) for sample in samples], limit, seed)]


def drawn_items(items: Sequence[_T], strata: Sequence[Hashable], limit: int | None, seed: int) -> list[_T]:
    """As `drawn`, of anything: `strata` has the stratum of each."""
    return [items[i] for i in drawn_places(strata, limit, seed)]
