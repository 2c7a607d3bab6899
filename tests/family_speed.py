"""How much faster a step of GRPO is where a group's prompt and images are run once, for a random model of every family.

    python tests/family_speed.py OUT [FAMILY ...]

Makes models of two layers, 256 wide, that see images of 224 pixels, runs `vlrl bench speed` on each (TRL and vlrl by turns in one
run), and prints the table of docs/speed.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["VLRL_FAMILY_WIDTH"], os.environ["VLRL_FAMILY_SIDE"] = "256", "224"
from family_models import FAMILIES, saved  # noqa: E402 (it reads these when it is imported)

PHASES = ("rollout", "ref", "update", "step")
FLAGS = [
    "--image_size",
    "224",
    "--group",
    "8",
    "--completion_tokens",
    "32",
    "--prompts",
    "1",
    "--repeats",
    "3",
    "--threads",
    "2",
]


def measured(name: str, out: Path) -> dict:
    """The record of `vlrl bench speed` on a model of a family, or {"error": its last line}."""
    folder, record = out / name, out / f"{name}.json"
    if not record.is_file():
        saved(name, folder, std=0.02)
        command = [sys.executable, "-m", "vlrl.bench", "speed", "--model", str(folder), *FLAGS, "--out", str(record)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    return json.loads(record.read_text())


def main() -> int:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    print(f"| family | {' | '.join(PHASES)} | step of TRL | of vlrl |\n|{'---|' * (len(PHASES) + 3)}", flush=True)
    for name in sys.argv[2:] or FAMILIES:
        record = measured(name, out)
        if "error" in record:
            print(f"| {name} | {record['error']} |", flush=True)
            continue
        ratios = ["–" if (value := record["ratio"].get(phase)) is None else f"{value:.1f}" for phase in PHASES]
        seconds = [f"{record['seconds'][side]['step']:.2f} s" for side in ("stock", "vlrl")]
        print(f"| {name} | {' | '.join([*ratios, *seconds])} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
