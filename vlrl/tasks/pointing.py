"""Pointing: one point on what an expression or an instruction means, as GUI agents click.

The rows are those of grounding; `meta.polygons` is the target where it is there, else the box. The embedded model has not
learnt it. Source of the form: ScreenSpot (SeeClick, arXiv 2401.10935), of which `data_prep/screenspot.py` reads the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlrl.answers.geometry import from_original_px
from vlrl.answers.points import Point, corners_of, in_box, in_polygons, read_point
from vlrl.answers.read import read_span, true_boxes
from vlrl.data.synthetic.shapes import grounding_sample
from vlrl.rewards.pointing import on_target
from vlrl.schema import Box, Boxes, Prediction, Result, Sample, Task
from vlrl.tasks.answer_format import LEADS, UNITS, lay_out
from vlrl.tasks.grounding import check as check_grounding

MARK_PX = 4.0
"""Half the side of the box that is drawn_point for a predicted point."""
N_LINES = 64


def prompt(sample: Sample) -> str:
    lead = LEADS[sample.facts.get("answer_format", "think_answer")]
    unit = UNITS.get(sample.coords, "")
    return f"Point at: {sample.question}\n{lead} one point on it.{unit}\n{lay_out('reasoning', _written('x', 'y'), sample)}"


def _written(x: object, y: object) -> str:
    return f'{{"point_2d":[{x},{y}]}}'


def oracle(sample: Sample) -> str:
    x, y = point_on(sample)
    size, seen = sample.facts.get("image_size"), sample.view.input_size
    written = from_original_px((x, y, x, y), sample.coords, size, seen)
    return lay_out(sample.facts.get("thinking", sample.question), _written(*written[:2]), sample)


def point_on(sample: Sample) -> Point:
    """A point on the target: the middle of its box, or where that is outside of the outline, of its widest part on one of
    `N_LINES` rows."""
    x1, y1, x2, y2 = true_boxes(sample)[0].xyxy
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    polygons = sample.facts.get("polygons")
    if not polygons or in_polygons(middle, polygons):
        return middle
    corners = [corner for polygon in polygons for corner in corners_of(polygon)]
    top, bottom = min(y for _, y in corners), max(y for _, y in corners)
    lines = [top + (bottom - top) * (i + 0.5) / N_LINES for i in range(N_LINES)]
    spans = [(right - left, (left + right) / 2, y) for y in lines for left, right in _crossed(polygons, y)]
    return max(spans)[1:] if spans else middle


def _crossed(polygons: Sequence[Sequence[object]], y: float) -> list[tuple[float, float]]:
    """The parts of a horizontal line that are inside one of the outlines."""
    found = []
    for polygon in polygons:
        corners = corners_of(polygon)
        edges = zip(corners, [*corners[1:], *corners[:1]], strict=True)
        xs = sorted((b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0] for a, b in edges if (a[1] > y) != (b[1] > y))
        found += list(zip(xs[0::2], xs[1::2], strict=False))
    return found


def metric(sample: Sample, prediction: Prediction) -> Result:
    point, _ = read_point(prediction.completion, sample)
    hit = point is not None and on_target(point, sample)
    in_its_box = point is not None and in_box(point, true_boxes(sample)[0].xyxy)
    parts = {"point_accuracy": (float(hit), 1.0)}
    if sample.facts.get("polygons"):
        parts["point_in_box"] = (float(in_its_box), 1.0)
    return Result(parts, read_span(prediction.completion, sample).text, point is not None)


def drawn_point(sample: Sample, prediction: Prediction) -> Boxes:
    """The true box, and a small one around the predicted point."""
    point, _ = read_point(prediction.completion, sample)
    if point is None:
        return true_boxes(sample), None
    x, y = point
    return true_boxes(sample), [Box(x - MARK_PX, y - MARK_PX, x + MARK_PX, y + MARK_PX)]


def check(sample: Sample) -> str | None:
    """What is wrong with a sample's target, or None."""
    problem = check_grounding(sample)
    return None if problem is None else problem.replace("grounding", "pointing")


def _synthetic(seed: int, split: str, index: int) -> Sample:
    """A sample of grounding, to be answered by a point."""
    return replace(grounding_sample(seed, split, index), task="pointing")


TASK = Task(
    name="pointing",
    prompt=prompt,
    oracle=oracle,
    check=check,
    rewards=lambda sample: ("point_in_target", "think_answer_format"),
    metric=metric,
    headline="point_accuracy",
    boxes=drawn_point,
    synthetic=_synthetic,
)
