"""Measures how a training run starts from a million rows: seconds until its first step, and memory beyond a run of 100 rows.

    python tests/large_rows.py --n 1000000 --folder /tmp/rows

The rows are questions about 50,000 small images. Prints, for each size, seconds by the clock and
CPU seconds from the start of the process to its first step, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
N_IMAGES = 50_000
COLOURS = "red green blue dark tall small round wide old new".split()  # noqa: SIM905
FLAGS = "--task qa --stage grpo --max_steps 1 --per_device_train_batch_size 8 --num_generations 4 --eval_limit 8".split()  # noqa: SIM905


def write_rows(folder: Path, n: int) -> Path:
    """A file of `n` rows; their images are made once."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for i in range(min(N_IMAGES, n)):
        path = images / f"{i}.png"
        if not path.exists():
            Image.new("RGB", (64, 64), (i >> 16, i >> 8 & 255, i & 255)).save(path)
    path = folder / f"rows_{n}.jsonl"
    with path.open("w") as file:
        for i in range(n):
            question = f"How many {COLOURS[i % 10]} {COLOURS[i // 10 % 10]} things are in picture {i}?"
            row = {"id": f"row-{i}", "task": "qa", "images": [f"images/{i % N_IMAGES}.png"], "question": question}
            file.write(json.dumps(row | {"answer": str(10 * i // n)}) + "\n")
    return path


def start_of(path: Path, out: Path, n_processes: int) -> tuple[float, float]:
    """Seconds by the clock and of CPU until the first step of a run (of several processes that of the launcher alone)."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    launcher = [sys.executable, *(torchrun if n_processes > 1 else [])]
    command = [*launcher, str(ROOT / "vlrl/train.py"), *FLAGS, "--data", str(path), "--report_to", "none"]
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, "--output_dir", str(out)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        seconds = cpu = 0.0
        for line in process.stdout:
            if line.startswith("sharing"):  # said as the first step begins
                seconds = time.monotonic() - started
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return seconds, cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    peaks = []
    for n in (100, args.n):  # the smaller first: the peak of all children so far never falls
        path = write_rows(args.folder, n)
        seconds, cpu = start_of(path, args.folder / f"run_{n}_{int(time.time())}", args.processes)
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        used = f" ({cpu:5.1f} s CPU)" if args.processes == 1 else f" on {args.processes} processes"
        print(f"{n:>9,} rows  first step after {seconds:5.1f} s{used}  peak memory {peaks[-1]:6.0f} MiB a process", flush=True)
    print(f"memory beyond that of 100 rows: {peaks[1] - peaks[0]:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
