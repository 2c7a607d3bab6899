"""How fast a run trains and how long it will take, from what it has logged. No library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.training.run_status import finite

LAST_STEPS = 20
"""Logged steps over which the speed is averaged: the latest ones."""


@dataclass(frozen=True)
class RunSpeed:
    """None where it is not known."""

    step_s: float | None
    """Seconds of a training step."""
    completions_per_s: float | None
    left_s: float | None
    """Seconds until the last step, without measurements and checkpoints."""


def speed_of(
    rows: Sequence[Mapping[str, Any]], n_steps: int | None, completions_per_step: int | None = None, age_s: float | None = None
) -> RunSpeed:
    """The mean over the latest logged steps. `rows`: of `metrics.jsonl`. `age_s`: seconds from the start of the run to its last
    logged step, for runs that do not log the time of a step."""
    times = [time for row in rows if (time := finite(row.get("step_time"))) is not None and time > 0][-LAST_STEPS:]
    steps = [step for row in rows if (step := finite(row.get("step"))) is not None]
    last = max(steps, default=0.0)
    step_s = sum(times) / len(times) if times else age_s / last if age_s and last > 0 else None
    left = None if step_s is None or n_steps is None else max(0.0, n_steps - last) * step_s
    per_s = completions_per_step / step_s if completions_per_step and step_s and times else None
    return RunSpeed(step_s, per_s, left)
