"""What vlrl uses of TRL, transformers, accelerate and torch that is private or little documented. After a new release of one of
them, run this file first: each failure is a line that names the symbol, what changed and the files that need it.

`tests/latest_releases.sh` runs it, and the tests of training, against the newest releases.
"""

import ast
import importlib
import inspect
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
SEARCHED = ("vlrl/training", "vlrl/models", "vlrl/bench/speed")

FUNCTIONS = """
trl.GRPOTrainer._calculate_rewards(self, inputs, prompts, completions, completion_ids_list)
trl.GRPOTrainer._generate(self, prompts)
trl.GRPOTrainer._generate_and_score_completions(self, inputs)
trl.GRPOTrainer._generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
trl.GRPOTrainer._get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, batch_size, \
compute_entropy, compute_aux_loss, pixel_values, image_grid_thw, num_images, pixel_attention_mask, spatial_shapes, num_tiles, \
image_sizes, token_type_ids, mm_token_type_ids, image_position_ids)
trl.GRPOTrainer._prepare_inputs(self, generation_batch)
trl.GRPOTrainer._tokenize_prompts(self, prompts)
trl.GRPOTrainer._save_checkpoint(self, model, trial)
trl.GRPOTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
trl.GRPOTrainer.log(self, logs, start_time)
trl.SFTTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
trl.DPOTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
trl.generation.vllm_generation.VLLMGeneration.generate(self, prompts, images, num_generations, profiler)
trl.generation.vllm_generation.VLLMGeneration.sync_weights(self)
trl.generation.vllm_generation.VLLMGeneration._init_vllm(self)
trl.generation.vllm_generation.VLLMGeneration._iter_named_params(self)
trl.trainer.utils.add_fused_lm_head(model, temperature, cast_lm_head_to_fp32, outputs)
trl.trainer.utils.shuffle_sequence_dict(seq_dict)
trl.trainer.utils.split_pixel_values_by_grid(batch)
trl.trainer.utils.split_tensor_dict(tensor_dict, num_chunks)
trl.trainer.utils.unsplit_pixel_values_by_grid(batch)
trl.data_utils.prepare_multimodal_messages(messages, images)
trl.models.unwrap_model_for_generation(model, accelerator, gather_deepspeed3_params, generation_kwargs, \
gradient_checkpointing_kwargs)
transformers.Trainer.get_batch_samples(self, epoch_iterator, num_batches, device)
transformers.Trainer._determine_best_metric(self, metrics, trial)
transformers.Trainer._load_best_model(self)
transformers.Trainer._get_grad_norm(self, model, grad_norm)
transformers.Trainer._get_output_dir(self, trial)
transformers.Trainer._issue_warnings_after_load(self, load_result)
transformers.Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
transformers.Trainer._load_optimizer_and_scheduler(self, checkpoint)
transformers.Trainer._load_rng_state(self, checkpoint)
transformers.Trainer._save(self, output_dir, state_dict)
transformers.Trainer.set_initial_training_values(self, args, dataloader)
transformers.Trainer.training_step(self, model, inputs, num_items_in_batch)
transformers.PreTrainedModel._from_config(config, kwargs)
transformers.Cache.batch_repeat_interleave(self, repeats)
transformers.integrations.get_reporting_integration_callbacks(report_to)
transformers.integrations.sdpa_attention.sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, \
is_causal, position_bias, kwargs)
transformers.masking_utils.sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, \
local_size, allow_is_causal_skip, allow_is_bidirectional_skip, use_vmap, device, kwargs)
transformers.trainer_utils.get_last_checkpoint(folder)
transformers.trainer_utils.rotate_checkpoints(output_dir, save_total_limit, best_model_checkpoint, use_mtime, checkpoint_prefix)
transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel.get_rope_index(self, input_ids, mm_token_type_ids, \
image_grid_thw, video_grid_thw, attention_mask, kwargs)
transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLModel.get_rope_index(self, input_ids, mm_token_type_ids, \
image_grid_thw, video_grid_thw, second_per_grid_ts, attention_mask, kwargs)
transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLModel.get_rope_index(self, input_ids, mm_token_type_ids, \
image_grid_thw, video_grid_thw, attention_mask, kwargs)
transformers.PreTrainedModel.get_compiled_call(self, compile_config)
accelerate.utils.broadcast_object_list(object_list, from_process)
accelerate.utils.gather_object(object)
torch.nn.utils.get_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
"""
"""Symbol and parameters. Parameters that come later and are new do no harm; others do."""

