import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from vlrl.training.config import parse
from vlrl.training.options import CONFIGS, ConfigError
from vlrl.training.prm.config import parse_prm
from vlrl.training.prm.options import is_requested as is_prm


def test_defaults_of_the_embedded_run():
    config = parse(["--task", "detection"])
    assert config.model.model_name_or_path == "tiny"
    assert config.run.stage == "sft+grpo"
    assert config.rewards is None, "each row's own"
    assert config.grpo.loss_type == "grpo"
    assert config.sources == ("configs/detection.yaml",)


def test_another_model_takes_class_defaults_not_the_embedded_ones():
    config = parse(
        ["--task", "detection", "--model_name_or_path", "Qwen/Qwen2.5-VL-3B-Instruct", "--use_cpu", "--bf16", "false"]
    )
    assert config.run.stage == "grpo"
    assert "configs/detection.yaml" not in config.sources
    assert config.grpo.learning_rate == 1e-6


def test_order_of_precedence(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"learning_rate": 1e-4, "max_steps": 7, "env": {"VLRL_TEST": "1"}}))
    config = parse(["--config", str(path), "--max-steps", "3"])
    assert config.grpo.learning_rate == 1e-4
    assert config.grpo.max_steps == 3
    assert config.grpo.num_generations == 8
    assert config.environment == {"VLRL_TEST": "1"}
    assert "VLRL_TEST" not in os.environ, "what a file sets there is set when the run begins"
    assert parse([f"--config={path}"]).grpo.max_steps == 7


def test_a_token_goes_to_the_environment_of_the_run_alone(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    config = parse(["--hub_token", "hf_secret"])
    assert config.environment == {"HF_TOKEN": "hf_secret"}
    assert config.grpo.hub_token is None
    assert "HF_TOKEN" not in os.environ
    assert "hf_secret" not in repr(config).replace(repr(config.values), "")


def test_a_resolved_run_stays_as_it_is():
    config = parse([])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run.limit = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.prompts.max_prompt_length = 3
    other = config.with_arguments(output_dir="elsewhere", max_completion_length=7)
    assert (other.grpo.output_dir, other.max_tokens) == ("elsewhere", 7)
    assert config.grpo.output_dir != "elsewhere"
    assert config.max_tokens != 7


def test_resolved_config_gives_the_same_run(tmp_path):
    first = parse(
        [
            "--max_steps",
            "3",
            "--learning_rate",
            "1e-5",
            "--rewards",
            "iou_f1",
            "--reward_weights",
            "1.0",
            "--output_dir",
            "x",
        ]
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(first.values))
    again = parse(["--config", str(path)])
    assert again.values == first.values
    assert again.grpo.to_dict() == first.grpo.to_dict()
    assert again.run == first.run


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--taks", "detection"], ["--taks", "'task'"]),
        (["--learning_rat", "1"], ["'learning_rate'"]),
        (["--task", "detectoin"], ["unknown task 'detectoin'", "'detection'"]),
        (["--task", "gone.py"], ["gone.py", "does not exist"]),
        (
            ["--per_device_train_batch_size", "12", "--num_generations", "8"],
            ["12", "num_generations=8", "8 or 16", "groups must be whole"],
        ),
        (["--num_generations", "1"], ["at least 2"]),
        (["--rewards", "iou_f2"], ["iou_f2", "iou_f1"]),
        (["--rewards", "iou_f1", "--reward_weights", "1", "2"], ["2 reward_weights", "1 rewards"]),
        (["--data", "gone.jsonl"], ["gone.jsonl", "no such file"]),
        (["--eval_data", "pyproject.toml"], ["without --data"]),
        (["--limit", "0"], ["--limit 0"]),
        (["--rewards", "iou_f1:power=2"], ["iou_f1", "no option 'power'"]),
        (["--rewards", "iou_f1", "iou_f1"], ["iou_f1 twice"]),
        (["--task", "qa", "--rewards", "iou_f1"], ["iou_f1 cannot score qa", "kind boxes"]),
        (["--answer_format", "thinkanswer"], ["'thinkanswer'", "'think_answer'"]),
        (["--answer_format", "none,answer"], ["none and answer exclude"]),
        (["--answer_format", "none", "--rewards", "json_format"], ["json_format reads answer tags"]),
        (["--dynamic_sampling", "-1"], ["--dynamic_sampling -1"]),
        (["--min_pixels", "9000", "--max_pixels", "100"], ["--min_pixels 9000"]),
        (["--config", "gone.yaml"], ["gone.yaml"]),
        (["detection"], ["unexpected words", "detection"]),
        (["--save_only_model", "--resume_from_checkpoint", "true"], ["--save_only_model"]),
    ],
)
def test_what_cannot_work_is_refused_at_parse_time(argv, words, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    with pytest.raises(ConfigError) as error:
        parse(argv)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["lerning_rate: 1\n", "max_stepz: 3\n"])
