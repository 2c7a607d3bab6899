"""Solutions written step by step, some steps wrong, each with its value: training data for a process reward model.

A board of 4 x 4 cells holds shapes of a few colours; asked is how many there are of two or three colours together. A solution
counts one colour a step, then adds up. The careless solver finds one shape too few in `MISCOUNT` of its counts (of none, one
too many) and is one off in `MISADD` of its sums. So its errors are systematic: most solutions agree on a wrong answer, and a
vote over them does not help. Steps after a wrong one go on from what it said, right or not.

The value of a step is 1 while nothing said so far is wrong, else 0. Not here: choosing among solutions (`vlrl.vilbench`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vlrl.synthetic.items import SIDE_PX, address, item_rng
from vlrl.synthetic.scenes import COLOURS, SHAPES, background

N_CELLS = 4
CELL_PX = SIDE_PX // N_CELLS
MAX_COUNT = 4
MISCOUNT, MISADD = 0.45, 0.2


@dataclass(frozen=True)
class Board:
    """What a picture shows: how many shapes of each colour, those not there included."""

    image: Image.Image
    counts: dict[str, int]


@dataclass(frozen=True)
class StepQuestion:
    """One question about one board. `colours`: those asked for, in the order in which they are counted."""

    id: str
    image: str
    question: str
    colours: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Solution:
    """A solution in steps; `values[i]` is 1 while steps 0..i hold no error, else 0. `answer`: what it ends with."""

    steps: tuple[str, ...]
    values: tuple[float, ...]
    answer: int

    @property
    def text(self) -> str:
        return "\n".join(self.steps)


@lru_cache(maxsize=512)
def board(split: str, seed: int, index: int) -> Board:
    """Draw board `index`: three colours with 0 to 4 shapes each, one shape a cell."""
    rng = item_rng("board", split, seed, index)
    names = [list(COLOURS)[int(i)] for i in rng.permutation(len(COLOURS))[:3]]
    counts = {name: int(rng.integers(MAX_COUNT + 1)) for name in names}
    image = Image.fromarray(background(rng))
    draw = ImageDraw.Draw(image)
    cells = iter(rng.permutation(N_CELLS * N_CELLS))
    for name, n in counts.items():
        for _ in range(n):
            row, column = divmod(int(next(cells)), N_CELLS)
            _shape(draw, rng, COLOURS[name], column * CELL_PX, row * CELL_PX)
    return Board(image, {name: counts.get(name, 0) for name in COLOURS})


def _shape(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, colour: tuple[int, int, int], left_px: int, top_px: int
) -> None:
    """One shape of random kind, size and shade inside its cell."""
    side = int(rng.integers(16, 25))
    x, y = (int(v) for v in rng.integers(1, CELL_PX - side, size=2))
    x1, y1 = left_px + x, top_px + y
    x2, y2 = x1 + side - 1, y1 + side - 1
    shade = rng.uniform(0.85, 1.0)
    fill = tuple(int(np.clip(v * shade + rng.integers(-8, 9), 0, 255)) for v in colour)
    kind = SHAPES[int(rng.integers(len(SHAPES)))]
    if kind == "circle":
        draw.ellipse((x1, y1, x2, y2), fill=fill)
    elif kind == "square":
        draw.rectangle((x1, y1, x2, y2), fill=fill)
    else:
        draw.polygon((((x1 + x2) // 2, y1), (x1, y2), (x2, y2)), fill=fill)


def step_question(seed: int, split: str, index: int) -> StepQuestion:
    """Board `index` and a question about two or three of its colours, one of which may not be there."""
    seen = board(split, seed, index)
    rng = item_rng("question", "steps", split, seed, index)
    there = [name for name, n in seen.counts.items() if n]
    others = [name for name in COLOURS if name not in there]
    order = [*(there[int(i)] for i in rng.permutation(len(there))), *(others[int(i)] for i in rng.permutation(len(others)))]
    colours = order[: int(rng.integers(2, 4))]
    listed = f"{', '.join(colours[:-1])} and {colours[-1]}"
    return StepQuestion(
        id=f"synthetic-steps-{split}-{seed}-{index}",
        image=address("steps", split, seed, index),
        question=f"How many {listed} shapes are there together?",
        colours=tuple(colours),
        answer=sum(seen.counts[name] for name in colours),
    )


def solution(seed: int, split: str, index: int, number: int, careless: bool = True) -> Solution:
    """Solution `number` of question `index` by the careless solver, or (`careless=False`) the right one."""
    asked = step_question(seed, split, index)
    true = board(split, seed, index).counts
    rng = item_rng("solution", split, seed, index, number)
    steps, values, said = [], [], []
    right = True
    for place, colour in enumerate(asked.colours, start=1):
        n = true[colour]
        if careless and rng.random() < MISCOUNT:
            n = n - 1 if n else 1
        said.append(n)
        right = right and n == true[colour]
        steps.append(f"Step {place}: There {'is' if n == 1 else 'are'} {n} {colour} shape{'' if n == 1 else 's'}.")
        values.append(float(right))
    total = sum(said)
    if careless and rng.random() < MISADD:
        total = total + 1 if total == 0 or rng.random() < 0.5 else total - 1
    right = right and total == asked.answer
    steps.append(f"Step {len(said) + 1}: {' + '.join(map(str, said))} = {total}. The answer is {total}.")
    values.append(float(right))
    return Solution(tuple(steps), tuple(values), total)
