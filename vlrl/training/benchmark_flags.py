"""Which benchmarks there are, by the names that `bench run --task` and `--bench` of a training run take; its flags. No torch.

Not here: running them (`vlrl.bench`), and when a training run does (`vlrl.training.benchmark_after`).
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlrl.bench.autotrust import PARTS, is_autotrust
from vlrl.tasks import KNOWN, load_task

AUTOTRUST, VILBENCH, CANDIDATES = "autotrust", "vilbench", "vilbench/candidates"
BENCHMARKS = (AUTOTRUST, *(f"{AUTOTRUST}/{part}" for part in PARTS), VILBENCH, CANDIDATES)
"""Those that are no task of one kind of sample, in the order in which `list` tells them."""


def is_vilbench(name: str) -> bool:
    return name.partition("/")[0] == VILBENCH


def check_name(name: str) -> None:
    """Raises ValueError for a name that `bench run --task` would not take, naming the nearest that it does."""
    if name.partition(":")[0] in BENCHMARKS:
        return
    if not (is_autotrust(name) or is_vilbench(name)) and (name in KNOWN or name.endswith(".py")):
        load_task(name)
        return
    known = [*KNOWN, *BENCHMARKS]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown benchmark {name!r}{hint} (known: {', '.join(known)}, or path/to/my_task.py)")


def folder_name(name: str) -> str:
    """How a result folder of a benchmark is called: its name without what a path cannot hold."""
    plain = Path(name).stem if name.endswith(".py") else name
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in plain)


@dataclass(frozen=True)
class Benches:
    """The benchmarks that a training run ends in. `flags`: of `bench run`, by benchmark."""

    names: tuple[str, ...] = ()
    limit: int | None = None
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_BENCH = Benches()


@dataclass
class BenchConfig:
    """The options of a training run that ends in the benchmark."""

    bench: str | None = field(
        default=None,
        metadata={
            "help": "Benchmarks to run when training is over, on the model the run started from and on final/, as"
            " autotrust,vilbench,detection (`python -m vlrl.bench list` names them)."
        },
    )
    bench_limit: int | None = field(default=None, metadata={"help": "At most so many samples of each (see bench run --limit)."})
    bench_flags: list[str] | None = field(
        default=None,
        metadata={"help": 'Further flags of `bench run` by benchmark: "autotrust=--data qa-pairs --image_root images".'},
    )


def read_benches(config: BenchConfig) -> Benches:
    """The benchmarks that flags ask for. Raises ValueError naming the nearest right name."""
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
        name, equals, told = words.partition("=")
        if name not in names or not equals:
            raise ValueError(f"--bench_flags {words}: give NAME=FLAGS with one of --bench {','.join(names) or '(none)'}")
        flags[name] = tuple(shlex.split(told))
    return Benches(names, config.bench_limit, flags)
