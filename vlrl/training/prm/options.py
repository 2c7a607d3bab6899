"""The options of `--task prm`: transformers' own, ours that make sense here, and three of the loss and the data.

Order: class defaults < `configs/prm.yaml` (embedded model only) < `--config` < command line, as for every task.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from trl import ModelConfig, TrlParser  # type: ignore[attr-defined]

from vlrl.models.names import TINY_NAMES
from vlrl.training.config import CONFIGS, ConfigError, RunConfig, flag_value, nearest, read_yaml, refuse, without
from vlrl.training.flags import with_underscores
from vlrl.training.prm.trainer import LOSSES

TASK = "prm"
USED = {
    "task", "data", "eval_data", "image_root", "limit", "eval_limit", "min_pixels", "max_pixels", "freeze_vision", "dry_run",
}  # fmt: skip
"""Those of our options that mean something here."""
BASE_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
FULL_LEARNING_RATE, ADAPTER_LEARNING_RATE = 1e-5, 1e-4


@dataclass
class PrmConfig(TrainingArguments):
    """transformers' `TrainingArguments` with the defaults of reward-model training, and what only it has."""

    loss_type: str = field(default="mse", metadata={"help": "Of step values: mse, or bce (value as soft target)."})
    pairwise_weight: float = field(
        default=0.0, metadata={"help": "Weight of a logistic loss on pairs of steps of one question in a batch; 0.1 is usual."}
    )
    exclude_items: str | None = field(
        default=None,
        metadata={"help": "Items of an evaluation (JSONL): rows with their picture or question are not trained on."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that a hub repository holds."})


DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 8,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "max_grad_norm": 1.0,
    "freeze_vision": True,
    "use_peft": True,
    "lora_r": 32,
    "lora_alpha": 64,
    "gradient_checkpointing": True,
    "bf16": True,
    "logging_steps": 10,
    "save_total_limit": 2,
    "report_to": "tensorboard",
}
"""For models other than the embedded one; ours, the published recipe of ViLPRM not being known."""


@dataclass(frozen=True)
class PrmRun:
    """One resolved run; `training` stands where other tasks have GRPO's arguments."""

    run: RunConfig
    training: PrmConfig
    model: ModelConfig
    sources: tuple[str, ...]
    values: dict[str, Any]
    """Everything that was set, by a file or on the command line; as YAML it gives the same run again."""


def is_asked(argv: Sequence[str]) -> bool:
    """Whether a command line is for this task."""
    words = with_underscores(argv)
    named = flag_value(words, "task")
    path = flag_value(words, "config")
    if named is None and path is not None and Path(path).is_file():
        named = str(read_yaml(Path(path)).get("task"))
    return named == TASK


def parse(argv: Sequence[str]) -> PrmRun:
    """Resolve a command line. Raises ConfigError."""
    kinds: Any = (RunConfig, PrmConfig, ModelConfig)
    parser: Any = TrlParser(kinds, allow_abbrev=False)
    parser.error = refuse
    known = sorted({action.dest for action in parser._actions if action.dest != "help"})
    words = with_underscores(argv)
    values, sources = _read_files(words)
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown option {key!r} in {sources[-1]}{nearest(key, known)}")
    parser.set_defaults_with_config(**{"output_dir": "", **values})
    try:
        run, training, model, rest = parser.parse_args_into_dataclasses(
            args=without(words, "config"), return_remaining_strings=True
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for word in rest:
        name = word[2:].partition("=")[0]
        if word.startswith("--bench"):
            how = "python -m vlrl.bench run --task vilbench --model_name_or_path RUN/final"
            raise ConfigError(f"--task {TASK} measures itself before and after and has no {word}; afterwards: {how}")
        raise ConfigError(f"--task {TASK} has no option {word}{nearest(name, known) if word.startswith('--') else ''}")
    flags = {word[2:].partition("=")[0] for word in words if word.startswith("--")} & set(known)
    for name in flags:
        value = getattr(next(part for part in (run, training, model) if hasattr(part, name)), name)
        values[name] = value.value if isinstance(value, enum.Enum) else value
    resolved = PrmRun(run, training, model, sources, values)
    if "learning_rate" not in values:
        training.learning_rate = ADAPTER_LEARNING_RATE if model.use_peft else FULL_LEARNING_RATE
    _check(resolved)
    return resolved


def _read_files(words: list[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    path = flag_value(words, "config")
    explicit = read_yaml(Path(path)) if path else {}
    own = explicit.pop("tiny", None) or {}
    model = str(flag_value(words, "model_name_or_path") or explicit.get("model_name_or_path") or "tiny")
    if model in TINY_NAMES:
        defaults, sources = read_yaml(CONFIGS / "prm.yaml"), ["configs/prm.yaml"]
        explicit |= own
    else:
        defaults, sources = dict(DEFAULTS), ["ours for reward models"]
        if not torch.accelerator.is_available():
            defaults |= {"use_cpu": True, "bf16": False}
            sources.append("float32 on the CPU (no accelerator found)")
    values = {**defaults, **explicit, "task": TASK, "model_name_or_path": model}
    return values, (*sources, *([path] if path else []))


def _check(config: PrmRun) -> None:
    run, training = config.run, config.training
    fresh = RunConfig()
    for name in vars(fresh):
        if name not in USED and getattr(run, name) != getattr(fresh, name):
            raise ConfigError(f"--{name} has no meaning for --task {TASK}; leave it out")
    if training.loss_type not in LOSSES:
        raise ConfigError(f"--loss_type {training.loss_type}: must be one of {', '.join(LOSSES)}")
    if training.pairwise_weight < 0:
        raise ConfigError(f"--pairwise_weight {training.pairwise_weight}: must be 0 or more")
    for name, path in (("data", run.data), ("eval_data", run.eval_data), ("exclude_items", training.exclude_items)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"--{name} {path}: no such file")
    if (run.eval_data or training.exclude_items) and not run.data:
        raise ConfigError("--eval_data and --exclude_items are for --data; synthetic rows have their own held-out ones")
    for name in ("limit", "eval_limit", "min_pixels", "max_pixels"):
        value = getattr(run, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: must be at least 1")
    if training.load_best_model_at_end:
        raise ConfigError("--load_best_model_at_end is not supported: the last weights are measured and kept")
