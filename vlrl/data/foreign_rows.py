"""Rows as other projects have them → samples: LLaMA-Factory, ShareGPT, LLaVA, ms-swift, TRL, EasyR1, verl, R1-V, VLM-R1, image
sets of Hugging Face, ScienceQA and other columns of question and answer.

Training, `bench run`, `bench check` and the converters of `data_prep/` read them here, so all say the same of a row. A row that
cannot be used is left out and counted; more than a few, and the set is refused. Not here: which words of a row are the question
(`vlrl.data.row_questions`), opening the file (`vlrl.data.tables`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlrl.answers.whole_text import is_whole
from vlrl.data.images import ImageError
from vlrl.data.row_families import (
    ANSWER_COLUMNS,
    QUESTION_COLUMNS,
    Cells,
    choice_rows,
    conversations_rows,
    decoded,
    first_text,
    has_choices,
    images_of,
    mapped_rows,
    messages_rows,
    prompt_rows,
    question_rows,
    verl_rows,
)
from vlrl.data.row_labels import LABEL_COLUMNS, Names, box_order, label_rows, object_rows
from vlrl.data.row_questions import LONG_ANSWER_CHARS, Asked, sample_of
from vlrl.data.row_source import FEW, BadRow, LeftOut, Sizes, SourceRow, Units
from vlrl.data.sample_files import missing
from vlrl.data.sample_json import PACKED, file_of, in_file
from vlrl.data.tables import IMAGE_COLUMNS, Table, is_encoded, numbered_images
from vlrl.schema import Sample, SampleError

N_EXAMPLES = 3
"""Bad rows that a refusal shows."""


@dataclass(frozen=True)
class Family:
    """A form of rows. `fits`: whether a row has it. `read`: its questions."""

    about: str
    fits: Callable[[Cells], bool]
    read: Callable[[Cells, RowReading], list[Asked]]


@dataclass(frozen=True)
class RowReading:
    """How the rows of a file are read, where they do not say so themselves.

    `family`: a name in `ROW_FAMILIES`; "": by the columns. `coords`: the unit of boxes (None: pixels, if they fit).
    `order`: how `objects` write boxes (`vlrl.data.row_labels.BOX_ORDERS`). `names`: the names behind numbers, by column or
    "*". `columns`: our names of columns → the file's. `method`: of VLM-R1's `accu_reward_method`, for rows without one.
    `place`: makes a path of an image that is inside a row (bytes, or base64), given its place; None: such rows are refused.
    """

    family: str = ""
    coords: str | None = None
    order: str | None = None
    names: Names = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    method: str | None = None
    place: Callable[[str | bytes, str], str] | None = None
    dataset: str | None = None


class InsideRow(SampleError):
    """A file that holds images inside its rows, in a form that only the converter reads."""


def _has(row: Cells, *columns: str) -> bool:
    return first_text(row, columns) is not None


def _has_image(row: Cells) -> bool:
    return _has(row, *IMAGE_COLUMNS, *numbered_images(row))


def _is_list(row: Cells, column: str) -> bool:
    return isinstance(decoded(row.get(column)), list)


ROW_FAMILIES: dict[str, Family] = {
    "verl": Family(
        "verl's Parquet: prompt, reward_model",
        lambda row: _has(row, "reward_model") and _has(row, "prompt"),
        lambda row, _: verl_rows(row),
    ),
    "messages": Family(
        "LLaMA-Factory, ms-swift (objects), OpenAI: messages, images",
        lambda row: _is_list(row, "messages"),
        lambda row, _: messages_rows(row),
    ),
    "conversations": Family(
        "ShareGPT, LLaVA, VLM-R1: conversations, image",
        lambda row: _is_list(row, "conversations") or _is_list(row, "conversation"),
        lambda row, _: conversations_rows(row),
    ),
    "prompt": Family(
        "TRL: prompt as messages, completion or solution",
        lambda row: _is_list(row, "prompt"),
        lambda row, _: prompt_rows(row),
    ),
    "bbox": Family(
        "a question and one box: question, bbox (by --map)",
        lambda row: _has(row, "question") and _has(row, "bbox"),
        lambda row, _: mapped_rows(row),
    ),
    "choices": Family(
        "ScienceQA, MMMU, SEED: question, choices or options (or A, B ..., choice_a, choice_b ...), answer",
        lambda row: _has(row, *QUESTION_COLUMNS) and has_choices(row),
        lambda row, _: choice_rows(row),
    ),
    "objects": Family(
        "image sets of Hugging Face: image, objects with bbox and category",
        lambda row: _has_image(row) and isinstance(decoded(row.get("objects")), dict | list),
        lambda row, reading: object_rows(row, reading.names, reading.order or "xyxy"),
    ),
    "question": Family(
        "EasyR1, R1-V, Alpaca: problem or question, answer or solution, image",
        lambda row: _has(row, *QUESTION_COLUMNS) and _has(row, *ANSWER_COLUMNS),
        lambda row, _: question_rows(row),
    ),
    "label": Family(
        "image sets of Hugging Face: image, label",
        lambda row: _has_image(row) and any(row.get(key) is not None for key in LABEL_COLUMNS),
        lambda row, reading: label_rows(row, reading.names),
    ),
}
"""Forms of rows, the surest first."""
_SUREST = ("verl", "messages", "conversations")
"""A row that has the form of the row before is asked for no other one."""


def form_of(row: Cells) -> str | None:
    """The form of a row, or None."""
    return next((name for name, family in ROW_FAMILIES.items() if family.fits(row)), None)


@dataclass
class Found:
    """What was seen while the rows of files were read. `n_rows`: all rows, those among them that are no rows at all too;
    `n_bad`: rows of which something cannot be used, however many of their questions."""

    n_rows: int = 0
    n_bad: int = 0
    n_clipped: int = 0
    n_long: int = 0
    n_system: int = 0
    families: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    _last_bad: int = 0

    def is_first_of_row(self) -> bool:
        """Whether the row that is read now has had no problem before this call."""
        is_first = self._last_bad != self.n_rows
        self._last_bad = self.n_rows
        return is_first

    def note_unread(self, where: str, problem: str) -> None:
        """What stands in the place of a row and is none."""
        self.n_rows += 1
        self.note_bad(where, problem)

    def note_bad(self, where: str, problem: str) -> None:
        if not self.is_first_of_row():
            return
        self.n_bad += 1
        if len(self.bad) < N_EXAMPLES:
            self.bad.append(f"{where}: {problem}")

    def notes(self) -> list[str]:
        """What a person should know of a set that is used, in a few lines."""
        lines = []
        if self.n_bad:
            first = "; ".join(self.bad)
            lines.append(f"{self.n_bad:,} of {self.n_rows:,} rows cannot be used and are left out; the first: {first}")
        lines += [f"{n:,} left out: {kind}" for kind, n in self.left_out.most_common()]
        if self.n_clipped:
            lines.append(f"{self.n_clipped:,} boxes were cut at the edge of their image")
        if self.n_long:
            lines.append(
                f"{self.n_long:,} answers have more than {LONG_ANSWER_CHARS} characters: few completions repeat so long a text"
                " word for word (--rewards llm_judge or fuzzy_match grades them)"
            )
        if self.n_system:
            lines.append(f"{self.n_system:,} rows bring a system message, which is left out (--system_prompt sets one for all)")
        return lines


def foreign_samples(
    table: Table, reading: RowReading, image_root: Path | None, found: Found, on_bad: Callable[[str, str], None]
) -> Iterator[Sample]:
    """The samples of a file's rows, their ids made unique. Bad rows go to `on_bad` with their place. Raises SampleError where
    the whole set cannot be read: no known form, boxes in another unit, images inside rows."""
    root = image_root if image_root is not None else table.folder
    units, ids = Units(stated=reading.coords is not None), _Ids()
    family = ""
    dataset = reading.dataset or table.name
    reading = replace(reading, names={**table.class_names, **reading.names})
    n_read = 0

    def unread(where: str, problem: str) -> None:
        found.n_rows += 1
        on_bad(where, problem)

    for where, own in table.read(unread):
        found.n_rows, n_read = found.n_rows + 1, n_read + 1
        row: Cells = own
        if reading.columns:
            try:
                row = renamed(own, reading.columns, is_first=n_read == 1)
            except BadRow as problem:
                if n_read == 1:
                    raise SampleError(f"{where}: {problem}") from problem
                on_bad(where, str(problem))
                continue
        if not (family in _SUREST and ROW_FAMILIES[family].fits(row)):
            family = reading.family or form_of(row) or ""
        if not family:
            if n_read == 1:
                raise SampleError(f"{where}: its rows are in no known form (columns: {', '.join(map(str, row))})")
            on_bad(where, f"it is in no known form (columns: {', '.join(map(str, row))})")
            continue
        if family == "objects" and reading.order is None:
            reading = replace(reading, order=_order_of(table, root))
        if family != "label":
            row = _with_names(row, reading.names)
        found.families[family] += 1
        found.n_system += _brings_system(row)
        try:
            asked = ROW_FAMILIES[family].read(row, reading)
        except LeftOut as reason:
            found.left_out[reason.kind] += 1
            continue
        except BadRow as problem:
            on_bad(where, str(problem))
            continue
        for one in asked:
            try:
                images = tuple(_path(cell, root, reading, where) for cell in one.images)
                source = _source(one, row, images, where, dataset, reading, units, found)
                sample = sample_of(one, source)
                if not is_whole([sample.question, sample.answer, list(sample.choices or ()), dict(sample.meta)]):
                    raise BadRow("holds half of a surrogate pair (\\ud800 to \\udfff), which no tokenizer can hold")
            except LeftOut as reason:
                found.left_out[reason.kind] += 1
            except BadRow as problem:
                on_bad(where, str(problem))
            else:
                found.n_long += isinstance(sample.answer, str) and len(sample.answer) > LONG_ANSWER_CHARS
                yield replace(sample, id=ids.unique(sample.id))
    units.check(table.name)


def _source(
    one: Asked, row: Cells, images: tuple[str, ...], where: str, dataset: str, reading: RowReading, units: Units, found: Found
) -> SourceRow:
    stated = next((row[key] for key in ("id", "question_id", "uid", "qid") if isinstance(row.get(key), str | int)), None)
    source_id = str(stated if stated not in (None, "") else where.rpartition(":")[2].rpartition(" ")[2])
    turn = f"-turn{one.turn}" if one.turn else ""

    def clipped(_problem: str) -> None:
        found.n_clipped += 1

    meta = {"dataset": dataset, "source_id": source_id, **_group(row)} | ({"turn": one.turn} if one.turn else {})
    name, sizes = f"{dataset}-{source_id}{turn}", Sizes(images)
    return SourceRow(row, name, images, sizes, meta, reading.coords or "px", reading.method, clipped, units=units)


def _order_of(table: Table, root: Path) -> str:
    """How the `objects` of a set write boxes; all rows are read for it once. Raises UnitError."""

    def sized() -> Iterator[tuple[Cells, tuple[int, int] | None]]:
        for _, row in table.read(lambda _where, _problem: None):
            width, height = row.get("width"), row.get("height")
            if isinstance(width, int) and isinstance(height, int):
                yield row, (width, height)
                continue
            cells = images_of(row)
            try:
                yield row, Sizes((_path(cells[0], root, RowReading(), ""),))[0] if cells else None
            except (ImageError, BadRow, SampleError):
                continue

    return box_order(sized(), table.name)


def _path(cell: Any, root: Path, reading: RowReading, where: str) -> str:
    """The path or address of an image, which is there. Raises BadRow; InsideRow for one that is inside the row."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path") or cell.get("url")
    if isinstance(cell, bytes) or (isinstance(cell, str) and not cell.startswith(PACKED) and is_encoded(cell)):
        if reading.place is None:
            raise InsideRow(f"{where}: its images are inside the rows")
        return reading.place(cell, where)
    if not isinstance(cell, str) or not cell:
        raise BadRow(f"an image is a path, got {str(cell)[:60]!r}")
    if cell.startswith(("http://", "https://")):
        raise BadRow(f"its image is on the web: {cell[:100]}; download it first")
    cell = cell.removeprefix("file://")
    file = file_of(cell)
    path = cell if file is None else in_file(cell, os.path.join(root, file))
    if "\\" in path and missing(path):
        path = path.replace("\\", "/")  # as Windows writes it
    if problem := missing(path):
        raise BadRow(f"{problem}; paths are relative to {root} (--image_root changes that)")
    return path


