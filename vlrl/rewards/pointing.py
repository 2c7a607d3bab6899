"""The reward on one point: whether it is on what was asked for."""

from __future__ import annotations

from vlrl.answers.points import Point, in_box, in_polygons, read_point
from vlrl.answers.read import true_boxes
from vlrl.schema import Sample, Score


def point_in_target(text: str, sample: Sample) -> Score:
    """1 if the one point of the answer is on the target, else 0; a box stands for its centre.

    The target is the outline (`meta.polygons`) where the row has one, else the box, edges included. Source: GUI grounding as
    ScreenSpot scores it (SeeClick, arXiv 2401.10935). differs: several points are no answer (published: the first two numbers).
    """
    point, why = read_point(text, sample)
    if point is None:
        return Score(0.0, None, why)
    hit = on_target(point, sample)
    shown = [round(value, 1) for value in point]
    return Score(float(hit), shown, "on the target" if hit else "beside the target")


def on_target(point: Point, sample: Sample) -> bool:
    """Whether a point in original pixels is on what a sample asks for."""
    polygons = sample.facts.get("polygons")
    if polygons:
        return in_polygons(point, polygons)
    return in_box(point, true_boxes(sample)[0].xyxy)
