"""Every checked-in recipe runs as it stands on the embedded model (here for two steps) and pays what it says."""

import json

import pytest

from vlrl.models.published_shapes import PUBLISHED_MODELS
from vlrl.training.config import parse
from vlrl.training.options import CONFIGS

GAMES = ("numberline", "ezpoints", "points24", "blackjack")
REAL = ("qwen2.5_vl_3b_lora_1gpu", "qwen2.5_vl_7b_lora_1gpu", "qwen3_vl_4b_lora_1gpu", "qwen2.5_vl_7b_full_8gpu")
"""Those of real models, which the embedded one cannot stand for."""
OTHERS = {"cards", "own_task", "prm", "rm", "vilreward_prm", *GAMES, *REAL}
RECIPES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - OTHERS)


@pytest.mark.long
@pytest.mark.parametrize("name", GAMES)
def test_a_game_runs(name, tmp_path, run_train, small):
    flags = [*small, "--steps_per_generation", "2"]  # of the recipe's 4 or 8: four episodes
    flags += ["--per_device_train_batch_size", "2", "--eval_limit", "2", "--logging_steps", "2"]
    code, out, err = run_train("--config", CONFIGS / f"{name}.yaml", *flags, "--output_dir", tmp_path / "run")
    assert code == 0, err
    assert "WARNING" not in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["model"], summary["steps"], summary["headline"]) == ("tiny-cards", 2, "success")
    assert summary["before"]["valid"]["value"] > 0.8, "the start writes valid replies"
    assert {"self_bleu2", "sensitivity", "corrected"} <= summary["thoughts"]["last"].keys()


@pytest.mark.long
def test_the_cold_start_for_games_runs(tmp_path, run_train):
    flags = ["--config", CONFIGS / "cards.yaml", "--sft_steps", "2", "--sft_batch_size", "4", "--eval_limit", "2"]
    code, _, err = run_train(*flags, "--output_dir", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


@pytest.mark.long
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name, tmp_path, run_train, small):
    flags = [*small, "--sft_steps", "2", "--sft_batch_size", "4"] if name == "alphadrive" else small
    code, out, err = run_train("--config", CONFIGS / f"{name}.yaml", *flags, "--output_dir", tmp_path / "run")
    assert code == 0, err
    assert "WARNING" not in out, "completions long enough for right answers"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["headline"] in summary["after"]
    assert (summary["stage_seconds"]["sft"] > 0) == (name == "alphadrive")
    rows = [
        json.loads(line)
        for path in sorted((tmp_path / "run" / "completions").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(rows) == 16
    for row in rows:
        assert any(reward["value"] is not None for reward in row["rewards"].values())
    best = max(sum(r["value"] or 0 for r in row["rewards"].values()) for row in rows)
    assert best > 0, "the start can write this recipe's form at all"


def test_the_published_recipes_are_all_here():
    published = {
        "visual_rft_detection", "visual_rft_classification", "visual_rft_lisa", "vlm_r1_rec", "vlm_r1_ovd", "cls_rl",
        "cls_rl_no_think", "cls_rl_adaptive", "sat", "counting", "visual_arft_search", "alphadrive", "vision_r1",
    }  # fmt: skip
    tasks = {"detection", "grounding", "classification", "planning", "qa", "mixed"}
    assert set(RECIPES) == published | tasks


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_of_a_real_model_is_parsed_and_keeps_its_work(name):
    path = CONFIGS / f"{name}.yaml"
    config = parse(["--config", str(path)])
    assert config.grpo.save_strategy == "steps"
    assert config.grpo.save_steps <= 100
    assert "tensorboard" in config.grpo.report_to
    assert config.model.model_name_or_path in PUBLISHED_MODELS
    assert config.model.use_peft == ("lora" in name)
    assert config.grpo.bf16
    assert config.stages == ("grpo",)
    head = path.read_text().split("\n\n")[0]
    for word in ("What:", "Command:", "Hardware:", "Expect:", "not run here", "GiB"):
        assert word in head
