"""Rows of docs/results.md on rewards that can be hacked: `python tests/over_optimisation_rows.py --row chi2 --out FOLDER`.

Rows: `chi2` (χ² against KL at equal coefficients), `cost` (a cost with and without its multiplier), `confidence` (calibration before
and after). Each trains the embedded models with three seeds, two runs at a time, and prints a table in Markdown.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent
REWARDS = ROOT / "over_optimisation_rewards.py"
SEEDS = (0, 1, 2)
T_OF_THREE = 4.303
"""Student's t at 0.975 with two degrees of freedom."""

SMALL = ["--task", "detection", "--per_device_train_batch_size", "64", "--num_generations", "8", "--max_steps", "24"]
SMALL += ["--logging_steps", "1", "--save_strategy", "no", "--report_to", "none", "--eval_limit", "150"]
SMALL += ["--eval_strategy", "steps", "--eval_steps", "12", "--rewards", f"{REWARDS}:corrupted", "--reward_weights", "1"]
CONFIDENT = [
    "--task",
    str(ROOT / "confident_task.py"),
    "--stage",
    "sft+grpo",
    "--model_name_or_path",
    "tiny",
    "--sft_steps",
    "60",
]
CONFIDENT += ["--per_device_train_batch_size", "64", "--num_generations", "8", "--max_steps", "40", "--eval_limit", "300"]
CONFIDENT += ["--logging_steps", "1", "--save_strategy", "no", "--report_to", "none", "--reward_weights", "1", "0.25"]
ARMS = {
    "chi2": {
        "no penalty": [*SMALL, "--gold", "iou_f1"],
        "KL, 0.1": [*SMALL, "--gold", "iou_f1", "--beta", "0.1"],
        "χ², 0.1": [*SMALL, "--gold", "iou_f1", "--chi2_coef", "0.1"],
        "KL, 1": [*SMALL, "--gold", "iou_f1", "--beta", "1"],
        "χ², 1": [*SMALL, "--gold", "iou_f1", "--chi2_coef", "1"],
    },
    "cost": {
        "without": [*SMALL, "--gold", f"{REWARDS}:n_boxes"],
        "with its multiplier": [*SMALL, "--gold", "iou_f1", "--cost", f"{REWARDS}:n_boxes:0.2"],
    },
    "confidence": {"calibrated_confidence": CONFIDENT},
}


def run(folder, words, seed):
    """One run in this process; its numbers are read from its folder."""
    from vlrl.train import main

    done = folder / "summary.json"
    if not done.is_file():
        code = main([*words, "--seed", str(seed), "--output_dir", str(folder)])
        assert code == 0, f"{folder}: exit code {code}"
    return str(folder)


def logged(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def mean_of_last(folder, name, n=6):
    values = [row[name] for row in logged(folder) if row.get(name) is not None][-n:]
    return sum(values) / len(values)


def numbers(row, arm, folder):
    """What a row shows of one run."""
    summary = json.loads((Path(folder) / "summary.json").read_text())
    if row == "confidence":
        return {
            f"{name} {side}": summary[side][name]["value"]
            for name in ("calibration_error", "accuracy")
            for side in ("before", "after")
        }
    last = [one for one in logged(folder) if "eval_gold" in one][-1]
    found = {"reward, held out": last["eval_reward"]}
    if row == "chi2":
        rung = summary["gold"]["hacked_at_step"]
        return found | {"gold (iou_f1), held out": last["eval_gold"], "over-optimised": float(rung is not None)}
    mean, multiplier = "rewards/n_boxes/mean", "cost/n_boxes/multiplier"
    has_cost = any(mean in one for one in logged(folder))
    found["mean cost, last 6 steps"] = mean_of_last(folder, mean if has_cost else "gold/mean")
    return found | ({"λ at the end": mean_of_last(folder, multiplier, 1)} if has_cost else {})


def cell(values):
    """Mean over seeds with its 95 % interval (Student's t)."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = T_OF_THREE * spread / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def table(row, folders):
    found = {arm: [numbers(row, arm, folder) for folder in some] for arm, some in folders.items()}
    names = list(dict.fromkeys(name for some in found.values() for one in some for name in one))
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, some in found.items():
        cells = [cell([one[name] for one in some]) if name in some[0] else "" for name in names]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ARMS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs; those that are there are not repeated.")
    parser.add_argument("--arms", nargs="*", help="Only these.")
    parser.add_argument("--processes", type=int, default=2, help="Runs at a time.")
    asked = parser.parse_args()
    started = time.monotonic()
    arms = {name: words for name, words in ARMS[asked.row].items() if not asked.arms or name in asked.arms}
    folders = {
        name: [asked.out / asked.row / f"{i}-{seed}" for seed in SEEDS]
        for i, name in enumerate(ARMS[asked.row])
        if name in arms
    }
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(run, folders[name][k], arms[name], seed) for k, seed in enumerate(SEEDS) for name in arms]
        for job in jobs:
            print("done", job.result(), flush=True)
    print(f"\n{table(asked.row, folders)}\n\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
