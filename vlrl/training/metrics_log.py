"""`metrics.jsonl`: one JSON object a logged step; no line is torn and no step is there twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrl.data.files import append_whole, write_json_lines

TRAINING_ENDED = "train_runtime"
"""A key of what a trainer logs when it ends."""
EARLY_STOPPED = "early_stopped_of"
"""A key of the last row of a training that early stopping has ended: how many steps were planned."""
_END_KEYS = frozenset(
    [TRAINING_ENDED, EARLY_STOPPED, "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"]
)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a run. What a kill left of a line is dropped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line, numbers that are not finite as null. What else is logged of a step (an evaluation, the end of the run)
    joins the step's row, where there is one. Raises OSError, and leaves the file as it was."""
    shown = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    rows = [] if "loss" in row else read_metrics(path)
    if rows and rows[-1].get("step") == row.get("step"):
        write_json_lines(path, [*rows[:-1], {**rows[-1], **shown}])
        return
    with path.open("ab", buffering=0) as file:
        append_whole(file, (json.dumps(shown) + "\n").encode())


def drop_after(path: Path, step: int) -> None:
    """Keep the steps up to `step`, each once: a run that goes on logs the later ones, and its end, again."""
    kept: dict[int, dict[str, Any]] = {}
    for row in read_metrics(path):
        logged = {key: value for key, value in row.items() if key not in _END_KEYS}
        if row.get("step", 0) <= step and not (TRAINING_ENDED in row and logged.keys() <= {"step", "epoch"}):
            kept[row.get("step", 0)] = kept.get(row.get("step", 0), {}) | logged
    if path.is_file():
        write_json_lines(path, kept.values())


def steps_of_ended_training(path: Path) -> int:
    """How many steps a training that came to its end has taken: those of its last row, or of the last step that was logged."""
    rows = read_metrics(path)
    ended = [row for row in rows if TRAINING_ENDED in row]
    return max((int(row.get("step", 0)) for row in ended or rows), default=0)


def has_ended(path: Path, n_steps: int) -> bool:
    """Whether a training of `n_steps` steps has come to its end, as its log says."""
    return any(TRAINING_ENDED in row and int(row.get("step", 0)) >= n_steps for row in read_metrics(path))


def early_stopped_of(path: Path) -> int | None:
    """How many steps were planned of a training that early stopping has ended; None where it was not ended so."""
    rows = read_metrics(path)
    found = rows[-1].get(EARLY_STOPPED) if rows else None
    return found if isinstance(found, int) else None
