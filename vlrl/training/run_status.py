"""What a run folder says of its run: whether it goes on, how far it is, how it ended. Reads and writes small files; no torch.

A run that ends early leaves `ending.json`; one that goes on holds its lock (`vlrl.training.run_lock`); one that is over has a
`summary.json`. One that has none of these was killed; so was one whose lock was left behind after its `ending.json`: it went on
from there. Not here: lists of runs (`vlrl.bench.runs_list`).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vlrl.data.files import write_whole
from vlrl.data.masking import masked
from vlrl.training.run_lock import LOCK_FILE, holder

ENDING_FILE = "ending.json"
MAX_FILE_BYTES = 64_000_000
"""Of a file of a run; a larger one is not read."""
RunState = Literal["running", "finished", "stopped", "failed", "killed"]
COULD_NOT_START = 2
ON_REQUEST = (75, 130, 138, 143)
"""Exit codes of runs that were asked to end: `--max_hours`, Ctrl-C, SIGUSR1, SIGTERM."""


@dataclass(frozen=True)
class RunStatus:
    state: RunState
    """`stopped`: on request, by a signal or `--max_hours`. `failed`: by an error. `killed`: its process is gone."""
    why: str = ""
    """Who runs it, or why it ended early."""
    step: int = 0
    """The last step that was logged."""
    n_steps: int | None = None
    """How many steps were planned, where that is known."""
    seconds: float | None = None
    """Of a finished run its training; of another the time from its start to what it logged last."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its `config.yaml`."""
    summary: Mapping[str, Any] | None = None
    """Its `summary.json`, once it is over."""


def write_ending(folder: Path | None, message: str, code: int) -> None:
    """Leave word of why a run ended early, where it has begun; a command that could not start (code 2) says nothing of the run
    that the folder holds. A full disk is no second error."""
    if folder is not None and code != COULD_NOT_START and (folder / "config.yaml").is_file():
        state: RunState = "stopped" if code in ON_REQUEST else "failed"
        with contextlib.suppress(OSError):
            write_whole(
                folder / ENDING_FILE, json.dumps({"state": state, "exit_code": code, "message": masked(message)}) + "\n"
            )


def clear_ending(folder: Path) -> None:
    """Forget how a run ended that goes on now."""
    with contextlib.suppress(OSError):
        (folder / ENDING_FILE).unlink()


def read_status(folder: Path, rows: Sequence[Mapping[str, Any]]) -> RunStatus:
    """The status of the run in a folder. `rows`: those of its `metrics.jsonl`. Files may be of any content; nothing outside the
    folder is read."""
    config, summary = _config_of(folder), _object_in(folder, "summary.json")
    step = max((int(value) for row in rows if (value := finite(row.get("step"))) is not None), default=0)
    who = holder(folder) if _file_in(folder, "run.lock") else ""
    ending = _object_in(folder, ENDING_FILE) or {}
    state: RunState
    if who:
        state, why = "running", who
    elif summary is not None:  # what ended early after it, such as a benchmark, is said beside
        state, why = "finished", str(ending.get("message", ""))
    elif ending.get("state") in ("stopped", "failed") and not _went_on(folder):
        state, why = ending["state"], str(ending.get("message", ""))
    else:
        state, why = "killed", "its process is gone without a word"
    seconds = finite((summary or {}).get("train_seconds"))
    return RunStatus(
        state=state,
        why=why,
        step=step,
        n_steps=_planned(config, rows),
        seconds=_age_s(folder) if seconds is None else seconds,
        config=config,
        summary=summary,
    )


def finite(value: Any) -> float | None:
    """`value` where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _planned(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int | None:
    """`max_steps`, or what the epochs so far say of the whole."""
    stated = finite(config.get("max_steps"))
    if stated is not None and stated > 0:
        return int(stated)
    epochs = finite(config.get("num_train_epochs", 3))
    for row in reversed(rows):
        step, epoch = finite(row.get("step")), finite(row.get("epoch"))
        if epochs and step and epoch:
            return max(int(step), round(step * epochs / epoch))
    return None


def _age_s(folder: Path) -> float | None:
    try:
        first, last = (folder / "config.yaml").stat().st_mtime, (folder / "metrics.jsonl").stat().st_mtime
    except OSError:
        return None
    return max(0.0, last - first)


def _went_on(folder: Path) -> bool:
    """Whether a run was resumed after it had ended, and its process has gone: it removes its lock at its end."""
    try:
        return (folder / LOCK_FILE).stat().st_mtime_ns > (folder / ENDING_FILE).stat().st_mtime_ns
    except OSError:
        return False


def _file_in(folder: Path, name: str) -> Path | None:
    """A file of a run, links followed; None where it is not there, lies outside, or is too large."""
    try:
        path = (folder / name).resolve()
        fits = path.is_file() and path.is_relative_to(folder.resolve()) and path.stat().st_size <= MAX_FILE_BYTES
    except (OSError, RuntimeError):  # removed meanwhile, or links in a circle
        return None
    return path if fits else None


def _object_in(folder: Path, name: str) -> dict[str, Any] | None:
    path = _file_in(folder, name)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _config_of(folder: Path) -> dict[str, Any]:
    path = _file_in(folder, "config.yaml")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
