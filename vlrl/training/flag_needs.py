"""Options of TRL and transformers that would be dropped without a word: those that have an effect only beside another one, and
those that nothing here reads. No torch.

A test goes through every option of `GRPOConfig` and `ModelConfig`: each is kept, needs another one, or is refused with the
reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vlrl.training.library_options import Option
from vlrl.training.options import ConfigError

OFF = (None, False, "", 0, "0", "no", "none", "None", "false", "False")
NEEDS: dict[str, tuple[str, ...]] = {
    "use_peft": (
        *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save"),
        *("lora_task_type", "use_rslora", "use_dora"),
    ),
    "load_in_4bit": ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
    "use_vllm": (
        *("vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex", "vllm_server_base_url"),
        *("vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port", "vllm_gpu_memory_utilization"),
        *("vllm_max_model_length", "vllm_tensor_parallel_size", "vllm_importance_sampling_correction"),
        *("vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
        *("vllm_importance_sampling_cap", "engine_logp_bound", "vllm_weight_transport", "rollout_lag"),
    ),
    "vllm_weight_transport files": ("rollout_weights",),
    "use_transformers_continuous_batching": ("transformers_continuous_batching_config",),
    "push_to_hub": ("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
    "beta": ("sync_ref_model", "use_bias_correction_kl"),
    "sync_ref_model": ("ref_model_mixup_alpha", "ref_model_sync_steps"),
    "use_adaptive_entropy": ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
    "log_completions": ("num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo"),
    "use_liger_kernel": ("liger_kernel_config",),
    "dataloader_num_workers": (
        *("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"),
        "dataloader_in_order",
    ),
    "fsdp": ("fsdp_config",),
    "deepspeed": ("ds3_gather_for_generation",),
    "gold": ("stop_on_hacking",),
    "cost": ("cost_lr", "cost_init", "cost_max"),
    "loss_type sapo": ("sapo_temperature_neg", "sapo_temperature_pos"),
    "loss_type vespo": ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
}
"""Option, or an option and its value -> those that say something only beside it."""

NOT_READ: dict[str, str] = {
    "label_smoothing_factor": "GRPO has no labels to smooth",
    "label_names": "GRPO has no labels",
    "length_column_name": "samples are not grouped by length",
    "max_tool_calling_iterations": "no tools are called; a game of several turns is a task of its own (docs/extending.md)",
    "include_num_input_tokens_seen": "tokens are counted anyway (num_tokens in metrics.jsonl)",
    "remove_unused_columns": "rewards read what a row holds beside its prompt",
    "bf16_full_eval": "held-out samples are measured with the weights as they are trained",
    "fp16_full_eval": "held-out samples are measured with the weights as they are trained",
    "model_init_kwargs": "the model is loaded by --dtype, --attn_implementation, --model_revision and their like",
    "local_rank": "torchrun sets it for each process",
}
"""Options that nothing reads here, and why; their default values pass."""
NOT_READ_VALUES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("use_transformers_continuous_batching", "use_transformers_paged"),
        ("True", "TRL does not do it for vision-language models; use --use_vllm"),
    ),
    "do_train": ("False", "a run trains; to measure a model alone: vlrl bench run"),
    "train_sampling_strategy": ("sequential", "--shuffle_dataset false keeps the order of the rows"),
    "dataloader_multiprocessing_context": ("spawn forkserver", "workers open images by what a fork hands on; use fork"),
}
"""Values that cannot be honoured, separated by spaces, and why."""


def check_effect(given: Collection[str], values: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    """Every option named in `given`, by one file or on the command line, has an effect beside `values`. One that is set to its
    own default passes. Raises ConfigError."""

    def is_set(name: str) -> bool:
        option, value = known.get(name), values.get(name)
        return name in given and value is not None and option is not None and str(value) != option.shown_default.strip()

    for master, names in NEEDS.items():
        option, _, wanted = master.partition(" ")
        found = values.get(option)
        is_on = str(found) == wanted if wanted else found not in OFF
        dropped = next((name for name in names if is_set(name) and values[name] not in OFF), None)
        if dropped is not None and not is_on:
            how = f"--{master}" if wanted or (known[option].is_bool) else f"--{option} and its value"
            raise ConfigError(f"--{dropped} has no effect without {how}: add it, or leave --{dropped} out")
    for name, why in NOT_READ.items():
        if is_set(name) and values[name] not in OFF:
            raise ConfigError(f"--{name} is read by nothing here ({why}); leave it out")
    for name, (refused, why) in NOT_READ_VALUES.items():
        if name in given and str(values.get(name)) in refused.split():
            raise ConfigError(f"--{name} {values[name]} cannot be honoured: {why}")
