"""Checkpoints that are whole or absent: written aside, moved into place, found again, and loaded to the last weight."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

PARTIAL = ".partial"
"""Checkpoints are written below this folder of the run and moved into place when complete."""


class RunStopped(RuntimeError):
    """Training had to stop; the message says what is safe and how to go on."""


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint of a run. Whatever carries the name `checkpoint-N` is complete."""
    found: str | None = get_last_checkpoint(str(folder)) if Path(folder).is_dir() else None  # type: ignore[no-untyped-call]
    return found


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


class WholeCheckpoints(Trainer):
    """To be put before another transformers `Trainer`: its checkpoints survive a kill at any moment and a full disk."""

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, PARTIAL) if getattr(self, "_saving", False) else str(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint aside, then move it into place: a kill at any moment leaves only whole checkpoints."""
        folder = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        failure = ""
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not disk_is_full(error, folder):
                raise
            failure = f"{type(error).__name__}: {error}"
        finally:
            self._saving = False
        self._stop_together(failure, folder, name)
        if self.is_world_process_zero():
            sync(folder / PARTIAL / name)
            if (folder / name).exists():
                shutil.rmtree(folder / name)
            os.replace(folder / PARTIAL / name, folder / name)
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            rotate_checkpoints(str(folder), self.args.save_total_limit, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's weights, every one of them.

        transformers saves Qwen's vision-language models under the names of the hub's files but looks for the modules' own
        names on resume, finds none, warns, and goes on with the weights the run began with (seen in 5.23). So whole
        models come back the way they are loaded elsewhere, by `from_pretrained`.
        """
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if self.is_fsdp_enabled or hasattr(target, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=next(target.parameters()).dtype)
        target.load_state_dict(saved.state_dict(), strict=True)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that were not found are no matter for a warning."""
        ignored = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = [key for key in load_result.missing_keys if key not in ignored]
        if missing and not hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            raise RunStopped(f"the checkpoint lacks {len(missing)} of the model's weights, the first: {missing[0]}")

    def _stop_together(self, failure: str, folder: Path, name: str) -> None:
        """Every rank learns of a full disk on any of them, so none waits for the others until a time-out; past this, all have
        written."""
        failure = next(filter(None, [failure, *gather_object([failure])]), "")
        if not failure:
            return
        if self.is_world_process_zero():
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        safe = last_checkpoint(folder)
        free_mib = shutil.disk_usage(folder).free // 2**20
        raise RunStopped(
            f"no space left for {name} in {folder} ({free_mib} MiB free): {failure}\n"
            f"Safe: {safe or 'no checkpoint yet'}, metrics.jsonl and completions/. Free some space, then go on with"
            f" --output_dir {folder} --resume_from_checkpoint {'true' if safe else '(from the start: no checkpoint yet)'}"
        )