ATTRIBUTES = {
    "trl.GRPOTrainer": "_buffered_inputs _entropy_bonus_enabled _last_loaded_step _logs _metrics _pending_extra_logs _pending_metrics _step _tokenizer"
    " aux_loss_enabled beta eos_token_ids generation_config log_completions log_multimodal loss_type"
    " multi_objective_aggregation num_generations num_generations_eval num_iterations ref_model reward_func_names reward_weights rollout_func"
    " temperature top_entropy_quantile use_transformers_continuous_batching use_vllm vllm_generation",
    "trl.generation.vllm_generation.VLLMGeneration": "accelerator generation_kwargs llm logprobs max_completion_length min_p"
    " repetition_penalty server_base_url server_host server_port server_timeout structured_outputs_regex temperature"
    " tensor_parallel_size top_k top_p vllm_client",
    "transformers.Trainer": "accelerator control current_gradient_accumulation_steps is_deepspeed_enabled is_fsdp_enabled model_accepts_loss_kwargs model_wrapped"
    " processing_class state train_dataset",
}
"""What these classes set on themselves."""
BATCH = (
    "prompt_ids prompt_mask completion_ids completion_mask advantages num_items_in_batch old_per_token_logps ref_per_token_logps"
    " sampling_per_token_logps importance_sampling_ratio pixel_values image_grid_thw num_images mm_token_type_ids token_type_ids"
)
"""The keys of TRL's batch of a generation."""
OPERATORS = {
    "_flash_attention_forward": "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask scale",
    "_flash_attention_backward": "grad_out query key value out logsumexp cum_seq_q cum_seq_k max_q max_k dropout_p is_causal"
    " rng_state unused scale",
}
"""Operators of torch.ops.aten and their arguments in order."""
ADAPTER = "vlrl/training/grpo/adapter.py"
OURS = {"_metrics", "_name"}
"""Names that some of our classes use for something of their own."""


def symbol(path: str):
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for name in parts[n:]:
            found = getattr(found, name)
        return found
    raise AttributeError(path)


def class_source(path: str) -> str:
    return inspect.getsource(symbol(path))


@cache
def names_used() -> dict[str, set[str]]:
    """Attribute, function or imported name -> our files in which it stands."""
    found: dict[str, set[str]] = {}
    files = [path for folder in SEARCHED for path in (ROOT / folder).rglob("*.py")]
    for path in [*files, ROOT / "vlrl" / "train.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.FunctionDef):
                names = [node.name]
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "replaced_method":
                names = [str(ast.literal_eval(node.args[1]))]
            for name in names:
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


def needed_by(name: str) -> str:
    return ", ".join(sorted(names_used().get(name, set()))) or "no file"


FUNCTION_ROWS = FUNCTIONS.replace("\\\n", "").strip().splitlines()


def problems() -> list[str]:
    found = []
    for row in FUNCTION_ROWS:
        path, _, listed = row.partition("(")
        name, expected = path.rpartition(".")[2], listed.rstrip(")").split(", ")
        try:
            now = list(inspect.signature(symbol(path)).parameters)
        except AttributeError:
            found.append(f"{path} is gone; needed by {needed_by(name)}")
            continue
        fixed = [one for one in now if one not in ("kwargs", "args")]
        wanted = [one for one in expected if one not in ("kwargs", "args")]
        if fixed[: len(wanted)] != wanted:
            found.append(f"{path}({', '.join(now)}) was ({', '.join(expected)}); needed by {needed_by(name)}")
    for path, names in ATTRIBUTES.items():
        source = class_source(path)
        for name in names.split():
            if not re.search(rf"self\.{name}\b[^\n=]*=[^=]", source) and not re.search(rf"def {name}\b", source):
                found.append(f"{path} no longer sets {name}; needed by {needed_by(name)}")
    source = class_source("trl.GRPOTrainer")
    for key in BATCH.split():
        if f'"{key}"' not in source:
            found.append(f'trl.GRPOTrainer no longer hands over "{key}"')
    return found


def test_the_libraries_are_as_vlrl_uses_them():
    assert not problems(), "\n".join(["", *problems()])


def test_operators_of_torch_are_as_vlrl_uses_them():
    import torch

    for name, listed in OPERATORS.items():
        schema = getattr(torch.ops.aten, name).default._schema
        found = [one.name for one in schema.arguments]
        assert [one for one in found if one in listed.split()] == listed.split(), f"{schema}; needed by {needed_by(name)}"


def test_every_private_name_of_the_trainers_is_listed():
    from trl import GRPOTrainer

    sources = class_source("trl.GRPOTrainer") + class_source("transformers.Trainer")
    private = set(re.findall(r"self\.(_[a-z]\w*)\b", sources)) | {name for name in dir(GRPOTrainer) if re.match("_[a-z]", name)}
    listed = set(re.findall(r"\._(\w+)\(", FUNCTIONS)) | {name[1:] for names in ATTRIBUTES.values() for name in names.split()}
    used = {name for name in names_used() if name in private and name[1:] not in listed and name not in OURS}
    assert {name: needed_by(name) for name in used} == {}


def test_one_file_is_the_door_to_trl():
    """Whatever is private in TRL's trainer and not in transformers' stands in the adapter alone."""
    private = re.findall(r"GRPOTrainer\.(_\w+)\(", FUNCTIONS) + re.findall(r"\b_\w+", ATTRIBUTES["trl.GRPOTrainer"])
    of_trl = [name for name in private if name not in OURS and not hasattr(symbol("transformers.Trainer"), name)]
    assert "_generate_and_score_completions" in of_trl
    assert {name: needed_by(name) for name in of_trl if needed_by(name) != ADAPTER} == {}
    assert len([one for one in symbol("vlrl.training.grpo.Trainer").__mro__ if one.__module__.startswith("vlrl")]) <= 3


@pytest.mark.parametrize("name", re.findall(r"(\w+)\(", FUNCTIONS))
def test_nothing_is_listed_that_is_not_used(name):
    assert name in names_used(), f"{name} is used no more: take it off this list"


def test_the_range_in_pyproject_holds_what_is_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("transformers", "trl"):
        specifier = re.search(rf'"{name}([<>=,.0-9]+)"', text)[1]
        assert version(name) in SpecifierSet(specifier), f"{name} {version(name)} is outside {specifier}"
