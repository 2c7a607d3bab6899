"""nuScenes tables → planning samples: front camera key frames, labelled by the recorded trajectory of the car.

    python data_prep/nuscenes.py --root nuscenes --version v1.0-mini --out nuscenes_plan.jsonl

Reads the tables scene, sample, sample_data, ego_pose, calibrated_sensor and sensor (JSON, schema of nuScenes v1.0) and the
images of one camera; no nuscenes-devkit is needed. Every key frame (2 Hz) whose scene lasts another `--horizon_s`
seconds is a sample; the ego poses of all frames of the camera (12 Hz) up to there are its trajectory, from which
`data_prep.meta_actions` derives the words. Speeds are displacements along the heading over half a second.

nuScenes records no navigation command. `--route_m 50` writes one from the recorded route: how the heading has changed
after that many metres. Without it the sample does not state where the driver wants to go.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.meta_actions import (
    SLACK_S,
    Thresholds,
    Trajectory,
    add_threshold_options,
    chosen_thresholds,
    meta_action,
    plan_counts,
    question,
    trajectory_problem,
)
from data_prep.rows import read_json
from data_prep.text_encoding import read_text
from data_prep.writing import Report, add_output_options, check_output_options, draw, finish, image_size_px, program
from vlrl.schema import Sample

HALF_WINDOW_S = 0.25
T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """One image of the camera and where the car was: metres and radians in the frame of the map."""

    sample_token: str
    file: str
    is_key: bool
    time_us: int
    x_m: float
    y_m: float
    yaw_rad: float


def main(argv: Sequence[str] | None = None) -> int:
    """Read, label, write. Returns the exit code; the last line printed is the file written."""
    args = _arguments(argv)
    target = check_output_options(args)
    report = Report.of(args)
    tables = args.root / args.version
    frames_of = read_frames(tables, args.camera, report)
    scenes = {token: name for token, name in scene_names(tables, report).items() if not args.scenes or name in args.scenes}
    for name in report.each("scenes of --scenes", sorted(set(args.scenes or ()))):
        if name not in scenes.values():
            report.bad(str(tables / "scene.json"), f"no scene {name!r} (--scenes)")
    thresholds = chosen_thresholds(args)
    samples = [
        sample
        for token, name in sorted(scenes.items(), key=lambda item: item[1])
        for sample in scene_samples(frames_of.get(token, []), name, thresholds, args, report)
    ]
    samples = draw(samples, args.limit, args.seed)
    lines = [
        f"scenes     {len({sample.meta['scene'] for sample in samples})} (of {len(scenes)})",
        f"too late   {report.counts['too late']} key frames less than {thresholds.horizon_s:g} s before the end of their scene",
        *plan_counts(samples),
    ]
    return finish(samples, target, report, lines, f"{len(scenes)} scenes, {report.counts['too late']} key frames too late")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="nuScenes tables -> planning samples (JSONL)")
    parser.add_argument("--root", type=Path, required=True, help="folder with samples/ and the folder of tables")
    parser.add_argument("--version", default="v1.0-trainval", help="folder of tables (default v1.0-trainval)")
    parser.add_argument("--camera", default="CAM_FRONT", help="channel of the images (default CAM_FRONT)")
    parser.add_argument(
        "--scenes", nargs="+", metavar="NAME", help="scenes to use, or one text file with one name per line (default: all)"
    )
    parser.add_argument("--route_m", type=float, metavar="M", help="write meta.navigation from the route M metres ahead")
    add_threshold_options(parser)
    add_output_options(parser)
    args = parser.parse_args(argv)
    for table in ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor"):
        path = args.root / args.version / f"{table}.json"
        if not path.is_file():
            parser.error(f"--root, --version: no such table {path}")
    if args.route_m is not None and not args.route_m > 0:
        parser.error(f"--route_m must be above 0, got {args.route_m}")
    if args.scenes and len(args.scenes) == 1 and Path(args.scenes[0]).is_file():
        args.scenes = [line.strip() for line in read_text(Path(args.scenes[0])).splitlines() if line.strip()]
    args.dataset = args.dataset or "nuscenes"
    return args


def read_table(path: Path, keys: Sequence[str], take: Callable[[dict[str, Any]], T | None], report: Report) -> list[T]:
    """The results of `take` for each row, None left out. Rows that lack one of `keys`, or for which `take` raises ValueError or
    TypeError, are reported. `take` runs while the file is read, as the large tables hold millions of rows."""
    taken: list[T] = []
    what, n_rows = f"rows of {path.name}", 0

    def row_read(row: dict[str, Any]) -> None:
        nonlocal n_rows
        n_rows += 1
        where = f"{path}: row {n_rows} (token {row.get('token')!r})"
        lacking = [key for key in keys if key not in row]
        if lacking:
            report.bad(where, f"it lacks {', '.join(lacking)}", what=what, is_read=True)
            return
        try:
            one = take(row)
        except (TypeError, ValueError) as error:
            report.bad(where, str(error), what=what, is_read=True)
            return
        if one is not None:
            taken.append(one)

    content = read_json(path, object_hook=row_read)
    if not isinstance(content, list):
        raise SystemExit(f"{path}: a nuScenes table is a JSON list of rows")
    report.total(what, n_rows)
    return taken


def scene_names(tables: Path, report: Report) -> dict[str, str]:
    """Name by token of every scene."""
    return dict(read_table(tables / "scene.json", ("token", "name"), lambda row: (row["token"], row["name"]), report))


def read_frames(tables: Path, camera: str, report: Report) -> dict[str, list[Frame]]:
    """The camera's frames by scene token, in time. Ends the program where no image is of this camera."""
    sensors = read_table(tables / "sensor.json", ("token", "channel"), lambda row: (row["token"], row["channel"]), report)
    wanted = {token for token, channel in sensors if channel == camera}
    if not wanted:
        known = ", ".join(sorted(channel for _, channel in sensors))
        raise SystemExit(f"{tables / 'sensor.json'}: no channel {camera!r} (--camera); it has {known}")
    mounted = set(
        read_table(
            tables / "calibrated_sensor.json",
            ("token", "sensor_token"),
            lambda row: row["token"] if row["sensor_token"] in wanted else None,
            report,
        )
    )
    frame_rows = read_table(
        tables / "sample_data.json",
        ("token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "filename", "timestamp", "is_key_frame"),
        lambda row: _frame_row(row) if row["calibrated_sensor_token"] in mounted else None,
        report,
    )
    needed = {row["ego_pose_token"] for row in frame_rows}
    poses = dict(
        read_table(
            tables / "ego_pose.json",
            ("token", "translation", "rotation"),
            lambda row: (row["token"], _pose(row)) if row["token"] in needed else None,
            report,
        )
    )
    scene_of = dict(
        read_table(tables / "sample.json", ("token", "scene_token"), lambda row: (row["token"], row["scene_token"]), report)
    )
    frames_of: dict[str, list[Frame]] = {}
    for row in report.each("frames of the camera", sorted(frame_rows, key=lambda row: row["timestamp"])):
        where = f"{tables / 'sample_data.json'}: token {row['token']!r}"
        if row["sample_token"] not in scene_of:
            report.bad(where, f"no sample with token {row['sample_token']!r}")
        elif row["ego_pose_token"] not in poses:
            report.bad(where, f"no usable ego pose with token {row['ego_pose_token']!r}")
        else:
            x, y, yaw = poses[row["ego_pose_token"]]
            frame = Frame(row["sample_token"], row["filename"], row["is_key_frame"], row["timestamp"], x, y, yaw)
            frames_of.setdefault(scene_of[row["sample_token"]], []).append(frame)
    return frames_of


def _frame_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself. Raises ValueError where its file name, time, key-frame flag or sample has the wrong type."""
    for key, kind in (("filename", str), ("timestamp", int), ("is_key_frame", bool), ("sample_token", str)):
        if type(row[key]) is not kind:
            raise ValueError(f"{key} must be {kind.__name__}, got {row[key]!r}")
    return row


def _pose(row: dict[str, Any]) -> tuple[float, float, float]:
    """Position in metres and yaw in radians. Raises ValueError."""
    for key, axes in (("translation", "xyz"), ("rotation", "wxyz")):
        value = row[key]
        if not isinstance(value, list) or len(value) != len(axes) or not all(math.isfinite(one) for one in value):
            raise ValueError(f"{key} must be [{', '.join(axes)}], got {value}")
    w, x, y, z = row["rotation"]
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return float(row["translation"][0]), float(row["translation"][1]), yaw


@dataclass(frozen=True)
class Drive:
    """One scene as arrays with one value per frame: times in s, positions in m `[frames, 2]`, unwrapped yaws in radians, speeds
    in m/s."""

    times: NDArray[np.float64]
    xy: NDArray[np.float64]
    yaws: NDArray[np.float64]
    speeds: NDArray[np.float64]


def drive_of(frames: Sequence[Frame]) -> Drive:
    """The drive of `frames`: two or more, sorted by time, at distinct times."""
    times = np.array([(frame.time_us - frames[0].time_us) / 1e6 for frame in frames])
    xy = np.array([(frame.x_m, frame.y_m) for frame in frames])
    yaws = np.unwrap(np.array([frame.yaw_rad for frame in frames]))
    before, after = np.maximum(times - HALF_WINDOW_S, times[0]), np.minimum(times + HALF_WINDOW_S, times[-1])
    moved = np.stack([np.interp(after, times, axis) - np.interp(before, times, axis) for axis in xy.T], axis=1)
    speeds = (moved[:, 0] * np.cos(yaws) + moved[:, 1] * np.sin(yaws)) / (after - before)
    return Drive(times, xy, yaws, speeds)


def scene_samples(
    frames: Sequence[Frame], scene: str, thresholds: Thresholds, args: argparse.Namespace, report: Report
) -> list[Sample]:
    """One sample per key frame whose horizon lies inside the scene."""
    frames = [
        frame
        for frame, before in zip(frames, [None, *frames], strict=False)
        if before is None or frame.time_us > before.time_us
    ]
    if len(frames) < 2:
        return []
    drive = drive_of(frames)
    samples: list[Sample] = []
    for index, frame in report.each("key frames", [pair for pair in enumerate(frames) if pair[1].is_key]):
        times = drive.times - drive.times[index]
        ahead = (times >= 0) & (times <= thresholds.horizon_s + SLACK_S)
        trajectory = Trajectory(
            times_s=tuple(times[ahead].tolist()),
            speeds_mps=tuple(drive.speeds[ahead].tolist()),
            headings_rad=tuple(drive.yaws[ahead].tolist()),
            positions_m=tuple((x, y) for x, y in drive.xy[ahead].tolist()),
        )
        if times[-1] < thresholds.horizon_s - SLACK_S:
            report.counts["too late"] += 1
            continue
        path = args.root / frame.file
        problem = trajectory_problem(trajectory, thresholds.horizon_s) or image_size_px(path)[1]
        if problem is not None:
            report.bad(f"scene {scene}, sample {frame.sample_token}", problem)
            continue
        meta: dict[str, Any] = {"speed_mps": round(max(float(drive.speeds[index]), 0.0), 1)}
        route = None if args.route_m is None else route_ahead(drive, index, args.route_m, thresholds.turn_deg)
        meta |= {"navigation": {f"{args.route_m:g}m": route}} if route else {}
        meta |= {"dataset": args.dataset, "split": args.version, "scene": scene, "source_id": frame.sample_token}
        samples.append(
            Sample(
                id=f"{args.dataset}-{frame.sample_token}",
                task="planning",
                question=question(thresholds.horizon_s),
                answer=meta_action(trajectory, thresholds),
                images=(str(path),),
                meta=meta,
            )
        )
    return samples


def route_ahead(drive: Drive, index: int, route_m: float, turn_deg: float) -> str | None:
    """The command that describes the recorded route over `route_m` metres from frame `index`; None where the scene ends
    before."""
    steps = np.hypot(*np.diff(drive.xy[index:], axis=0).T)
    driven = np.concatenate([[0.0], np.cumsum(steps)])
    if driven[-1] < route_m:
        return None
    turned = math.degrees(float(np.interp(route_m, driven, drive.yaws[index:]) - drive.yaws[index]))
    if abs(turned) < turn_deg:
        return "go straight"
    return "turn left" if turned > 0 else "turn right"


if __name__ == "__main__":
    sys.exit(program(main))
