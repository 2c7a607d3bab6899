"""Rows as other projects have them → samples: LLaMA-Factory, ShareGPT, LLaVA, ms-swift, TRL, EasyR1, verl, R1-V, VLM-R1, image
sets of Hugging Face, ScienceQA and other columns of question and answer.

Training, `bench run`, `bench check` and the converters of `data_prep/` read them here, so all say the same of a row. A row that
cannot be used is left out and counted; more than a few, and the set is refused. Not here: which words of a row are the question
(`vlrl.data.row_questions`), opening the file (`vlrl.data.tables`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from vlrl.answers.whole_text import is_whole
from vlrl.data.row_columns import brings_system, group_of, renamed, with_names
from vlrl.data.row_conversations import CONVERSATIONS, conversations_rows, messages_rows, prompt_rows, verl_rows
from vlrl.data.row_counts import Found
from vlrl.data.row_families import (
    ANSWER_COLUMNS,
    QUESTION_COLUMNS,
    Cells,
    choice_rows,
    column_question,
    decoded,
    first_text,
    has_choices,
    images_of,
    mapped_rows,
    question_rows,
)
from vlrl.data.row_images import PlaceInside, check_no_image_is_lost, path_of
from vlrl.data.row_labels import LABEL_COLUMNS, Names, label_rows, object_rows
from vlrl.data.row_questions import LONG_ANSWER_CHARS, Asked, sample_of
from vlrl.data.row_sets import bare_boxes, order_of, templates_of
from vlrl.data.row_source import BadRow, LeftOut, Sizes, SourceRow, Units
from vlrl.data.tables import Table
from vlrl.schema import Sample, SampleError


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
    `task`: what the rows are (grounding, detection, qa), where their words leave it open. `templates`: questions of ms-swift
    that have several boxes somewhere in the set.
    `place`: makes a path of an image that is inside a row (bytes, or base64), given its place; None: such rows are refused.
    """

    family: str = ""
    coords: str | None = None
    order: str | None = None
    names: Names = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    method: str | None = None
    place: PlaceInside | None = None
    dataset: str | None = None
    task: str = ""
    templates: frozenset[str] | None = None


def _has(row: Cells, *columns: str) -> bool:
    return first_text(row, columns) is not None


def _has_image(row: Cells) -> bool:
    try:
        return bool(images_of(row))
    except BadRow:
        return True


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
        lambda row, reading: messages_rows(row, reading.templates or frozenset(), reading.task),
    ),
    "conversations": Family(
        "ShareGPT, LLaVA, VLM-R1: conversations, image",
        lambda row: any(_is_list(row, column) for column in CONVERSATIONS),
        lambda row, _: conversations_rows(row),
    ),
    "prompt": Family(
        "TRL: prompt as messages, completion or solution",
        lambda row: _is_list(row, "prompt"),
        lambda row, _: prompt_rows(row),
    ),
    "bbox": Family(
        "a question and one box: question, bbox (by --map)",
        lambda row: _has(row, "question") and _has(row, "bbox") and not _has(row, *ANSWER_COLUMNS),
        lambda row, _: mapped_rows(row),
    ),
    "choices": Family(
        "ScienceQA, MMMU, SEED, A-OKVQA, ARC: question, choices or options (or A, B ..., choice_a, choice_b ...), answer",
        lambda row: _has(row, *QUESTION_COLUMNS) and has_choices(row),
        lambda row, _: choice_rows(row),
    ),
    "objects": Family(
        "image sets of Hugging Face: image, objects with bbox and category",
        lambda row: _has_image(row) and isinstance(decoded(row.get("objects")), dict | list),
        lambda row, reading: object_rows(row, reading.names, reading.order or "xyxy"),
    ),
    "question": Family(
        "EasyR1, R1-V, Alpaca, VQA: problem or question, answer, solution or answers, image",
        lambda row: column_question(row) is not None and _has(row, *ANSWER_COLUMNS),
        lambda row, _: question_rows(row),
    ),
    "label": Family(
        "image sets of Hugging Face: image, label",
        lambda row: _has_image(row) and any(row.get(key) is not None for key in LABEL_COLUMNS),
        lambda row, reading: label_rows(row, reading.names),
    ),
}
"""Forms of rows, the surest first."""
N_FIRST = 100
"""Rows of which one must have a known form, or the file has none."""
_SUREST = ("verl", "messages", "conversations")
"""A row that has the form of the row before is asked for no other one."""


def form_of(row: Cells) -> str | None:
    """The form of a row, or None."""
    return next((name for name, family in ROW_FAMILIES.items() if family.fits(row)), None)


