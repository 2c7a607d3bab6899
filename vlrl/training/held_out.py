"""Which samples of a run's own file are held out: drawn by seed, so that no image is on both sides."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from vlrl.data.sample_sets import SampleSet
from vlrl.data.synthetic import item_rng
from vlrl.schema import Sample
from vlrl.training.options import ConfigError

HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 400


def hold_out(samples: SampleSet, seed: int, at_most: int | None, wanted: int | None = None) -> tuple[SampleSet, list[Sample]]:
    """Split by image: `wanted` samples (default: a tenth, `MAX_HELD_OUT` of them), `at_most` of them, share no image with the
    rest. Raises ConfigError where all show the same."""
    groups = image_groups(samples)
    sizes = np.bincount(groups)
    order = item_rng("held out", seed).permutation(len(sizes))
    if wanted is None:
        wanted = min(at_most or MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(samples))))
    wanted = min(wanted, at_most or wanted)
    chosen: list[int] = []
    n = 0
    for group in order:
        if n >= wanted or len(chosen) + 1 >= len(sizes):
            break
        chosen.append(int(group))
        n += int(sizes[group])
    if not chosen:
        raise ConfigError(f"{len(samples)} samples of one image cannot be split; give held-out samples by --eval_data")
    is_out = np.isin(groups, chosen)
    return samples.part(np.flatnonzero(~is_out)), list(samples.part(np.flatnonzero(is_out)))


def image_groups(samples: SampleSet) -> np.ndarray[Any, Any]:
    """The number of each sample's group: those with the same images share one, counted in order of appearance."""
    if samples.keys is not None:
        return _numbered(samples.keys.images)
    return _numbers([sample.images or (sample.id,) for sample in samples])


def _numbers(keys: Sequence[Hashable]) -> np.ndarray[Any, Any]:
    seen: dict[Hashable, int] = {}
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), dtype=np.int64, count=len(keys))


def _numbered(keys: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(len(first))
    return place[inverse]
