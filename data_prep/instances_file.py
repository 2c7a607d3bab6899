"""Instances files (JSON in the form of COCO) as they stand: rows of images, annotations reduced to what is used, names.

The file is read entry by entry, so that a large one does not have to fit in memory as a whole.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.box_values import Corners, corners, id_key, number, shape_box, turned_box
from data_prep.json_stream import entries
from data_prep.not_counted import is_marked, marks_in
from data_prep.report import MAX_SKIPPED
from vlrl.answers.span import canon

_USUAL = frozenset({"id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"})
"""COCO's own keys of annotations."""
_UNUSED = frozenset({"license", "flickr_url", "date_captured", "segmentation", "caption"})
"""Keys of images that nothing reads."""
_N_COMPARED = 1000
"""So many annotations are compared with their area and segmentation, to tell corners from x, y, width, height."""
_N_PLACED, _EVERY = 5_000, 97
"""So many annotations are compared with the place of their segmentation; of larger files also every 97th of the others."""
_APART = "its segmentation lies elsewhere"


@dataclass(slots=True)
class Instance:
    """One annotation. `image` and `category` are joined by `id_key`; None: unreadable. `box`: as corners, None where neither
    bbox nor segmentation could be read; `problem` then says why. `is_crowd`: None where the flag could not be read.
    `mask_wh`: the size of the mask that the box is taken from."""

    name: str
    image: str | None
    category: str | None
    box: Corners | None
    is_crowd: bool | None
    problem: str = ""
    mask_wh: tuple[int, int] | None = None


@dataclass
class Instances:
    """An instances file. `images`: their rows, `annotations` by the key of their image, `names`: category key → name.
    `supers`: category key → its supercategory. `is_xywh`: four bare numbers were read as x, y, width, height, though the user
    did not say so."""

    path: Path
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[Instance] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    supers: dict[str, str] = field(default_factory=dict)
    is_xywh: bool = False


def read_instances(
    path: Path,
    image_keys: Sequence[str] = ("id", "file_name"),
    bbox_format: str | None = None,
    encoding: str | None = None,
) -> Instances:
    """An instances file; ends the program where one of its three lists, or a key that joins them, is missing. `image_keys`: the
    keys that every image needs. `encoding`: of a file that is not UTF-8. `bbox_format`: "xywh", "xyxy" or None: xywh, refused
    where the file's areas or segmentations say that its boxes are corners."""
    content = Instances(path, is_xywh=bbox_format is None)
    lists: set[str] = set()
    form, keys = bbox_format or "xywh", dict[str | int, str]()
    evidence, n_scored, n_unsure = _Evidence(), 0, 0
    n_placed, apart = 0, list[str]()
    for key, is_entry, value in entries(path, "segmentation", encoding):
        if not is_entry:
            lists |= {key} if value == [] else set()
        elif key == "images":
            content.images.append(_image_row(value, len(content.images), path, image_keys))
        elif key == "categories":
            _add_category(value, content)
        elif key == "annotations":
            if isinstance(value, dict) and "score" in value and (score := number(value["score"])) is not None:
                n_scored, n_unsure = n_scored + 1, n_unsure + (score != 1)
            one = _instance(value, len(content.annotations), form, keys)
            n = len(content.annotations)
            content.annotations.append(one)
            if bbox_format is None and (n < _N_PLACED or n % _EVERY == 0) and (shape := _other_place(value, one)):
                n_placed += 1
                if isinstance(shape, str):
                    one.box, one.problem = None, shape
                    apart.append(f"{one.name}: {shape}")
            if bbox_format is None and one.box is not None and evidence.n < _N_COMPARED:
                evidence.add(value, one.box)
    for needed in ("images", "annotations", "categories"):
        if needed not in lists:
            raise SystemExit(f"{path}: no list {needed!r}; this reads COCO instances files (images, annotations, categories)")
    if n_unsure and n_scored == len(content.annotations):
        raise SystemExit(f"{path}: all its annotations have a score; predictions are no annotations")
    problem = evidence.problem()
    if problem is None and len(content.annotations) > _N_PLACED and len(apart) > MAX_SKIPPED * n_placed:
        problem = f"{len(apart)} of {n_placed} boxes that were compared with their segmentations lie elsewhere, first:"
        problem += f" {'; '.join(apart[:3])}. Pass --bbox_format xywh if the boxes are right"
    if problem is not None:
        raise SystemExit(f"{path}: {problem}")
    return content


