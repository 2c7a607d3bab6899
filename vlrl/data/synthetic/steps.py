"""Solutions written step by step, some steps wrong, each with its value: training data for a process reward model.

A board shows two or three shapes of different colours; every colour is worth some points. Asked is what the shapes are worth
together. A solution names the colour and the points of one shape a step, then adds up. The careless solver takes a colour for
its neighbour in `MISTAKEN` of its steps (red and orange, blue and purple, green and yellow) and is one off in `MISADDED` of its
sums. Its errors are systematic: many solutions agree on a wrong answer, and a vote over them does not help. Which of two
neighbours is right, only the picture tells. Steps after a wrong one go on from what it said.

The value of a step is 1 while nothing said so far is wrong, else 0. Not here: choosing among solutions (`vlrl.bench.vilbench`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vlrl.data.synthetic.items import SIDE_PX, address, item_rng
from vlrl.data.synthetic.scenes import COLOURS, SHAPES, background

POINTS = {"red": 1, "green": 2, "blue": 3, "yellow": 4, "purple": 5, "orange": 6}
NEIGHBOUR = {"red": "orange", "orange": "red", "blue": "purple", "purple": "blue", "green": "yellow", "yellow": "green"}
MISTAKEN, MISADDED = 0.45, 0.2
CELL_PX = SIDE_PX // 2


@dataclass(frozen=True)
class Board:
    """What a picture shows: the colours of its shapes, in the order in which a solution names them."""

    image: Image.Image
    colours: tuple[str, ...]


@dataclass(frozen=True)
class StepQuestion:
    """One question about one board. `colours`: of its shapes, in the order of the solution."""

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
    """Draw board `index`: two or three shapes, each in a quarter of its own, no two of one colour or of neighbours."""
    rng = item_rng("board", split, seed, index)
    image = Image.fromarray(background(rng))
    draw = ImageDraw.Draw(image)
    pairs = [("red", "orange"), ("blue", "purple"), ("green", "yellow")]
    n = int(rng.integers(2, 4))
    colours = tuple(pairs[int(i)][int(rng.integers(2))] for i in rng.permutation(len(pairs))[:n])
    for colour, quarter in zip(colours, rng.permutation(4), strict=False):
        row, column = divmod(int(quarter), 2)
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        _shape(draw, rng, shape, COLOURS[colour], column * CELL_PX, row * CELL_PX)
    return Board(image, colours)


def _shape(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, shape: str, colour: tuple[int, int, int], left_px: int, top_px: int
) -> None:
    """One shape of random size, place and shade inside its quarter."""
    side = int(rng.integers(28, 51))
    x, y = (int(v) for v in rng.integers(1, CELL_PX - side, size=2))
    x1, y1 = left_px + x, top_px + y
    x2, y2 = x1 + side - 1, y1 + side - 1
    shade = rng.uniform(0.85, 1.0)
    fill = tuple(int(np.clip(v * shade + rng.integers(-8, 9), 0, 255)) for v in colour)
    if shape == "circle":
        draw.ellipse((x1, y1, x2, y2), fill=fill)
    elif shape == "square":
        draw.rectangle((x1, y1, x2, y2), fill=fill)
    else:
        draw.polygon((((x1 + x2) // 2, y1), (x1, y2), (x2, y2)), fill=fill)


def step_question(seed: int, split: str, index: int) -> StepQuestion:
    """Board `index` and what is asked about it."""
    colours = board(split, seed, index).colours
    worth = ", ".join(f"{colour} {points}" for colour, points in POINTS.items())
    return StepQuestion(
        id=f"synthetic-steps-{split}-{seed}-{index}",
        image=address("steps", split, seed, index),
        question=f"Points: {worth}. How many points are the {len(colours)} shapes worth together?",
        colours=colours,
        answer=sum(POINTS[colour] for colour in colours),
    )


def solution(seed: int, split: str, index: int, number: int, careless: bool = True) -> Solution:
    """Solution `number` of question `index` by the careless solver, or (`careless=False`) the right one."""
    asked = step_question(seed, split, index)
    rng = item_rng("solution", split, seed, index, number)
    steps, values, said = [], [], []
    right = True
    for place, true in enumerate(asked.colours, start=1):
        colour = NEIGHBOUR[true] if careless and rng.random() < MISTAKEN else true
        said.append(POINTS[colour])
        right = right and colour == true
        steps.append(f"Step {place}: One shape is {colour}, {POINTS[colour]} point{'s' if POINTS[colour] > 1 else ''}.")
        values.append(float(right))
    total = sum(said)
    if careless and rng.random() < MISADDED:
        total += 1 if rng.random() < 0.5 else -1
    right = right and total == sum(said)
    steps.append(f"Step {len(said) + 1}: {' + '.join(map(str, said))} = {total}. The answer is {total}.")
    values.append(float(right))
    return Solution(tuple(steps), tuple(values), total)
