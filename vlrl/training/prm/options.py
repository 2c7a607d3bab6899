"""The options of `--task prm` that no library has, and the files they come from, checked. No torch.

Order: class defaults < `configs/prm.yaml` (embedded model only) < `--config` < command line, as for every task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.models.names import TINY_NAMES
from vlrl.training import options
from vlrl.training.library_options import Option, read_options
from vlrl.training.options import CONFIGS, ConfigError, FileValues, RunConfig, check_file, environment_of, flag_value, read_yaml
from vlrl.training.reward_models import options as rm_options
from vlrl.training.reward_models.options import TASK as RM_TASK
from vlrl.training.reward_models.options import RmOptions, check_rm

TASK = "prm"
TASKS_WITH_HEAD = (TASK, RM_TASK)
LOSSES = ("mse", "bce")
USED = {
    "task", "data", "eval_data", "image_root", "limit", "eval_limit", "min_pixels", "max_pixels", "freeze_vision", "dry_run",
    "stop_on", "save_minutes", "max_hours",
}  # fmt: skip
"""The options of every run that mean something here."""


@dataclass(frozen=True)
class PrmOptions:
    """The options that only reward-model training has."""

    loss_type: str = field(default="mse", metadata={"help": "Of step values: mse, or bce (value as soft target)."})
    pairwise_weight: float = field(
        default=0.0, metadata={"help": "Weight of a logistic loss on pairs of steps of one question in a batch; 0.1 is usual."}
    )
    exclude_items: str | None = field(
        default=None,
        metadata={"help": "Items of an evaluation (JSONL): rows with their image or question are not trained on."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that a hub repository holds."})


BASE_DEFAULTS: dict[str, Any] = {
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


def prm_flags() -> dict[str, Option]:
    """Our options that a command line of this task may hold; the others of a run are refused with a reason."""
    sources = [(options.__file__, "RunConfig"), (__file__, "PrmOptions"), (rm_options.__file__, "RmOptions")]
    found: dict[str, Option] = {}
    for file, name in sources:
        found |= read_options(Path(str(file)), name)
    return {**found, "config": Option("config", "str | None", help="YAML file of options; the command line is stronger.")}


def is_requested(words: Sequence[str]) -> bool:
    """Whether a command line trains a model with a value head (`--task prm` or `--task rm`)."""
    return task_of(words) in TASKS_WITH_HEAD


def task_of(words: Sequence[str]) -> str | None:
    """The task that a command line names, itself or by its file."""
    named = flag_value(words, "task")
    path = flag_value(words, "config")
    if named is None and path is not None and Path(path).is_file():
        named = str(read_yaml(Path(path)).get("task"))
    return named


def hint(name: str) -> str:
    """What to do instead of an option that this task does not have."""
    if not name.startswith("bench"):
        return ""
    how = "python -m vlrl.bench run --task vilbench --model_name_or_path RUN/final"
    return f": it measures itself before and after; afterwards: {how}"


def read_prm_files(words: Sequence[str]) -> FileValues:
    """`configs/prm.yaml` (`rm.yaml`) for the embedded model, else `BASE_DEFAULTS`, then `--config`."""
    task = task_of(words) or TASK
    path = flag_value(words, "config")
    explicit = read_yaml(Path(path)) if path else {}
    own, environment = explicit.pop("tiny", None) or {}, environment_of(explicit)
    model = str(flag_value(words, "model_name_or_path") or explicit.get("model_name_or_path") or "tiny")
    embedded = model in TINY_NAMES
    defaults = read_yaml(CONFIGS / f"{task}.yaml") if embedded else BASE_DEFAULTS
    explicit |= own if embedded else {}
    sources = (f"configs/{task}.yaml" if embedded else "defaults for reward models", *([path] if path else []))
    named = {"task": task, "model_name_or_path": model}
    return FileValues(defaults, explicit, named, sources, embedded, environment)


def check(run: RunConfig, prm: PrmOptions, rm: RmOptions) -> None:
    """Our own options of these tasks. Raises ConfigError."""
    fresh = RunConfig()
    for name in vars(fresh):
        if name not in USED and getattr(run, name) != getattr(fresh, name):
            raise ConfigError(f"--{name} has no meaning for --task {run.task}; leave it out")
    others, of_others = (prm, PrmOptions()) if run.task == RM_TASK else (rm, RmOptions())
    for name in vars(of_others):
        if name != "trust_remote_code" and getattr(others, name) != getattr(of_others, name):
            raise ConfigError(f"--{name} has no meaning for --task {run.task}; leave it out")
    if prm.loss_type not in LOSSES:
        raise ConfigError(f"--loss_type {prm.loss_type}: must be one of {', '.join(LOSSES)}")
    if prm.pairwise_weight < 0:
        raise ConfigError(f"--pairwise_weight {prm.pairwise_weight}: must be 0 or more")
    check_rm(rm)
    check_file("exclude_items", prm.exclude_items)
    if (run.eval_data or prm.exclude_items) and not run.data:
        raise ConfigError("--eval_data and --exclude_items are for --data; synthetic rows have their own held-out ones")
    options.check_run(run)
