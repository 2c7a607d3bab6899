"""SIGKILL at random moments of training and of `bench run`: each goes on, and ends with the weights and results of one that was
never stopped."""

import random
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import warm_process
from overnight import Row
from overnight_runs import TRACE, command, moments, problems, reference, unlike

SHARES = {"grpo": 0.35, "sft+grpo": 0.2, "grpo, two processes": 0.1, "prm": 0.1, "bench run": 0.25}
AT_MOST = 12
"""Kills of one run before it is let to its end."""


def run(n: int, seed: int) -> list[Row]:
    """`n` kills, divided by `SHARES`, on two cores."""
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:
        wanted = {name: max(1, round(n * share)) for name, share in SHARES.items()}
        jobs = [pool.submit(killed, name, count, seed, Path(root)) for name, count in wanted.items()]
        return [job.result() for job in jobs]


def killed(name: str, n: int, seed: int, root: Path) -> Row:
    """`n` kills of one kind of run."""
    rng = random.Random(f"{seed} {name}")
    whole = root / f"{name} whole"
    seconds = reference(name, whole)
    found: list[str] = []
    n_kills = n_runs = 0
    while n_kills < n:
        folder = root / f"{name} {n_runs}"
        n_runs += 1
        n_kills += one_run(name, folder, whole, min(AT_MOST, n - n_kills), seconds, rng, found)
        shutil.rmtree(folder)
    notes = f"{n_runs} runs of {seconds:.0f} s, {len(found)} problems" + (f": {'; '.join(found)[:2000]}" if found else "")
    return Row(f"SIGKILL of {name}", n_kills, len(found), notes)


def one_run(name: str, folder: Path, whole: Path, at_most: int, seconds: float, rng: random.Random, found: list[str]) -> int:
    """Kill a run up to `at_most` times, and let it go on to its end; returns how often it was killed."""
    words, n = command(name, folder)
    for k in range(at_most + 1):
        program = warm_process.Program(*words, n=n)
        until = time.monotonic() + (moments(rng, seconds) if k < at_most else 1e9)
        while program.is_running and time.monotonic() < until:
            time.sleep(0.005)
        was_running = program.is_running
        program.kill()
        done = program.wait()
        if not was_running:
            if done.returncode or TRACE in done.stderr:
                found.append(f"kill {k}: exit code {done.returncode}: {done.stderr[-800:]}")
            found += [f"kill {k}: {line}" for line in unlike(name, folder, whole)]
            return k
        found += problems(folder)
    raise AssertionError("never reached")
