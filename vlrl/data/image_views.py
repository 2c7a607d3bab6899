"""A part of an image, or the frame of a game, as a square picture for a model that sees squares. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlrl.answers.geometry import XYXY
from vlrl.data.images import open_image
from vlrl.envs.frames import draw_frame


@dataclass(frozen=True)
class ImageView:
    """`box_px`: a part of an image in its own pixels; None: all of it. `state`: of the game named `image`, whose frame is shown
    in place of a file."""

    image: str
    box_px: XYXY | None = None
    state: Any = None

    @property
    def is_frame(self) -> bool:
        return self.state is not None


def within_image(box_px: XYXY, size_px: tuple[float, float]) -> XYXY | None:
    """The whole pixels that a box touches in an image of this width and height, or None where it touches none of them."""
    width, height = size_px
    x1, y1 = max(0, math.floor(box_px[0])), max(0, math.floor(box_px[1]))
    x2, y2 = min(width, math.ceil(box_px[2])), min(height, math.ceil(box_px[3]))
    return (float(x1), float(y1), float(x2), float(y2)) if x2 > x1 and y2 > y1 else None


def square_around(point_px: tuple[float, float], side_px: float) -> XYXY:
    """The square of this side whose middle is a point."""
    x, y, half = *point_px, side_px / 2
    return x - half, y - half, x + half, y + half


def open_view(view: ImageView) -> Image.Image:
    """The whole image of a view in RGB. Raises ImageError."""
    return Image.fromarray(draw_frame(view.image, view.state)) if view.is_frame else open_image(view.image)


def cut_out(view: ImageView, image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """The part that a view shows of its opened image, in the middle of the smallest square that holds it. The rest of the
    square has the colour `fill`: a model's processor cuts off the ends of what is no square."""
    part = image if view.box_px is None else image.crop(view.box_px)
    side = max(part.size)
    if part.size == (side, side):
        return part
    square = Image.new("RGB", (side, side), fill)
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square
