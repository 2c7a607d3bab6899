"""Checkpoints that are whole or absent: found again, and what they hold. They are written by `guarded_trainer.py`.

And what every file of a run that one process writes needs (`write_together`): of a full disk all processes learn.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.trainer_utils import get_last_checkpoint

from vlrl.data.files import disk_is_full, free_mib
from vlrl.training import stopping

PARTIAL = ".partial"
"""Checkpoints are written below this folder of the run and moved into place when complete."""


class RunStopped(RuntimeError):
    """Training had to stop; the message says what is safe and how to go on."""


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint of a run. Whatever carries the name `checkpoint-N` is complete."""
    found: str | None = get_last_checkpoint(str(folder)) if Path(folder).is_dir() else None  # type: ignore[no-untyped-call]
    return found


def how_to_go_on(folder: str | Path) -> str:
    """The command that goes on with the run in `folder`."""
    return stopping.current().go_on or f"the same command and --output_dir {folder} --resume_from_checkpoint true"


def step_of(checkpoint: str | None) -> int:
    """The step of a checkpoint; 0 without one."""
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def full_disk_message(folder: str | Path, what: str, failure: object) -> str:
    """One line: what could not be written, how much is free, what is safe and how to go on."""
    safe = last_checkpoint(folder)
    why = " ".join(str(failure).split())[:200]
    return (
        f"no space left for {what} in {folder} ({free_mib(folder)} MiB free): {why}. Safe: {safe or 'no checkpoint yet'},"
        f" metrics.jsonl and completions/. Free some space, then go on with: {how_to_go_on(folder)}"
    )


def write_together(folder: str | Path, what: str, write: Callable[[], object], *, everyone: bool = False) -> None:
    """Call `write` on the first process, or on all of them, and wait until it is done; every process calls this.

    Where the disk is full on one process every process raises RunStopped, so that none waits for the others.
    """
    state = PartialState()
    failure = ""
    if everyone or state.is_main_process:
        try:
            write()
        except Exception as error:
            if not disk_is_full(error, folder):
                raise
            what = str(getattr(error, "filename", None) or what)
            failure = f"{type(error).__name__}: {error}"
    stop_together(failure, folder, what)


def stop_together(failure: str, folder: str | Path, what: str) -> None:
    """Every process learns of a full disk on any of them; past this, all have written. What is half written is removed, which
    also frees its space."""
    failures = gather_object([failure]) if PartialState().num_processes > 1 else [failure]
    if failure := next(filter(None, failures), ""):
        if PartialState().is_main_process:
            clear_partial(Path(folder))
        raise RunStopped(full_disk_message(folder, what, failure))


def clear_partial(folder: Path) -> None:
    """Remove what a kill or a full disk left half written in a run's folder."""
    for path in [*folder.glob("*.partial"), *(folder / "sft").glob("*.partial"), folder / PARTIAL, folder / "sft" / PARTIAL]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Flush a folder's files to the disk before they are given their final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


class CheckpointPart(Protocol):
    """Something of a run that its checkpoints hold beside what transformers saves."""

    def save(self, checkpoint: Path) -> None: ...
    def restore(self, checkpoint: Path) -> None: ...
