"""The options of `--stage dpo`, and the files they come from, checked. No torch.

Order: class defaults < the defaults below < `--config` < command line. A TRL option that this stage would drop is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.models.names import TINY_NAMES
from vlrl.training import options
from vlrl.training.library_options import Option, read_options
from vlrl.training.options import ConfigError, FileValues, RunConfig, environment_of, flag_value, read_yaml

DPO_STAGE = "dpo"
USED_IN_DPO = {
    "stage", "data", "eval_data", "image_root", "limit", "eval_limit", "min_pixels", "max_pixels", "freeze_vision", "dry_run",
    "stop_on", "save_minutes", "max_hours",
}  # fmt: skip
"""The options of every run that mean something here."""
DPO_LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""What TRL's DPOTrainer takes as `--loss_type` (a test compares)."""
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
COUNT_TOKENS = {"ipo", "sigmoid_norm", "sft"}
"""Losses that divide by the number of tokens themselves, so that weights of tokens would count twice or not at all."""
NOT_IN_DPO = {
    "precompute_ref_log_probs": "TRL does not precompute for rows with images",
    "precompute_ref_batch_size": "TRL does not precompute for rows with images",
    "padding_free": "TRL has disabled it",
    "pad_to_multiple_of": "TRL cannot do it for rows with images",
    "dataset_num_proc": "rows are read when they are used",
    "model_init_kwargs": "the model is loaded by --dtype, --attn_implementation, --model_revision and their like",
    "remove_unused_columns": "the collator reads all of a row",
    "label_names": "pairs have no labels",
}


@dataclass(frozen=True)
class DpoOptions:
    """The options that only this stage has."""

    span_weight: float = field(
        default=1.0, metadata={"help": "Weight of the tokens that differ in a pair, gamma (RLHF-V takes 5). 1: plain DPO."}
    )
    average_logps: bool = field(
        default=False, metadata={"help": "Mean instead of sum over a completion's (weighted) tokens, as in RLHF-V's score."}
    )
    treg_alpha: float = field(
        default=0.0,
        metadata={"help": "Weight of rewards of tokens, by the values of steps in the rows (T-REG takes 0.1 to 0.5). 0: off."},
    )


DPO_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": True,
    "bf16": True,
    "logging_steps": 5,
    "save_steps": 100,
    "save_total_limit": 2,
    "report_to": "tensorboard",
    "max_length": None,
}
"""For models other than the embedded one. No `max_length`: cutting a pair could cut its image."""
EMBEDDED_DPO_DEFAULTS: dict[str, Any] = {
    **DPO_DEFAULTS,
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-4,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}


def is_dpo(words: Sequence[str]) -> bool:
    """Whether a command line is for this stage."""
    named, path = flag_value(words, "stage"), flag_value(words, "config")
    if named is None and path is not None and Path(path).is_file():
        named = str(read_yaml(Path(path)).get("stage"))
    return named == DPO_STAGE


def dpo_flags() -> dict[str, Option]:
    """Our options that a command line of this stage may hold; the others of a run are refused with a reason."""
    found = {**read_options(Path(str(options.__file__)), "RunConfig"), **read_options(Path(__file__), "DpoOptions")}
    return {**found, "config": Option("config", "str | None", help="YAML file of options; the command line is stronger.")}


def dpo_hint(name: str) -> str:
    """What to do instead of an option that this stage does not have."""
    return ": afterwards, vlrl bench run --model_name_or_path RUN/final measures it" if name.startswith("bench") else ""


def read_dpo_files(words: Sequence[str]) -> FileValues:
    """The defaults of this stage, then `--config`."""
    path = flag_value(words, "config")
    explicit = read_yaml(Path(path)) if path else {}
    own, environment = explicit.pop("tiny", None) or {}, environment_of(explicit)
    model = str(flag_value(words, "model_name_or_path") or explicit.get("model_name_or_path") or "tiny")
    embedded = model in TINY_NAMES
    explicit |= own if embedded else {}
    sources = ("defaults of preference pairs", *([path] if path else []))
    named = {"stage": DPO_STAGE, "model_name_or_path": model}
    return FileValues(EMBEDDED_DPO_DEFAULTS if embedded else DPO_DEFAULTS, explicit, named, sources, embedded, environment)


