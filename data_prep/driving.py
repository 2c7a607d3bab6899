"""Driving records → planning samples: AlphaDrive's own records, our CSV or JSONL, or recorded trajectories to be labelled.

    python data_prep/driving.py --data metaad_train.json --images frames --out plan.jsonl
    python data_prep/driving.py --data log.csv --from_trajectory --turn_deg 30 --out plan.jsonl

Rows are read from JSONL, JSON (a list) or CSV (one name per column; lists and objects in a cell as JSON), each in one of three
forms:

- AlphaDrive (arXiv 2503.07608): `image`, `problem` (a sentence with the speed in m/s and the navigation command),
  `solution` ("SPEED, PATH", in answer tags or bare), `thinking` (optional; or a thought in the solution).
- ours: `image`, `speed_mps`, `navigation` (text or object, optional), `speed`, `path`, `thinking` (optional).
- `--from_trajectory`: `image`, `navigation` (optional), and the next seconds as lists `times_s` (0 = now), `speeds_mps`,
  `headings_deg` (counter-clockwise) and, where known, `positions_m` ([[x, y], ...], counter-clockwise axes). The words are
  derived by the rules of `data_prep.meta_actions`; its thresholds are flags.

`image` is a path or a list of paths, relative to `--images`. `id` is optional (default: the number of the row).
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.meta_actions import (
    Thresholds,
    Trajectory,
    add_threshold_options,
    chosen_thresholds,
    meta_action,
    plan_counts,
    question,
    trajectory_problem,
)
from data_prep.rows import Ids, checked, image_sizes, local_table
from data_prep.writing import Report, add_output_options, check_output_options, draw, finish, need_file, need_folder, program
from vlrl.answers.plans import PATHS, SPEEDS, plan_words
from vlrl.answers.span import END_THINK, THINK, answer_span
from vlrl.data.row_source import BadRow
from vlrl.schema import Sample

ALPHADRIVE_HORIZON_S = 3.0
_SPEED = re.compile(r"speed is\s*:?\s*([0-9]+(?:\.[0-9]+)?)\s*m/s", re.IGNORECASE)
_NAVIGATION = re.compile(r"navigation (?:command|instruction)s? (?:is|are)\s*:?\s*", re.IGNORECASE)
_END_OF_QUOTE = {quote: re.compile(rf"{quote}(?=\s*(?:[,.;:]|and\b|$))") for quote in "'\""}


def main(argv: Sequence[str] | None = None) -> int:
    """Read, label, check, write. Returns the exit code; the last line printed is the file written."""
    args = _arguments(argv)
    target = check_output_options(args)
    report = Report.of(args)
    thresholds = chosen_thresholds(args) if args.from_trajectory else None
    samples: list[Sample] = []
    ids, n_rows, on_bad = Ids(), 0, partial(report.bad, what="rows")
    for path in args.data:
        table = local_table(path, None)
        dataset = args.dataset or table.name
        for number, (where, row) in enumerate(report.each("rows", table.read(on_bad)), start=1):
            n_rows += 1
            try:
                sample = read_record(row, args.images or table.folder, f"{dataset}-{row.get('id', number)}", thresholds)
            except BadRow as problem:
                report.bad(where, str(problem))
                continue
            meta = {**sample.meta, "dataset": dataset, "source_id": str(row.get("id", number))}
            samples.append(Sample(ids.unique(sample.id), "planning", sample.question, sample.answer, sample.images, meta=meta))
    samples = draw(samples, args.limit, args.seed)
    return finish(samples, target, report, plan_counts(samples), f"{n_rows} rows read")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="driving records -> planning samples (JSONL)")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="files: .jsonl, .json or .csv")
    parser.add_argument("--images", type=Path, help="folder image paths are relative to (default: each file's)")
    parser.add_argument(
        "--from_trajectory", action="store_true", help="derive the words from times_s, speeds_mps and headings_deg"
    )
    add_threshold_options(parser)
    add_output_options(parser)
    args = parser.parse_args(argv)
    for path in args.data:
        need_file(parser, "--data", path)
    if args.images is not None:
        need_folder(parser, "--images", args.images)
    return args


def read_record(row: Mapping[str, Any], folder: Path, sample_id: str, thresholds: Thresholds | None) -> Sample:
    """One row in any of the three forms; `thresholds`: it holds a trajectory to be labelled. Raises BadRow."""
    images = _images(row, folder)
    image_sizes(images)
    if thresholds is not None:
        plan, meta = _from_trajectory(row, thresholds)
    elif "problem" in row:
        plan, meta = _alphadrive(row)
    else:
        plan = plan_in(f"{row.get('speed')}, {row.get('path')}")
        meta = {"speed_mps": _number(row.get("speed_mps"), "speed_mps"), "navigation": _navigation(row.get("navigation"))}
    if row.get("thinking"):
        meta["thinking"] = str(row["thinking"]).strip()
    return checked(
        Sample(
            id=sample_id,
            task="planning",
            question=question(ALPHADRIVE_HORIZON_S if thresholds is None else thresholds.horizon_s),
            answer=plan,
            images=tuple(str(path) for path in images),
            meta={key: value for key, value in meta.items() if value not in (None, "", {})},
        )
    )


def _images(row: Mapping[str, Any], folder: Path) -> list[Path]:
    named = row.get("image", row.get("images"))
    if isinstance(named, str) and named.lstrip().startswith("["):
        named = _value(named, "image")
    listed = [named] if isinstance(named, str) else named
    if not isinstance(listed, list) or not listed or not all(isinstance(path, str) and path for path in listed):
        raise BadRow(f"'image' must be a path or a list of paths, got {named!r}")
    return [folder / path for path in listed]


def _alphadrive(row: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    problem, solution = row["problem"], row.get("solution")
    if not isinstance(problem, str) or not isinstance(solution, str):
        raise BadRow(f"'problem' and 'solution' must be texts, got {problem!r} and {solution!r}")
    speed = _SPEED.search(problem)
    if speed is None:
        raise BadRow(f"no 'speed is ... m/s' in the problem {problem[:120]!r}")
    span = answer_span(solution)
    if span.text is None:
        raise BadRow(f"no answer in the solution {solution!r}: {span.why}")
    thought, closed, _ = solution.partition(END_THINK)
    meta: dict[str, Any] = {"speed_mps": float(speed.group(1)), "navigation": navigation_in(problem)}
    if closed:
        meta["thinking"] = thought.partition(THINK)[2].strip()
    return plan_in(span.text), meta


def plan_in(text: str) -> dict[str, str]:
    """ "KEEP, LEFT_TURN" in any order and case → the plan. Raises BadRow unless it is one word of each kind."""
    plan = plan_words(text)
    if plan.speed is None or plan.path is None:
        raise BadRow(f"{text!r} is not one of {', '.join(SPEEDS)} and one of {', '.join(PATHS)}")
    return {"speed": plan.speed, "path": plan.path}


def navigation_in(problem: str) -> str | dict[str, str] | None:
    """The navigation command of AlphaDrive's sentence: quoted text, or an object such as {'100m': 'Straight'}."""
    found = _NAVIGATION.search(problem)
    if found is None:
        return None
    rest = problem[found.end() :]
    opened, rest = rest[:1], rest[1:] if rest[:1] in _END_OF_QUOTE else rest
    if rest.startswith("{"):
        return _navigation(rest[: rest.find("}") + 1])
    end = _END_OF_QUOTE[opened].search(rest) if opened in _END_OF_QUOTE else re.search(r"[,.;\n]|$", rest)
    return rest[: end.start()].strip() if end else rest.strip()


