"""SIGTERM and SIGINT at random moments: a whole checkpoint, one line with the command that goes on, an honest exit code; that
command ends with the weights of a run that was never stopped."""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import warm_process
from overnight import HERE, Row
from overnight_runs import SMALL, TRACE, command, moments, problems, reference, resume_words, unlike

SHARES = {"grpo": 0.25, "sft+grpo": 0.15, "prm": 0.1, "bench run": 0.1, "grpo, two processes": 0.35}
N_TORCHRUN = 2
"""Tries under torchrun itself, which imports everything anew: half a minute each."""


def run(n: int, seed: int) -> list[Row]:
    """`n` stops, divided by `SHARES`, on two cores; the last ones under torchrun."""
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:
        n_torchrun = min(N_TORCHRUN, n)
        wanted = {name: max(1, round(n * share)) for name, share in SHARES.items()}
        jobs = [pool.submit(stopped, name, count, seed, Path(root)) for name, count in wanted.items()]
        rows = [job.result() for job in jobs]
        return [*rows, under_torchrun(n_torchrun, seed, Path(root))]


def stopped(name: str, n: int, seed: int, root: Path) -> Row:
    """`n` stops of one kind of run, SIGTERM and SIGINT in turn."""
    rng = random.Random(f"{seed} {name}")
    whole = root / f"{name} whole"
    seconds = reference(name, whole)
    found: list[str] = []
    n_stops = n_late = 0
    waited: list[float] = []
    while n_stops < n:
        folder = root / f"{name} {n_stops + n_late}"
        words, n_processes = command(name, folder)
        number = (signal.SIGTERM, signal.SIGINT)[n_stops % 2]
        program = warm_process.Program(*words, n=n_processes)
        until = time.monotonic() + moments(rng, seconds)
        while program.is_running and time.monotonic() < until:
            time.sleep(0.005)
        if not program.is_running:
            program.wait()
            n_late += 1
            continue
        sent = time.monotonic()
        program.send(number)
        done = program.wait(60)
        waited.append(time.monotonic() - sent)
        n_stops += 1
        where = f"stop {n_stops} ({signal.Signals(number).name})"
        found += [f"{where}: {line}" for line in [*ending(done, number), *problems(folder)]]
        again = words if name == "bench run" else resume_words(done.stderr) or words
        last = warm_process.run(*again, n=n_processes)
        if last.returncode or TRACE in last.stderr:
            found.append(f"{where}: the printed command ends with {last.returncode}: {last.stderr[-500:]}")
        found += [f"{where}: {line}" for line in unlike(name, folder, whole)]
        shutil.rmtree(folder)
    notes = f"the slowest ended after {max(waited):.1f} s" + (f"; {'; '.join(found)[:2000]}" if found else "")
    return Row(f"SIGTERM/SIGINT of {name}", n_stops, len(found), notes)


def ending(done: warm_process.Done, number: int) -> list[str]:
    """What is wrong with the end of a stopped run."""
    found = []
    if done.returncode == 0:
        return []  # it had done everything when the signal came
    if done.returncode != 128 + number:
        found.append(f"exit code {done.returncode}")
    if TRACE in done.stderr:
        found.append(f"traceback: {done.stderr[-800:]}")
    if done.stderr.count("stopped by ") != 1:
        found.append(f"said {done.stderr.count('stopped by ')} times: {done.stderr[-800:]}")
    return found


def under_torchrun(n: int, seed: int, root: Path) -> Row:
    """The same by `torchrun`, which passes a signal on and has an exit code of its own."""
    found = []
    whole = root / "torchrun whole"
    reference("grpo, two processes", whole)
    for k in range(n):
        folder = root / f"torchrun {k}"
        typed = [
            str(Path(sys.executable).parent / "torchrun"),
            "--nproc_per_node",
            "2",
            "--standalone",
            "vlrl/train.py",
            *SMALL,
        ]
        typed += ["--report_to", "none", "--output_dir", str(folder)]
        process = subprocess.Popen(typed, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (folder / "metrics.jsonl").is_file():
            time.sleep(0.05)
        process.send_signal((signal.SIGTERM, signal.SIGINT)[k % 2])
        _, said = process.communicate(timeout=120)
        words = resume_words(said)
        if words is None or "stopped by" not in said:
            found.append(f"torchrun {k}: {said[-1500:]}")
        found += problems(folder)
        last = warm_process.run(*(words or command("grpo, two processes", folder)[0]), n=2)
        found += [] if last.returncode == 0 else [f"torchrun {k}: {last.stderr[-500:]}"]
        found += [f"torchrun {k}: {line}" for line in unlike("grpo, two processes", folder, whole)]
    return Row("SIGTERM/SIGINT of torchrun with two processes", n, len(found), "; ".join(found)[:2000])
