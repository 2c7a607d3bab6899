"""Seeded samples for the built-in tasks, drawn with Pillow: training data without a data set.

An image is an address, not a file: `synthetic:detection/train/0/17` is item 17 of the training split for seed 0, and
`open_image` draws it on every call, with the same pixels on every machine. Splits never share an image, as the name of the
split is part of the random key. `answer` is exact. `meta["loose_answer"]` is a noisy label, as `vlrl.data.synthetic.shapes` and
`vlrl.data.synthetic.driving` describe; the supervised cold start is trained on it.
"""

from __future__ import annotations

from PIL import Image

from vlrl.data.synthetic.deals import frame
from vlrl.data.synthetic.driving import road
from vlrl.data.synthetic.items import IMAGE_SIDE_PX, item_rng
from vlrl.data.synthetic.scenes import scene
from vlrl.data.synthetic.steps import board
from vlrl.envs.cards import GAMES
from vlrl.envs.frames import FRAME_PX

__all__ = ["IMAGE_SIDE_PX", "draw", "item_rng", "size_px"]


def draw(address: str) -> Image.Image:
    """The RGB image behind a `synthetic:task/split/seed/index[/number]` address. Raises ValueError for any other text."""
    try:
        task, split, seed, index, *number = address.removeprefix("synthetic:").split("/")
        if len(number) > 1:
            raise ValueError(f"{len(number)} image numbers")
        if task in GAMES:
            return frame(task, split, int(seed))
        if task == "planning":
            return road(split, int(seed), int(index)).image.copy()
        if task == "steps":
            return board(split, int(seed), int(index)).image.copy()
        return scene(task, split, int(seed), int(index), *map(int, number)).image.copy()
    except ValueError as error:
        raise ValueError(f"not a synthetic image address: {address!r} (synthetic:task/split/seed/index)") from error


def size_px(address: str) -> tuple[int, int]:
    """Width and height in pixels of the image behind an address."""
    side = FRAME_PX if address.removeprefix("synthetic:").split("/", 1)[0] in GAMES else IMAGE_SIDE_PX
    return side, side
