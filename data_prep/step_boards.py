"""Writes drawn boards whose points are added up step by step: questions to sample solutions of, or solutions with true values.

    python data_prep/step_boards.py --n 200 --split label --out label.jsonl                   # rows of qa
    python data_prep/step_boards.py --n 60 --each 2 --values --split test --out truth.jsonl   # rows of --task prm

The solver, its errors and the values are those of `vlrl/data/synthetic/steps.py`; solutions are written as the task qa writes
them, between `<think>` and `</answer>`. Images are addresses (`synthetic:steps/label/0/17`) that are drawn when opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.writing import program, whole_number
from vlrl.data.files import write_json_lines
from vlrl.data.synthetic.steps import solution, step_question


def main(argv: Sequence[str] | None = None) -> int:
    """Draw boards and write them. Returns the exit code; the last line printed is the file written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=whole_number, default=1000, help="boards")
    parser.add_argument("--each", type=whole_number, default=1, help="solutions of each board")
    parser.add_argument("--split", default="train", help="name of the split (default: train)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the boards")
    parser.add_argument("--values", action="store_true", help="one row a step, with its true value 0 or 1")
    parser.add_argument("--out", required=True, type=Path, help="JSONL file to write")
    args = parser.parse_args(argv)
    rows = value_rows_of_boards(args) if args.values else question_rows_of_boards(args)
    write_json_lines(args.out, rows)
    print(args.out)
    return 0


def question_rows_of_boards(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of qa; the supervised stage imitates the noisy solution, its wrong sum included."""
    for i in range(args.n):
        asked = step_question(args.seed, args.split, i)
        for number in range(args.each):
            solved = solution(args.seed, args.split, i, number)
            row = {"id": f"{asked.id}-{number}", "task": "qa", "images": [asked.image], "question": asked.question}
            yield row | {"answer": asked.answer, "meta": {"thinking": solved.text, "loose_answer": solved.answer}}


def value_rows_of_boards(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for every step of every solution, in ViLReward-73K's form."""
    for i in range(args.n):
        asked = step_question(args.seed, args.split, i)
        for number in range(args.each):
            solved = solution(args.seed, args.split, i, number)
            steps = [*solved.steps]
            steps[0], steps[-1] = f"<think>{steps[0]}", f"{steps[-1]}</think><answer>{solved.answer}</answer>"
            for end, value in enumerate(solved.values, start=1):
                row = {"id": f"{asked.id}-{number}-{end}", "image": asked.image, "question": asked.question}
                yield row | {"process": "\n".join(steps[:end]), "steps": steps[:end], "value": value}


if __name__ == "__main__":
    sys.exit(program(main))
