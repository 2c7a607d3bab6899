"""Seeded samples for every task, drawn with Pillow: training data without a data set.

A picture is addressed, not stored: `synthetic:detection/train/0/17` is seed 0, item 17 of the training split, and
`open_image` draws it anew each time, the same pixels on every machine. Splits never share a picture: the split's name is
part of the random key. `answer` is exact; `meta["loose_answer"]` is what careless annotation would say
(`vlrl.data.synthetic.shapes` and `vlrl.data.synthetic.driving` tell how), which is what the supervised cold start is taught.
"""

from __future__ import annotations

from PIL import Image

from vlrl.data.synthetic.deals import frame
from vlrl.data.synthetic.driving import road
from vlrl.data.synthetic.items import SIDE_PX, item_rng
from vlrl.data.synthetic.scenes import scene
from vlrl.data.synthetic.steps import board
from vlrl.envs.cards import GAMES
from vlrl.envs.frames import SIDE_PX as FRAME_PX

__all__ = ["SIDE_PX", "draw", "item_rng", "size_px"]


def draw(address: str) -> Image.Image:
    """The picture behind a `synthetic:task/split/seed/index[/number]` address. Raises ValueError for any other text."""
    try:
        task, split, seed, index, *number = address.removeprefix("synthetic:").split("/")
        if len(number) > 1:
            raise ValueError(f"{len(number)} picture numbers")
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
    """Width and height of the picture behind an address."""
    side = FRAME_PX if address.removeprefix("synthetic:").split("/", 1)[0] in GAMES else SIDE_PX
    return side, side
