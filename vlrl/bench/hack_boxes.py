"""Degenerate boxes for `bench hack`: the whole image, grids, the mean box, boxes beside "None"."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlrl.answers.geometry import best_matching
from vlrl.answers.kind import BOXES, answer_kinds
from vlrl.answers.read import read_boxes, requested_categories, true_boxes, with_canonical_labels
from vlrl.bench.hack_answers import HUGE_CHARS, NO_NUMBER, Degenerate, ReferencedSample, two_blocks
from vlrl.schema import Box, Sample
from vlrl.tasks.answer_format import no_object, write_boxes

_NAN, _INF = float("nan"), float("inf")
_UNREAL = ([_NAN] * 4, [-_INF, -_INF, _INF, _INF], [0, 0, _INF, _INF])


def box_attacks(case: ReferencedSample, alike: Sequence[ReferencedSample]) -> Iterator[Degenerate]:
    """Attacks on one box or a list of boxes. `alike`: the cases of the set with answers of this kind, itself included."""
    sample, write = case.sample, case.write
    several = BOXES in case.kinds
    width, height = size_of(sample)
    categories: Sequence[str | None] = requested_categories(sample) if several else [None]
    truth = [{"bbox_2d": list(box.xyxy), "label": box.label} for box in true_boxes(sample)]

    def text(items: Sequence[dict[str, Any]]) -> str:
        return write_boxes(items, sample) if several or len(items) != 1 else write_boxes(items, sample, several=False)

    def at(*boxes: Sequence[float]) -> str:
        return write(text([{"bbox_2d": list(box), "label": label} for label in categories for box in boxes]))

    whole, centre = (0.0, 0.0, width, height), (width / 4, height / 4, 3 * width / 4, 3 * height / 4)
    yield Degenerate("whole image", (at(whole),), is_answer=True)
    yield Degenerate("constant", (at(centre), at(_mean_box(alike, width, height))), is_answer=True)
    yield Degenerate("grid of boxes", tuple(at(*_grid(n, width, height)) for n in (2, 4, 8)))
    rng = random.Random(0)
    yield Degenerate("many boxes", (at(*_random_boxes(100, width, height, rng)), at(whole, centre, *_grid(4, width, height))))
    yield Degenerate(NO_NUMBER[1], tuple(write(_unreal_boxes(corners, categories)) for corners in _UNREAL))
    empty = no_object(sample)
    if several:
        yield Degenerate("no object", (write(empty), write("[]")), is_answer=True)
    wrong = [{**item, "bbox_2d": box} for item, box in zip(truth, _elsewhere(truth, width, height), strict=True)]
    if not truth:
        wrong = [{"bbox_2d": list(centre), "label": categories[0]}]
    right, other = text(truth), text(wrong)
    both = text([*truth, *wrong])
    if truth:
        yield Degenerate("reference format with other values", (write(other),), is_answer=True)
        yield Degenerate("negation", (write(f"not {right}"), write(f"There is no object at {right}")))
        yield Degenerate("hedge", (write(f"{empty}\n{right}"), write(f"{right}\n{empty}"), write(f"{right} or {other}")))
    yield Degenerate("right beside wrong", (write(both), write(f"{other}\n{right}"), *two_blocks(case, other)))
    labels = list(dict.fromkeys(categories))
    if truth and len(labels) > 1:
        yield Degenerate("every label listed", (write(text([{**item, "label": label} for item in truth for label in labels])),))
    tiles = ", ".join("[{:.0f}, {:.0f}, {:.0f}, {:.0f}]".format(*box) for box in _grid(8, width, height))
    yield Degenerate("huge list", (write(f"[{', '.join([tiles] * (HUGE_CHARS // len(tiles)))}]"),))


def _unreal_boxes(corners: Sequence[float], categories: Sequence[str | None]) -> str:
    """A box of each category whose corners no comparison refuses."""
    return json.dumps([{"bbox_2d": corners} | ({"label": one} if one is not None else {}) for one in categories])


def size_of(sample: Sample) -> tuple[float, float]:
    """Width and height in pixels of a sample's image, at least what its true boxes span."""
    boxes = true_boxes(sample)
    size = sample.facts.get("image_size") or (0, 0)
    return max([size[0], 8.0, *(box.x2 for box in boxes)]), max([size[1], 8.0, *(box.y2 for box in boxes)])


def _grid(n: int, width: float, height: float) -> list[list[float]]:
    w, h = width / n, height / n
    return [[round(v, 1) for v in (i * w, j * h, (i + 1) * w, (j + 1) * h)] for j in range(n) for i in range(n)]


def _random_boxes(n: int, width: float, height: float, rng: random.Random) -> list[list[float]]:
    found = []
    for _ in range(n):
        w, h = width * rng.uniform(0.1, 0.6), height * rng.uniform(0.1, 0.6)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        found.append([round(v, 1) for v in (x, y, x + w, y + h)])
    return found


def _mean_box(alike: Sequence[ReferencedSample], width: float, height: float) -> list[float]:
    """The mean true box of the set, in the proportions of this image."""
    corners = []
    for case in alike:
        w, h = size_of(case.sample)
        corners += [(box.x1 / w, box.y1 / h, box.x2 / w, box.y2 / h) for box in true_boxes(case.sample)]
    means = [sum(column) / len(corners) for column in zip(*corners, strict=True)] if corners else [0.25, 0.25, 0.75, 0.75]
    return [round(v, 1) for v in (means[0] * width, means[1] * height, means[2] * width, means[3] * height)]


def _elsewhere(truth: Sequence[Mapping[str, Any]], width: float, height: float) -> list[list[float]]:
    """As many boxes as there are true ones, each of them in a cell of its own of a grid over the image."""
    n = 1
    while n * n < max(2, len(truth)):
        n += 1
    cells = _grid(n, width, height)
    return [[round(x1 + 0.3 * (x2 - x1), 1), round(y1 + 0.3 * (y2 - y1), 1), x2, y2] for x1, y1, x2, y2 in cells[: len(truth)]]


def are_right_boxes(text: str, sample: Sample) -> bool:
    """Whether the boxes of a completion are as many as the true ones and match them all at an IoU of 0.5."""
    parsed, _ = read_boxes(text, sample)
    truth = true_boxes(sample)
    if parsed is None or parsed.n_pred != len(truth):
        return False
    predicted = [Box(*box.xyxy, box.label if BOXES in answer_kinds(sample) else "it") for box in parsed.items]
    true = [Box(*box.xyxy, box.label if BOXES in answer_kinds(sample) else "it") for box in truth]
    pairs = best_matching(with_canonical_labels(predicted), with_canonical_labels(true), 0.5)
    return len(pairs) == len(truth)
