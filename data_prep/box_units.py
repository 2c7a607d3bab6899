"""Boxes in units that their file does not name: recognised over the whole set and refused, never taken as pixels.

Shares of 0..1, per cent, thousandths, corners where x, y, width, height are usual, or pixels of another size: each leaves marks
in the boxes of a set that pixels do not. A refusal says what was seen and which option reads the boxes rightly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vlrl.schema import Box

COORDS = ("px", "norm1", "norm100", "norm1000")
_WHOLE = {"norm1": 1, "norm100": 100, "norm1000": 1000}
MIN_SHARE = 0.03
"""So many of the boxes of a set must speak for another unit or form; a few odd ones do not."""
MAX_CONTRADICTIONS = 0.02
"""The share of boxes that may be impossible as corners where the others speak for corners."""
MIN_BOXES, MIN_IMAGES = 20, 10
"""Fewer different boxes or images than this say nothing by where they do *not* lie."""
LARGE_PX = 1250
"""In images from this size on, boxes in pixels go beyond 1000."""
LARGE_FOR_PERCENT_PX = 200
"""In images from this size on, boxes in pixels go beyond 100."""
CHANCE = {100: (3, -3.0), 1000: (4, -4.0)}
"""Unit → how many different boxes must lie in the corner of so many pixels, and the decimal logarithm of the chance of that for
boxes in pixels, up to which it is not taken for chance: three small boxes anywhere in images of 640x480 have 10^-4.5."""


def scaled(box: Box, size_wh: tuple[int, int], coords: str) -> Box:
    """A box given in `coords` in pixels of an image of this size."""
    if coords == "px":
        return box
    width, height = (side / _WHOLE[coords] for side in size_wh)
    return Box(box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height, box.label)


@dataclass
class Marks:
    """What the boxes of a set have in common. `add` each box, in pixels of its image, then ask for `problem`."""

    n_boxes: int = 0
    n_below_1: int = 0
    n_outside: int = 0
    n_no_corners: int = 0
    n_large: int = 0
    n_images: int = 0
    highest: float = 0.0
    highest_large: float = 0.0
    highest_share: float = 0.0
    shortest_px: float = float("inf")
    chance: dict[int, float] = field(default_factory=lambda: dict.fromkeys(CHANCE, 0.0))
    outside: list[str] = field(default_factory=list)
    different: set[tuple[float, ...]] = field(default_factory=set)

    def add(self, boxes: Iterable[Box], size_wh: tuple[int, int], place: Callable[[int], str]) -> None:
        """The boxes of an image; `place(number)`: where box `number` stands, for the message."""
        width, height = size_wh
        number, is_large = -1, width >= LARGE_PX or height >= LARGE_PX
        for number, box in enumerate(boxes):
            x1, y1, x2, y2 = box.x1, box.y1, box.x2, box.y2
            if len(self.different) < MIN_BOXES and box.xyxy not in self.different:
                self.different.add(box.xyxy)
                for unit in CHANCE:
                    self.chance[unit] += sum(math.log10(min(1.0, (unit + 1) / side)) for side in size_wh)
            if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1:
                self.n_below_1 += 1
            if x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
                self.n_outside += 1
                if len(self.outside) < 3:
                    self.outside.append(f"{place(number)}: {[round(v, 4) for v in box.xyxy]} in an image of {width}x{height}")
            if not (x1 < x2 - x1 <= width + 1 and y1 < y2 - y1 <= height + 1):
                self.n_no_corners += 1
            if x2 > self.highest or y2 > self.highest:
                self.highest = max(x2, y2)
            if x2 > self.highest_share * width or y2 > self.highest_share * height:
                self.highest_share = max(x2 / width, y2 / height)
            if is_large:
                self.n_large += 1
                self.highest_large = max(self.highest_large, x2 if width >= LARGE_PX else 0, y2 if height >= LARGE_PX else 0)
        self.n_boxes += number + 1
        self.n_images += number >= 0
        if number >= 0:
            self.shortest_px = min(self.shortest_px, width, height)

    def problem(self, max_share: float, *, coords_are_stated: bool, is_xywh: bool) -> str | None:
        """What is wrong with the boxes as a set, with the option that reads them rightly; None where nothing is.

        `max_share`: the share of boxes that may be outside their image. `coords_are_stated`: the user has named the unit.
        `is_xywh`: the boxes were read as x, y, width, height, and the user has not said so.
        """
        n = self.n_boxes
        if n and not coords_are_stated and self.n_below_1 > MIN_SHARE * n:
            return (
                f"{self.n_below_1} of {n} boxes lie within 0..1, so they are shares of width and height, not pixels;"
                " pass --coords norm1 (or --coords px if they are pixels)"
            )
        if n and is_xywh and self.n_outside > MIN_SHARE * n and self.n_no_corners <= MAX_CONTRADICTIONS * n:
            return (
                f"read as x, y, width, height, {self.n_outside} of {n} boxes stick out of their images; as corners"
                " x1, y1, x2, y2 all fit. Pass --bbox_format xyxy (or --bbox_format xywh if they are x, y, width, height);"
                f" first: {'; '.join(self.outside)}"
            )
        if coords_are_stated:
            return None
        return self._no_pixels(max_share)

    def _no_pixels(self, max_share: float) -> str | None:
        n, choice = self.n_boxes, "pass --coords norm1000 if they are, or --coords px if they are pixels"
        thousandths = 1 < self.highest <= 1001
        if n and self.n_outside > max_share * n:
            guess = (
                f"No box goes beyond 1000, so they may be thousandths of width and height: {choice}"
                if thousandths
                else (
                    "They may be annotated on images of another size: give the images that were annotated, or pass --coords px"
                    " to cut the boxes at the edges"
                )
            )
            return f"{self.n_outside} of {n} boxes stick out of their images; first: {'; '.join(self.outside)}. {guess}"
        if self._in_corner(100) and self.shortest_px >= LARGE_FOR_PERCENT_PX:
            return (
                f"none of {n} boxes goes beyond 100, in images of {self.shortest_px:g} pixels and more, so they look like per"
                " cent of width and height; pass --coords norm100 if they are, or --coords px if they are pixels"
            )
        if self._in_corner(1000):
            return f"none of {n} boxes goes beyond 1000, and their images do, so they look like thousandths; {choice}"
        if len(self.different) < MIN_BOXES or self.n_images < MIN_IMAGES:
            return None
        if self.n_large >= MIN_BOXES and 900 < self.highest_large <= 1001 and thousandths:
            return (
                f"in images of {LARGE_PX} pixels and more none of {self.n_large} boxes goes beyond 1000, and some come close,"
                f" so they look like thousandths of width and height; {choice}"
            )
        if self.highest_share < 0.5:
            return (
                f"all {n} boxes of {self.n_images} images lie in the upper left quarter of their images, so they are in other"
                " units or in pixels of smaller images; give the images that were annotated, name the unit with --coords, or"
                " pass --coords px if all is right"
            )
        return None

    def _in_corner(self, unit: int) -> bool:
        """Whether all boxes lie in the corner of so many pixels, some come close to its edge, and that is hardly chance."""
        n, chance = CHANCE[unit]
        close = 0.5 if unit == 100 else 0.9
        return len(self.different) >= n and close * unit < self.highest <= unit + 1 and self.chance[unit] <= chance

    def remark(self) -> str | None:
        """What too few boxes to refuse them leave in doubt; None where nothing does."""
        if not self.different or self.n_below_1 or self.chance[100] > -2 or not 50 < self.highest <= 101:
            return None
        return (
            f"none of {self.n_boxes} boxes goes beyond 100, in images of {self.shortest_px:g} pixels and more; they are taken"
            " as pixels (--coords norm100 if they are per cent)"
        )
