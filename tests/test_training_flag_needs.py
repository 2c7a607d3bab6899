"""Every option of TRL's `GRPOConfig` and `ModelConfig` is kept, needs another one, or is refused with the reason."""

import dataclasses
import json

import pytest
from trl import GRPOConfig, ModelConfig

from vlrl.training import flag_checks
from vlrl.training.config import parse
from vlrl.training.engine_options import EngineConfig
from vlrl.training.flag_needs import NEEDS, NOT_READ, NOT_READ_VALUES
from vlrl.training.monitor_options import MonitorConfig
from vlrl.training.options import ConfigError, RunConfig
from vlrl.training.regulariser_options import RegulariserConfig

KEPT = {
    # how long, and the optimizer
    "output_dir": "runs/x", "num_train_epochs": 2.0, "max_steps": 3, "learning_rate": 2e-6, "lr_scheduler_type": "cosine",
    "warmup_steps": 2, "optim": "adafactor", "optim_args": "a=1", "weight_decay": 0.1, "adam_beta1": 0.8,
    "adam_beta2": 0.98, "adam_epsilon": 1e-7, "optim_target_modules": "all-linear", "max_grad_norm": 0.5,
    "neftune_noise_alpha": 5.0, "ignore_data_skip": True, "full_determinism": True, "seed": 7, "data_seed": 7,
    # batches
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 2, "num_generations": 4,
    "generation_batch_size": 256, "steps_per_generation": 2, "num_iterations": 2, "shuffle_dataset": False,
    "dataloader_drop_last": True, "dataloader_num_workers": 1, "dataloader_pin_memory": False, "pad_to_multiple_of": 8,
    "torch_empty_cache_steps": 1, "average_tokens_across_devices": False,
    # the device
    "bf16": True, "fp16": True, "use_cpu": True, "activation_checkpointing": True, "gradient_checkpointing": False,
    "torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default", "use_cache": True,
    "ddp_find_unused_parameters": True, "ddp_bucket_cap_mb": 10, "ddp_broadcast_buffers": True, "ddp_static_graph": True,
    "ddp_timeout": 100, "debug": "underflow_overflow", "skip_memory_metrics": False,
    # what is logged
    "logging_strategy": "epoch", "logging_steps": 2.0, "logging_first_step": True, "log_on_each_node": False,
    "logging_nan_inf_filter": False, "log_level": "info", "log_level_replica": "info", "disable_tqdm": True,
    "report_to": "tensorboard", "run_name": "x", "project": "p", "trackio_space_id": "s", "trackio_bucket_id": "b",
    "trackio_static_space_id": "t", "log_completions": True, "log_multimodal": False,
    # what is measured and saved
    "eval_strategy": "epoch", "save_strategy": "epoch", "save_steps": 7.0, "save_total_limit": 1, "save_only_model": True,
    "save_on_each_node": True, "restore_callback_states_from_checkpoint": True, "resume_from_checkpoint": "true",
    # generation
    "max_completion_length": 12, "temperature": 0.7, "top_p": 0.9, "top_k": 10, "min_p": 0.1, "repetition_penalty": 1.1,
    "cache_implementation": "static", "disable_dropout": True,
    "cast_lm_head_to_fp32": True, "trust_remote_code": True,
    # the loss
    "beta": 0.04, "epsilon": 0.1, "delta": 1.5, "epsilon_high": 0.3, "importance_sampling_level": "sequence",
    "multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "batch", "loss_type": "dr_grpo",
    "mask_truncated_completions": True, "top_entropy_quantile": 0.5, "entropy_coef": 0.01, "use_adaptive_entropy": True,
    "off_policy_mask_threshold": 0.5, "router_aux_loss_coef": 0.1,
    # the model
    "model_name_or_path": "tiny-random", "model_revision": "x", "dtype": "float32", "attn_implementation": "eager",
    "use_peft": True,
}  # fmt: skip
"""Options that reach TRL as they are given."""
DICTIONARIES = {
    "lr_scheduler_kwargs": '{"num_cycles": 0.4}', "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
    "activation_checkpointing_kwargs": '{"use_reentrant": false}', "accelerator_config": '{"dispatch_batches": false}',
    "generation_kwargs": '{"length_penalty": 1.0}', "chat_template_kwargs": '{"enable_thinking": false}',
}  # fmt: skip
"""Options that take JSON, and reach TRL."""
BESIDE = {
    "lr_scheduler_kwargs": ["--lr_scheduler_type", "cosine"],
    "steps_per_generation": ["--num_generations", "4"],
    "bf16": ["--use_cpu", "true"],
    "num_generations": ["--per_device_train_batch_size", "8"],
    "per_device_train_batch_size": ["--num_generations", "4"],
    "resume_from_checkpoint": ["--output_dir", "runs/x"],
}
REFUSED = {
    "tf32": "true", "auto_find_batch_size": "true", "enable_jit_checkpoint": "true", "prediction_loss_only": "true",
    "eval_accumulation_steps": "2", "eval_do_concat_batches": "false", "eval_use_gather_object": "true",
    "include_for_metrics": "inputs", "batch_eval_metrics": "true", "do_predict": "true", "num_generations_eval": "2",
    "deepspeed": "ds.json", "fsdp": "full_shard", "ddp_backend": "gloo", "use_vllm": "true", "use_liger_kernel": "true",
    "load_in_4bit": "true", "load_in_8bit": "true", "push_to_hub": "true", "parallelism_config": "{}",
    "reward_weights": "1 2 3 4 5", "do_train": "false",
    "use_transformers_continuous_batching": "true", "use_transformers_paged": "true",
    "train_sampling_strategy": "sequential", "dataloader_multiprocessing_context": "spawn",
}  # fmt: skip
"""What cannot be honoured: never, on this machine (no GPU, packages that are not installed), or in a run of one process."""
OF_EVALUATION = {
    "eval_steps": "5", "eval_delay": "1", "eval_on_start": "true", "metric_for_best_model": "mean_iou",
    "greater_is_better": "true", "load_best_model_at_end": "true", "do_eval": "true",
}  # fmt: skip
"""Options that need `--eval_strategy`."""
ELSEWHERE = {"hub_token"}
"""Kept out of the arguments on purpose; see `test_training_config.py`."""
NEEDING = {name: master for master, names in NEEDS.items() for name in names}
VALUES = {
    "lora_r": "4", "lora_alpha": "8", "lora_dropout": "0.1", "lora_target_modules": "q_proj", "lora_target_parameters": "x",
    "lora_modules_to_save": "lm_head", "lora_task_type": "SEQ_CLS", "vllm_mode": "server", "vllm_model_impl": "transformers",
    "vllm_structured_outputs_regex": "a", "vllm_server_base_url": "http://localhost:1", "vllm_server_host": "h",
    "vllm_server_port": "80", "vllm_server_timeout": "5", "vllm_group_port": "80", "vllm_gpu_memory_utilization": "0.2",
    "vllm_max_model_length": "100", "vllm_tensor_parallel_size": "2", "vllm_importance_sampling_mode": "token_mask",
    "vllm_importance_sampling_clip_max": "2", "vllm_importance_sampling_clip_min": "0.1", "vllm_importance_sampling_cap": "2",
    "vllm_weight_transport": "files", "rollout_weights": "w", "rollout_lag": "1", "cost_lr": "0.2", "cost_init": "2", "cost_max": "5",
    "engine_logp_bound": "0.5", "hub_model_id": "a/b", "hub_strategy": "end", "hub_revision": "r", "ref_model_mixup_alpha": "0.5",
    "ref_model_sync_steps": "1", "entropy_coef_min": "0.01", "entropy_coef_max": "0.2", "entropy_coef_delta": "0.01",
    "entropy_target": "0.3", "num_completions_to_print": "1", "log_completions_hub_repo": "a/b",
    "transformers_continuous_batching_config": '{"max_batch_tokens": 64}', "liger_kernel_config": '{"rope": true}',
    "dataloader_prefetch_factor": "2", "dataloader_multiprocessing_context": "fork", "fsdp_config": '{"min_num_params": 1}',
    "bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": "float32",
    "sapo_temperature_neg": "1.1", "sapo_temperature_pos": "1.1", "vespo_k_pos": "2.1", "vespo_lambda_pos": "3.1",
    "vespo_k_neg": "3.1", "vespo_lambda_neg": "2.1",
    "label_smoothing_factor": "0.1", "label_names": "x", "length_column_name": "n", "max_tool_calling_iterations": "2",
    "model_init_kwargs": '{"low_cpu_mem_usage": true}', "local_rank": "1",
}  # fmt: skip
"""Of options that need another one or that nothing reads; the others are switches."""
WHEN_OFF = {"dataloader_in_order", "use_bias_correction_kl", "ds3_gather_for_generation", "vllm_importance_sampling_correction"}
"""Switches that are on by themselves: turned off, they do no harm where they are not read."""


