"""Every checked-in recipe runs as it stands on the embedded model (here for two steps) and pays what it says."""

import json

import pytest

from vlrl.config import CONFIGS

RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


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
