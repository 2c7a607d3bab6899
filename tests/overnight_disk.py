"""A disk that is full from a random moment on: one line that names the file and the free space, nothing half; with space again
the run goes on and ends with the weights of one that never was short of it.

The disk is a small file system in memory, of a mount namespace of its own (`unshare -rm`).
"""

import errno
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import warm_process
from overnight import HERE, Row
from overnight_runs import TRACE, command, moments, problems, reference, resume_words, unlike

SHARES = {"grpo": 0.4, "sft+grpo": 0.2, "prm": 0.1, "bench run": 0.15, "grpo, two processes": 0.15}
SIZE_MIB = 256


def run(n: int, seed: int) -> list[Row]:
    """`n` full disks, divided by `SHARES`."""
    with tempfile.TemporaryDirectory() as root:
        mount = f"mount -t tmpfs -o size={SIZE_MIB}m overnight {root} && exec {sys.executable} {__file__} {root} {n} {seed}"
        done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if done.returncode:
        return [Row("full disk", 0, n, f"no file system of its own could be mounted: {done.stderr[-500:]}")]
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def filled(name: str, n: int, seed: int, root: Path) -> Row:
    """`n` full disks of one kind of run."""
    rng = random.Random(f"{seed} {name}")
    whole = root / f"{name} whole"
    seconds = reference(name, whole)
    found: list[str] = []
    hit: list[str] = []
    for k in range(n):
        folder = root / f"{name} {k}"
        words, n_processes = command(name, folder)
        program = warm_process.Program(*words, n=n_processes)
        begun = [folder / name for name in ("config.yaml", "run.json")] if rng.random() < 0.8 else [root]
        while program.is_running and not any(path.exists() for path in begun):
            time.sleep(0.005)
        until = time.monotonic() + moments(rng, 0.9 * seconds)
        while program.is_running and time.monotonic() < until:
            time.sleep(0.005)
        fill(root / "filler")
        done = program.wait(120)
        (root / "filler").unlink()
        where = f"full disk {k}"
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            lines = [line for line in said if "MiB free" in line]
            hit.append((lines or ["?"])[0].partition("for ")[2].partition(" in ")[0].replace(str(folder), "") or "the start")
            if done.returncode not in (1, 2) or TRACE in done.stderr or len(lines) != 1:
                found.append(f"{where}: exit code {done.returncode}: {done.stderr[-1200:]}")
            if [path for path in folder.rglob("*") if "partial" in path.name]:
                found.append(f"{where}: half files are left")
        found += [f"{where}: {line}" for line in problems(folder)]
        again = words if name == "bench run" else resume_words(done.stderr) or words
        last = warm_process.run(*again, n=n_processes)
        if last.returncode or TRACE in last.stderr:
            found.append(f"{where}: with space again it ends with {last.returncode}: {last.stderr[-500:]}")
        found += [f"{where}: {line}" for line in unlike(name, folder, whole)]
        shutil.rmtree(folder)
    shutil.rmtree(whole)
    notes = f"full at: {', '.join(sorted(set(hit)))[:300] or 'no write'}" + (f"; {'; '.join(found)[:2000]}" if found else "")
    return Row(f"full disk of {name}", n, len(found), notes)


def fill(path: Path) -> None:
    """Take all space that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    place, count, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    made = [filled(name, max(1, round(count * share)), start, place) for name, share in SHARES.items()]
    print(json.dumps([asdict(row) for row in made]))
