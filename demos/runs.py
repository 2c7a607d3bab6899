"""Run folders as the page shows them: found below one folder alone, read while they are still being written.

Whatever stands in a run is text from outside: of any type, any length. A link that leads out of its run is not followed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlrl.data.markup import readable
from vlrl.training.run_status import finite, read_status

MAX_ROWS = 400
MAX_FILE_BYTES = 64_000_000
"""Of a file of a run; a larger one is not read."""


@dataclass(frozen=True)
class Runs:
    """The runs below `root`; nothing outside it is read, links included."""

    root: Path

    def _found(self) -> dict[str, Path]:
        """Name -> folder, newest first. A run is a folder with a `config.yaml`."""
        root = self.root.resolve()
        if not root.is_dir():
            return {}
        folders = [path.parent for path in (*root.glob("*/config.yaml"), *root.glob("*/*/config.yaml"))]
        inside = [(_time_of(folder), folder) for folder in folders if folder.resolve().is_relative_to(root)]
        return {_name_of(folder.relative_to(root)): folder for _, folder in sorted(inside, key=lambda one: -one[0])}

    def names(self) -> list[str]:
        """Newest first, in readable characters."""
        return list(self._found())

    def folder(self, name: str) -> Path:
        """Raises ValueError for anything that is not one of `names`."""
        found = self._found()
        if name not in found:
            raise ValueError("there is no such run; reload the page for a new list")
        return found[name]

    def models(self) -> dict[str, Path]:
        """Run -> the folder of its trained model, every file of which lies in the run: whole weights as safetensors alone."""
        return {name: folder / "final" for name, folder in self._found().items() if _is_model(folder, folder / "final")}


def _time_of(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0


def _name_of(relative: Path) -> str:
    return readable(os.fsencode(relative).decode("utf-8", "backslashreplace"))


def _is_model(run: Path, final: Path) -> bool:
    try:
        files = list(final.iterdir())
    except OSError:
        return False
    names = {file.name for file in files}
    inside = all(file.is_file() and file.resolve().is_relative_to(run.resolve()) for file in files)
    # An adapter would name another model to load it into.
    return inside and "config.json" in names and "adapter_config.json" not in names and any(map(_is_weights, names))


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def file_of(folder: Path, *names: str) -> Path | None:
    """A file of a run, links followed. None where there is none, it lies outside of the run's folder, or is too large."""
    try:
        path = folder.joinpath(*names).resolve()
        fits = path.is_file() and path.is_relative_to(folder.resolve()) and path.stat().st_size <= MAX_FILE_BYTES
    except (OSError, RuntimeError):  # removed meanwhile, or links in a circle
        return None
    return path if fits else None


SHOWN_FILES = (
    "metrics.jsonl", "events.jsonl", "ending.json", "summary.json", "held_out.jsonl", "predictions_after.jsonl", "samples.png",
    "completions",
)  # fmt: skip


def not_shown(folder: Path) -> list[str]:
    """Files that are there and are not read: links that lead out of the run, and what is too large."""
    there = [name for name in SHOWN_FILES if os.path.lexists(folder / name)]
    return [name for name in there if file_of(folder, name) is None and not _is_own_folder(folder / name)]


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and path.resolve().is_relative_to(path.parent.resolve())


def stamp(path: Path | None) -> tuple[str, int, int]:
    """What changes whenever a file does."""
    try:
        found = path.stat() if path else None
    except OSError:
        found = None
    return ("", 0, 0) if found is None else (str(path), found.st_mtime_ns, found.st_size)


