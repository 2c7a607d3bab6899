"""What is tried before the first stage: optimizer, schedule, sampling, adapters, the folder, numbers of samples and processes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from trl import GRPOConfig, ModelConfig

from vlrl.data.sample_json import sample_to_json
from vlrl.tasks import TASKS
from vlrl.training import flag_checks, preflight
from vlrl.training.options import ConfigError
from vlrl.training.run_folder import RunFolder


def arguments(tmp_path, **values):
    return GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **values)


REFUSED = [
    ({"lr_scheduler_type": "warmup_stable_decay"}, "--lr_scheduler_type warmup_stable_decay: this schedule cannot be made"),
    ({"lr_scheduler_kwargs": {"wrong": 1}}, "this schedule cannot be made: .*wrong"),
    ({"optim_args": "nonsense"}, "this optimizer cannot be made"),
    ({"generation_kwargs": {"temprature": 1}}, "--generation_kwargs: unknown 'temprature'; did you mean 'temperature'"),
    ({"cache_implementation": "nosuch"}, "cannot be sampled with these flags: .*nosuch"),
    ({"fp16": True}, "--fp16: the CPU does not train in float16"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_flags_that_fail_when_they_are_used_are_tried_first(values, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as error:
        preflight.check_start(arguments(tmp_path, **values), ModelConfig(), tmp_path)
    assert "\n" not in str(error.value)


def test_a_kernel_that_this_device_cannot_run_is_refused_first(tmp_path):
    for named in ("auto", "mask"):
        preflight.check_kernel(named, arguments(tmp_path))
    for named in ("merge", "gather", "flex"):
        with pytest.raises(ConfigError, match=f"--group_shared_kernel {named}: .*leave it out"):
            preflight.check_kernel(named, arguments(tmp_path))


def test_what_works_passes_and_leaves_nothing(tmp_path):
    for values in ({}, {"optim": "adafactor"}, {"top_k": 5, "min_p": 0.1}, {"generation_kwargs": {"num_beams": 1}}):
        preflight.check_start(arguments(tmp_path, **values), ModelConfig(), tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written to"):
        preflight.check_writable(tmp_path / "file")
    with pytest.raises(ConfigError, match="flash_attention_2: it runs on GPUs"):
        preflight.check_device(arguments(tmp_path), ModelConfig(attn_implementation="flash_attention_2"))


def test_a_server_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    given = arguments(tmp_path)
    preflight.check_reachable(given)
    given.report_to = ["mlflow"]
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI does not answer"):
        preflight.check_reachable(given)


def test_adapters_of_modules_that_are_not_there(tiny):
    def check(**values):
        preflight.check_adapters(tiny.model, ModelConfig(use_peft=True, **values))

    check(lora_target_modules=["q_proj", "v_proj"])
    check(lora_target_modules=["all-linear"])
    with pytest.raises(ConfigError, match="q_prj: the model has no module of this name; did you mean 'q_proj'"):
        check(lora_target_modules=["q_prj", "v_proj"])
    with pytest.raises(ConfigError, match="--lora_modules_to_save nosuch"):
        check(lora_modules_to_save=["nosuch"])
    with pytest.raises(ConfigError, match="lm_head: TRL would not train"):
        check(lora_target_modules=["q_proj", "lm_head"])


def test_fewer_samples_than_one_generation_takes(tmp_path):
    given = arguments(tmp_path, per_device_train_batch_size=8, num_generations=2)
    preflight.check_enough(4, given, "x.jsonl")
    with pytest.raises(ConfigError, match=r"x\.jsonl holds 3 training samples, but a generation takes 4 prompts"):
        preflight.check_enough(3, given, "x.jsonl")


def test_a_resumed_run_says_what_another_number_of_processes_changes(tmp_path):
    (tmp_path / "rng_state.pth").write_bytes(b"")
    opened = RunFolder(tmp_path.parent, str(tmp_path), resuming=True)
    assert preflight.resume_notes(opened) == preflight.resume_notes(RunFolder(tmp_path, None, resuming=False)) == []
    for i in range(4):
        (tmp_path / f"rng_state_{i}.pth").write_bytes(b"")
    (tmp_path / "rng_state.pth").unlink()
    noted, line = preflight.resume_notes(RunFolder(tmp_path.parent, str(tmp_path), resuming=True, note="passed over"))
    assert noted == "passed over"
    assert "was saved by 4 processes, this run has 1" in line
    assert "1/4 of the completions" in line


def test_names_and_words_are_those_of_the_libraries():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from trl.trainer import grpo_trainer

    assert set(flag_checks.TRACKERS) == set(INTEGRATION_TO_CALLBACK)
    source = Path(grpo_trainer.__file__).read_text(encoding="utf-8")
    losses = re.findall(r'loss_type == "(\w+)"', source) + re.findall(
        r'"(\w+)"', "".join(re.findall(r"loss_type in \[(.*?)\]", source))
    )
    assert set(losses) == set(flag_checks.KNOWN_WORDS["loss_type"])
    assert set(re.findall(r'importance_sampling_level == "(\w+)"', source)) == {"token", "sequence"}


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    """Twelve rows of questions about small images; one spells out special tokens, one has a long question."""
    found = []
    for i in range(12):
        Image.new("RGB", (60 + i, 40)).save(tmp_path / f"{i}.png")
        row = sample_to_json(TASKS["qa"].synthetic(0, "train", i)) | {"id": f"r{i}", "images": [f"{i}.png"]}
        found.append({key: value for key, value in row.items() if key != "meta"})
    found[3]["question"] += " Say <|image_pad|> or <|im_end|>."
    found[5]["question"] += " very" * 400
    return found


def written(tmp_path, rows):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_overlong_prompts_are_refused_with_their_rows_by_training_and_check(rows, tmp_path, run_train, small, capfd):
    from vlrl.bench import main

    data = written(tmp_path, rows)
    words = ["--task", "qa", "--data", data, "--eval_data", data, "--output_dir", tmp_path / "run", *small]
    code, _, err = run_train(*words, "--max_prompt_length", "300")
    assert code == 2
    assert re.search(
        r"1 of 12 prompts of \S+ are longer than 300 tokens \(--max_prompt_length\); the first: 'r5' \([\d,]+ tokens\)", err
    )
    assert "--overlong_prompts skip" in err
    code, _, err = run_train(*words, "--max_completion_length", "4096")
    assert code == 2
    assert "the context of tiny is 4,096 tokens" in err
    check = ["check", "--data", data, "--model_name_or_path", "tiny", "--max_prompt_length", "300"]
    assert main([str(word) for word in check]) == 1
    said = capfd.readouterr()
    assert "(id 'r5'): its prompt has" in said.err
    assert said.err.count("bad: ") == 1
    assert "special tokens   1 row, the first: 'r3' (<|image_pad|>, <|im_end|>); shown to models as text" in said.out


def test_special_tokens_train_and_overlong_prompts_are_left_out_aloud(rows, tmp_path, run_train, small):
    data = written(tmp_path, rows)
    whole = (tmp_path / "7.png").read_bytes()
    at = whole.index(b"IDAT") + 8
    (tmp_path / "7.png").write_bytes(whole[:at] + bytes(20) + whole[at + 20 :])
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    code, out, err = run_train(
        "--task", "qa", "--data", data, "--eval_data", held_out, "--output_dir", tmp_path / "run", *small,
        "--stage", "sft+grpo", "--sft_steps", "1", "--sft_batch_size", "12", "--overlong_prompts", "skip", "--max_prompt_length", "300",
    )  # fmt: skip
    assert code == 0, err
    flat = " ".join(out.split())
    assert "1 of 12 prompts of" in flat
    assert "and left out; the first: 'r5'" in flat
    assert "2 rows spell out special tokens of this model, the first: 'r3' (<|image_pad|>, <|im_end|>)" in flat
    assert "1 of 11 drawn images cannot be decoded" in flat
    assert "'r7': cannot read image" in flat


def test_a_held_out_image_that_cannot_be_decoded_is_refused_before_the_model_loads(
    rows, tmp_path, run_train, small, monkeypatch
):
    from vlrl.training import weights

    monkeypatch.setattr(weights, "load_start", lambda *_, **__: pytest.fail("the model was loaded"))
    whole = (tmp_path / "2.png").read_bytes()
    at = whole.index(b"IDAT") + 8
    (tmp_path / "2.png").write_bytes(whole[:at] + bytes(20) + whole[at + 20 :])
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps(rows[2]) + "\n")
    code, _, err = run_train(
        "--task", "qa", "--data", written(tmp_path, rows[:2]), "--eval_data", held_out, "--output_dir", tmp_path / "r", *small
    )
    assert code == 2
    assert re.match(r"error: \S+held_out\.jsonl \(id 'r2'\): cannot read image \S+2\.png", err)


def test_what_this_kind_of_model_cannot_do(tiny):
    arguments = SimpleNamespace(router_aux_loss_coef=None, cast_lm_head_to_fp32=False)
    preflight.check_model_options(tiny.model, arguments)
    arguments.router_aux_loss_coef = 0.1
    with pytest.raises(ConfigError, match=r"--router_aux_loss_coef: .* is not a mixture of experts"):
        preflight.check_model_options(tiny.model, arguments)
    arguments = SimpleNamespace(router_aux_loss_coef=None, cast_lm_head_to_fp32=True)
    with pytest.raises(ConfigError, match=r"--cast_lm_head_to_fp32: TRL cannot do it for"):
        preflight.check_model_options(tiny.model, arguments)
