"""A recorded ego trajectory → the driving meta-action it shows: one word for the speed and one for the path.

Source: ours, as AlphaDrive (arXiv 2503.07608) does not state how its labels were made. The rules compare the start with the
horizon:

- STOP below `stop_mps` at the horizon; else ACCELERATE or DECELERATE when the speed changed by `speed_change_mps` or
  more; else KEEP.
- LEFT_TURN or RIGHT_TURN when the heading changed by `turn_deg` or more; else LEFT_CHANGE or RIGHT_CHANGE when the end
  lies `lane_change_m` or more to the side of the arc that has the driven length and the change of heading; else STRAIGHT.
  Following a bend is that arc, so it is no lane change.

Without a map some cases are ambiguous: half a lane change before the horizon looks like a bend, and a sharp bend like a turn.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vlrl.schema import Sample

SLACK_S = 0.25
"""How much before the horizon a trajectory may end, and how far from time 0 it may begin, in seconds."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the rules; all are positive."""

    horizon_s: float = 3.0
    stop_mps: float = 0.5
    speed_change_mps: float = 1.0
    turn_deg: float = 25.0
    lane_change_m: float = 1.75


@dataclass(frozen=True)
class Trajectory:
    """The ego vehicle from now (time 0) on, one value per pose. Headings are counter-clockwise; speeds are along the heading.
    Positions are in metres in any fixed frame of the same handedness (headings turn from x to y); None: integrated from speeds
    and headings."""

    times_s: tuple[float, ...]
    speeds_mps: tuple[float, ...]
    headings_rad: tuple[float, ...]
    positions_m: tuple[tuple[float, float], ...] | None = None


HELP = {
    "horizon_s": "how far the plan looks ahead, in seconds",
    "stop_mps": "STOP: slower than this at the horizon",
    "speed_change_mps": "ACCELERATE and DECELERATE: the speed changes by this or more until the horizon",
    "turn_deg": "turns: the heading changes by this or more until the horizon, in degrees",
    "lane_change_m": "lane changes: the end lies this far or more beside the driven arc, in metres",
}


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each threshold."""
    for field in fields(Thresholds):
        parser.add_argument(
            f"--{field.name}", type=_positive, default=field.default, help=f"{HELP[field.name]} (default {field.default})"
        )


def chosen_thresholds(args: argparse.Namespace) -> Thresholds:
    """The thresholds of the flags."""
    return Thresholds(**{field.name: getattr(args, field.name) for field in fields(Thresholds)})


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def question(horizon_s: float) -> str:
    """The question of a planning sample."""
    return f"plan the next {'three' if horizon_s == 3 else format(horizon_s, 'g')} seconds"


def plan_counts(samples: Sequence[Sample]) -> list[str]:
    """Lines with the number of samples of each plan, the most frequent first."""
    plans = Counter(f"{sample.answer['speed']}, {sample.answer['path']}" for sample in samples)
    return [f"plans      {n} {plan}" for plan, n in sorted(plans.items(), key=lambda item: (-item[1], item[0]))]


def trajectory_problem(trajectory: Trajectory, horizon_s: float) -> str | None:
    """Why a trajectory cannot be labelled, or None."""
    times = trajectory.times_s
    lengths = [len(times), len(trajectory.speeds_mps), len(trajectory.headings_rad)]
    lengths += [] if trajectory.positions_m is None else [len(trajectory.positions_m)]
    if len(set(lengths)) > 1:
        return f"times, speeds, headings and positions differ in length ({', '.join(map(str, lengths))})"
    numbers = [
        *times,
        *trajectory.speeds_mps,
        *trajectory.headings_rad,
        *(v for xy in trajectory.positions_m or () for v in xy),
    ]
    if not all(math.isfinite(value) for value in numbers):
        return "the trajectory holds a value that is not a finite number"
    if len(times) < 2 or any(later <= earlier for earlier, later in pairwise(times)):
        return f"times must rise and be two or more, got {list(times)}"
    if abs(times[0]) > SLACK_S:
        return f"the trajectory begins at {times[0]} s, not at 0"
    if times[-1] < horizon_s - SLACK_S:
        return f"the trajectory ends after {times[-1]} s, before the horizon of {horizon_s} s"
    return None


def meta_action(trajectory: Trajectory, thresholds: Thresholds) -> dict[str, str]:
    """`{"speed": word, "path": word}` of a trajectory for which `trajectory_problem` is None."""
    times, speeds = np.asarray(trajectory.times_s), np.asarray(trajectory.speeds_mps)
    end_s = min(thresholds.horizon_s, times[-1])
    end_mps = float(np.interp(end_s, times, speeds))
    return {
        "speed": _speed_word(float(speeds[0]), end_mps, thresholds),
        "path": _path_word(trajectory, end_s, thresholds),
    }


def _speed_word(start_mps: float, end_mps: float, thresholds: Thresholds) -> str:
    if abs(end_mps) < thresholds.stop_mps:
        return "STOP"
    if end_mps - start_mps >= thresholds.speed_change_mps:
        return "ACCELERATE"
    if start_mps - end_mps >= thresholds.speed_change_mps:
        return "DECELERATE"
    return "KEEP"


def _path_word(trajectory: Trajectory, end_s: float, thresholds: Thresholds) -> str:
    times = np.asarray(trajectory.times_s)
    headings = np.unwrap(np.asarray(trajectory.headings_rad))
    until = np.append(times[times < end_s], end_s)
    turned = float(np.interp(end_s, times, headings) - headings[0])
    if abs(math.degrees(turned)) >= thresholds.turn_deg:
        return "LEFT_TURN" if turned > 0 else "RIGHT_TURN"
    if trajectory.positions_m is not None:
        xy = np.asarray(trajectory.positions_m)
        path = np.stack([np.interp(until, times, xy[:, axis]) for axis in (0, 1)], axis=1)
    else:
        path = _integrated(until, np.interp(until, times, trajectory.speeds_mps), np.interp(until, times, headings))
    steps = np.diff(path, axis=0)
    driven_m = float(np.hypot(steps[:, 0], steps[:, 1]).sum())
    _, left = (path[-1] - path[0]) @ _axes(float(headings[0]))
    arc_left = driven_m * (1 - math.cos(turned)) / turned if abs(turned) > 1e-9 else 0.0
    beside = float(left) - arc_left
    if abs(beside) >= thresholds.lane_change_m:
        return "LEFT_CHANGE" if beside > 0 else "RIGHT_CHANGE"
    return "STRAIGHT"


def _integrated(times: NDArray[np.float64], speeds: NDArray[np.float64], headings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions, poses by 2, from speeds and headings by the trapezoid rule."""
    velocity = speeds[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    steps = (velocity[1:] + velocity[:-1]) / 2 * np.diff(times)[:, None]
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def _axes(heading: float) -> NDArray[np.float64]:
    """Columns: unit vectors forward and to the left of a vehicle with this heading."""
    return np.array([[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]])
