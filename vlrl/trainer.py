"""GRPO through TRL's `GRPOTrainer`, with what a long run needs: checkpoints that survive a kill, one readable line a step,
every completion on disk with its score and why.

The only file that subclasses TRL's trainer. The mathematics (advantages, loss, KL) is TRL's, untouched.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer

from vlrl.model import Loaded, vision_token_ids
from vlrl.prompts import Samples, dataset
from vlrl.rewards import as_trl, load_reward
from vlrl.schema import Task

PARTIAL = ".partial"
"""Checkpoints are written below this folder of the run and moved into place when complete."""


class RunStopped(RuntimeError):
    """Training had to stop; the message says what is safe and how to go on."""


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


class Trainer(GRPOTrainer):  # type: ignore[misc]
    """`GRPOTrainer` fed with `Samples`, paid by vlrl's rewards."""

    def __init__(
        self,
        loaded: Loaded,
        task: Task,
        rewards: tuple[str, ...],
        samples: Samples,
        args: GRPOConfig,
        peft_config: Any = None,
    ) -> None:
        self._banned = vision_token_ids(loaded)
        kwargs = dict(args.generation_kwargs or {})
        if args.use_vllm:
            kwargs.setdefault("logit_bias", dict.fromkeys(self._banned, -100.0))
        else:
            kwargs.setdefault("suppress_tokens", self._banned)
        args.generation_kwargs = kwargs
        self._line_columns = [load_reward(name).name for name in rewards]
        super().__init__(
            model=loaded.model,
            processing_class=loaded.processor,
            reward_funcs=[as_trl(load_reward(name)) for name in rewards],
            args=args,
            train_dataset=dataset(samples, task),
            peft_config=peft_config,
        )
        self._samples = samples
        self._banned_set = frozenset(self._banned)
        self._started: tuple[float, int] | None = None
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    # -- scoring -------------------------------------------------------------------------------------------------------

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        for row, ids in zip(inputs, completion_ids_list, strict=True):
            sampled = self._banned_set.intersection(ids)
            if sampled:
                words = self._tokenizer.convert_ids_to_tokens(sorted(sampled))
                raise RunStopped(
                    f"a completion of sample {row['sample'].id!r} holds vision tokens {words}; they are banned from"
                    " sampling, so the generation backend ignored the ban"
                )
        self._log_completion_extra("id", [row["sample"].id for row in inputs])
        self._log_completion_extra("truncated", [not ids or ids[-1] not in self._ends for ids in completion_ids_list])
        self._log_completion_extra("n_tokens", [len(ids) for ids in completion_ids_list])
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @property
    def _ends(self) -> set[int]:
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    # -- logging -------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._started is None:
            self._started = (time.monotonic(), max(self.state.global_step - 1, 0))
        super().log(logs, start_time)
        if not self.accelerator.is_main_process:
            return
        row = {"step": self.state.global_step, **logs}
        row = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        folder = Path(self.args.output_dir)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if "reward" in logs:
            self._write_completions(folder / "completions" / f"step_{self.state.global_step:06d}.jsonl")
            print(self._line(row), flush=True)

    def _write_completions(self, path: Path) -> None:
        """The latest generation batch, one completion a line, groups adjacent."""
        path.parent.mkdir(parents=True, exist_ok=True)
        extra = self._logs["extra"]
        with path.open("w", encoding="utf-8") as file:
            for i, completion in enumerate(self._logs["completion"]):
                row: dict[str, Any] = {"step": self.state.global_step, "id": extra["id"][i]}
                row["prompt"] = _text_of(self._logs["prompt"][i])
                row["completion"] = _text_of(completion)
                row["n_tokens"], row["truncated"] = extra["n_tokens"][i], extra["truncated"][i]
                row["rewards"] = {
                    name: {
                        "value": _finite(values[i]),
                        "answer": extra[f"{name}/answer"][i] if f"{name}/answer" in extra else None,
                        "why": extra[f"{name}/why"][i] if f"{name}/why" in extra else None,
                    }
                    for name, values in self._logs["rewards"].items()
                }
                row["advantage"] = self._logs["advantages"][i]
                file.write(json.dumps(row, ensure_ascii=True) + "\n")

    def _line(self, row: dict[str, Any]) -> str:
        started, first = self._started or (time.monotonic(), 0)
        done = self.state.global_step - first
        left = self.state.max_steps - self.state.global_step
        seconds = row.get("step_time") or 0.0
        eta = (time.monotonic() - started) / max(done - 1, 1) * left if done > 1 else seconds * left
        parts = [f"{name} {_number(row.get(f'rewards/{name}/mean'))}" for name in self._line_columns]
        return (
            f"step {self.state.global_step}/{self.state.max_steps}  reward {_number(row.get('reward'))}"
            f" ±{_number(row.get('reward_std'))}  {'  '.join(parts)}"
            f"  zero-std {_number(row.get('frac_reward_zero_std'))}"
            f"  len {row.get('completions/mean_length') or 0:.1f}"
            f"  cut {_number(row.get('completions/clipped_ratio'))}"
            f"  {seconds:.1f} s  ETA {_clock(eta)}"
        )

    # -- checkpoints ---------------------------------------------------------------------------------------------------

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
            _sync(folder / PARTIAL / name)
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
        """Every rank learns of a full disk, so none waits for the others until a time-out."""
        if self.accelerator.num_processes > 1:
            shared = [failure]
            broadcast_object_list(shared, from_process=0)
            failure = failure or shared[0]
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


def _sync(folder: Path) -> None:
    """Flush a folder's files to the disk before they are given their final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _text_of(value: Any) -> str:
    """The text of a message list (images as `[image]`), or the string itself."""
    if isinstance(value, str):
        return value
    parts: list[str] = []
    for message in value:
        content = message["content"]
        if isinstance(content, str):
            parts.append(content)
        else:
            parts += ["[image]" if part["type"] == "image" else part.get("text", "") for part in content]
    return "".join(parts)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
