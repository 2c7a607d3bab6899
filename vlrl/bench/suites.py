"""Which benchmarks `--task` can name: `SUITES` lists those that are not the package's tasks or a task file.

Each entry loads its module when it is used. Not here: the tasks (`vlrl.tasks.TASKS`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlrl.bench.groups import with_groups
from vlrl.bench.masks import with_masks
from vlrl.bench.present import with_present
from vlrl.bench.suite import StoredAnswers, Suite, task_suite
from vlrl.data.name_values import nearest
from vlrl.tasks import KNOWN


@dataclass(frozen=True)
class SuiteEntry:
    """A benchmark with data and scores of its own. `needs`: the data, and what is used without any."""

    about: str
    needs: str
    parts: Callable[[], Mapping[str, tuple[str, str]]]
    """Part -> (what it measures, what it needs); `--task NAME/PART` runs one."""
    load: Callable[[argparse.Namespace, int | None], Suite]
    """(flags, most new tokens) -> the suite, its data read and checked. Raises ValueError."""
    stored_answers: Callable[[argparse.Namespace], StoredAnswers | None]
    """The answers in `--predictions` where it has the benchmark's own format, or None for a `predictions.jsonl`."""


def _autotrust_parts() -> Mapping[str, tuple[str, str]]:
    from vlrl.bench.autotrust.parts import PARTS

    return {name: (part.about, part.needs) for name, part in PARTS.items()}


def _load_autotrust(args: argparse.Namespace, max_tokens: int | None) -> Suite:
    from vlrl.bench.autotrust.command import trust_suite

    return trust_suite(args, max_tokens)


def _autotrust_answers(args: argparse.Namespace) -> StoredAnswers | None:
    from vlrl.bench.autotrust.command import array_answers

    return array_answers(args)


def _vilbench_parts() -> Mapping[str, tuple[str, str]]:
    return {"candidates": ("writes candidates for it with any model", "--data items.jsonl, or the project's own small fixture")}


def _load_vilbench(args: argparse.Namespace, max_tokens: int | None) -> Suite:
    from vlrl.bench.vilbench.command import best_of_n_suite

    return best_of_n_suite(args, max_tokens)


def _vilbench_answers(args: argparse.Namespace) -> StoredAnswers | None:
    from vlrl.bench.vilbench.command import score_file_answers

    return score_file_answers(args)


SUITES: dict[str, SuiteEntry] = {
    "autotrust": SuiteEntry(
        about="trustworthiness on driving questions: every part below whose files are there",
        needs="--data qa-pairs, or the project's own small fixture",
        parts=_autotrust_parts,
        load=_load_autotrust,
        stored_answers=_autotrust_answers,
    ),
    "vilbench": SuiteEntry(
        about="best of N, chosen by a reward model: a model that is asked, or one trained by --task prm",
        needs="--data items.jsonl and --candidates candidates.jsonl, or the project's own small fixture",
        parts=_vilbench_parts,
        load=_load_vilbench,
        stored_answers=_vilbench_answers,
    ),
}
"""Benchmarks by the first word of `--task`; `vlrl.training.benchmark_flags.BENCH_FAMILIES` holds the same names."""


TASK_FLAGS = ("protocol", "max_dets", "present", "masks")
"""Flags of `run` and `score` that benchmarks of their own do not have."""


def entry_of(task: str) -> SuiteEntry | None:
    """The benchmark that `--task NAME[/PART][:OPTIONS]` names; None for tasks and task files. Raises ValueError for a name that
    is neither, with the nearest known one."""
    name = task.partition(":")[0]
    family, slash, part = name.partition("/")
    entry = SUITES.get(family)
    if entry is not None:
        if slash and part not in entry.parts():
            known = [f"{family}/{one}" for one in entry.parts()]
            raise ValueError(f"--task {name}: unknown part{nearest(name, known)} (known: {', '.join(known)})")
        return entry
    for one in task.split(","):
        if one in SUITES:
            raise ValueError(f"--task {task}: {one} is a benchmark of its own; run it alone, --task {one}")
        if one not in KNOWN and not one.endswith(".py"):
            listed = ", ".join([*KNOWN, *(f"{family}[/part]" for family in SUITES), "or path/to/my_task.py"])
            raise ValueError(f"--task: unknown task {one!r}{nearest(one, [*KNOWN, *suite_names()])} (known: {listed})")
    return None


def suite_names() -> list[str]:
    """Every benchmark in `SUITES` and its parts, as `--task` takes them."""
    return [name for family, entry in SUITES.items() for name in (family, *(f"{family}/{part}" for part in entry.parts()))]


def load_suite(args: argparse.Namespace, need_images: bool = False) -> Suite:
    """The suite of `--task`, its data read and checked. Raises ValueError."""
    max_tokens = getattr(args, "max_new_tokens", None)
    entry = entry_of(args.task)
    refuse_other_flags(args, entry)
    suite = task_suite(args, max_tokens, need_images) if entry is None else entry.load(args, max_tokens)
    suite = with_present(suite, getattr(args, "present", None))
    suite = with_masks(suite, getattr(args, "masks", None))
    return with_groups(suite, getattr(args, "group_by", None))


def refuse_other_flags(args: argparse.Namespace, entry: SuiteEntry | None) -> None:
    """Raises ValueError for flags that are for tasks alone, given to a benchmark of its own."""
    for name in TASK_FLAGS if entry is not None else ():
        if getattr(args, name, None) is not None:
            raise ValueError(f"--{name} is for tasks (detection, grounding, qa ...), not for --task {args.task}")
