"""Every checked-in recipe runs as it stands on the embedded model (here for two steps) and pays what it says."""

import json

import pytest

from vlrl.training.options import CONFIGS

GAMES = ("numberline", "ezpoints", "points24", "blackjack")
RECIPES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"cards", "own_task", "prm", "vilreward_prm", *GAMES})


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
        "cls_rl_no_think", "alphadrive", "vision_r1",
    }  # fmt: skip
    tasks = {"detection", "grounding", "classification", "planning", "qa", "mixed"}
    assert set(RECIPES) == published | tasks
