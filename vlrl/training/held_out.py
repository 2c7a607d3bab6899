"""Which samples of a run's own file are held out: drawn by seed, so that no picture is on both sides."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vlrl.data.identity import Pictures, held_out_rows
from vlrl.data.sample_sets import SampleSet
from vlrl.schema import Sample
from vlrl.training.options import ConfigError

HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 400


def hold_out(samples: SampleSet, seed: int, at_most: int | None, wanted: int | None = None) -> tuple[SampleSet, list[Sample]]:
    """Split by picture (`vlrl.data.identity`): `wanted` samples (default: a tenth, `MAX_HELD_OUT` of them), `at_most` of them,
    share no picture with the rest. Raises ConfigError where they cannot be split."""
    if wanted is None:
        wanted = min(at_most or MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(samples))))
    is_out = held_out_rows(Pictures(samples), seed, min(wanted, at_most or wanted))
    if not is_out.any():
        raise ConfigError(
            f"{len(samples)} samples cannot be split: they show one picture or copies of it, or rows of several pictures or"
            f" meta.group link them all{_commonest(samples)}; give held-out samples by --eval_data"
        )
    return samples.part(np.flatnonzero(~is_out)), list(samples.part(np.flatnonzero(is_out)))


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