def foreign_samples(
    table: Table, reading: RowReading, image_root: Path | None, found: Found, on_bad: Callable[[str, str], None]
) -> Iterator[Sample]:
    """The samples of a file's rows, their ids made unique. Bad rows go to `on_bad` with their place. Raises SampleError where
    the whole set cannot be read: no known form, boxes in another unit, images inside rows."""
    root = image_root if image_root is not None else table.folder
    reading = replace(reading, names={**table.class_names, **reading.names})
    found.said += [table.note] if table.note else []
    rows, ids = _Rows(table, reading, root, found), _Ids()

    def unread(where: str, problem: str) -> None:
        found.n_rows += 1
        on_bad(where, problem)

    for where, own in table.read(unread):
        found.n_rows += 1
        try:
            row, asked = rows.asked(own, where)
        except LeftOut as reason:
            found.left_out[reason.kind] += 1
            continue
        except BadRow as problem:
            on_bad(where, str(problem))
            continue
        for one in asked:
            try:
                sample = rows.sample(one, row, where)
            except LeftOut as reason:
                found.left_out[reason.kind] += 1
            except BadRow as problem:
                on_bad(where, str(problem))
            else:
                found.n_long += isinstance(sample.answer, str) and len(sample.answer) > LONG_ANSWER_CHARS
                yield replace(sample, id=ids.unique(sample.id))
    rows.units.check(table.name)


class _Rows:
    """Reads the rows of one file, with what earlier ones, or all of them together, have told."""

    def __init__(self, table: Table, reading: RowReading, root: Path, found: Found) -> None:
        self.table, self.reading, self.root, self.found = table, reading, root, found
        self.units = Units(stated=reading.coords is not None)
        self._family, self._n = "", 0
        self._bare_boxes: bool | None = None

    def asked(self, own: Cells, where: str) -> tuple[Cells, list[Asked]]:
        """A row with our names of columns, and its questions. Raises BadRow, LeftOut; SampleError where the first row says that
        none can be read."""
        self._n += 1
        row, is_first = own, self._n == 1
        if self.reading.columns:
            try:
                row = renamed(own, self.reading.columns, is_first=is_first)
            except BadRow as problem:
                raise SampleError(f"{where}: {problem}") if is_first else problem from problem
        if not (self._family in _SUREST and ROW_FAMILIES[self._family].fits(row)):
            self._family = self.reading.family or form_of(row) or ""
        if not self._family:
            said = f"its rows are in no known form (columns: {', '.join(map(str, row))})"
            if is_first and not self._is_known_set():
                raise SampleError(f"{where}: {said}")
            raise BadRow(said.replace("its rows are", "it is"))
        self._look_at_the_set(row)
        if self._family != "label":
            row = with_names(row, self.reading.names)
        self.found.families[self._family] += 1
        self.found.n_system += brings_system(row)
        return row, ROW_FAMILIES[self._family].read(row, self.reading)

    def _is_known_set(self) -> bool:
        """Whether one of the first rows has a known form."""
        some = islice(self.table.read(lambda _where, _problem: None), N_FIRST)
        return not self.reading.columns and any(form_of(row) is not None for _, row in some)

    def _look_at_the_set(self, row: Cells) -> None:
        if self._family == "objects" and self.reading.order is None:
            self.reading = replace(self.reading, order=order_of(self.table, self.root))
        elif self._family == "messages" and row.get("objects") and self.reading.templates is None:
            self.reading = replace(self.reading, templates=templates_of(self.table))

    def sample(self, one: Asked, row: Cells, where: str) -> Sample:
        """The sample of a question. Raises BadRow, LeftOut, and SampleError where its images cannot be read from any row."""
        images = tuple(path_of(cell, self.root, self.reading.place, where) for cell in one.images)
        if not images:
            check_no_image_is_lost(row, where)
        sample = sample_of(one, self._source(one, row, images, where))
        if not is_whole([sample.question, sample.answer, list(sample.choices or ()), dict(sample.meta)]):
            raise BadRow("its text holds half of a character (a surrogate, \\ud800 to \\udfff), which no tokenizer can read")
        return sample

    def _source(self, one: Asked, row: Cells, images: tuple[str, ...], where: str) -> SourceRow:
        found, reading, dataset = self.found, self.reading, self.reading.dataset or self.table.name
        stated = next((row[key] for key in ("id", "question_id", "uid", "qid") if isinstance(row.get(key), str | int)), None)
        source_id = str(stated if stated not in (None, "") else where.rpartition(":")[2].rpartition(" ")[2])
        turn = f"-turn{one.turn}" if one.turn else ""

        def clipped(_problem: str) -> None:
            found.n_clipped += 1

        def noted(kind: str) -> None:
            found.noted[kind] += 1

        return SourceRow(
            row=row,
            sample_id=f"{dataset}-{source_id}{turn}",
            images=images,
            sizes_wh=Sizes(images),
            meta={"dataset": dataset, "source_id": source_id, **group_of(row)} | ({"turn": one.turn} if one.turn else {}),
            coords=reading.coords or "px",
            reward_method=reading.method,
            clipped=clipped,
            units=self.units,
            task=reading.task,
            noted=noted,
            bare_boxes=self._are_bare_boxes,
        )

    def _are_bare_boxes(self) -> bool:
        if self._bare_boxes is None:
            other = _Rows(self.table, self.reading, self.root, Found())
            self._bare_boxes = bare_boxes(self.table, lambda row: other.asked(row, "")[1])
        return self._bare_boxes


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
