"""Rows for a policy that solves drawn boards step by step, as badly as people's models do: some steps are wrong, and some right
ones are written twice. The supervised stage imitates them; GRPO is then paid by reward models.

python tests/board_policies.py --out boards            # writes boards/train.jsonl and boards/held_out.jsonl
"""

import argparse
import json
from pathlib import Path

from vlrl.data.synthetic import item_rng
from vlrl.data.synthetic.steps import solution, step_question

REPEATED = 0.5
"""The share of solutions in which one of the steps before the last is written twice."""


def row(split: str, index: int) -> dict[str, object]:
    """A question with its right answer, and the solution that is imitated (`meta.thinking`, `meta.loose_answer`)."""
    question, rng = step_question(1, split, index), item_rng("board policy", split, index)
    made = solution(1, split, index, 0)
    steps = list(made.steps)
    if rng.random() < REPEATED:
        place = int(rng.integers(len(steps) - 1))
        steps.insert(place, steps[place])
    return {
        "id": question.id,
        "task": "qa",
        "images": [question.image],
        "question": question.question,
        "answer": str(question.answer),
        "meta": {"thinking": "\n".join(steps), "loose_answer": str(made.answer)},
    }


def write(folder: Path, n_train: int = 4000, n_held_out: int = 200) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, split, n in (("train", "policy", n_train), ("held_out", "policy-out", n_held_out)):
        lines = [json.dumps(row(split, i)) + "\n" for i in range(n)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args().out)
