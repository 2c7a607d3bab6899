"""`vlrl runs [FOLDER]`: the runs below a folder, with their status and their numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrl.data.markup import readable
from vlrl.metrics.tables import text_table
from vlrl.schema import SampleError
from vlrl.training.metrics_log import read_metrics
from vlrl.training.run_status import RunStatus, finite, read_status

DEPTH = 3
"""How many folders below the named one a run may lie."""
WORDS_SHOWN = 300
"""Characters of a message in a list."""


def list_runs(args: argparse.Namespace) -> int:
    """Print a line a run, the newest first. Returns the exit code. Raises SampleError where there is no such folder."""
    root: Path = args.folder
    if not root.is_dir():
        raise SampleError(f"{root}: no such folder; name the folder that holds your runs: vlrl runs FOLDER")
    folders = find_runs(root)
    if not folders:
        print(f"{root} holds no runs: no folder in it has a config.yaml", file=sys.stderr)
        return 1
    found = {folder: status_of(folder) for folder in folders}
    rows = [run_row(name_in(root, folder), status) for folder, status in found.items()]
    print(text_table(["run", "status", "step", "before → after", "time", "task", "model"], rows))
    for folder, status in found.items():
        if status.why and status.state not in ("running", "killed"):
            print(f"{name_in(root, folder)}: {text_on_one_line(status.why)}")
    return 0


def find_runs(root: Path) -> list[Path]:
    """The folders with a `config.yaml`, `root` itself or at most `DEPTH` below it, the newest first."""
    patterns = ["config.yaml", *("/".join(["*"] * depth) + "/config.yaml" for depth in range(1, DEPTH + 1))]
    found: dict[Path, float] = {}
    for pattern in patterns:
        for path in root.glob(pattern):
            try:
                found.setdefault(path.parent, path.stat().st_mtime)
            except OSError:  # removed meanwhile
                continue
    return sorted(found, key=lambda folder: (-found[folder], str(folder)))


def status_of(folder: Path) -> RunStatus:
    return read_status(folder, read_metrics(folder / "metrics.jsonl"))


def name_in(root: Path, folder: Path) -> str:
    relative = folder.relative_to(root)
    return text_on_one_line(str(relative if relative.parts else folder))


def text_on_one_line(value: Any) -> str:
    """Text of a run in characters that can be seen, on one line, cut where it is long."""
    text = readable(" ".join(str(value).split()))
    return text if len(text) <= WORDS_SHOWN else text[:WORDS_SHOWN] + " ..."


def run_row(name: str, status: RunStatus) -> list[str]:
    """The cells of a run in the list."""
    step = str(status.step) if status.n_steps is None else f"{status.step}/{status.n_steps}"
    summary, config = status.summary or {}, status.config
    return [
        name,
        status.state,
        step,
        headline_words(summary),
        clock(status.seconds),
        text_on_one_line(summary.get("task", config.get("task", "–"))),
        text_on_one_line(summary.get("model", config.get("model_name_or_path", "–"))),
    ]


def headline_words(summary: Mapping[str, Any]) -> str:
    """The headline of a run before and after, such as "f1@0.5 0.412 → 0.683"; "–" where it has none yet."""
    name = summary.get("headline")
    before, after = (metric_value(summary, side, name) for side in ("before", "after"))
    if not isinstance(name, str) or (before is None and after is None):
        return "–"
    return f"{text_on_one_line(name)} {number_words(before)} → {number_words(after)}"


def metric_value(summary: Mapping[str, Any], side: str, name: Any) -> float | None:
    """A metric of a run, "before" or "after"."""
    metrics = summary.get(side)
    metric = metrics.get(name) if isinstance(metrics, dict) and isinstance(name, str) else None
    return finite(metric.get("value")) if isinstance(metric, dict) else None


def number_words(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def clock(seconds: float | None) -> str:
    """Seconds as 1:02:03 or 2:03."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
