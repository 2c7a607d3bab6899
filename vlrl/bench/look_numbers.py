"""The numbers of a set of samples that a person wants to see before training: answers, categories, boxes, lengths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vlrl.answers.geometry import box_problem
from vlrl.schema import Sample

_Size: TypeAlias = tuple[int, int]
_MIN_ROWS = 10
"""Of fewer rows no share is called too large."""
_LARGE_SHARE = 0.5
_SMALL_PX = 32
"""Boxes of a smaller side are small, as in COCO (32 x 32)."""


@dataclass
class Category:
    """`n_boxes` on `n_rows`; asked and absent on `n_absent`."""

    n_boxes: int = 0
    n_rows: int = 0
    n_absent: int = 0


@dataclass
class Numbers:
    """Of the rows of one task. `answers`: how often each answer is given, those without boxes; `sides`: width and height of
    each box in pixels, `shares` the square root of its share of the image, where the image's size is known."""

    n_rows: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    categories: dict[str, Category] = field(default_factory=dict)
    boxes_a_row: list[int] = field(default_factory=list)
    sides: list[tuple[float, float]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    answer_lengths: list[int] = field(default_factory=list)
    question_lengths: list[int] = field(default_factory=list)
    images_a_row: Counter[int] = field(default_factory=Counter)
    n_bad_boxes: int = 0

    def remarks(self) -> list[str]:
        """What is odd, in one line each."""
        found = []
        if self.answers and self.n_rows >= _MIN_ROWS:
            (answer, n), n_different = self.answers.most_common(1)[0], len(self.answers)
            share = n / self.n_rows
            if n_different == 1:
                found.append(f"all {n:,} answers are {answer!r}: there is nothing to learn but this answer")
            elif share >= _LARGE_SHARE:
                found.append(f"{share:.0%} of the answers are {answer!r}: who always says so is right as often")
        n_empty = self.boxes_a_row.count(0)
        if len(self.boxes_a_row) >= _MIN_ROWS and n_empty >= _LARGE_SHARE * len(self.boxes_a_row):
            share = n_empty / len(self.boxes_a_row)
            found.append(f"{share:.0%} of the rows have no box: who always answers None is right as often")
        by_case = Counter(name.casefold().strip() for name in self.categories)
        if alike := [name for name, n in by_case.items() if n > 1]:
            spellings = sorted(name for name in self.categories if name.casefold().strip() == alike[0])
            found.append(f"categories in several spellings: {len(alike):,}, such as {', '.join(map(repr, spellings))}")
        if self.n_bad_boxes:
            found.append(f"boxes without area, outside their image, or of another form: {self.n_bad_boxes:,}")
        n_small = sum(min(pair) < _SMALL_PX for pair in self.sides)
        if n_small >= _LARGE_SHARE * len(self.sides) and len(self.sides) >= _MIN_ROWS:
            found.append(f"{n_small / len(self.sides):.0%} of the boxes have a side below {_SMALL_PX} px: mind --max_pixels")
        return found


def numbers_of(
    samples: Sequence[Sample], sizes: Mapping[str, tuple[int, int]], answers: Mapping[str, str]
) -> dict[str, Numbers]:
    """The numbers by task. `sizes`: width and height in pixels of images, by path, where known; `answers`: reference answers as
    they are written, by id, where known."""
    found: dict[str, Numbers] = {}
    for sample in samples:
        one = found.setdefault(sample.task, Numbers())
        one.n_rows += 1
        one.images_a_row[len(sample.images)] += 1
        one.question_lengths.append(len(sample.question))
        one.answer_lengths.append(len(answers.get(sample.id, answer_text(sample.answer))))
        boxes = _boxes_in(sample.answer)
        if boxes is None:
            one.answers[answer_text(sample.answer)] += 1
            continue
        _count_boxes(one, sample, boxes, sizes.get(image_with_boxes(sample)) or _stated_size(sample))
    return found


def image_with_boxes(sample: Sample) -> str:
    """The path of the image that boxes refer to; "" where there is none."""
    index = sample.facts.get("image_index", 0)
    return sample.images[index] if isinstance(index, int) and 0 <= index < len(sample.images) else ""


def _stated_size(sample: Sample) -> _Size | None:
    stated = sample.facts.get("image_size")
    if not isinstance(stated, list | tuple) or len(stated) != 2 or not all(isinstance(one, int) and one > 0 for one in stated):
        return None
    return stated[0], stated[1]


def _count_boxes(one: Numbers, sample: Sample, boxes: Sequence[Mapping[str, Any]], size: _Size | None) -> None:
    one.boxes_a_row.append(len(boxes))
    labels = Counter(str(box.get("label", "")) for box in boxes)
    for label, n in labels.items():
        category = one.categories.setdefault(label, Category())
        category.n_boxes += n
        category.n_rows += 1
    asked = sample.facts.get("categories")
    for label in asked if isinstance(asked, list | tuple) else ():
        if str(label) not in labels:
            one.categories.setdefault(str(label), Category()).n_absent += 1
    for box in boxes:
        corners = box.get("bbox_2d")
        if box_problem(corners, size) is not None:
            one.n_bad_boxes += 1
            continue
        x1, y1, x2, y2 = map(float, corners)  # type: ignore[arg-type]
        one.sides.append((x2 - x1, y2 - y1))
        if size is not None:
            one.shares.append(((x2 - x1) * (y2 - y1) / (size[0] * size[1])) ** 0.5)


def _boxes_in(answer: Any) -> list[Mapping[str, Any]] | None:
    """The boxes of an answer that consists of boxes, maybe none; None for any other answer."""
    if isinstance(answer, Mapping):
        return [answer] if "bbox_2d" in answer else None
    if isinstance(answer, list | tuple) and all(isinstance(box, Mapping) and "bbox_2d" in box for box in answer):
        return list(answer)
    return None


def answer_text(answer: Any) -> str:
    """An answer as people read it; of several right ones the first."""
    if isinstance(answer, list | tuple) and answer and not isinstance(answer[0], Mapping):
        answer = answer[0]
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, sort_keys=True, default=str)


def repeated_prompts(samples: Sequence[Sample]) -> int:
    """How many rows ask what an earlier row asks of the same images."""
    return len(samples) - len({(one.task, one.question, one.images, one.video) for one in samples})
