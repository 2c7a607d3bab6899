"""The built-in best-of-N set: questions about drawn boards, with candidates of a noisy solver.

It runs the whole protocol without a download; its numbers are never ViLBench scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlrl.answers.steps import split_steps
from vlrl.data.best_of_n import Candidate, Item
from vlrl.data.synthetic.steps import solution, step_question

DRAWN_SET_LABEL = "ViLBench-protocol best-of-N on drawn boards (the project's own; not ViLBench)"
GENERATOR = "careless"
"""The generator's name in logs and reports; stored predictions are found by it."""
N_ITEMS, N_CANDIDATES = 400, 8
DRAWN_SET_SPLIT = "heldout"


def items(seed: int = 0, n: int = N_ITEMS, split: str = DRAWN_SET_SPLIT) -> list[Item]:
    """The first `n` questions of a split."""
    questions = [step_question(seed, split, i) for i in range(n)]
    sources = {2: "two shapes", 3: "three shapes"}
    return [
        Item(one.id, sources[len(one.colours)], one.question, str(one.answer), one.image, answer_type="number")
        for one in questions
    ]


def candidates(seed: int = 0, n: int = N_ITEMS, split: str = DRAWN_SET_SPLIT, each: int = N_CANDIDATES) -> list[Candidate]:
    """`each` solutions of every item, by the noisy solver of `vlrl.data.synthetic.steps`."""
    found: list[Candidate] = []
    for i, item in enumerate(items(seed, n, split)):
        texts: Sequence[str] = [solution(seed, split, i, number).text for number in range(each)]
        found += [Candidate(item.id, GENERATOR, number, text, split_steps(text)) for number, text in enumerate(texts)]
    return found
