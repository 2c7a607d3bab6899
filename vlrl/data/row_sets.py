"""What all rows of a set say together, where one row leaves it open: how `objects` write boxes, whether four numbers are a box,
which questions of ms-swift have several answers. A set is read for it once more, or its first rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vlrl.data.images import ImageError
from vlrl.data.row_conversations import swift_question
from vlrl.data.row_families import Cells, decoded, images_of
from vlrl.data.row_images import path_of
from vlrl.data.row_labels import box_order
from vlrl.data.row_questions import Asked, is_one_bare_box
from vlrl.data.row_source import FEW, BadRow, Sizes
from vlrl.data.tables import Table
from vlrl.schema import SampleError

N_ROWS_OF_A_SET = 20_000
"""Rows that are read to see what a set is."""


def _rows(table: Table) -> Iterator[dict[str, Any]]:
    return (row for _, row in islice(table.read(lambda _where, _problem: None), N_ROWS_OF_A_SET))


def order_of(table: Table, root: Path) -> str:
    """How the `objects` of a set write boxes; all rows are read for it once. Raises UnitError."""

    def sized() -> Iterator[tuple[Cells, tuple[int, int] | None]]:
        for _, row in table.read(lambda _where, _problem: None):
            width, height = row.get("width"), row.get("height")
            if isinstance(width, int) and isinstance(height, int):
                yield row, (width, height)
                continue
            try:
                cells = images_of(row)
                yield row, Sizes((path_of(cells[0], root, None, ""),))[0] if cells else None
            except (ImageError, BadRow, SampleError):
                continue

    return box_order(sized(), table.name)


def templates_of(table: Table) -> frozenset[str]:
    """The questions of ms-swift's rows, names apart, that have another number of boxes than one somewhere in the set."""
    found = set()
    for row in _rows(table):
        objects = decoded(row.get("objects"))
        if isinstance(objects, dict) and isinstance(objects.get("bbox"), list) and len(objects["bbox"]) > 1:
            found.add(swift_question(row))
    return frozenset(found - {""})


def bare_boxes(table: Table, asked_of: Callable[[Cells], list[Asked]]) -> bool:
    """Whether four numbers that no word calls a box are one: (all but a few) answers of the set are such, and none of its
    questions asks for numbers."""
    seen = []
    for row in _rows(table):
        try:
            seen += [is_one_bare_box(one) for one in asked_of(row)]
        except (BadRow, SampleError):
            continue
    known = [one for one in seen if one is not None]
    return bool(known) and known.count(False) <= FEW * len(known)
