"""The number really goes up: a short default run, as a newcomer would start it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_short_run_lifts_the_greedy_score(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "vlrl/train.py", "--task", "detection"]
    flags = ["--output_dir", str(tmp_path), "--max_steps", "40", "--eval_limit", "150"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = summary["before"]["mean_iou"], summary["after"]["mean_iou"]
    assert after["value"] > before["value"] + 0.05
    assert after["ci95"][0] > before["ci95"][1], "the intervals do not overlap"
    assert summary["n_unparsed"] <= 3
    assert done.stdout.rstrip().endswith("summary.json")
    answers = [json.loads(line) for line in (tmp_path / "held_out.jsonl").open()]
    assert len(answers) == 150
    assert sum(answer["change"] > 0 for answer in answers) > sum(answer["change"] < 0 for answer in answers)


def test_guided_thoughts_lift_success_in_a_card_game(tmp_path):
    command = [sys.executable, "vlrl/train.py", "--task", "ezpoints", "--max_steps", "20", "--eval_limit", "100"]
    flags = ["--num_generations", "4", "--per_device_train_batch_size", "16", "--gtr_coef", "5", "--gtr", "gate=always"]
    done = subprocess.run(
        [*command, *flags, "--output_dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = summary["before"]["success"], summary["after"]["success"]
    assert after["value"] > before["value"] + 0.2
    assert after["ci95"][0] > before["ci95"][1], "the intervals do not overlap"
    assert after["value"] > summary["after"]["success_random"]["value"]
