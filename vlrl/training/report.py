"""What a run says in numbers: `summary.json` and the before/after table. Not here: its images (`curves`, `sample_images`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrl.data.files import read_json_object
from vlrl.data.masking import masked_command
from vlrl.gtr.diagnostics import CollapseRule
from vlrl.tasks.evaluate import Evaluation, git_revision, table, versions
from vlrl.training import model_card
from vlrl.training.events import EVENTS_FILE

THOUGHTS = "thoughts/"
"""Before the names of the numbers about thoughts in `metrics.jsonl`."""


def run_summary(
    *,
    task: str,
    model: str | None,
    data: str,
    stage: str,
    seed: int,
    steps: int,
    seconds: float,
    headline: str,
    evaluations: Mapping[str, Evaluation],
) -> dict[str, Any]:
    """What `summary.json` holds of every kind of run. `evaluations`: by name, `before` and `after` among them."""
    return {
        "task": task,
        "model": model,
        "data": data,
        "stage": stage,
        "seed": seed,
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "versions": versions(),
        "git": git_revision(),
        "command": " ".join(["vlrl/train.py", *masked_command(sys.argv[1:])]),
        "headline": headline,
        **{name: evaluation.to_json() for name, evaluation in evaluations.items()},
        "n_unparsed": evaluations["after"].n_unparsed,
        "n_truncated": evaluations["after"].n_truncated,
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """`summary.json` of a run, None where it is not there."""
    path = folder / "summary.json"
    return read_json_object(path) if path.is_file() else None


def last_step(rows: Sequence[Mapping[str, Any]]) -> int:
    """The last logged step; 0 where nothing was logged."""
    return max((row["step"] for row in rows), default=0)


def closing_lines(title: str, evaluations: Mapping[str, Evaluation], notes: Sequence[str], summary: Path) -> str:
    """The last lines of a run: the numbers, notes, and the path of what was written."""
    return "\n".join(["", title, table(evaluations), *(f"\n{note}" for note in notes), f"\n{summary}"])


def events_noted(events: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """The closing line of a run's events, if it had any."""
    return [f"events: {model_card.events(events)}; see {folder / EVENTS_FILE}"] if events else []


ENDPOINTS = ("corrector", "judge")


def thought_changes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How a run's thoughts changed: the first and the last numbers of each kind, and why they count as collapsed (null: they
    do not), with the thresholds. None for a run without thoughts."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for row in rows:
        found = {key.removeprefix(THOUGHTS): value for key, value in row.items() if key.startswith(THOUGHTS)}
        first, last = {**found, **first}, {**last, **found}
    if "self_bleu2" not in last:
        return None
    rule = CollapseRule()
    return {"first": first, "last": last, "collapsed": rule.why(first, last), "rule": asdict(rule)}


def endpoint_totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Totals of the endpoints that a run asked, by what they are for: requests, cached replies, failures, cost, seconds."""
    found: dict[str, dict[str, float]] = {}
    for name in ENDPOINTS:
        counted = (row for row in reversed(rows) if any(key.startswith(f"{name}/") for key in row))
        last: Mapping[str, Any] = next(counted, {})
        if last:
            found[name] = {key.partition("/")[2]: value for key, value in last.items() if key.startswith(f"{name}/")}
    return found
