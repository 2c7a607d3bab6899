"""What the parts of `tests/overnight.py` that stop runs share: small runs, and what must hold of a run's folder at any moment."""

import json
import random
import re
import shlex
import time
from pathlib import Path

import warm_process
from safetensors import SafetensorError, safe_open

SMALL = ["--per_device_train_batch_size", "4", "--num_generations", "4", "--max_completion_length", "24", "--eval_limit", "3"]
SMALL += ["--max_steps", "4", "--save_steps", "1", "--save_total_limit", "2", "--logging_steps", "1", "--beta", "0.01"]
SUPERVISED = ["--model_name_or_path", "tiny-random", "--stage", "sft+grpo", "--sft_steps", "4", "--sft_batch_size", "4"]
PRM = ["--task", "prm", "--max_steps", "4", "--save_steps", "1", "--logging_steps", "1", "--eval_limit", "3", "--limit", "64"]
RUNS = {
    "grpo": (["vlrl/train.py", *SMALL], 1),
    "sft+grpo": (["vlrl/train.py", *SMALL, *SUPERVISED, "--report_to", "none"], 1),
    "prm": (["vlrl/train.py", *PRM, "--report_to", "none"], 1),
    "grpo, two processes": (["vlrl/train.py", *SMALL, "--report_to", "none"], 2),
    "bench run": (
        ["-m", "vlrl.bench", "run", "--task", "detection,qa", "--limit", "24", "--batch_size", "2", "--device", "cpu"],
        1,
    ),
}
"""Name -> words after `python`, number of processes."""
TRACE = "Traceback (most recent call last)"


def command(name: str, folder: Path) -> tuple[list[str], int]:
    """The words of a run that starts in `folder` or goes on there."""
    words, n = RUNS[name]
    if name == "bench run":
        return [*words, "--output_path", str(folder)], n
    return [*words, "--output_dir", str(folder), "--resume_from_checkpoint", "true"], n


def reference(name: str, folder: Path) -> float:
    """One run that nothing stops; returns the seconds it took. Raises AssertionError where it fails."""
    words, n = command(name, folder)
    warm_process.run("-c", "pass")  # what all runs are forked from has imported everything
    started = time.monotonic()
    done = warm_process.run(*words, n=n)
    assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
    return time.monotonic() - started


def problems(folder: Path) -> list[str]:
    """What is half in a folder whose run was stopped: nothing may be, except beside its final name."""
    found = []
    for weights in [*folder.glob("checkpoint-*"), *folder.glob("sft/checkpoint-*"), *folder.glob("**/final")]:
        names = (
            ["model.safetensors"] if weights.name == "final" else ["model.safetensors", "trainer_state.json", "optimizer.pt"]
        )
        found += [f"{weights} lacks {name}" for name in names if not (weights / name).is_file()]
        try:
            with safe_open(str(weights / "model.safetensors"), framework="pt") as file:
                file.keys()
        except (OSError, SafetensorError) as error:
            found.append(f"{weights}: {error}")
    for path in [*folder.glob("*.jsonl"), *folder.glob("completions/*.jsonl"), *folder.glob("sft/*.jsonl")]:
        lines = path.read_text().split("\n")
        if lines[-1] and path.name not in ("metrics.jsonl", "events.jsonl", "predictions.jsonl"):
            found.append(f"{path} ends in the middle of a line")
        for line in lines[:-1]:
            try:
                json.loads(line)
            except ValueError:
                found.append(f"{path}: {line[:80]!r}")
    for path in [*folder.glob("*.json"), *folder.glob("*.yaml")]:
        if not path.read_text().endswith("\n"):
            found.append(f"{path} is not whole")
    return found


def unlike(name: str, folder: Path, whole: Path) -> list[str]:
    """How the result of a run that was stopped and went on differs from one that was not, and what it left behind."""
    found = [f"{path} is left" for path in [*folder.rglob("*.partial"), *folder.rglob("run.lock"), *folder.rglob(".partial")]]
    files = ["predictions.jsonl", "scores.jsonl"] if name == "bench run" else ["final/model.safetensors"]
    if name not in ("bench run", "prm"):
        files += ["predictions_before.jsonl", "predictions_after.jsonl", "held_out.jsonl"]
    for file in files:
        if not (folder / file).is_file():
            found.append(f"{file} is missing")
        elif (folder / file).read_bytes() != (whole / file).read_bytes():
            found.append(f"{file} differs")
    result = "result.json" if name == "bench run" else "summary.json"
    if not (folder / result).is_file():
        return [*found, f"{result} is missing"]
    a, b = (json.loads((one / result).read_text()) for one in (folder, whole))
    keys = ["results"] if name == "bench run" else ["before", "after", "steps"]
    found += [f"{result}: {key} differs" for key in keys if a[key] != b[key]]
    if name != "bench run":
        steps = [
            [row["step"] for row in map(json.loads, (one / "metrics.jsonl").open()) if "loss" in row] for one in (folder, whole)
        ]
        found += [] if steps[0] == steps[1] else [f"logged steps {steps[0]}, not {steps[1]}"]
    return found


def resume_words(said: str) -> list[str] | None:
    """The words of the one command that a stopped run printed, after `python`; None where it printed another number of them."""
    commands = re.findall(r"(?:Go on|go on|goes on)(?: with)?: (.*)", said)
    if len(commands) != 1:
        return None
    words = shlex.split(commands[0])
    return words[words.index("vlrl/train.py") :] if "vlrl/train.py" in words else None


def moments(rng: random.Random, seconds: float) -> float:
    """A random moment of a run that takes `seconds`."""
    return rng.uniform(0.05, seconds)
