"""The state of a run for the page: read from its small files, again only when one of them has changed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demos.runs import file_of, newest_step_file, read_lines, stamp
from vlrl.training.run_lock import LOCK_FILE, holder
from vlrl.training.run_speed import RunSpeed, speed_of
from vlrl.training.run_status import RunStatus, finite, read_status

STATE_FILES = ("config.yaml", "metrics.jsonl", "ending.json", "summary.json", LOCK_FILE)
KEPT = 500
"""Runs whose state is kept."""
QUIET_S = 60.0
"""After so long without a logged step, a running run is said to have logged nothing for that time."""


@dataclass(frozen=True)
class State:
    """How a run stands."""

    status: RunStatus
    speed: RunSpeed
    phase: str
    """What a running run does now, in words; "" where it takes its training steps."""
    quiet_s: float | None
    """Seconds since the last logged step of a running run."""

    @property
    def share(self) -> float | None:
        """Of the planned steps, in 0..1."""
        now = self.status
        return None if not now.n_steps else min(1.0, now.step / now.n_steps)


_known: OrderedDict[str, tuple[Any, State]] = OrderedDict()
_lock = threading.Lock()


def state_of(folder: Path) -> State:
    """The state of the run in a folder."""
    sft = file_of(folder, "sft", "metrics.jsonl")
    metrics = file_of(folder, "metrics.jsonl")
    who = holder(folder) if file_of(folder, "run.lock") else ""
    quiet_s = None if not who or metrics is None else max(0.0, time.time() - stamp(metrics)[1] / 1e9)
    is_quiet = quiet_s is not None and quiet_s > QUIET_S
    minutes = int((quiet_s or 0.0) // 60) if is_quiet else 0
    key = (*(stamp(file_of(folder, name)) for name in STATE_FILES), stamp(sft), who, minutes)
    with _lock:
        kept = _known.get(str(folder))
        if kept is not None and kept[0] == key:
            _known.move_to_end(str(folder))
            return kept[1]
    rows = read_lines(metrics)
    status = read_status(folder, rows)
    speed = speed_of(rows, status.n_steps, completions_per_step(folder, status), None if status.summary else status.seconds)
    found = State(status, speed, _phase(status, rows, sft), quiet_s if is_quiet else None)
    with _lock:
        _known[str(folder)] = (key, found)
        while len(_known) > KEPT:
            _known.popitem(last=False)
    return found


def completions_per_step(folder: Path, status: RunStatus) -> int | None:
    """How many completions a training step scores: the lines of the newest file of them, where one is written for a step."""
    newest = newest_step_file(folder)
    if newest is None:
        return None
    try:
        n = newest.read_bytes().count(b"\n")
    except OSError:
        return None
    asked = [finite(status.config.get(name)) for name in ("steps_per_generation", "gradient_accumulation_steps")]
    per_generation, per_step = asked[0], asked[1] or 1.0
    return round(n * per_step / per_generation) if per_generation else n


def _phase(status: RunStatus, rows: list[dict[str, Any]], sft: Path | None) -> str:
    if status.state != "running":
        return ""
    if not status.config:
        return "loading the model and the data"
    if rows:
        is_done = status.n_steps is not None and status.step >= status.n_steps
        return "training is done; measuring the trained model on held-out samples" if is_done else ""
    supervised = [step for row in read_lines(sft) if (step := finite(row.get("step"))) is not None]
    if supervised:
        planned = finite(status.config.get("sft_steps"))
        whole = f" of {planned:.0f}" if planned else ""
        return f"supervised stage, step {supervised[-1]:.0f}{whole}"
    return "measuring the model on held-out samples, before training"
