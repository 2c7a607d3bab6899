"""Rows of a file as dictionaries, each with its place for reports: JSONL, JSON, CSV, Parquet and saved data sets.

Also what converters of rows share: ids, image sizes, and the check of the finished sample. Only `hub_rows` downloads anything.
Images inside a data set are not decoded: their cell is `{"bytes": ..., "path": ...}`, as Hugging Face data sets store them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from data_prep.writing import Report, image_size_px
from vlrl.schema import Sample
from vlrl.tasks import TASKS

FILES = (".jsonl", ".json", ".csv", ".parquet")
_MARKS_OF_A_SAVED_SET = ("state.json", "dataset_dict.json", "dataset_info.json")
_BATCH = 64
"""Rows of a Parquet file in memory at a time, with their images."""

Row = tuple[str, dict[str, Any]]
"""The place of a row, for reports, and its values by column."""


class BadRow(ValueError):
    """A row that cannot be used; the message says why. Converters report it with the row's place."""


class Ids:
    """Makes sample ids unique in a file: an id that is taken gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        """`wanted`, with a number appended where it was returned before."""
        found, number = wanted, 1
        while found in self._taken:
            number += 1
            found = f"{wanted}-{number}"
        self._taken.add(found)
        return found


@dataclass(frozen=True)
class Table:
    """Rows that can be read more than once. `name`: short, for ids. `folder`: where relative paths start, unless the user names
    another folder. `read(report)`: the rows; unreadable ones are left out and reported (None: not reported, for a second
    reading)."""

    name: str
    folder: Path
    read: Callable[[Report | None], Iterator[Row]]


def checked(sample: Sample) -> Sample:
    """`sample` itself. Raises BadRow where its task refuses it."""
    problem = TASKS[sample.task].check(sample)
    if problem is not None:
        raise BadRow(problem)
    return sample


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of each image in pixels, EXIF rotation applied. Raises BadRow for a missing or unreadable one."""
    sizes = []
    for path in paths:
        size_wh, problem = image_size_px(path)
        if problem is not None:
            raise BadRow(problem)
        sizes.append(size_wh)
    return sizes


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; ends the program where it is not JSON. `object_hook`: as of `json.loads`."""
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path}: not JSON: {error}") from error


def open_table(path: Path, split: str | None) -> Table:
    """The rows of a local file, of a folder with Parquet files or of a folder saved by `datasets`.

    `split`: which part of a folder to read; None: the only one, or train. Ends the program where no rows are found.
    """
    if path.is_file():
        if path.suffix not in FILES:
            raise SystemExit(f"{path}: unknown kind of file; this reads {', '.join(FILES)}")
        reader = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[path.suffix]
        return Table(path.stem, path.parent, lambda report: reader(path, report))
    if not path.is_dir():
        raise SystemExit(f"{path}: no such file or folder; a data set of the Hugging Face hub needs --download")
    if any((path / mark).is_file() for mark in _MARKS_OF_A_SAVED_SET):
        import datasets

        return _table_of(datasets.load_from_disk(str(path)), path.name, path, split)
    parts = sorted(path.rglob("*.parquet"))
    if split is None and any(part.name.startswith("train-") for part in parts):
        split = "train"
    if split is not None:
        parts = [part for part in parts if part.name.startswith(f"{split}-") or split in part.relative_to(path).parts[:-1]]
    if not parts:
        raise SystemExit(f"{path}: neither saved by `datasets` nor with Parquet files{f' of split {split}' if split else ''}")
    return Table(path.resolve().name, path, lambda report: (row for part in parts for row in _parquet_rows(part, report)))


def hub_rows(hub_id: str, split: str | None) -> Table:
    """The rows of a data set of the Hugging Face hub, which is downloaded (into the cache of `datasets`)."""
    import datasets

    return _table_of(datasets.load_dataset(hub_id), hub_id.rpartition("/")[2], Path(), split)


def _table_of(loaded: Any, name: str, folder: Path, split: str | None) -> Table:
    import datasets

    if isinstance(loaded, datasets.DatasetDict):
        if split is None:
            split = next(iter(loaded)) if len(loaded) == 1 else "train"
        if split not in loaded:
            raise SystemExit(f"{name}: no split {split!r}; it has {', '.join(loaded)} (--split chooses)")
        loaded = loaded[split]
    for column, kind in loaded.features.items():
        if isinstance(kind, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
        elif isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return Table(name, folder, lambda _report: ((f"{name}: row {n}", row) for n, row in enumerate(loaded, start=1)))


def _jsonl_rows(path: Path, report: Report | None) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"), parse_constant=_not_a_number)
            except ValueError as error:
                _report(report, where, f"not a line of UTF-8 JSON: {error}")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                _report(report, where, f"a row is a JSON object, got {str(row)[:80]}")


def _json_rows(path: Path, report: Report | None) -> Iterator[Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_not_a_number)
    except ValueError as error:
        raise SystemExit(f"{path}: not JSON: {error} (one object a line is called .jsonl)") from error
    if not isinstance(content, list):
        raise SystemExit(f"{path}: holds a JSON {type(content).__name__}; this reads a list of objects")
    for number, row in enumerate(content, start=1):
        if isinstance(row, dict):
            yield f"{path}: row {number}", row
        else:
            _report(report, f"{path}: row {number}", f"a row is a JSON object, got {str(row)[:80]}")


def _csv_rows(path: Path, report: Report | None) -> Iterator[Row]:
    """Cells as text, empty ones left out."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row:
                _report(report, where, f"more cells than the {len(reader.fieldnames or ())} columns of the first line")
            else:
                yield where, {name: cell for name, cell in row.items() if cell is not None and cell.strip()}


def _parquet_rows(path: Path, report: Report | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise SystemExit(f"{path}: not a Parquet file: {error}") from error
    number = 0
    for batch in file.iter_batches(batch_size=_BATCH):
        for row in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", row


def _report(report: Report | None, where: str, problem: str) -> None:
    if report is not None:
        report.bad(where, problem)


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
