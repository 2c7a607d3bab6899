"""The one point of a completion, in original pixels, or None with a reason; and whether a point is in a box or an outline.

Read are `{"point_2d": [x, y]}` and its like, `{"x": .., "y": ..}`, `(x, y)`, `[x, y]`, two bare numbers, and a box, whose
centre it then is, as GUI agents are scored. Two different points are no answer, and words that take a point back count as for
boxes (`vlrl.answers.doubts`). Never raises for a text, never guesses. Not here: rewards (`vlrl.rewards.pointing`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from vlrl.answers.boxes import Frame, ParsedBoxes, parse_boxes
from vlrl.answers.corners import MAX_COORDINATE
from vlrl.answers.doubts import doubt
from vlrl.answers.geometry import px_per_unit
from vlrl.answers.literals import MAX_NUMBER_CHARS, NUMBER
from vlrl.answers.normalise import normalised
from vlrl.answers.phrases import MAX_READ_CHARS, OVER_LENGTH
from vlrl.answers.read import whole_answer
from vlrl.schema import Sample

Point = tuple[float, float]
_N = NUMBER.pattern
_PAIR = re.compile(rf"[\[(]\s*({_N})\s*,\s*({_N})\s*[\])]")
_NAMED = re.compile(rf"[\"']?\bx[\"']?\s*[:=]\s*[\"']?({_N})[\"']?\s*[,;]?\s*[\"']?\by[\"']?\s*[:=]\s*[\"']?({_N})[\"']?", re.I)
_BARE = re.compile(rf"\s*({_N})\s*[,;\s]\s*({_N})\s*\.?\s*")
_FENCE = re.compile(r"```[A-Za-z0-9_-]{0,20}")


def read_point(text: str, sample: Sample, *, tags: bool = False) -> tuple[Point | None, str]:
    """A completion's point (x, y) in ORIGINAL pixels, or None and why. `tags`: answer tags are required.

    Raises ValueError only where the sample lacks the sizes that its convention of coordinates needs.
    """
    written, why = whole_answer(text, sample, tags=tags)
    if written is None:
        return None, why
    if len(written) > MAX_READ_CHARS:
        return None, OVER_LENGTH
    x_px, y_px = px_per_unit(sample.coords, sample.facts.get("image_size"), sample.view.input_size)
    point, why = _point_in(normalised(written).strip(), sample.question)
    return (None, why) if point is None else ((point[0] * x_px, point[1] * y_px), "")


def _point_in(answer: str, question: str) -> tuple[Point | None, str]:
    """The point that an answer states, in the unit it is written in."""
    if not answer:
        return None, "empty answer"
    frame = Frame(expression=question)
    boxes = parse_boxes(answer, frame)
    if isinstance(boxes, ParsedBoxes):
        corners = {box.xyxy for box in boxes.items}
        if boxes.explicit_none:
            return None, "says that nothing is there"
        if len(corners) == 1 and boxes.all_valid:
            x1, y1, x2, y2 = corners.pop()
            return ((x1 + x2) / 2, (y1 + y2) / 2), ""
        if corners:
            return None, f"{len(corners)} different boxes, one point was requested"
    plain = _FENCE.sub(" ", answer)
    bare = _BARE.fullmatch(plain)
    found = [bare] if bare else sorted(_written(plain), key=lambda one: one.start())
    if not found:
        return None, "no point"
    values = {(_coordinate(one[1]), _coordinate(one[2])) for one in found}
    if len(values) != 1:
        return None, f"{len(values)} different points, one was requested"
    point = values.pop()
    if not all(math.isfinite(value) and abs(value) <= MAX_COORDINATE for value in point):
        return None, "no coordinates of an image"
    between = " ".join(plain[a.end() : b.start()] for a, b in pairwise(found))
    problem = doubt(plain[: found[0].start()], between, plain[found[-1].end() :], frame, set())
    return (None, problem) if problem else (point, "")


def _written(text: str) -> Iterator[re.Match[str]]:
    """Where points are written."""
    yield from _PAIR.finditer(text)
    yield from _NAMED.finditer(text)


def _coordinate(digits: str) -> float:
    return float(digits) if len(digits) <= MAX_NUMBER_CHARS else math.inf


def in_box(point: Point, xyxy: Sequence[float]) -> bool:
    """Whether a point is in a box or on its edge."""
    return xyxy[0] <= point[0] <= xyxy[2] and xyxy[1] <= point[1] <= xyxy[3]


def in_polygons(point: Point, polygons: Sequence[Sequence[object]]) -> bool:
    """Whether a point is inside one of several outlines, `[x, y, x, y, ...]` or `[[x, y], ...]` each (even-odd rule)."""
    return any(_in_polygon(point, corners_of(polygon)) for polygon in polygons)


def corners_of(polygon: Sequence[object]) -> list[Point]:
    """The corners of an outline in either form."""
    flat: list[float] = []
    for one in polygon:
        flat += [float(value) for value in one] if isinstance(one, list | tuple) else [float(one)]  # type: ignore[arg-type]
    return list(zip(flat[0::2], flat[1::2], strict=False))


def _in_polygon(point: Point, corners: Sequence[Point]) -> bool:
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            inside = not inside
    return inside
