"""The number really goes up: short runs, the first one as a newcomer would start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm_process
from test_default_run import prints_no_warning

ROOT = Path(__file__).resolve().parent.parent


def rises(summary, metric, by):
    """Asserts that `metric` is higher after training by more than `by`, and beyond both intervals."""
    before, after = summary["before"][metric], summary["after"][metric]
    assert after["value"] > before["value"] + by
    assert after["ci95"][0] > before["ci95"][1], "the intervals do not overlap"


@pytest.mark.long
@pytest.mark.skipif(
    os.environ.get("CI") == "true", reason="the gate runs the whole command first, and holds its numbers to more"
)
def test_a_short_run_lifts_the_greedy_score(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "vlrl/train.py", "--task", "detection"]
    flags = ["--max_steps", "30", "--per_device_train_batch_size", "64", "--eval_limit", "100", "--output_dir", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    prints_no_warning(done)
    summary = json.loads((tmp_path / "summary.json").read_text())
    rises(summary, "f1@0.5", by=0.15)
    rises(summary, "mean_iou", by=0.05)
    assert summary["n_unparsed"] <= 3
    assert done.stdout.rstrip().endswith("summary.json")
    answers = [json.loads(line) for line in (tmp_path / "held_out.jsonl").open()]
    assert len(answers) == 100
    assert sum(answer["change"] > 0 for answer in answers) > sum(answer["change"] < 0 for answer in answers)


@pytest.mark.long
def test_guided_thoughts_lift_success_in_a_card_game(tmp_path):
    flags = ["--task", "ezpoints", "--max_steps", 5, "--eval_limit", 20, "--num_generations", 4]
    flags += ["--per_device_train_batch_size", 8, "--gtr_coef", 5, "--gtr", "gate=always", "--save_strategy", "no"]
    done = warm_process.run("vlrl/train.py", *flags, "--output_dir", tmp_path, timeout_s=500)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    rises(summary, "success", by=0.2)
    assert summary["after"]["success"]["value"] > summary["after"]["success_random"]["value"]
