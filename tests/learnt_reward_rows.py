"""GRPO paid by reward models, in rows of docs/results.md: `python tests/learnt_reward_rows.py --row refine --out FOLDER`.

`refine`: a process reward model pays a policy that sometimes writes a step twice, as it is or by clip+delta, alone or beside the right
answer. `ensemble`: four models that have learnt a little pay it, alone or combined; gold is compared at the same KL to the start.

Gold is the right answer on 200 held-out boards. Three seeds, two runs at a time; runs that are there are not repeated.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean

import numpy as np
from over_optimisation_rows import SEEDS, cell, logged, run

os.environ.setdefault("OMP_NUM_THREADS", "1")

QUIET = ["--logging_steps", "1", "--save_strategy", "no", "--report_to", "none"]
PRM = ["--task", "prm", "--eval_limit", "600", "--max_steps", "400", *QUIET]
NOISY = ["--task", "prm", "--limit", "4000", "--eval_limit", "600", "--max_steps", "400", *QUIET]
SFT = ["--task", "qa", "--stage", "sft", "--sft_steps", "500", "--max_completion_length", "60", *QUIET]
GRPO = ["--task", "qa", "--stage", "grpo", "--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false", *QUIET]
GRPO += ["--per_device_train_batch_size", "64", "--num_generations", "8", "--max_steps", "20", "--learning_rate", "5e-4"]
GRPO += ["--lr_scheduler_type", "constant", "--warmup_steps", "0", "--adam_beta2", "0.95", "--loss_type", "grpo"]
GRPO += ["--max_completion_length", "60", "--beta", "0.001", "--gold", "accuracy"]
GRPO += ["--eval_strategy", "steps", "--eval_steps", "5"]
ROWS = {
    "refine": {
        "sum of steps": ["rm:{0},credit=steps"],
        "clip+delta": ["rm:{0},refine=clip+delta"],
        "right answer + sum of steps": ["math_equal", "rm:{0},credit=steps"],
        "right answer + clip+delta": ["math_equal", "rm:{0},refine=clip+delta"],
    },
    "ensemble": {
        "one model": ["rm:{0},outcome=mean"],
        "mean of 4": ["rm:{all},outcome=mean,combine=mean"],
        "min": ["rm:{all},outcome=mean,combine=min"],
        "wco": ["rm:{all},outcome=mean,combine=wco"],
        "uwo": ["rm:{all},outcome=mean,combine=uwo,coefficient=1"],
    },
}
"""Arms of a row: the rewards that pay."""


def held_out(folder):
    """Of one run: before training and at each measurement its step, KL to the start (mean of the five steps before), paid reward
    and gold."""
    rows, before = logged(folder), json.loads((Path(folder) / "summary.json").read_text())["gold"]["before"]
    kl = {row["step"]: row["kl"] for row in rows if "kl" in row}
    found = [(0, 0.0, before["reward"], before["gold"])]
    for row in rows:
        if "eval_gold" in row:
            near = [value for step, value in kl.items() if row["step"] - 5 < step <= row["step"]]
            found.append((row["step"], fmean(near), row["eval_reward"], row["eval_gold"]))
    return found


def repeated(folder, n=4):
    """Of the completions of the last `n` steps: the share that writes a line twice, and the mean number of lines."""
    files = sorted((Path(folder) / "completions").glob("step_*.jsonl"))[-n:]
    texts = [json.loads(line)["completion"] for file in files for line in file.read_text().splitlines()]
    lines = [[line for line in text.replace("<think>", "").splitlines() if line.strip()] for text in texts]
    return fmean(len(set(some)) < len(some) for some in lines), fmean(map(len, lines))


def about_refinement(folder):
    first, *_, last = held_out(folder)
    share, n_lines = repeated(folder)
    summary = json.loads((Path(folder) / "summary.json").read_text())
    return {
        "paid, start → end": (first[2], last[2]),
        "gold, start → end": (first[3], last[3]),
        "a line twice, last 4 steps": (share,),
        "lines": (n_lines,),
        "the monitor rang": (float(summary["gold"]["hacked_at_step"] is not None),),
    }


def table(names, rows):
    print("| arm | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for arm, some in rows.items():
        cells = [" → ".join(cell(list(values)) for values in zip(*(one[name] for one in some), strict=True)) for name in names]
        print(f"| {arm} | " + " | ".join(cells) + " |")


def at_equal_kl(folders):
    """Gold and paid reward of each run where its KL reaches what all runs reach, between measurements by straight lines."""
    runs = {arm: [held_out(folder) for folder in some] for arm, some in folders.items()}
    reached = min(max(kl for _, kl, _, _ in one) for some in runs.values() for one in some)
    rows = {}
    for arm, some in runs.items():
        rows[arm] = []
        for one in some:
            kls = np.maximum.accumulate([kl for _, kl, _, _ in one])
            rows[arm].append(
                {
                    "gold at the start": (one[0][3],),
                    f"gold at KL {reached:.3f}": (float(np.interp(reached, kls, [gold for *_, gold in one])),),
                    "gold at the end": (one[-1][3],),
                    "KL at the end": (one[-1][1],),
                    "paid, start → end": (one[0][2], one[-1][2]),
                }
            )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ROWS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--processes", type=int, default=2, help="Runs at a time.")
    asked = parser.parse_args()
    from board_policies import write

    boards, started = asked.out / "boards", time.monotonic()
    if not boards.exists():
        write(boards)
    data = ["--data", str(boards / "train.jsonl"), "--eval_data", str(boards / "held_out.jsonl")]
    valued = ["--data", str(boards / "step_values.jsonl")]
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("spawn")) as pool:
        policy = pool.submit(run, asked.out / "policy", [*SFT, *data], 0)
        if asked.row == "refine":
            models = [pool.submit(run, asked.out / "prm", [*PRM, *valued], 0)]
        else:
            models = [pool.submit(run, asked.out / f"noisy{seed}", [*NOISY, *valued], seed) for seed in (1, 2, 3, 4)]
        finals = [f"{one.result()}/final" for one in models]
        begun = [*GRPO, *data, "--model_name_or_path", f"{policy.result()}/final"]
        print(f"policy and models: {time.monotonic() - started:.0f} s", flush=True)
        folders = {arm: [asked.out / f"{asked.row}{i}-seed{seed}" for seed in SEEDS] for i, arm in enumerate(ROWS[asked.row])}
        jobs = []
        for k, seed in enumerate(SEEDS):
            for arm, rewards in ROWS[asked.row].items():
                paid = [one.format(*finals, all="+".join(finals)) for one in rewards]
                words = [*begun, "--rewards", *paid, "--reward_weights", *("1" for _ in paid)]
                jobs.append(pool.submit(run, folders[arm][k], words, seed))
        for job in jobs:
            print("done", job.result(), flush=True)
    if asked.row == "refine":
        rows = {arm: [about_refinement(folder) for folder in some] for arm, some in folders.items()}
    else:
        rows = at_equal_kl(folders)
    table(list(next(iter(rows.values()))[0]), rows)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
