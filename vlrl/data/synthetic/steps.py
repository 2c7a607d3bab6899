"""Solutions in steps, some of them wrong, each step with its value: training data of a process reward model.

A board shows two or three shapes of different colours, and each colour scores a number of points. The question asks for the
sum. A solution names the colour and the points of one shape per step, then adds them up. The noisy solver mistakes a colour for
a similar one in `COLOUR_ERROR_RATE` of its steps (red and orange, blue and purple, green and yellow), and its sum is off by one
in `SUM_ERROR_RATE` of its solutions. Its errors are systematic: many solutions agree on a wrong answer, so that a majority vote
does not help. Only the image shows which of two similar colours is right. Steps after a wrong one continue from its statement.

The value of a step is 1 while every statement so far is right, else 0. Not here: choosing among solutions
(`vlrl.bench.vilbench`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vlrl.data.synthetic.items import IMAGE_SIDE_PX, address, item_rng
from vlrl.data.synthetic.scenes import COLOURS, SHAPE_NAMES, background

POINTS = {"red": 1, "green": 2, "blue": 3, "yellow": 4, "purple": 5, "orange": 6}
SIMILAR_COLOURS = {"red": "orange", "orange": "red", "blue": "purple", "purple": "blue", "green": "yellow", "yellow": "green"}
COLOUR_ERROR_RATE, SUM_ERROR_RATE = 0.45, 0.2
CELL_PX = IMAGE_SIDE_PX // 2


@dataclass(frozen=True)
class Board:
    """An image and the colours of its shapes, in the order in which a solution names them."""

    image: Image.Image
    colours: tuple[str, ...]


@dataclass(frozen=True)
class StepQuestion:
    """One question about one board. `image`: the address; `colours`: of the shapes, in the order of the solution."""

    id: str
    image: str
    question: str
    colours: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class StepSolution:
    """A solution in steps. `values[i]` is 1 while steps 0..i hold no error, else 0; `answer`: the sum it ends with."""

    steps: tuple[str, ...]
    values: tuple[float, ...]
    answer: int

    @property
    def text(self) -> str:
        """The steps, one per line."""
        return "\n".join(self.steps)


@lru_cache(maxsize=512)
def board(split: str, seed: int, index: int) -> Board:
    """Draw board `index`: two or three shapes, each in its own quarter of the image, no two of the same or of similar
    colours."""
    rng = item_rng("board", split, seed, index)
    image = Image.fromarray(background(rng))
    draw = ImageDraw.Draw(image)
    pairs = [("red", "orange"), ("blue", "purple"), ("green", "yellow")]
    n = int(rng.integers(2, 4))
    colours = tuple(pairs[int(i)][int(rng.integers(2))] for i in rng.permutation(len(pairs))[:n])
    for colour, quarter in zip(colours, rng.permutation(4), strict=False):
        row, column = divmod(int(quarter), 2)
        shape = SHAPE_NAMES[int(rng.integers(len(SHAPE_NAMES)))]
        _shape(draw, rng, shape, COLOURS[colour], column * CELL_PX, row * CELL_PX)
    return Board(image, colours)


def _shape(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, shape: str, colour: tuple[int, int, int], left_px: int, top_px: int
) -> None:
    """Draw one shape of random size, place and shade inside its quarter."""
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
    """Board `index` with its question."""
    colours = board(split, seed, index).colours
    points_of = ", ".join(f"{colour} {points}" for colour, points in POINTS.items())
    return StepQuestion(
        id=f"synthetic-steps-{split}-{seed}-{index}",
        image=address("steps", split, seed, index),
        question=f"Points: {points_of}. How many points are the {len(colours)} shapes worth together?",
        colours=colours,
        answer=sum(POINTS[colour] for colour in colours),
    )


def solution(seed: int, split: str, index: int, number: int, noisy: bool = True) -> StepSolution:
    """Solution `number` of question `index` by the noisy solver, or (`noisy=False`) the right one."""
    question = step_question(seed, split, index)
    rng = item_rng("solution", split, seed, index, number)
    steps, values, stated = [], [], []
    right = True
    for place, true in enumerate(question.colours, start=1):
        colour = SIMILAR_COLOURS[true] if noisy and rng.random() < COLOUR_ERROR_RATE else true
        stated.append(POINTS[colour])
        right = right and colour == true
        steps.append(f"Step {place}: One shape is {colour}, {POINTS[colour]} point{'s' if POINTS[colour] > 1 else ''}.")
        values.append(float(right))
    total = sum(stated)
    if noisy and rng.random() < SUM_ERROR_RATE:
        total += 1 if rng.random() < 0.5 else -1
    right = right and total == sum(stated)
    steps.append(f"Step {len(stated) + 1}: {' + '.join(map(str, stated))} = {total}. The answer is {total}.")
    values.append(float(right))
    return StepSolution(tuple(steps), tuple(values), total)
