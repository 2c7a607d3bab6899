"""Which samples of a run's own file are held out: drawn by seed, so that no picture is on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vlrl.data.identity import Pictures, held_out_rows, not_compared_note
from vlrl.data.overlap import shared_ids
from vlrl.data.sample_sets import SampleSet, read_set
from vlrl.schema import Sample
from vlrl.training.options import ConfigError

HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 400


def hold_out(samples: SampleSet, seed: int, at_most: int | None, wanted: int | None = None) -> tuple[SampleSet, list[Sample]]:
    """Split by picture (`vlrl.data.identity`): `wanted` samples (default: a tenth, `MAX_HELD_OUT` of them), `at_most` of them,
    share no picture with the rest. Raises ConfigError where they cannot be split."""
    if wanted is None:
        wanted = min(at_most or MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(samples))))
    pictures = Pictures(samples)
    is_out = held_out_rows(pictures, seed, min(wanted, at_most or wanted))
    if not is_out.any():
        raise ConfigError(
            f"{len(samples)} samples cannot be split: they show one picture or copies of it, or rows of several pictures or"
            f" meta.group link them all{_commonest(samples)}; give held-out samples by --eval_data"
        )
    train = samples.part(np.flatnonzero(~is_out))
    train.notes += (not_compared_note(pictures.n_not_compared),) if pictures.n_not_compared else ()
    return train, list(samples.part(np.flatnonzero(is_out)))


def overlap_words(eval_data: str, data: str, shared: Sequence[str], n: int) -> str:
    """What follows the description of two files whose held-out rows share pictures with training rows; "" where none does."""
    if not shared:
        return ""
    return f"; WARNING: {len(shared):,} of all {n:,} rows of {eval_data} show a picture of {data}, the first: {shared[0]!r}"


def overlap_line(data: str, eval_data: str, image_root: str | None, tasks: Sequence[str]) -> str:
    """The samples of two files, and how many held-out ones share a picture with training ones: what a dry run says. Raises
    SampleError."""
    train, held_out = (read_set(path, image_root, tasks=tasks) for path in (data, eval_data))
    shared, _ = shared_ids(train, held_out)
    found = f"{len(train)} samples of {data}, {len(held_out)} of {eval_data} held out"
    return found + overlap_words(eval_data, data, shared, len(held_out))


def wanted_of(val_split: float | None, n: int) -> int | None:
    """How many of `n` samples `--val_split` asks for, at least 1; None where it is not set. Raises ConfigError for too many."""
    if val_split is None:
        return None
    wanted = max(1, round(val_split * n)) if val_split < 1 else int(val_split)
    if wanted >= n:
        raise ConfigError(f"--val_split {val_split:g}: the data has {n:,} samples, so none would be left to train on")
    return wanted


def _commonest(samples: SampleSet) -> str:
    """The picture that most samples show, in words."""
    counts = Counter(path for sample in samples for path in dict.fromkeys(sample.images))
    path, n = counts.most_common(1)[0] if counts else ("", 0)
    return f" ({path} is in {n:,} of them)" if n > 1 else ""
