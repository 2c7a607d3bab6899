"""Image sets of Hugging Face: an image with its label, or with `objects` that have boxes and categories.

A label that is a number needs the names that the data set states. How a set writes boxes is told from all of them: x, y, width,
height or two corners; where both readings fit, the user has to say it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlrl.answers.geometry import box_problem
from vlrl.data.row_families import Cells, decoded, images_of
from vlrl.data.row_questions import Asked
from vlrl.data.row_source import BadRow, LeftOut, UnitError
from vlrl.schema import Box

BOX_ORDERS = ("xywh", "xyxy")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "fine_label", "class_label", "species")
NAME_COLUMNS = ("category", "categories", "label", "labels", "class", "classes", "category_id", "name", "names")
BOX_COLUMNS = ("bbox", "bboxes", "boxes", "box")
QUESTION = "What is in the image?"
_WHOLE = re.compile(r"[-+]?[0-9]{1,9}(?:\.0+)?")
MOST_CHOICES = 100
"""Longer lists of names are not repeated in every prompt."""
WITHOUT_OBJECTS = "images without objects (whether all of a kind were looked for there is not known)"

Names = Mapping[str, tuple[str, ...]]


def label_rows(row: Cells, names: Names) -> list[Asked]:
    """An image and the name of what it shows."""
    column = next(key for key in LABEL_COLUMNS if row.get(key) is not None)
    known = names.get(column, names.get("*"))
    label = _name(row[column], known, column)
    listed = known or ()
    return [Asked(QUESTION, label, images_of(row), labels=listed if len(listed) <= MOST_CHOICES else ())]


def _name(value: Any, known: tuple[str, ...] | None, column: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.strip():
        if _WHOLE.fullmatch(value.strip()) is None:
            return value.strip()
        value = int(value.partition(".")[0])  # CSV holds numbers as text
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRow(f"{column} must be one name, got {value!r:.60}")
    if known is None:
        raise UnitError(
            f"{column} is the number {value}, and the data set does not state the names behind such numbers",
            "--names NAME,NAME,...",
        )
    if not 0 <= value < len(known):
        raise BadRow(f"{column} is {value}, but there are {len(known)} names")
    return known[value]


def objects_of(row: Cells) -> list[tuple[Any, Any]]:
    """(box as written, category as written) of a row's objects. Raises BadRow."""
    objects = decoded(row.get("objects"))
    if isinstance(objects, list):
        pairs = []
        for one in objects:
            if not isinstance(one, dict):
                raise BadRow(f"a member of objects is an object with box and category, got {one!r:.60}")
            pairs.append((_first(one, BOX_COLUMNS), _first(one, NAME_COLUMNS)))
        return pairs
    if not isinstance(objects, dict):
        raise BadRow(f"objects is a list, or lists by name, got {objects!r:.60}")
    boxes, categories = _first(objects, BOX_COLUMNS), _first(objects, NAME_COLUMNS)
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        raise BadRow(f"objects must have a box and a category for each object, of the same number; it has {_lengths(objects)}")
    return list(zip(boxes, categories, strict=True))


def _lengths(objects: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} ({len(one)})" if isinstance(one, list) else str(key) for key, one in objects.items())


def _first(cells: Mapping[str, Any], columns: Sequence[str]) -> Any:
    return next((cells[key] for key in columns if cells.get(key) is not None), None)


def object_rows(row: Cells, names: Names, order: str) -> list[Asked]:
    """An image with boxes of named categories; asked for are those that it has."""
    pairs = objects_of(row)
    if not pairs:
        raise LeftOut(WITHOUT_OBJECTS)
    known = next((names[f"objects.{key}"] for key in NAME_COLUMNS if f"objects.{key}" in names), names.get("*"))
    boxes = []
    for written, category in pairs:
        corners = as_corners(decoded(written), order)
        problem = box_problem(corners, None)
        if problem is not None:
            raise BadRow(problem)
        x1, y1, x2, y2 = map(float, corners)
        boxes.append(Box(x1, y1, x2, y2, _name(category, known, "category")))
    categories = tuple(dict.fromkeys(str(box.label) for box in boxes))
    return [Asked(", ".join(categories), None, images_of(row), boxes=tuple(boxes), categories=categories)]


def as_corners(values: Any, order: str) -> Any:
    """A box in one of `BOX_ORDERS` as x1, y1, x2, y2; what is no box stays as it is."""
    if order == "xyxy" or box_problem(values, None) == f"a box is [x1, y1, x2, y2], got {values!r}":
        return values
    if not all(isinstance(value, int | float) for value in values):
        return values
    x, y, width, height = values
    return [x, y, x + width, y + height]


def box_order(rows: Iterable[tuple[Cells, tuple[int, int] | None]], where: str) -> str:
    """How a set writes boxes: the order in which (all but a few of) its boxes lie in their images. `rows`: with the size of the
    image. Raises UnitError where both orders fit, or neither."""
    n, wrong = 0, dict.fromkeys(BOX_ORDERS, 0)
    example: Any = None
    for row, size in rows:
        try:
            pairs = objects_of(row)
        except BadRow:
            continue
        for values, _ in pairs:
            values = decoded(values)
            if not isinstance(values, list) or len(values) != 4 or not all(isinstance(one, int | float) for one in values):
                continue
            n, example = n + 1, values
            for order in BOX_ORDERS:
                wrong[order] += box_problem(as_corners(values, order), size) is not None
    if not n:
        return "xyxy"
    fits = [order for order in BOX_ORDERS if wrong[order] <= 0.02 * n]
    if len(fits) == 1:
        return fits[0]
    how = "as x, y, width, height and as two corners" if fits else "neither as x, y, width, height nor as two corners"
    raise UnitError(f"{where}: its {n:,} boxes, such as {example}, fit their images {how}", "--boxes xywh (or xyxy)")
