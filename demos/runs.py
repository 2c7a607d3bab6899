"""Run folders as the page shows them: found below one folder alone, read while they are still being written.

Whatever stands in a run is text from outside: of any type, any length. A link that leads out of its run is not followed.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlrl.data.markup import readable

MAX_ROWS = 400
MAX_FILE_BYTES = 64_000_000
"""Of a file of a run; a larger one is not read."""


@dataclass(frozen=True)
class Runs:
    """The runs below `root`; nothing outside it is read, links included."""

    root: Path

    def found(self) -> dict[str, Path]:
        """Name -> folder, newest first. A run is a folder with a `config.yaml`, or with the lock of one that is still loading.
        Looked for once a second, however many ask."""
        return _found(str(self.root.resolve()), int(time.monotonic() / LOOKED_FOR_EVERY_S))

    def renew(self) -> None:
        """Look for runs again at once: one was started here."""
        _found.cache_clear()

    def names(self) -> list[str]:
        """Newest first, in readable characters."""
        return list(self.found())

    def folder(self, name: str) -> Path:
        """Raises ValueError for anything that is not one of `names`."""
        found = self.found()
        if name not in found:
            raise ValueError("there is no such run; reload the page for a new list")
        return found[name]

    def models(self) -> dict[str, Path]:
        """Run -> the folder of its trained model, every file of which lies in the run: whole weights as safetensors alone."""
        return {name: folder / "final" for name, folder in self.found().items() if _is_model(folder, folder / "final")}


LOOKED_FOR_EVERY_S = 1.0
BEGINNINGS = ("config.yaml", "run.lock")
"""The first files of a run."""


@lru_cache(maxsize=4)
def _found(root: str, _second: int) -> dict[str, Path]:
    place = Path(root)
    if not place.is_dir():
        return {}
    folders = {path.parent for name in BEGINNINGS for depth in ("*", "*/*") for path in place.glob(f"{depth}/{name}")}
    inside = [(_time_of(folder), folder) for folder in folders if folder.resolve().is_relative_to(place)]
    return {_name_of(folder.relative_to(place)): folder for _, folder in sorted(inside, key=lambda one: (-one[0], one[1]))}


def _time_of(folder: Path) -> float:
    """When a run was started: a run that is written to, or resumed, keeps its place in a list."""
    times = []
    for name in BEGINNINGS:
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:  # not there, or removed meanwhile
            continue
    return times[0] if times else 0.0


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


@lru_cache(maxsize=16)
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


_STEP_FILE = re.compile(r"step_([0-9]{1,9})\.jsonl")


def step_files(folder: Path) -> dict[str, str]:
    """Step in words -> name of its file, the latest first."""
    try:
        names = os.listdir(folder / "completions")
    except OSError:
        return {}
    found = {int(match[1]): match[0] for name in names if (match := _STEP_FILE.fullmatch(name))}
    return {f"step {step}": found[step] for step in sorted(found, reverse=True)}


def newest_step_file(folder: Path) -> Path | None:
    """The newest file of completions; None where there is none."""
    newest = next(iter(step_files(folder).values()), None)
    return file_of(folder, "completions", newest) if newest else None