def check_dpo(run: RunConfig, dpo: DpoOptions, values: Mapping[str, Any]) -> None:
    """Everything about this stage that needs no library. Raises ConfigError."""
    fresh = RunConfig()
    for name in vars(fresh):
        if name not in USED_IN_DPO and getattr(run, name) != getattr(fresh, name):
            why = ": rows state their prompts" if name in ("task", "answer_format", "rewards") else ""
            raise ConfigError(f"--{name} has no meaning for --stage {DPO_STAGE}{why}; leave it out")
    if run.data is None:
        raise ConfigError("--stage dpo trains on preference pairs: --data pairs.jsonl (vlrl bench sample --write preferences)")
    if not 0 < dpo.span_weight < math.inf:
        raise ConfigError(f"--span_weight {dpo.span_weight}: must be a finite number above 0")
    if not 0 <= dpo.treg_alpha < math.inf:
        raise ConfigError(f"--treg_alpha {dpo.treg_alpha}: must be a finite number, 0 or more")
    for name, why in NOT_IN_DPO.items():
        if values.get(name) not in (None, False, "", "None", "False"):
            raise ConfigError(f"--{name} cannot be honoured by --stage {DPO_STAGE}: {why}; leave it out")
    if values.get("truncation_mode") not in (None, "keep_start"):
        raise ConfigError(f"--truncation_mode {values['truncation_mode']}: the end of a pair cannot be kept without its image")
    is_weighted = dpo.span_weight != 1 or dpo.average_logps
    _check_losses(values, is_weighted=is_weighted)
    if dpo.treg_alpha:
        _check_token_rewards(values, is_weighted=is_weighted)
    options.check_run(run)


def _check_losses(values: Mapping[str, Any], *, is_weighted: bool) -> None:
    stated = values.get("loss_type") or ["sigmoid"]
    losses = [stated] if isinstance(stated, str) else list(stated)
    unknown = next((one for one in losses if one not in DPO_LOSSES), None)
    if unknown is not None:
        raise ConfigError(f"--loss_type {unknown}: must be one of {', '.join(DPO_LOSSES)}")
    weights = values.get("loss_weights")
    if weights and len(weights) != len(losses):
        raise ConfigError(f"{len(weights)} --loss_weights for {len(losses)} losses ({', '.join(losses)})")
    smoothing = float(values.get("label_smoothing") or 0)
    if smoothing and not SMOOTHED & set(losses):
        raise ConfigError(
            f"--label_smoothing {smoothing:g} is read by the losses {', '.join(sorted(SMOOTHED))} alone; leave it out"
        )
    if "exo_pair" in losses and not smoothing:
        raise ConfigError("--loss_type exo_pair needs --label_smoothing above 0 (its paper takes 0.001)")
    for name, wanted, is_on in (
        ("discopop_tau", "--loss_type discopop", "discopop" in losses),
        (
            "f_alpha_divergence_coef",
            "--f_divergence_type alpha_divergence",
            values.get("f_divergence_type") == "alpha_divergence",
        ),
        ("ref_model_mixup_alpha", "--sync_ref_model", bool(values.get("sync_ref_model"))),
        ("ref_model_sync_steps", "--sync_ref_model", bool(values.get("sync_ref_model"))),
    ):
        if values.get(name) is not None and not is_on:
            raise ConfigError(f"--{name} has no effect without {wanted}: add it, or leave --{name} out")
    if values.get("sync_ref_model") and values.get("use_peft"):
        raise ConfigError("--sync_ref_model needs a reference model, which adapters do not have; leave one out")
    if not is_weighted:
        return
    counted = sorted(COUNT_TOKENS & set(losses))
    if counted:
        raise ConfigError(f"--loss_type {counted[0]} counts tokens itself, so --span_weight and --average_logps do not fit it")
    for name in ("ld_alpha", "use_weighting"):
        if values.get(name):
            raise ConfigError(f"--{name} weighs tokens its own way, so --span_weight and --average_logps do not fit it")


def _check_token_rewards(values: Mapping[str, Any], *, is_weighted: bool) -> None:
    """T-REG's term is of the sigmoid loss on whole sums. Raises ConfigError."""
    stated = values.get("loss_type") or ["sigmoid"]
    losses = [stated] if isinstance(stated, str) else list(stated)
    if losses != ["sigmoid"]:
        raise ConfigError(f"--treg_alpha is a part of the sigmoid loss; leave it out, or --loss_type {' '.join(losses)}")
    if is_weighted:
        raise ConfigError("--treg_alpha with --span_weight or --average_logps was not tried; leave one out")
    for name in ("ld_alpha", "use_weighting", "sync_ref_model", "use_liger_kernel", "deepspeed", "f_divergence_type"):
        if values.get(name) not in (None, False, "", "None", "False", "reverse_kl"):
            raise ConfigError(f"--treg_alpha with --{name} was not tried; leave one out")