def test_a_misspelt_yaml_key_is_an_error(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="did you mean"):
        parse(["--config", str(path)])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_checked_in_config_resolves_and_has_its_header(path: Path):
    if is_prm(["--config", str(path)]):
        assert parse_prm(["--config", str(path)]).run.task == path.stem.rpartition("_")[2]
    else:
        assert parse(["--config", str(path)]).task.name
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("What:", "Command:", "Hardware:", "Expect:"):
        assert any(word in line for line in head), f"{path.name} lacks '# {word}'"


def test_a_recipe_gives_the_embedded_model_its_own_block_and_other_models_the_published_values():
    path = str(CONFIGS / "vlm_r1_rec.yaml")
    ours = parse(["--config", path])
    assert ours.grpo.learning_rate == 5e-4
    assert not ours.grpo.bf16
    assert "tiny" not in ours.values
    real = parse(["--config", path, "--model_name_or_path", "Qwen/Qwen2.5-VL-3B-Instruct", "--use_cpu", "--bf16", "false"])
    assert real.grpo.learning_rate == 1e-6
    assert real.grpo.num_train_epochs == 2
    assert real.run.max_pixels == 12845056
    assert parse(["--config", path, "--learning_rate", "1e-3"]).grpo.learning_rate == 1e-3


def test_several_tasks_take_turns():
    config = parse(["--task", "qa,detection,qa"])
    assert config.turns == ("qa", "detection", "qa")
    assert list(config.tasks) == ["qa", "detection"]
    assert config.sources[0] == "configs/mixed.yaml"
    assert config.layout == (None, None)
    assert parse(["--answer_format", "none,fenced_json"]).layout == ("none", "fenced_json")
    assert parse(["--answer_format", "corners"]).layout == (None, "corners")


def test_our_own_options_stay_few():
    import dataclasses

    from vlrl.training.options import RunConfig

    assert len(dataclasses.fields(RunConfig)) <= 28


def test_weights_of_the_default_rewards_do_not_leak_to_named_ones():
    assert parse(["--task", "detection"]).grpo.reward_weights == [1.0, 0.25]
    assert parse(["--task", "detection", "--rewards", "iou_f1"]).grpo.reward_weights is None
    assert parse(["--rewards", "iou_f1", "json_format", "--reward_weights", "2", "1"]).grpo.reward_weights == [2.0, 1.0]


def test_asking_for_the_defaults_asks_for_nothing():
    """A saved `config.yaml` repeats its run: its supervised stage is the shipped start again."""
    assert "sft_steps" not in parse(["--config", str(CONFIGS / "classification.yaml")]).chosen
    assert "sft_steps" in parse(["--config", str(CONFIGS / "alphadrive.yaml")]).chosen
    assert "sft_steps" in parse(["--task", "qa", "--sft_steps", "400"]).chosen


def test_a_bare_off_in_yaml_is_no_truth_value(tmp_path):
    path = tmp_path / "mine.yaml"
    for written, meant in (("off", "off"), ("on", "on"), ("auto", "auto")):
        path.write_text(f"group_shared: {written}\n")
        assert parse(["--config", str(path)]).run.group_shared == meant


@pytest.mark.parametrize("words", [["--group_shared", "maybe"], ["--sft_target", "thoughts"]])
def test_words_of_our_own_options_are_checked(words):
    with pytest.raises(ConfigError, match="must be one of"):
        parse(words)
