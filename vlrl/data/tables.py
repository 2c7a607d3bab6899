"""Rows of files as dictionaries, each with its place for reports: JSONL, JSON, CSV, Parquet and saved data sets.

Images inside a Parquet file are not read: their cell becomes an address (`vlrl.data.packed_images`), or a list of these. In a
folder saved by `datasets` such a cell is `{"bytes": ..., "path": ...}`. Not here: what a row means (`vlrl.data.foreign_rows`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrl.data.packed_images import MIN_BASE64, parquet_address
from vlrl.data.text_tables import OnBad, TableRow, csv_rows, json_rows, jsonl_rows, start_of
from vlrl.schema import SampleError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLE_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MARKS_OF_A_SAVED_SET = ("state.json", "dataset_dict.json", "dataset_info.json")
_USUAL = ("image", "images", "image_path", "image_paths", "image_file", "img", "img_path", "jpg", "png", "picture")
IMAGE_COLUMNS = ("decoded_image", *_USUAL, "image_url")
"""Names of columns that hold images; the first that holds any is taken. `decoded_image` stands beside a path of the same."""
FILE_COLUMNS = ("file_name", "file_names", "image_file_name", "filename", "file", "file_path", "filepath", "path", "image_name")
"""Names of columns that hold images where their text ends as an image does (`metadata.csv` of Hugging Face's image folders)."""
IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2")
_NUMBERED = re.compile(r"(?:image|img)_?(\d{1,3})")
_BATCH = 256
"""Rows of a Parquet file in memory at a time."""


def numbered_images(columns: Iterable[str]) -> list[str]:
    """Of these columns, `image_1`, `image_2` ... (`image1`, `img_1`), which hold one image each, by their numbers."""
    found = [name for name in columns if name[-1:].isdigit() and _NUMBERED.fullmatch(name)]
    return sorted(found, key=lambda name: int(name.lstrip("aegim_"))) if len(found) > 1 else found


@dataclass(frozen=True)
class Table:
    """Rows that can be read more than once.

    `name`: short, for ids. `folder`: where relative paths start, unless the user names another folder. `read(on_bad)`: the
    rows; unreadable ones are left out and reported. `class_names`: column (of a nested one `objects.category`) -> the names
    behind its whole numbers, as Hugging Face data sets state them. `note`: which part of it these are.
    """

    name: str
    folder: Path
    read: Callable[[OnBad], Iterator[TableRow]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""


def open_table(path: Path, split: str | None = None) -> Table:
    """The rows of a local file, of a folder with Parquet files or of a folder saved by `datasets`.

    `split`: which part of a folder to read; None: the only one, or train. Raises SampleError where no rows are found.
    """
    if path.is_file():
        if path.suffix.lower() not in TABLE_FILES:
            raise SampleError(
                f"{path}: {_OTHER_FILES.get(path.suffix.lower(), 'unknown kind of file')}; rows are read from"
                f" {', '.join(TABLE_FILES)}"
            )
        return _file_table(path)
    if not path.is_dir():
        raise SampleError(f"{path}: no such file or folder")
    if any((path / mark).is_file() for mark in MARKS_OF_A_SAVED_SET):
        return _saved_table(path, split)
    parts = sorted(path.rglob("*.parquet"))
    splits = [name for name in _SPLITS if any(_is_of_split(part, path, name) for part in parts)]
    if split is None and "train" in splits:
        split = "train"
    if split is None and len(splits) > 1:
        raise SampleError(f"{path}: it has the splits {', '.join(splits)}, and no train; give the files of one of them")
    if split is not None:
        parts = [part for part in parts if _is_of_split(part, path, split)]
    if not parts:
        raise SampleError(f"{path}: {_what_is_there(path)}{f' of split {split}' if split else ''}")
    names = class_names_of(_opened_parquet(parts[0]).schema_arrow)
    note = f"only split {split} is read; there are {', '.join(splits)}" if len(splits) > 1 else ""
    return Table(
        path.resolve().name, path, lambda on_bad: (row for part in parts for row in _parquet_rows(part, on_bad)), names, note
    )


_SPLITS = ("train", "validation", "val", "test", "dev")
_NO_ROWS = "neither saved by `datasets` nor with Parquet files"
_OTHER_FILES = {
    ".arrow": "part of a data set saved by `datasets`: give the folder that holds it",
    ".gz": "it is compressed: unpack it first (gunzip)",
    ".zip": "it is compressed: unpack it first (unzip)",
    ".zst": "it is compressed: unpack it first (unzstd)",
    ".tar": "a tar shard holds images, not rows: rows name them as tar:SHARD#MEMBER",
    ".xml": "XML is for data_prep/annotations.py",
    ".xlsx": "a spreadsheet: save it as CSV first",
    ".pkl": "a pickle of Python: write it as JSONL or Parquet first",
}


def _what_is_there(path: Path) -> str:
    """Why a folder holds no rows, in words."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in TABLE_FILES and file.suffix.lower() != ".parquet")
    if files:
        return f"{_NO_ROWS}; give a file of it, such as {files[0]}"
    folders = sorted(inner for inner in path.iterdir() if inner.is_dir())
    saved = [inner for inner in folders if any((inner / mark).is_file() for mark in MARKS_OF_A_SAVED_SET)]
    if saved:
        return f"it holds saved data sets; give one of them, such as {saved[0]}"
    if any(file.suffix.lower() in IMAGE_FILES for inner in folders for file in islice(inner.rglob("*"), 200)):
        return f"{_NO_ROWS}. It holds images: data_prep/image_folder.py reads a folder a class, data_prep/annotations.py boxes"
    return _NO_ROWS


def _is_of_split(part: Path, root: Path, split: str) -> bool:
    return part.name.startswith((f"{split}-", f"{split}.")) or split in part.relative_to(root).parts[:-1]


def _file_table(path: Path) -> Table:
    suffix = path.suffix.lower()
    readers = {".jsonl": jsonl_rows, ".ndjson": jsonl_rows, ".json": json_rows, ".csv": csv_rows, ".tsv": csv_rows}
    reader = readers.get(suffix, _parquet_rows)
    names = class_names_of(_opened_parquet(path).schema_arrow) if suffix == ".parquet" else {}
    return Table(path.stem, path.parent, lambda on_bad: reader(path, on_bad), names)


def _saved_table(path: Path, split: str | None) -> Table:
    import datasets

    try:
        return table_of(datasets.load_from_disk(str(path)), path.name, path, split)
    except (OSError, ValueError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"{path}: cannot be read as a data set saved by `datasets`: {error}") from error


def table_of(loaded: Any, name: str, folder: Path, split: str | None) -> Table:
    """The rows of a data set that `datasets` has loaded. Raises SampleError for a split that it does not have."""
    import datasets

    note = ""
    if isinstance(loaded, datasets.DatasetDict):
        if split is None:
            split = next(iter(loaded)) if len(loaded) == 1 else "train"
        if split not in loaded:
            raise SampleError(
                f"{name}: no split {split!r}; it has {', '.join(loaded)}: give the folder of one,"
                f" {folder / next(iter(loaded))}, or its name to data_prep/rows.py --split"
            )
        note = f"only split {split} is read; there are {', '.join(loaded)}" if len(loaded) > 1 else ""
        loaded = loaded[split]
    names = class_names_of(loaded.features.arrow_schema)
    for column, kind in loaded.features.items():
        if isinstance(kind, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
        elif isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return Table(
        name, folder, lambda _on_bad: ((f"{name}: row {n}", row) for n, row in enumerate(loaded, start=1)), names, note
    )


def class_names_of(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names behind whole numbers, from what `datasets` writes into a schema."""
    try:
        stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    found: dict[str, tuple[str, ...]] = {}

    def look(value: Any, column: str) -> None:
        if isinstance(value, list):
            for one in value:
                look(one, column)
        elif isinstance(value, dict):
            if value.get("_type") == "ClassLabel" and isinstance(value.get("names"), list):
                found[column] = tuple(map(str, value["names"]))
                return
            for key, one in value.items():
                look(one, column if key in ("feature", "_type") else f"{column}.{key}".lstrip("."))

    look(stated, "")
    return found


# ---- Parquet


def _opened_parquet(path: Path) -> pq.ParquetFile:
    """Raises SampleError."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        start_of(path)
        raise SampleError(f"{path}: not a Parquet file, or one that is cut short: {error}") from error


@dataclass(frozen=True)
class _ImageColumn:
    """A column of images. `is_list`: several a row. `is_plain`: bytes, not an object with `bytes`. `holds`: "all" cells hold
    bytes, "none" does, or "some" do. `has_more`: the object has other fields. `inside`: it lies under this key."""

    name: str
    is_list: bool
    is_plain: bool
    holds: str
    has_more: bool = True
    inside: str = ""


def _parquet_rows(path: Path, on_bad: OnBad) -> Iterator[TableRow]:
    import pyarrow

    file = _opened_parquet(path)
    images = {column.name: column for column in _image_columns(file)}
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    columns = [one.name for one in file.schema_arrow]
    texts = [name for name in columns if (name in IMAGE_COLUMNS or numbered_images([name])) and name not in images]
    unread = {f"{name}.bytes" for name, one in images.items() if one.holds == "all" and not one.is_plain and one.has_more}
    wanted = [leaf for leaf in leaves if leaf.replace(".list.element", "").replace(".list.item", "") not in unread]
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH, columns=wanted, use_threads=False):
            for row in batch.to_pylist():
                for name, column in images.items():
                    if name in row:
                        row[name] = _addresses(row[name], column, path, number)
                for name in texts:
                    row[name] = _encoded_addresses(row.get(name), name, path, number)
                number += 1
                yield f"{path}: row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise SampleError(f"{path}: cannot be read behind row {number}: {error}") from error


def _image_columns(file: pq.ParquetFile) -> list[_ImageColumn]:
    import pyarrow as pa

    found = []
    for one in file.schema_arrow:
        is_list = pa.types.is_list(one.type) or pa.types.is_large_list(one.type)
        kind = one.type.value_type if is_list else one.type
        if _is_binary(kind):
            found.append(_ImageColumn(one.name, is_list, True, _holds(file, one.name)))
        elif pa.types.is_struct(kind):
            fields = {field.name: field.type for field in kind}
            inner = fields.get("image")
            if "bytes" in fields and _is_binary(fields["bytes"]):
                found.append(_ImageColumn(one.name, is_list, False, _holds(file, one.name), len(fields) > 1))
            elif inner is not None and _is_binary(inner):
                found.append(_ImageColumn(one.name, is_list, True, "some", inside="image"))
            elif inner is not None and pa.types.is_struct(inner) and "bytes" in {field.name for field in inner}:
                found.append(_ImageColumn(one.name, is_list, False, "some", inside="image"))
    return found


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds(file: pq.ParquetFile, column: str) -> str:
    """Which cells of a column hold an image themselves, from the file's statistics: all, none, or some."""
    metadata, nulls, n_values = file.metadata, 0, 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            chunk = group.column(j)
            name = chunk.path_in_schema.replace(".list.element", "").replace(".list.item", "")
            if name == f"{column}.bytes":
                if chunk.statistics is None or not chunk.statistics.has_null_count:
                    return "some"
                nulls, n_values = nulls + chunk.statistics.null_count, n_values + chunk.num_values
    return "all" if not nulls else "none" if nulls == n_values else "some"


def _addresses(cell: Any, column: _ImageColumn, path: Path, row: int) -> Any:
    """A cell of images as paths and addresses."""
    if cell is None:
        return None
    if not column.is_list:
        return _address(cell, column, path, row, None)
    return [_address(one, column, path, row, i) for i, one in enumerate(cell)]


def _address(one: Any, column: _ImageColumn, path: Path, row: int, index: int | None) -> Any:
    if one is not None and column.inside:
        one = one.get(column.inside)
    if one is None:
        return None
    is_held = column.is_plain or column.holds == "all" or bool(one.get("bytes"))
    return parquet_address(path, row, column.name, index) if is_held else one.get("path")


def _encoded_addresses(cell: Any, column: str, path: Path, row: int) -> Any:
    """A cell of texts, those that are images in base64 as addresses."""
    if isinstance(cell, str):
        return parquet_address(path, row, column) if is_encoded(cell) else cell
    if isinstance(cell, list):
        texts = enumerate(cell)
        return [parquet_address(path, row, column, i) if isinstance(one, str) and is_encoded(one) else one for i, one in texts]
    return cell


def is_encoded(text: str) -> bool:
    """Whether a text is an image in base64 rather than a path."""
    return text.startswith("data:") or (len(text) >= MIN_BASE64 and "." not in text)
