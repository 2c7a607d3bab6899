"""Checkpoints that are whole or absent: written aside, moved into place, found again, and loaded to the last weight.

And what every file of a run that one process writes needs (`write_together`): of a full disk all processes learn.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from vlrl.data.files import disk_is_full, free_mib
from vlrl.models.names import ModelError
from vlrl.models.whole_files import load_weights, one_line
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
    _stop_together(failure, folder, what)


def _stop_together(failure: str, folder: str | Path, what: str) -> None:
    """Every process learns of a full disk on any of them; past this, all have written."""
    failures = gather_object([failure]) if PartialState().num_processes > 1 else [failure]
    if failure := next(filter(None, failures), ""):
        raise RunStopped(full_disk_message(folder, what, failure))


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

        def place() -> None:
            sync(folder / PARTIAL / name)
            if (folder / name).exists():
                shutil.rmtree(folder / name)
            os.replace(folder / PARTIAL / name, folder / name)
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            rotate_checkpoints(str(folder), self.args.save_total_limit, use_mtime=True)

        try:
            _stop_together(failure, folder, name)
            write_together(folder, name, place)
        except RunStopped:
            if self.is_world_process_zero():
                shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            raise

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, without training on from it. Raises RunStopped where they lie in parts."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise RunStopped(
                f"all steps are taken, but {self.args.output_dir}/final is missing and {checkpoint} holds the weights in parts:"
                " join them with the tool that DeepSpeed or FSDP has for it, or train one step more (--max_steps)"
            )
        self._load_from_checkpoint(checkpoint)

    def planned_steps(self) -> int:
        """How many steps training takes in all, as transformers counts them."""
        if self.args.max_steps > 0:
            return int(self.args.max_steps)
        return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's weights, every one of them.

        transformers saves Qwen's vision-language models under the names of the hub's files but looks for the modules' own
        names on resume, finds none, warns, and goes on with the weights the run began with (seen in 5.23). So whole
        models come back the way they are loaded elsewhere, by `from_pretrained`.
        """
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        has_adapters = (Path(resume_from_checkpoint) / "adapter_config.json").is_file()
        if has_adapters != hasattr(target, "peft_config") and not self.is_fsdp_enabled:
            held, wanted = ("adapters", "all weights") if has_adapters else ("all weights", "adapters")
            raise ModelError(
                f"{resume_from_checkpoint} holds {held}, this run trains {wanted} (--use_peft); go on with the flags that the"
                " run was started with"
            )
        with one_line(resume_from_checkpoint, "its weights do not fit this run's model"):
            if self.is_fsdp_enabled or has_adapters:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            saved = load_weights(type(target), resume_from_checkpoint, dtype=next(target.parameters()).dtype)
            target.load_state_dict(saved.state_dict(), strict=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with one_line(str(checkpoint), "its optimizer's state does not fit; is --optim another one now?"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with one_line(str(checkpoint), "the states of its random generators cannot be read"):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that were not found are no matter for a warning."""
        ignored = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = [key for key in load_result.missing_keys if key not in ignored]
        if missing and not hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            raise RunStopped(f"the checkpoint lacks {len(missing)} of the model's weights, the first: {missing[0]}")
