"""`vlrl runs compare A B`: what differs between two training runs, in what they were asked and in what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrl.bench.runs_list import clock, headline_words, status_of, text_on_one_line
from vlrl.data.files import read_json_lines
from vlrl.metrics.bootstrap import paired_test
from vlrl.metrics.tables import text_table
from vlrl.schema import SampleError
from vlrl.training.run_status import RunStatus, finite

_OF_ONE_START = frozenset(["output_dir", "resume_from_checkpoint", "logging_dir", "run_name"])
"""Options that name a run, not what it is."""
_ABSENT = "(default)"


def show_two_runs(a: Path, b: Path) -> int:
    """Print where two runs differ: options, versions, data, numbers, and the paired difference of their held-out answers.
    Returns the exit code. Raises SampleError for a folder that is no run."""
    for folder in (a, b):
        if not (folder / "config.yaml").is_file():
            raise SampleError(f"{folder}: is no run, it has no config.yaml")
    found = {"A": status_of(a), "B": status_of(b)}
    for side, folder in (("A", a), ("B", b)):
        status = found[side]
        steps = f"{status.step} steps" if status.n_steps is None else f"{status.step} of {status.n_steps} steps"
        print(f"{side}  {folder}: {status.state}, {steps}, {clock(status.seconds)}; {headline_words(status.summary or {})}")
        if status.why:
            print(f"   {text_on_one_line(status.why)}")
    _print_table("options that differ", unequal_rows(found["A"].config, found["B"].config, _OF_ONE_START))
    about_a, about_b = (
        {**_section(status, "versions"), **_section(status, "digests"), **_git(status)} for status in found.values()
    )
    _print_table("versions and data that differ", unequal_rows(about_a, about_b))
    _print_table("numbers", metric_rows(found), ["metric", "A before", "A after", "B before", "B after"])
    print()
    print(held_out_difference(a, b))
    return 0


def _print_table(title: str, rows: list[list[str]], header: list[str] | None = None) -> None:
    print(f"\n{title}" if rows else f"\n{title}: none")
    if rows:
        print(text_table(header or ["", "A", "B"], rows))


def unequal_rows(a: Mapping[str, Any], b: Mapping[str, Any], without: frozenset[str] = frozenset()) -> list[list[str]]:
    """Name, value in A, value in B, of every key whose values differ."""
    names = sorted({*map(str, a), *map(str, b)} - without)
    return [[text_on_one_line(name), _words(a, name), _words(b, name)] for name in names if a.get(name) != b.get(name)]


def _words(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return _ABSENT
    value = values[name]
    return text_on_one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _section(status: RunStatus, name: str) -> dict[str, Any]:
    section = (status.summary or {}).get(name)
    return section if isinstance(section, dict) else {}


def _git(status: RunStatus) -> dict[str, Any]:
    return {"git": (status.summary or {}).get("git")}


def metric_rows(found: Mapping[str, RunStatus]) -> list[list[str]]:
    """A row a metric that either run has, each value with its 95 % interval."""
    tables = [_section(status, side) for status in found.values() for side in ("before", "after")]
    names = dict.fromkeys(name for table in tables for name in table)
    return [[text_on_one_line(name), *(_metric_words(table.get(name)) for table in tables)] for name in names]


def _metric_words(metric: Any) -> str:
    if not isinstance(metric, dict) or (value := finite(metric.get("value"))) is None:
        return "–"
    ends = metric.get("ci95")
    known = [end for end in map(finite, ends) if end is not None] if isinstance(ends, list) else []
    return f"{value:.3f} [{known[0]:.3f}, {known[1]:.3f}]" if len(known) == 2 else f"{value:.3f}"


def held_out_difference(a: Path, b: Path) -> str:
    """The mean difference of the trained models' values on the same held-out samples, in words: samples count as the same where
    id, question and ground truth are equal."""
    sides = [_held_out(folder) for folder in (a, b)]
    if not all(sides):
        missing = " and ".join(str(folder) for folder, rows in zip((a, b), sides, strict=True) if not rows)
        return f"held-out answers after training: {missing} has none, so that they cannot be compared"
    common = sides[0].keys() & sides[1].keys()
    if not common:
        return "held-out answers after training: the runs have no held-out sample in common, so that they cannot be compared"
    metric, p = paired_test(sides[0], sides[1])
    low, high = metric.ci95 or (float("nan"), float("nan"))
    left = [len(side) - len(common) for side in sides]
    others = f" ({left[0]} only in A, {left[1]} only in B)" if any(left) else ""
    value = 0.0 if metric.value is None else metric.value
    return (
        f"held-out answers after training, B - A, on {len(common)} samples in both{others}: {value:+.3f}"
        f" [{low:+.3f}, {high:+.3f}]{'' if p is None else f', p = {p:.3f}'} (paired bootstrap over samples)"
    )


def _held_out(folder: Path) -> dict[str, float]:
    """The value of the trained model's answer to each held-out sample that has one. Raises SampleError for a damaged file."""
    path = folder / "held_out.jsonl"
    values = {}
    for _, row in read_json_lines(path) if path.is_file() else []:
        after = row.get("after")
        value = finite(after.get("value")) if isinstance(after, dict) else None
        if value is not None:
            values[json.dumps([row.get(key) for key in ("task", "id", "question", "ground_truth")], sort_keys=True)] = value
    return values
