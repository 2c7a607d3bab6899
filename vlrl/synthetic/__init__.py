"""Seeded samples for every task, drawn with Pillow: training data without a data set.

A picture is addressed, not stored: `synthetic:detection/train/0/17` is seed 0, item 17 of the training split, and
`open_image` draws it anew each time, the same pixels on every machine. Splits never share a picture: the split's name is
part of the random key. `answer` is exact; `meta["loose_answer"]` is what careless annotation would say (`vlrl.synthetic.shapes`
and `vlrl.synthetic.driving` tell how), which is what the supervised cold start is taught.
"""

from __future__ import annotations

from PIL import Image

from vlrl.synthetic.driving import road
from vlrl.synthetic.items import SIDE_PX, item_rng
from vlrl.synthetic.scenes import scene

__all__ = ["SIDE_PX", "draw", "item_rng"]


def draw(address: str) -> Image.Image:
    """The picture behind a `synthetic:task/split/seed/index[/number]` address. Raises ValueError for any other text."""
    try:
        task, split, seed, index, *number = address.removeprefix("synthetic:").split("/")
        if len(number) > 1:
            raise ValueError(f"{len(number)} picture numbers")
        if task == "planning":
            return road(split, int(seed), int(index)).image.copy()
        return scene(task, split, int(seed), int(index), *map(int, number)).image.copy()
    except ValueError as error:
        raise ValueError(f"not a synthetic image address: {address!r} (synthetic:task/split/seed/index)") from error