def _group(row: Cells) -> dict[str, Any]:
    """`meta.group` of a row, which links rows that show the same thing; it may be a column too."""
    meta = decoded(row.get("meta"))
    group = row.get("group")
    if group in (None, "") and isinstance(meta, Mapping):
        group = meta.get("group")
    if group in (None, ""):
        return {}
    return {"group": group if isinstance(group, str) else json.dumps(group, default=str)}


KEPT = ("id", "group", "meta")
"""Columns that are read under their own names, whatever the user names."""
OPTIONAL = ("image", "images", "choices", "hint", "id", "group")
"""Of the columns that a user names, those that some rows may lack."""


def renamed(row: Cells, columns: Mapping[str, str], *, is_first: bool) -> dict[str, Any]:
    """A row with our names of columns; a dot goes into an object, `extra_info.answer`. Raises BadRow where a column is not
    there: any column in the first row, later those that are needed."""
    found: dict[str, Any] = {}
    for ours, theirs in columns.items():
        value: Any = row
        if theirs in row:
            value = row[theirs]
        else:
            for part in theirs.split("."):
                value = decoded(value)
                if isinstance(value, Mapping) and part in value:
                    value = value[part]
                elif is_first or ours not in OPTIONAL:
                    raise BadRow(f"there is no column {theirs!r} (columns: {', '.join(map(str, row))})")
                else:
                    value = None
                    break
        found[ours] = value
    return {key: row[key] for key in KEPT if key in row} | found


def _with_names(row: Cells, names: Names) -> Cells:
    """A row with the names behind its numbers, where the data set states them."""
    stated = {key: row[key] for key in names if isinstance(row.get(key), int) and not isinstance(row[key], bool)}
    named = {key: names[key][value] for key, value in stated.items() if 0 <= value < len(names[key])}
    return {**row, **named} if named else row


def _brings_system(row: Cells) -> bool:
    if first_text(row, ("system",)) is not None:
        return True
    for column in ("messages", "conversations", "prompt"):
        turns = row.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return turns[0].get("role", turns[0].get("from")) == "system"
    return False


class _Ids:
    """Makes ids unique: one that is taken gets a number."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def unique(self, wanted: str) -> str:
        found = wanted
        while found in self._taken:
            self._taken[wanted] += 1
            found = f"{wanted}-{self._taken[wanted]}"
        self._taken[found] = 1
        return found


def too_many_bad(found: Found) -> bool:
    """Whether more rows cannot be used than a few."""
    return found.n_bad > FEW * max(found.n_rows, 1)