def text_of(value):
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def refused(*words):
    with pytest.raises(ConfigError) as caught:
        parse(list(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_option_of_trl_is_thought_about():
    """A new release may bring one: decide whether it is kept, needs another one, or is refused."""
    fields = {field.name for kind in (GRPOConfig, ModelConfig) for field in dataclasses.fields(kind)}
    groups = [set(KEPT), set(DICTIONARIES), set(REFUSED), set(OF_EVALUATION), ELSEWHERE, set(NEEDING), set(NOT_READ)]
    known = set().union(*groups) - {
        field.name for kind in (RunConfig, EngineConfig, MonitorConfig, RegulariserConfig) for field in dataclasses.fields(kind)
    }
    assert fields - known == set(), "of TRL, and in none of the tables"
    assert known - fields == set(), "in a table, and no option of TRL"
    assert set(NOT_READ_VALUES) <= known


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_reaches_trl(name):
    value = KEPT[name]
    words = [word for word in BESIDE.get(name, []) if word]
    config = parse([f"--{name}", text_of(value), *words])
    found = getattr(config.model if hasattr(config.model, name) else config.grpo, name)
    found = getattr(found, "value", found)
    if name == "report_to":
        found = ",".join(found)
    assert str(found) == str(value) or found == value or [value] == found or str(value) in str(found), found


@pytest.mark.parametrize("name", DICTIONARIES)
def test_json_reaches_trl(name):
    config = parse([f"--{name}", DICTIONARIES[name], *BESIDE.get(name, [])])
    found = getattr(config.grpo, name)
    found = found.to_dict() if hasattr(found, "to_dict") else found
    (key, value), *_ = json.loads(DICTIONARIES[name]).items()
    assert found[key] == value


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(flag_checks, "is_installed", lambda package: package == "tensorboard")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert name in refused("--rewards", "iou_f1", f"--{name}", *REFUSED[name].split())


@pytest.mark.parametrize("name", OF_EVALUATION)
def test_what_needs_measurements_on_the_way(name):
    assert "needs measurements on the way" in refused(f"--{name}", OF_EVALUATION[name])
    words = [] if name in ("do_eval", "eval_steps") else ["--eval_steps", "5"]
    config = parse([f"--{name}", OF_EVALUATION[name], "--eval_strategy", "steps", "--save_steps", "5", *words])
    assert getattr(config.grpo, name) not in (None, False)


@pytest.mark.parametrize("name", sorted(set(NEEDING) - WHEN_OFF))
def test_what_would_have_no_effect_is_refused(name):
    said = refused(f"--{name}", VALUES.get(name, "true"))
    assert f"--{name}" in said
    assert "has no effect without" in said


@pytest.mark.parametrize("name", NOT_READ)
def test_what_nothing_reads_is_refused(name):
    assert f"--{name}" in refused(f"--{name}", VALUES.get(name, "true"))


def test_a_file_may_hold_what_the_command_line_turns_off(tmp_path):
    """A configuration for a GPU, tried without adapters: that is a person's choice, not a dropped flag."""
    path = tmp_path / "mine.yaml"
    path.write_text("use_peft: true\nlora_r: 4\n")
    assert parse(["--config", str(path), "--use_peft", "false"]).model.use_peft is False
    path.write_text("lora_r: 4\n")
    assert "--lora_r has no effect without --use_peft" in refused("--config", str(path))


def test_a_value_that_is_the_default_passes():
    assert parse(["--lora_r", "16", "--vllm_server_port", "8000"]).model.lora_r == 16


def test_workers_are_forked_whatever_python_does_by_itself():
    assert parse(["--dataloader_num_workers", "2"]).grpo.dataloader_multiprocessing_context == "fork"
    assert parse([]).grpo.dataloader_multiprocessing_context is None