def _navigation(value: Any) -> str | dict[str, str] | None:
    """A command as text, or commands by distance; objects also as JSON or Python text, as they stand in sentences."""
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError) as error:
            raise BadRow(f"navigation {value!r} is not an object") from error
    if value is None or isinstance(value, str):
        return value and value.strip()
    if not isinstance(value, dict):
        raise BadRow(f"navigation must be a text or an object, got {value!r}")
    return {str(place): str(command) for place, command in value.items()}


def _from_trajectory(row: Mapping[str, Any], thresholds: Thresholds) -> tuple[dict[str, str], dict[str, Any]]:
    positions = row.get("positions_m")
    trajectory = Trajectory(
        times_s=_numbers(row.get("times_s"), "times_s"),
        speeds_mps=_numbers(row.get("speeds_mps"), "speeds_mps"),
        headings_rad=tuple(math.radians(value) for value in _numbers(row.get("headings_deg"), "headings_deg")),
        positions_m=None if positions is None else _positions(positions),
    )
    problem = trajectory_problem(trajectory, thresholds.horizon_s)
    if problem is not None:
        raise BadRow(problem)
    meta = {"speed_mps": round(trajectory.speeds_mps[0], 1), "navigation": _navigation(row.get("navigation"))}
    return meta_action(trajectory, thresholds), meta


def _positions(value: Any) -> tuple[tuple[float, float], ...]:
    pairs = _value(value, "positions_m")
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise BadRow(f"positions_m must be a list of [x, y], got {str(value)[:80]}")
    return tuple((_number(x, "positions_m"), _number(y, "positions_m")) for x, y in pairs)


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    listed = _value(value, name)
    if not isinstance(listed, list):
        raise BadRow(f"{name} must be a list of numbers, got {str(value)[:80]}")
    return tuple(_number(one, name) for one in listed)


def _value(value: Any, name: str) -> Any:
    """A cell that holds JSON (CSV knows only text), or the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadRow(f"{name} is not JSON: {value[:80]!r}") from error


def _number(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{name} must be a finite number, got {value!r}")
    return number


if __name__ == "__main__":
    sys.exit(program(main))
