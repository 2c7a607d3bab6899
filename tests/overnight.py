"""The figures of a trusted night: what was tried in numbers, and how often it failed.

    python tests/overnight.py [fuzz kills stops disk endpoints page probes keys damage] [--seed 0] [--n N]

Each part prints rows `what | tries | failed | notes`. Not a test of pytest: together the parts take most of an hour on two cores.
"""

import argparse
import importlib
import sys
import time
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


PARTS = {
    "fuzz": "overnight_fuzz",
    "kills": "overnight_kills",
    "stops": "overnight_stops",
    "disk": "overnight_disk",
    "endpoints": "overnight_endpoints",
    "page": "overnight_page",
    "probes": "overnight_probes",
    "keys": "overnight_keys",
    "damage": "overnight_damage",
}
"""Part -> its module, which has `run(n, seed) -> list[Row]`."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, help="tries of each part (default: those of the issue)")
    args = parser.parse_args()
    failed = 0
    print("| what | tries | failed | notes |\n|---|---|---|---|", flush=True)
    for part in args.parts or PARTS:
        started = time.monotonic()
        rows = importlib.import_module(PARTS[part]).run(args.n or USUAL_N[part], args.seed)
        for row in rows:
            failed += row.failed
            print(f"| {row.what} | {row.tries} | {row.failed} | {row.notes} |", flush=True)
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
