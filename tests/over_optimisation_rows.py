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

SMALL = ["--task", "detection", "--per_device_train_batch_size", "32", "--num_generations", "8", "--max_steps", "48"]
SMALL += ["--learning_rate", "1e-3", "--warmup_steps", "0", "--logging_steps", "1", "--save_strategy", "no"]
SMALL += ["--report_to", "none"]
SMALL += ["--eval_limit", "200", "--eval_strategy", "steps", "--eval_steps", "12", "--gold", "iou_f1"]
SMALL += ["--rewards", f"{REWARDS}:corrupted", "--reward_weights", "1"]
TASK = str(ROOT / "confident_task.py")
QUIET = ["--logging_steps", "1", "--save_strategy", "no", "--report_to", "none", "--eval_limit", "200"]
STARTED = ["--task", TASK, "--stage", "sft", "--model_name_or_path", "tiny", "--sft_steps", "60", *QUIET]
CONFIDENT = ["--task", TASK, "--stage", "grpo", "--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false", *QUIET]
CONFIDENT += ["--per_device_train_batch_size", "32", "--num_generations", "8", "--max_steps", "120", "--learning_rate", "5e-4"]
CONFIDENT += ["--lr_scheduler_type", "constant", "--adam_beta2", "0.95", "--loss_type", "grpo", "--reward_weights", "1", "0.25"]
NO_PENALTY = "no penalty, no multiplier"
ARMS = {
    NO_PENALTY: SMALL,
    "KL, 0.1": [*SMALL, "--beta", "0.1"],
    "χ², 0.1": [*SMALL, "--chi2_coef", "0.1"],
    "KL, 1": [*SMALL, "--beta", "1"],
    "χ², 1": [*SMALL, "--chi2_coef", "1"],
    "cost at most 0.15": [*SMALL, "--cost", f"{REWARDS}:n_boxes:0.15"],
    "confidence": CONFIDENT,
}
"""What each arm adds to the command of its row."""
ROWS = {
    "chi2": (NO_PENALTY, "KL, 0.1", "χ², 0.1", "KL, 1", "χ², 1"),
    "cost": (NO_PENALTY, "cost at most 0.15"),
    "confidence": ("confidence",),
}
START = "start"
"""The folder of the supervised run that all runs on confidence begin from."""


def run(folder, words, seed):
    """One run in this process, unless its folder holds a finished one."""
    from vlrl.train import main

    if not (folder / "summary.json").is_file():
        code = main([*words, "--seed", str(seed), "--output_dir", str(folder)])
        assert code == 0, f"{folder}: exit code {code}"
    return str(folder)


def logged(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def mean_cost(folder, n=4):
    """The mean of the cost over the completions of the last `n` steps, in 0..1: boxes over six."""
    files = sorted((Path(folder) / "completions").glob("step_*.jsonl"))[-n:]
    texts = [json.loads(line)["completion"] for file in files for line in file.read_text().splitlines()]
    return sum(min(1.0, text.count("bbox_2d") / 6) for text in texts) / len(texts)


def numbers(row, folder):
    """What a row shows of one run."""
    summary = json.loads((Path(folder) / "summary.json").read_text())
    if row == "confidence":
        sides = ("before", "after")
        return {f"{name} {side}": summary[side][name]["value"] for name in ("calibration_error", "accuracy") for side in sides}
    last = [one for one in logged(folder) if "eval_gold" in one][-1]
    before = summary["gold"]["before"]
    found = {"reward before": before["reward"], "reward": last["eval_reward"]}
    found |= {"gold (iou_f1) before": before["gold"], "gold": last["eval_gold"]}
    if row == "chi2":
        return found | {"over-optimised": float(summary["gold"]["hacked_at_step"] is not None)}
    found["mean cost, last 4 steps"] = mean_cost(folder)
    multiplier = next(
        (one["cost/n_boxes/multiplier"] for one in reversed(logged(folder)) if "cost/n_boxes/multiplier" in one), None
    )
    return found | ({} if multiplier is None else {"λ at the end": multiplier})


def cell(values):
    """Mean over seeds with its 95 % interval (Student's t)."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = T_OF_THREE * spread / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def table(row, folders):
    found = {arm: [numbers(row, folder) for folder in some] for arm, some in folders.items()}
    names = list(dict.fromkeys(name for some in found.values() for one in some for name in one))
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, some in found.items():
        cells = [cell([one[name] for one in some]) if name in some[0] else "" for name in names]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs; those that are there are not repeated.")
    parser.add_argument("--arms", nargs="*", help="Only these of the row.")
    parser.add_argument("--processes", type=int, default=2, help="Runs at a time.")
    asked = parser.parse_args()
    started = time.monotonic()
    arms = [name for name in ROWS[asked.row] if not asked.arms or name in asked.arms]
    folders = {name: [asked.out / f"arm{list(ARMS).index(name)}-seed{seed}" for seed in SEEDS] for name in arms}
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("spawn")) as pool:
        begins = []
        if asked.row == "confidence":
            start = pool.submit(run, asked.out / START, STARTED, 0).result()
            begins = ["--model_name_or_path", f"{start}/final"]
        jobs = [
            pool.submit(run, folders[name][k], [*ARMS[name], *begins], seed) for k, seed in enumerate(SEEDS) for name in arms
        ]
        for job in jobs:
            print("done", job.result(), flush=True)
    print(f"\n{table(asked.row, folders)}\n\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
