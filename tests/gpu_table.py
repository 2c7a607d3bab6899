"""The second table of `tests/gpu_check.sh`: seconds and peak memory of a step, by attention.

    python tests/gpu_table.py FOLDER DEVICE

Exit code 1 where no speed was measured.
"""

import json
import sys
from pathlib import Path

PHASES = ("rollout", "ref", "update", "step")


def rows_of(folder: Path) -> list[list[str]]:
    """A row a side and kernel, of those that were measured."""
    found = []
    for path in sorted(folder.glob("speed*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        for side in ("stock", "vlrl"):
            if side not in report["sides"]:
                continue
            seconds, peaks = report["seconds"][side], report["peak_memory_bytes"][side]
            cells = ["-" if seconds[name] is None else f"{seconds[name]:.3f} s" for name in PHASES]
            found.append([report["sides"][side]["setting"], *cells, f"{peaks['step'] / 2**30:.2f} GiB"])
    return found


def main() -> int:
    folder, device = Path(sys.argv[1]), sys.argv[2]
    rows = rows_of(folder)
    print(f"\nMedians of a step on {device}:\n")
    print(f"| setting | {' | '.join(PHASES)} | peak memory |")
    print("|---" * (len(PHASES) + 2) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
