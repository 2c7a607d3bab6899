"""Folders of a run that are whole or absent: finding the newest checkpoint, telling a full disk from other failures."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

PARTIAL = ".partial"
"""Checkpoints are written below this folder of the run and moved into place when complete."""


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint of a run. Whatever carries the name `checkpoint-N` is complete."""
    return get_last_checkpoint(str(folder)) if Path(folder).is_dir() else None


def disk_is_full(error: BaseException, folder: str | Path) -> bool:
    """Whether a failed write was for want of space (libraries wrap ENOSPC in errors of their own)."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if "No space left" in str(error) or "os error 28" in str(error):
        return True
    return isinstance(error, RuntimeError | OSError) and shutil.disk_usage(folder).free < 2**20


def sync(folder: Path) -> None:
    """Flush a folder's files to the disk before they are given their final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
