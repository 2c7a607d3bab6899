"""The figures of a trusted night: what was tried in numbers, and how often it failed.

    python tests/overnight.py [fuzz kills stops disk endpoints page probes keys damage] [--seed 0] [--n N]

Each part prints rows `what | tries | failed | notes`. Not a test of pytest: with two parts at a time it takes most of an hour on two
cores. The exit code is 1 where anything failed.
"""

import argparse
import importlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    tries: int
    failed: int
    notes: str = ""


PARTS = {  # the longest first
    "stops": "overnight_stops",
    "kills": "overnight_kills",
    "fuzz": "overnight_fuzz",
    "disk": "overnight_disk",
    "endpoints": "overnight_endpoints",
    "page": "overnight_page",
    "probes": "overnight_probes",
    "keys": "overnight_keys",
    "damage": "overnight_damage",
}
"""Part -> its module, which has `run(n, seed) -> list[Row]`."""
HEAD = ("| what | tries | failed | notes |", "|---|---|---|---|")
USUAL_N = {
    "fuzz": 120_000,
    "kills": 100,
    "stops": 40,
    "disk": 20,
    "endpoints": 1,
    "page": 50,
    "probes": 60,
    "keys": 1,
    "damage": 200,
}


def run_part(part: str, n: int | None, seed: int) -> int:
    """Runs a part here and prints its rows. Returns its exit code: 1 where something failed."""
    started = time.monotonic()
    rows = importlib.import_module(PARTS[part]).run(n or USUAL_N[part], seed)
    for row in rows:
        print(f"| {row.what} | {row.tries} | {row.failed} | {row.notes} |", flush=True)
    print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return int(any(row.failed for row in rows))


def run_part_apart(part: str, n: int | None, seed: int) -> int:
    """Runs a part as a process of its own and prints its rows when it is done."""
    command = [sys.executable, str(HERE / "overnight.py"), part, "--seed", str(seed), *(["--n", str(n)] if n else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    rows = [line for line in done.stdout.splitlines() if line not in HEAD]
    print("\n".join(rows) if rows else f"| {part} | 0 | 1 | ended with exit code {done.returncode} |", flush=True)
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, help="tries of each part (default: those of the issue)")
    parser.add_argument("--lanes", type=int, default=2, help="parts that run at the same time")
    args = parser.parse_args()
    print("\n".join(HEAD), flush=True)
    parts = args.parts or list(PARTS)
    if len(parts) == 1:
        return run_part(parts[0], args.n, args.seed)
    started = time.monotonic()
    with ThreadPoolExecutor(args.lanes) as lanes:
        codes = list(lanes.map(lambda part: run_part_apart(part, args.n, args.seed), parts))
    print(f"all: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