def _image_row(row: Any, index: int, path: Path, needed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(row, dict) or any(not _usable(name, row.get(name)) for name in needed):
        raise SystemExit(f"{path}: images[{index}] lacks {' or '.join(map(repr, needed))}: {str(row)[:200]}")
    return {sys.intern(key): value for key, value in row.items() if key not in _UNUSED}


def _usable(key: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) if key in ("name", "file_name") else id_key(value) is not None


def _add_category(row: Any, content: Instances) -> None:
    index = len(content.names)
    name = row.get("name") if isinstance(row, dict) else None
    key = id_key(row["id"]) if isinstance(row, dict) and "id" in row else None
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
    name = " ".join(name.split()) if isinstance(name, str) else name
    if key is None or not isinstance(name, str) or not name.strip():
        raise SystemExit(f"{content.path}: categories[{index}] lacks 'id' or 'name': {str(row)[:200]}")
    if canon(content.names.setdefault(key, name)) != canon(name):
        raise SystemExit(f"{content.path}: categories {content.names[key]!r} and {name!r} have one id, {key}; which is it?")
    if isinstance(row.get("supercategory"), str):
        content.supers[key] = row["supercategory"]


def _instance(row: Any, index: int, form: str, keys: dict[str | int, str]) -> Instance:
    """`keys`: ids seen before, so that equal ones are one object in memory."""
    if not isinstance(row, dict):
        return Instance(f"number {index}", None, None, None, False, f"an annotation is a JSON object, got {str(row)[:80]}")
    image, category, bbox = row.get("image_id"), row.get("category_id"), row.get("bbox")
    box, problem, mask_wh = corners(bbox, form), "", None
    is_plain = row.get("iscrowd", 0) == 0 and row.keys() <= _USUAL
    # most rows are as COCO has them, and a million of them takes its time
    if is_plain and type(image) is type(category) is int and "id" in row and box and box[2] > box[0] and box[3] > box[1]:
        of_image = keys.get(image) or keys.setdefault(image, str(image))
        of_category = keys.get(category) or keys.setdefault(category, str(category))
        return Instance(f"annotation {row['id']}", of_image, of_category, box, False)
    image, category = id_key(image), id_key(category)
    if box is None or (box[2] == box[0] and box[3] == box[1]):
        segmented = _segmented(row, bbox)
        box, mask_wh = segmented or box, _mask_size(row) if segmented else None
    elif isinstance(row.get("attributes"), dict):
        box = _upright(box, row["attributes"].get("rotation"))
    if box is None:
        problem = f"bbox {str(bbox)[:80]} is not [x, y, width, height], four finite numbers"
        if row.get("segmentation"):
            problem += f", and its segmentation cannot be read: {str(row['segmentation'])[:60]}"
    return Instance(
        name=f"annotation {row['id']}" if "id" in row else f"annotation number {index}",
        image=None if image is None else keys.setdefault(image, image),
        category=None if category is None else keys.setdefault(category, category),
        box=box,
        is_crowd=False if is_plain else is_marked(*marks_in(row)),
        problem=problem,
        mask_wh=mask_wh,
    )


def _upright(box: Corners, rotation: Any) -> Corners:
    """The upright box around one that CVAT has turned by `rotation` degrees about its centre; it states the one before."""
    degrees = number(rotation)
    return turned_box(box, math.radians(degrees)) if degrees else box


def _segmented(row: Mapping[str, Any], bbox: Any) -> Corners | None:
    """The box of the segmentation, where there is no bbox that says something."""
    if bbox and corners(bbox, "xywh") is None:
        return None
    shape = _shape(row)
    return shape_box(shape) if shape else None


def _other_place(row: Any, one: Instance) -> str | bool:
    """Whether the annotation has both a bbox and a segmentation; a text: these overlap by less than half of their union."""
    if one.box is None or one.is_crowd or one.mask_wh is not None or not row.get("segmentation") or not row.get("bbox"):
        return False
    shape = shape_box(_shape(row))
    if shape is None or shape[2] <= shape[0] or shape[3] <= shape[1]:
        return False
    x1, y1, x2, y2 = one.box
    width, height = min(x2, shape[2]) - max(x1, shape[0]), min(y2, shape[3]) - max(y1, shape[1])
    both = max(width, 0) * max(height, 0)
    # a mask is whole pixels and a thin polygon has little area, so edges of up to 2 px are not what is meant
    near = max(abs(a - b) for a, b in zip(one.box, shape, strict=True)) <= 2
    if near or both >= 0.5 * ((x2 - x1) * (y2 - y1) + (shape[2] - shape[0]) * (shape[3] - shape[1]) - both):
        return True
    place, other = ([round(value, 2) for value in box] for box in (one.box, shape))
    return f"its bbox is {place}, and {_APART}, in {other} (with --bbox_format xywh the bbox counts)"


def kind_of_problem(one: Instance) -> str:
    """The finding of an annotation without a box."""
    return "boxes that their segmentation contradicts" if _APART in one.problem else "a bbox that is not four finite numbers"


def _mask_size(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of a run-length mask, which states them the other way round."""
    shape = _shape(row)
    size = shape.get("size") if isinstance(shape, dict) else None
    return (size[1], size[0]) if isinstance(size, list) and len(size) == 2 else None


def _shape(row: Mapping[str, Any]) -> Any:
    """The segmentation, which the file's reader has left as text (see `entries`); None where it is none."""
    shape = row.get("segmentation")
    try:
        return json.loads(shape) if isinstance(shape, str) else shape
    except (ValueError, RecursionError):
        return None


@dataclass
class _Evidence:
    """What areas and segmentations say about the form of the boxes."""

    n: int = 0
    n_xywh: int = 0
    n_xyxy: int = 0
    first: str = ""

    def add(self, row: Mapping[str, Any], as_xywh: Corners) -> None:
        """An annotation, and its box read as x, y, width, height."""
        bbox = row.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4:
            return
        self.n += 1
        area, shape = number(row.get("area")), _shape(row)
        if area is None and not shape:
            return
        x1, y1, x2, y2 = as_xywh
        as_xyxy = (x1, y1, x2 - x1, y2 - y1)
        shape_is = shape_box(shape) if isinstance(shape, list) else None
        fits = [_is_like(box, area, shape_is) for box in (as_xywh, as_xyxy)]
        self.n_xywh += fits == [True, False]
        if fits == [False, True]:
            self.n_xyxy += 1
            self.first = self.first or f"bbox {bbox}, area {row.get('area')}"

    def problem(self) -> str | None:
        if self.n_xyxy <= self.n_xywh or self.n_xyxy < 0.1 * self.n:
            return None
        return (
            f"{self.n_xyxy} of {self.n} boxes are x1, y1, x2, y2 by their area or segmentation, {self.n_xywh} are x, y, width,"
            f" height (first: {self.first}); pass --bbox_format xyxy, or --bbox_format xywh if the boxes are right"
        )


def _is_like(box: Corners, area: float | None, shape: Corners | None) -> bool:
    """Whether a box has this area (to 1 %) or is the box of this shape (to 2 px)."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 0 or height <= 0:
        return False
    has_area = area is not None and area > 0 and abs(width * height - area) <= 0.01 * area
    return has_area or (shape is not None and max(abs(a - b) for a, b in zip(box, shape, strict=True)) <= 2)
