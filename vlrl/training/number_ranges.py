"""What the numbers of a run may be: every numeric option of ours and of the libraries with its range, checked before a library
is loaded. No torch.

No option takes NaN or an infinity: `float("inf")` would pass for a learning rate, and a whole run for nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.training.library_options import Option
from vlrl.training.options import ConfigError


@dataclass(frozen=True)
class NumberRange:
    """From `low` to `high`; the ends belong to it unless they are `open`. `hint`: what people mean who leave it."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    hint: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.open_low else 'at least'} {self.low:.12g}")
        if self.high < math.inf:
            words.append(f"{'below' if self.open_high else 'at most'} {self.high:.12g}")
        return " and ".join(words)


def _ranges(range_: NumberRange, *names: str) -> dict[str, NumberRange]:
    return dict.fromkeys(names, range_)


_POSITIVE = NumberRange(0, open_low=True)
_OFF_AT_0 = NumberRange(0)
NUMBER_RANGES: dict[str, NumberRange] = {
    # ours
    **_ranges(
        NumberRange(1),
        *("sft_steps", "sft_batch_size", "limit", "eval_limit", "min_pixels", "max_pixels", "bench_limit"),
        "early_stopping_patience",
    ),
    "early_stopping_threshold": NumberRange(0),
    **_ranges(
        NumberRange(0),
        "rollout_lag",
        "dynamic_sampling",
        "gtr_coef",
        "correct_per_group",
        "pairwise_weight",
        "chi2_coef",
        "attribute_weight",
    ),
    "video_max_frames": NumberRange(2),
    "thought_weight": NumberRange(0, 1),
    **_ranges(_POSITIVE, "max_hours", "save_minutes", "val_split", "engine_logp_bound", "video_fps"),
    **_ranges(_POSITIVE, "cost_lr", "cost_init", "cost_max"),
    # the optimizer
    **_ranges(NumberRange(0, 1, hint="a minus sign may be missing, as in 1e-5"), "learning_rate"),
    **_ranges(NumberRange(0, 1, open_low=True, hint="a minus sign may be missing, as in 1e-5"), "sft_learning_rate"),
    **_ranges(NumberRange(0, 1, open_high=True), "adam_beta1", "adam_beta2", "label_smoothing_factor", "lora_dropout"),
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": NumberRange(0, hint="0 turns clipping off"),
    **_ranges(_OFF_AT_0, "weight_decay", "warmup_steps", "neftune_noise_alpha"),
    # how long
    "num_train_epochs": _POSITIVE,
    "max_steps": NumberRange(-1, hint="-1: as many as num_train_epochs come to"),
    **_ranges(_POSITIVE, "logging_steps", "save_steps", "eval_steps"),
    **_ranges(NumberRange(0), "eval_delay", "save_total_limit"),
    # batches
    **_ranges(
        NumberRange(1),
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "steps_per_generation"),
        *("generation_batch_size", "num_iterations", "num_generations_eval", "eval_accumulation_steps"),
        *("torch_empty_cache_steps", "ddp_bucket_cap_mb", "ddp_timeout", "dataloader_prefetch_factor", "ref_model_sync_steps"),
    ),
    "num_generations": NumberRange(2, hint="an advantage needs at least 2 completions a prompt; use 8"),
    "dataloader_num_workers": NumberRange(0),
    **_ranges(NumberRange(0, 2**32 - 1), "seed", "data_seed"),
    "local_rank": NumberRange(-1),
    # sampling
    **_ranges(
        NumberRange(1), "max_completion_length", "max_prompt_length", "vllm_max_model_length", "vllm_tensor_parallel_size"
    ),
    "temperature": NumberRange(0, open_low=True, hint="sampling needs spread; use 1"),
    **_ranges(NumberRange(0, 1, open_low=True), "top_p", "vllm_gpu_memory_utilization"),
    "top_k": NumberRange(0, hint="0 considers every token"),
    "min_p": NumberRange(0, 1),
    "repetition_penalty": _POSITIVE,
    **_ranges(NumberRange(1, 65535), "vllm_server_port", "vllm_group_port"),
    "vllm_server_timeout": _POSITIVE,
    **_ranges(NumberRange(0), "max_tool_calling_iterations", "num_completions_to_print"),
    "pad_to_multiple_of": NumberRange(1),
    # the loss
    **_ranges(NumberRange(0), "beta", "router_aux_loss_coef", "entropy_coef", "entropy_coef_min", "entropy_coef_max"),
    **_ranges(NumberRange(0), "entropy_coef_delta", "entropy_target", "vllm_importance_sampling_clip_min"),
    **_ranges(_POSITIVE, "epsilon", "epsilon_high", "sapo_temperature_neg", "sapo_temperature_pos"),
    **_ranges(_POSITIVE, "vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg", "off_policy_mask_threshold"),
    **_ranges(_POSITIVE, "vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap"),
    "delta": NumberRange(1, open_low=True, hint="it bounds the ratio of probabilities, from above 1 + epsilon"),
    "top_entropy_quantile": NumberRange(0, 1, open_low=True),
    "ref_model_mixup_alpha": NumberRange(0, 1),
    "reward_weights": NumberRange(),
    # adapters
    **_ranges(NumberRange(1), "lora_r", "lora_alpha"),
}
"""Every numeric option that a run may have (a test compares with the libraries); one that is not here must be finite."""


def check_option_numbers(values: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    """Every number among `values` is one, is finite and in its range. Raises ConfigError."""
    for name, value in values.items():
        option = known.get(name)
        if option is None or value is None or value == "None":
            continue
        if is_numeric(option):
            for one in value if isinstance(value, list | tuple) else [value]:
                _check(name, one)
        else:
            for key, one in _numbers_within(value if "dict" in option.kind else None):
                _check(key, one, within=f"--{name}: ")
    if values.get("max_steps") is not None and float(values["max_steps"]) == 0:
        raise ConfigError(f"--max_steps 0: must be at least 1, or -1 ({NUMBER_RANGES['max_steps'].hint})")
    weights = values.get("reward_weights")
    if isinstance(weights, list | tuple) and weights and not any(map(float, weights)):
        raise ConfigError(f"--reward_weights {' '.join(map(str, weights))}: all are 0, so that nothing is rewarded")


def is_numeric(option: Option) -> bool:
    """Whether an option is a number, or a list of numbers. One that may be a word as well counts where its table says so."""
    kinds = {member.strip() for member in option.kind.removeprefix("list[").replace("]", "").split("|")}
    return bool({"int", "float"} & kinds) and "dict" not in option.kind and ("str" not in kinds or option.name in NUMBER_RANGES)


def _check(name: str, value: Any, within: str = "") -> None:
    """Raises ConfigError. Words of an option that may be one (`pad_to_multiple_of auto`) are left to the libraries."""
    shown = f"{within}{name}={value}" if within else f"--{name} {value}"
    if isinstance(value, bool):
        raise ConfigError(f"{shown}: not a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        return
    if not math.isfinite(number):
        raise ConfigError(f"{shown}: must be a finite number")
    wanted = NUMBER_RANGES.get(name)
    if wanted is not None and number not in wanted:
        raise ConfigError(f"{shown}: must be {wanted}" + (f" ({wanted.hint})" if wanted.hint else ""))


def _numbers_within(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers in a mapping, given as such or as JSON, each with its key."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _numbers_within(one, str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _numbers_within(one, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
