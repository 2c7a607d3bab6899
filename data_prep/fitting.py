"""Checks of annotated boxes against their image, shared by all converters of box data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.box_values import MAX_PX, corners, number
from data_prep.writing import Report, image_size_px
from vlrl.answers.geometry import box_problem
from vlrl.schema import Box


def usable_size_px(path: Path, stated_wh: tuple[int, int] | None, where: str, report: Report) -> tuple[int, int] | None:
    """Width and height of the image in pixels, EXIF rotation applied; None (reported) where it cannot be opened or does not
    have the stated size."""
    size_wh, problem = image_size_px(path)
    if problem is None and stated_wh is not None and stated_wh != size_wh:
        stated, real = ("x".join(map(str, size)) for size in (stated_wh, size_wh))
        problem = f"stated size is {stated} but {path} is {real}; its boxes may be in other pixels"
    if problem is not None:
        report.bad(where, problem)
        return None
    return size_wh


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """The image size that an annotation states; None where it is missing, unreadable, or 0 x 0, which some tools write."""
    if type(width) is int and type(height) is int and 0 < width <= MAX_PX and 0 < height <= MAX_PX:
        return width, height
    sides = [number(side) for side in (width, height)]
    if any(side is None or side < 1 or side != int(side) for side in sides):
        return None
    return (int(sides[0] or 0), int(sides[1] or 0))


def xywh_to_box(bbox: Any, label: str | None) -> Box | None:
    """COCO's [x, y, width, height] counted from 0, unchecked but for its type; None unless it is four finite numbers."""
    found = corners(bbox, "xywh")
    return None if found is None else Box(*found, label)


def is_pixel(value: Any) -> bool:
    """Whether a decoded JSON value can be a coordinate: a finite number, and no larger than any image."""
    return isinstance(value, int | float) and number(value) is not None


def inside(box: Box, size_wh: tuple[int, int]) -> Box | None:
    """The box, where it lies inside the image and is no sliver; None: see `fit_box`."""
    width, height = size_wh
    x1, y1, x2, y2 = box.x1, box.y1, box.x2, box.y2
    return box if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height and x2 - x1 >= 1 and y2 - y1 >= 1 else None


def fit_box(box: Box, size_wh: tuple[int, int], where: str, report: Report) -> Box | None:
    """The part of `box` inside the image; None (reported) when under 1 px is left.

    A box up to 1 px outside is rounding: it is cut and counted. One further outside is reported as well.
    """
    name = f"{box.label}: " if box.label else ""
    if is_sliver(box):
        report.tiny(where, f"{name}box {[tidy(v) for v in box.xyxy]} is under 1 px wide or high")
        return None
    problem = box_problem(box.xyxy, None)
    if problem is not None:
        report.bad(where, f"{name}{problem}", "boxes without area", is_read=True)
        return None
    width, height = size_wh
    x1, y1, x2, y2 = max(box.x1, 0), max(box.y1, 0), min(box.x2, width), min(box.y2, height)
    outside = box_problem(box.xyxy, size_wh)
    if min(x2 - x1, y2 - y1) < 1:
        problem = outside or f"box {list(box.xyxy)} lies outside the {width}x{height} image"
        report.bad(where, f"{name}{problem}", "boxes outside their image", is_read=True)
        return None
    if outside is not None:
        report.clipped(where, f"{name}{outside}", "boxes that stick out of their image, cut at its edge")
    elif (x1, y1, x2, y2) != box.xyxy:
        report.counts["clipped"] += 1
    # 1e-4 px: x + width carries float noise, and whole pixels read better without ".0"
    x1, y1, x2, y2 = (tidy(v) for v in (x1, y1, x2, y2))
    return Box(x1, y1, x2, y2, box.label)


def is_sliver(box: Box) -> bool:
    """Whether a box is under 1 px wide or high: a slip of the hand, which no answer holds."""
    return 0 <= min(box.x2 - box.x1, box.y2 - box.y1) < 1


def tidy(value_px: float) -> float:
    """To 4 decimals, whole numbers as int."""
    if type(value_px) is int:
        return value_px
    rounded = round(value_px, 4)
    return int(rounded) if rounded % 1 == 0 else rounded


def box_counts(report: Report) -> Sequence[str]:
    """The lines of a converter's summary about `fit_box`."""
    return (f"tiny       {report.counts['tiny']} boxes under 1 px", f"clipped    {report.counts['clipped']} boxes")
