"""Writes vlrl's own synthetic samples to a file: an example of the schema for every task, and data for a run without a data
set.

    python data_prep/synthetic.py --task detection,qa --n 2000 --out samples.jsonl

Images are addresses (`synthetic:detection/train/0/17`) that are drawn when opened, so `--export_images` has no effect.
Different values of `--split` or `--seed` never share an image.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.writing import Report, add_output_options, check_output_options, draw, finish, program, whole_number
from vlrl.schema import Sample
from vlrl.tasks import TASKS


def main(argv: Sequence[str] | None = None) -> int:
    """Draw samples and write them. Returns the exit code; the last line printed is the file written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="detection", help=f"names separated by commas, of {', '.join(TASKS)}; taken in turn")
    parser.add_argument("--n", type=whole_number, default=1000, help="samples in all")
    parser.add_argument("--split", default="train", help="name of the split (default: train)")
    parser.add_argument("--open_label", action="store_true", help="classification without a list of candidates")
    add_output_options(parser, dataset=False)
    args = parser.parse_args(argv)
    names = args.task.split(",")
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(TASKS)}")
    target = check_output_options(args)
    samples = [made(names[i % len(names)], args.seed, args.split, i, args.open_label) for i in range(args.n)]
    counts = Counter(sample.task for sample in samples)
    lines = [f"{name:10} {counts[name]}" for name in dict.fromkeys(names)]
    return finish(draw(samples, args.limit, args.seed), target, Report(args.strict), lines)


def made(task: str, seed: int, split: str, index: int, open_label: bool) -> Sample:
    """Sample `index` of a split; `open_label`: classification without a list of candidates."""
    sample = TASKS[task].draw(seed, split, index)
    return replace(sample, choices=None) if open_label and task == "classification" else sample


if __name__ == "__main__":
    sys.exit(program(main))