def read_lines(path: Path | None) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line that is still being written is left out."""
    return _lines(stamp(path)) if path else []


@lru_cache(maxsize=8)
def _lines(stamped: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Read again when the file has changed; many visitors look at few runs."""
    try:
        text = Path(stamped[0]).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = []
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def summary(folder: Path) -> dict[str, Any] | None:
    path = file_of(folder, "summary.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def status(folder: Path) -> str:
    """One line: what the run is, whether it goes on, how far it is, and why it ended early."""
    now = read_status(folder, read_lines(file_of(folder, "metrics.jsonl")))
    hidden = not_shown(folder)
    left_out = f" · not shown, because too large or a link out of the run: {', '.join(hidden)}" if hidden else ""
    steps = f"step {now.step}" if now.n_steps is None else f"step {now.step} of {now.n_steps}"
    why = f": {now.why[:300]}" if now.why else ""
    if now.summary is None:
        return f"{now.state} at {steps}{why}{left_out}"
    found = now.summary
    parts = (now.state + why, found.get("task"), found.get("model"), found.get("stage"), f"seed {found.get('seed')}", steps)
    return " · ".join(str(part)[:300] for part in parts) + left_out


EVENT_COLUMNS = ("step", "event", "message", "samples", "what_to_try")


def events(folders: dict[str, Path]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what went wrong in one run or two, as they say it of themselves (`events.jsonl`)."""
    several = len(folders) > 1
    rows = []
    for name, folder in folders.items():
        for row in read_lines(file_of(folder, "events.jsonl"))[:MAX_ROWS]:
            values = [row.get(key) for key in EVENT_COLUMNS]
            cells = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
            rows.append([*([name] if several else []), str(row.get("stage")), *cells])
    return [*(["run"] if several else []), "stage", "step", "event", "what was seen", "samples", "what to try"], rows


def comparison(folders: dict[str, Path]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of metrics before and after, for one run or two."""
    names = list(folders)
    found = {name: summary(folder) or {} for name, folder in folders.items()}
    metrics = list(dict.fromkeys(m for one in found.values() for m in _object(one.get("after")) if "[" not in m))
    head = ["metric", *(f"{when} · {name}" if len(names) > 1 else when for name in names for when in ("before", "after"))]
    rows = []
    for metric in metrics[:MAX_ROWS]:
        cells = [_cell(_object(found[name].get(when)).get(metric)) for name in names for when in ("before", "after")]
        rows.append([metric, *cells])
    return head, rows


def _cell(metric: Any) -> str:
    value, interval = _object(metric).get("value"), _object(metric).get("ci95")
    ends = [finite(end) for end in interval] if isinstance(interval, list) and len(interval) == 2 else []
    known = [end for end in ends if end is not None]
    return in_words(value, ".3f") + (f" [{known[0]:.3f}, {known[1]:.3f}]" if len(known) == 2 else "")


HELD_OUT = "held-out samples, before and after"
FILTERS = ("all", "lowest reward", "highest advantage", "largest change", "unparsed", "truncated")
Table = tuple[list[str], list[list[str]]]
_STEP_FILE = re.compile(r"step_([0-9]{1,9})\.jsonl")


def logged(folder: Path) -> list[str]:
    """The sets of completions that a run holds: the held-out samples once it is over, then the steps, the latest first."""
    return [*([HELD_OUT] if file_of(folder, "held_out.jsonl") else []), *_steps(folder)]


def _steps(folder: Path) -> dict[str, str]:
    """Step in words -> name of its file, the latest first."""
    try:
        names = os.listdir(folder / "completions")
    except OSError:
        return {}
    found = {int(match[1]): match[0] for name in names if (match := _STEP_FILE.fullmatch(name))}
    return {f"step {step}": found[step] for step in sorted(found, reverse=True)}


def answers(folder: Path, which: str, chosen: str) -> Table:
    """Headings and rows of the answers of one of `logged`, filtered or ordered by one of `FILTERS`; empty for any other.
    "largest change": of a held-out sample, between before and after; of a step's completion, the advantage, whatever its sign.
    Raises OtherVersion."""
    return held_out(folder, chosen) if which == HELD_OUT else completions(folder, which, chosen)


class OtherVersion(ValueError):
    """A run folder whose rows this version cannot show; the message says why."""


HELD_OUT_KEYS = frozenset({"id", "question", "ground_truth", "before", "after", "change"})


def held_out(folder: Path, chosen: str) -> Table:
    """Raises OtherVersion."""
    rows = read_lines(file_of(folder, "held_out.jsonl"))
    missing = [key for key in sorted(HELD_OUT_KEYS) if any(key not in row for row in rows)]
    if missing:
        raise OtherVersion(
            f"held_out.jsonl was written by another version of vlrl (its rows have no {', '.join(missing)}); score it again:"
            f" vlrl bench score --predictions {folder.name}/predictions_after.jsonl --task ... --output_path ..."
        )
    if chosen == "lowest reward":
        rows = sorted(rows, key=lambda row: _or(_object(row["after"]).get("value"), 2.0))
    elif chosen == "largest change":
        rows = sorted(rows, key=lambda row: -abs(_or(row["change"], 0.0)))
    elif chosen == "unparsed":
        rows = [row for row in rows if "unparsed" in [_object(row[side]).get("outcome") for side in ("before", "after")]]
    elif chosen == "truncated":
        cut = [row.get("id") for row in read_lines(file_of(folder, "predictions_after.jsonl")) if row.get("truncated")]
        names = set(map(str, cut))
        rows = [row for row in rows if str(row["id"]) in names]
    table = [
        [
            str(row["id"]),
            str(row["question"]),
            str(row["ground_truth"]),
            *(
                f"{in_words(_object(row[side]).get('value'))}  {_object(row[side]).get('answer', '')}"
                for side in ("before", "after")
            ),
            in_words(row["change"], "+.2f"),
        ]
        for row in rows[:MAX_ROWS]
    ]
    return ["sample", "question", "ground truth", "before", "after", "change"], table


def completions(folder: Path, step: str, chosen: str) -> Table:
    name = _steps(folder).get(step)
    rows = read_lines(file_of(folder, "completions", name)) if name else []
    if chosen == "lowest reward":
        rows = sorted(rows, key=_reward)
    elif chosen == "highest advantage":
        rows = sorted(rows, key=lambda row: -_or(row.get("advantage"), 0.0))
    elif chosen == "largest change":
        rows = sorted(rows, key=lambda row: -abs(_or(row.get("advantage"), 0.0)))
    elif chosen == "unparsed":
        rows = [row for row in rows if any(one.get("answer") in (None, "null") for one in _scores(row).values())]
    elif chosen == "truncated":
        rows = [row for row in rows if row.get("truncated")]
    table = []
    for row in rows[:MAX_ROWS]:
        values = ", ".join(f"{name} {in_words(one.get('value'), '.3g')}" for name, one in _scores(row).items())
        reasons = "; ".join(str(one["why"]) for one in _scores(row).values() if one.get("why"))
        advantage = in_words(row.get("advantage"), "+.2f")
        table.append([str(row.get("id", "")), values, advantage, str(row.get("completion", "")), reasons])
    return ["sample", "rewards", "advantage", "completion", "why"], table


def in_words(value: Any, form: str = ".2f") -> str:
    """A number in a form, anything else as it stands, "–" for None."""
    known = finite(value)
    return format(known, form) if known is not None else "–" if value is None else str(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _scores(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: _object(one) for name, one in _object(row.get("rewards")).items()}


def _or(value: Any, other: float) -> float:
    known = finite(value)
    return other if known is None else known


def _reward(row: dict[str, Any]) -> float:
    return sum(_or(one.get("value"), 0.0) for one in _scores(row).values())
