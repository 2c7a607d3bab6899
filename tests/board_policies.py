"""Rows for a policy that solves drawn boards in short steps, as badly as people's models do: some steps are wrong, and some right ones
are written twice. The supervised stage imitates them; GRPO is then paid by reward models, which are trained on step values of the same
solver without repetitions.

python tests/board_policies.py --out boards            # writes boards/train.jsonl, held_out.jsonl and step_values.jsonl
"""

import argparse
import json
import re
from pathlib import Path

from vlrl.data.synthetic import item_rng
from vlrl.data.synthetic.steps import StepSolution, solution, step_question

REPEATED = 0.5
"""The share of solutions in which one of the steps before the last is written twice."""


def short_steps(made: StepSolution) -> list[str]:
    """The solution in few tokens: `red 1`, `blue 3`, `1+3=4`."""
    shapes = [re.sub(r".*is (\w+), (\d+) .*", r"\1 \2", step) for step in made.steps[:-1]]
    stated = "+".join(one.split()[1] for one in shapes)
    return [*shapes, f"{stated}={made.answer}"]


def row(split: str, index: int) -> dict[str, object]:
    """A question with its right answer, and the solution that is imitated (`meta.thinking`, `meta.loose_answer`)."""
    question, rng = step_question(1, split, index), item_rng("board policy", split, index)
    made = solution(1, split, index, 0)
    steps = short_steps(made)
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


def valued_steps(index: int, number: int) -> list[dict[str, object]]:
    """A row for each step of one solution, with its true value: 1 while nothing is wrong. The last step holds the answer, too."""
    question, made = step_question(1, "reward-model", index), solution(1, "reward-model", index, number)
    steps = short_steps(made)
    steps[-1] += f"\n{made.answer}"
    return [
        {
            "id": f"{question.id}/{number}/{k}",
            "image": question.image,
            "question": question.question,
            "process": "\n".join(steps[:k]),
            "steps": steps[:k],
            "value": value,
        }
        for k, value in enumerate(made.values, start=1)
    ]


def write(folder: Path, n_train: int = 4000, n_held_out: int = 200, n_valued: int = 2000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "train": [row("policy", i) for i in range(n_train)],
        "held_out": [row("policy-out", i) for i in range(n_held_out)],
        "step_values": [one for i in range(n_valued) for number in range(2) for one in valued_steps(i, number)],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args().out)
