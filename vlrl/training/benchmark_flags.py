"""The flags of a training run that ends in the benchmark (`--bench autotrust,detection`): their names and checks. No torch.

Not here: running them (`vlrl.training.benchmark_after`). The part and the options of a benchmark are checked by its own dry run
before anything is trained.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlrl.data.name_values import nearest, split_pair
from vlrl.tasks import KNOWN, load_task

BENCH_FAMILIES = ("autotrust", "vilbench")
"""Benchmarks that are not tasks, by the first word of their names: the keys of `vlrl.bench.suites.SUITES`."""
DIFF_PICTURE = "before_after.png"
"""What `bench diff` draws into its folder where both results have numbers that are made of others (a trust card)."""


def family_of(name: str) -> str | None:
    """The benchmark that a name such as `autotrust/ego:subtype=x` belongs to; None for a task."""
    family = name.partition(":")[0].partition("/")[0]
    return family if family in BENCH_FAMILIES else None


def check_name(name: str) -> None:
    """Raises ValueError for a name that `bench run --task` would not take, with the nearest one that it would."""
    if family_of(name) is not None:
        return
    if name in KNOWN or name.endswith(".py"):
        load_task(name)
        return
    known = [*KNOWN, *BENCH_FAMILIES]
    raise ValueError(f"unknown benchmark {name!r}{nearest(name, known)} (known: {', '.join(known)}, or path/to/my_task.py)")


def folder_name(name: str) -> str:
    """The name of a benchmark's result folder: its own name without what a path cannot hold."""
    plain = Path(name).stem if name.endswith(".py") else name
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in plain)


@dataclass(frozen=True)
class Benches:
    """The benchmarks that a training run ends in. `flags`: of `bench run`, by benchmark."""

    names: tuple[str, ...] = ()
    limit: int | None = None
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_BENCH = Benches()


@dataclass(frozen=True)
class BenchConfig:
    """The options of a training run that ends in the benchmark."""

    bench: str | None = field(
        default=None,
        metadata={
            "help": "Benchmarks to run after training, on the model the run started from and on final/, as"
            " autotrust,vilbench,detection (`vlrl bench list` names them)."
        },
    )
    bench_limit: int | None = field(default=None, metadata={"help": "At most this many samples of each (bench run --limit)."})
    bench_flags: list[str] | None = field(
        default=None,
        metadata={"help": 'Further flags of `bench run` by benchmark: "autotrust=--data qa-pairs --image_root images".'},
    )


def read_benches(config: BenchConfig) -> Benches:
    """The benchmarks that the flags name. Raises ValueError with the nearest right name."""
    names = tuple(filter(None, (config.bench or "").split(",")))
    for name in names:
        check_name(name)
    folders = [folder_name(name) for name in names]
    twice = next((name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1), None)
    if twice is not None:
        raise ValueError(f"--bench names {twice} twice")
    if config.bench_limit is not None and config.bench_limit < 1:
        raise ValueError(f"--bench_limit {config.bench_limit}: must be at least 1")
    flags = {}
    for words in config.bench_flags or []:
        name, value = split_pair(words, "--bench_flags", names)
        if name in flags:
            raise ValueError(f"--bench_flags: {name} is given twice")
        try:
            flags[name] = tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"--bench_flags {words}: {error}") from error
    return Benches(names, config.bench_limit, flags)
