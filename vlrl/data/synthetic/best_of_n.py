"""The built-in set: questions about drawn boards and solutions of a careless solver. It exercises the whole path without a
download and is "ViLBench-protocol best-of-N", never a ViLBench score."""

from __future__ import annotations

from collections.abc import Sequence

from vlrl.answers.steps import split_steps
from vlrl.data.best_of_n import Candidate, Item
from vlrl.data.synthetic.steps import solution, step_question

LABEL = "ViLBench-protocol best-of-N on drawn boards (the project's own; not ViLBench)"
GENERATOR = "careless"
N_ITEMS, N_CANDIDATES = 400, 8
SPLIT = "heldout"


def items(seed: int = 0, n: int = N_ITEMS, split: str = SPLIT) -> list[Item]:
    asked = [step_question(seed, split, i) for i in range(n)]
    sources = {2: "two shapes", 3: "three shapes"}
    return [
        Item(one.id, sources[len(one.colours)], one.question, str(one.answer), one.image, answer_type="number") for one in asked
    ]


def candidates(seed: int = 0, n: int = N_ITEMS, split: str = SPLIT, each: int = N_CANDIDATES) -> list[Candidate]:
    """`each` solutions of every item, by the solver whose errors `vlrl.data.synthetic.steps` describes."""
    found: list[Candidate] = []
    for i, item in enumerate(items(seed, n, split)):
        texts: Sequence[str] = [solution(seed, split, i, number).text for number in range(each)]
        found += [Candidate(item.id, GENERATOR, number, text, split_steps(text)) for number, text in enumerate(texts)]
    return found
