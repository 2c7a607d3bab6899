"""A checked image and the categories asked for → a detection sample, as a record or as its line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from json.encoder import encode_basestring

from data_prep.annotated import CheckedImage
from data_prep.ap_marks import ApMarks
from data_prep.fitting import tidy
from vlrl.data.sample_json import sample_to_json
from vlrl.schema import Sample


@dataclass(frozen=True)
class Plan:
    """Which samples to draw. `per`: one sample per image and category, or one per image that asks for a list. `negatives`:
    absent categories per image; None: none (`per="category"`) or all of them (`per="image"`). `shots`: images per category.
    `marks`: what AP by size and by frequency needs besides."""

    categories: tuple[str, ...]
    per: str
    negatives: int | None
    shots: int | None
    limit: int | None
    seed: int
    dataset: str
    split: str | None
    marks: ApMarks | None = None

    @cached_property
    def order(self) -> dict[str | None, int]:
        """Category → its place in the list."""
        return {category: index for index, category in enumerate(self.categories)}


Question = tuple[CheckedImage, tuple[str, ...]]
"""An image and the categories that one sample asks for."""


@dataclass(frozen=True)
class Drawn(Collection[Sample]):
    """The samples of `questions`, made one by one as they are gone through: together they take more memory than their file."""

    questions: Sequence[Question]
    plan: Plan

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Sample]:
        return (sample_of(image, requested, self.plan) for image, requested in self.questions)

    def lines(self, written: Callable[[str], str]) -> Iterator[tuple[str, tuple[str, ...], str]]:
        """See `data_prep.writing.Lines`. A large set is written in a third of the time that `json` takes over `Sample` objects;
        a test holds that both give the same text."""
        if self.plan.marks is not None:
            return (_line(sample, written) for sample in self)
        texts = _Texts(self.plan, written)
        return (texts.line(image, requested) for image, requested in self.questions)

    def __contains__(self, sample: object) -> bool:
        return any(one == sample for one in self)


def sample_of(image: CheckedImage, requested: tuple[str, ...], plan: Plan) -> Sample:
    """The sample that asks for `requested` in an image."""
    boxes = [box for box in image.boxes if box.label in requested]
    present = {box.label for box in boxes}
    meta = {
        "categories": list(requested),
        "image_size": list(image.size_wh),
        "crowd": [category for category in requested if category in image.crowd],
        "negatives": [category for category in requested if category not in present],
        "dataset": plan.dataset,
        "split": image.split or plan.split,
        "source_id": image.source_id,
        "group": image.group,
    }
    items = [{"bbox_2d": [tidy(value) for value in box.xyxy], "label": box.label} for box in boxes]
    if plan.marks is not None:
        items = [plan.marks.item(image.source_id, item) for item in items]
        meta |= plan.marks.meta(image.source_id, requested)
    parts = [plan.dataset, image.id_part or image.source_id, *(requested if plan.per == "category" else ())]
    return Sample(
        id="-".join(parts),
        task="detection",
        question=", ".join(requested),
        answer=items,
        images=(str(image.path),),
        meta={key: value for key, value in meta.items() if value},
    )


def _line(sample: Sample, written: Callable[[str], str]) -> tuple[str, tuple[str, ...], str]:
    """Id, images and JSON of a sample with marks."""
    row = sample_to_json(sample)
    row["images"] = [written(path) for path in sample.images]
    return sample.id, sample.images, json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


class _Texts:
    """The JSON of samples, in pieces that are made once: of each category, and of each image for its samples in a row."""

    def __init__(self, plan: Plan, written: Callable[[str], str]) -> None:
        self.plan, self.written = plan, written
        self.quoted: dict[str, str] = {}
        self.image: CheckedImage | None = None

    def quote(self, text: str) -> str:
        found = self.quoted.get(text)
        if found is None:
            found = self.quoted[text] = encode_basestring(text)
        return found

    def _begin(self, image: CheckedImage) -> None:
        """The pieces of an image."""
        path, plan = str(image.path), self.plan
        self.image, self.images = image, (path,)
        self.id = f"{plan.dataset}-{image.id_part or image.source_id}"
        self.shown = f', "task": "detection", "images": [{encode_basestring(self.written(path))}], "question": '
        self.size = f', "image_size": [{image.size_wh[0]}, {image.size_wh[1]}]'
        self.in_order: list[tuple[str, str]] = []
        self.items: dict[str, list[str]] = {}
        for box in image.boxes:
            # as `tidy` has them: to 4 decimals, whole numbers without ".0"
            x1, y1, x2, y2 = round(box.x1, 4), round(box.y1, 4), round(box.x2, 4), round(box.y2, 4)
            label = self.quoted.get(box.label or "") or self.quote(box.label or "")
            item = f'{{"bbox_2d": [{x1:.12g}, {y1:.12g}, {x2:.12g}, {y2:.12g}], "label": {label}}}'
            self.in_order.append((box.label or "", item))
            self.items.setdefault(box.label or "", []).append(item)
        split = image.split or plan.split
        named = (("dataset", plan.dataset), ("split", split), ("source_id", image.source_id), ("group", image.group))
        self.named = "".join(f', "{key}": {self.quote(value)}' for key, value in named if value) + "}}\n"

    def line(self, image: CheckedImage, requested: tuple[str, ...]) -> tuple[str, tuple[str, ...], str]:
        """Id, images and JSON of `sample_of`, key by key in its order."""
        if image is not self.image:
            self._begin(image)
        items = (
            self.items.get(requested[0], ())
            if len(requested) == 1
            else [item for label, item in self.in_order if label in requested]
        )
        names = ", ".join([self.quote(name) for name in requested])
        crowd = [self.quote(name) for name in requested if name in image.crowd] if image.crowd else ()
        absent = [self.quote(name) for name in requested if name not in self.items]
        marks = f', "crowd": [{", ".join(crowd)}]' if crowd else ""
        marks += f', "negatives": [{", ".join(absent)}]' if absent else ""
        question = names if len(requested) == 1 else encode_basestring(", ".join(requested))
        sample_id = "-".join((self.id, *requested)) if self.plan.per == "category" else self.id
        line = (
            f'{{"id": {encode_basestring(sample_id)}{self.shown}{question}, "answer": [{", ".join(items)}],'
            f' "meta": {{"categories": [{names}]{self.size}{marks}{self.named}'
        )
        return sample_id, self.images, line
