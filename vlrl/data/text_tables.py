"""Rows of text files as dictionaries, each with its place for reports: JSONL, JSON, CSV and TSV.

What is no such file ends in a line that says what it is instead. Not here: Parquet and saved data sets (`vlrl.data.tables`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from vlrl.schema import SampleError

_MAX_CELL_CHARS = 1 << 28
"""Longest cell of a CSV file; Python's own bound is smaller than an image in base64."""
LFS = b"version https://git-lfs.github.com/spec/"

TableRow = tuple[str, dict[str, Any]]
"""The place of a row, for reports, and its values by column."""
OnBad = Callable[[str, str], None]
"""Called with the place and the problem of a row that cannot be read and is left out."""


def start_of(path: Path) -> bytes:
    """The first bytes of a file. Raises SampleError for one that Git LFS has not fetched."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(LFS):
        raise SampleError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")
    return start


def jsonl_rows(path: Path, on_bad: OnBad) -> Iterator[TableRow]:
    """One object a line; a file that is one list is read as JSON."""
    start = start_of(path)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        yield from json_rows(path, on_bad)
        return
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"), parse_constant=_not_a_number)
            except (ValueError, RecursionError) as error:
                on_bad(where, f"not a line of UTF-8 JSON: {error}")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                on_bad(where, f"a row is a JSON object, got {str(row)[:80]}")


def json_rows(path: Path, on_bad: OnBad) -> Iterator[TableRow]:
    """A list of objects, alone or under a key; columns of one length; or rows by their ids."""
    start_of(path)
    text = _text(path)
    try:
        content = json.loads(text, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        if _is_lines(text):
            raise SampleError(f"{path}: holds one JSON object a line: name it .jsonl") from error
        raise SampleError(f"{path}: not JSON: {error}") from error
    if isinstance(content, dict):
        content = _rows_in(content, path)
    if not isinstance(content, list):
        raise SampleError(f"{path}: holds {_kind(content)}; rows are a list of objects")
    for number, row in enumerate(content, start=1):
        if isinstance(row, dict):
            yield f"{path}: row {number}", row
        else:
            on_bad(f"{path}: row {number}", f"a row is a JSON object, got {str(row)[:80]}")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError(not_utf8(path, data, error)) from error


def not_utf8(path: Path, data: bytes, error: UnicodeDecodeError) -> str:
    """What to do with a text file in another encoding."""
    name = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "ENCODING (such as cp1252 or gbk)"
    return (
        f"{path}: not text in UTF-8 (byte {error.start}: {error.reason}); convert it: iconv -f {name} -t utf-8 {path} >"
        f" {path.stem}_utf8{path.suffix}"
    )


def _is_lines(text: str) -> bool:
    try:
        return isinstance(json.loads(text.strip().partition("\n")[0]), dict)
    except ValueError:
        return False


def _rows_in(content: dict[str, Any], path: Path) -> Any:
    """The rows in one JSON object. Raises SampleError where it is none, or several sets."""
    if isinstance(content.get("annotations"), list) and isinstance(content.get("images"), list):
        raise SampleError(
            f"{path}: a file of annotations in COCO's form; python data_prep/coco.py --instances {path} converts it"
        )
    lists = {key: one for key, one in content.items() if isinstance(one, list) and one and isinstance(one[0], dict)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    if lists and len(lists) == sum(isinstance(one, list) for one in content.values()):
        names = ", ".join(lists)
        raise SampleError(f"{path}: holds several lists of rows ({names}); write the one to use into a file of its own")
    values = list(content.values())
    if values and values[0] and all(isinstance(one, list) and len(one) == len(values[0]) for one in values):
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if values and all(isinstance(one, dict) for one in values):
        return [{"uid": key} | one for key, one in content.items()]
    if any(isinstance(one, str) for one in values) and not any(isinstance(one, dict) for one in values):
        return [content]
    raise SampleError(f"{path}: one JSON object with the keys {', '.join(map(str, content))}; rows are a list of objects")


def _kind(value: Any) -> str:
    return {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def csv_rows(path: Path, on_bad: OnBad) -> Iterator[TableRow]:
    """Cells as text, empty ones left out; between commas, tabs, semicolons or bars, as the first line has them."""
    csv.field_size_limit(_MAX_CELL_CHARS)
    first = start_of(path).partition(b"\n")[0]
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    sign = usual if usual.encode() in first else next((one for one in ",\t;|" if one.encode() in first), usual)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=sign)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row:
                    on_bad(where, f"more cells than the {len(reader.fieldnames or ())} columns of the first line")
                else:
                    yield where, {name: cell for name, cell in row.items() if cell is not None and cell.strip()}
        except UnicodeDecodeError as error:
            raise SampleError(not_utf8(path, path.read_bytes()[:2], error)) from error
        except csv.Error as error:
            raise SampleError(f"{path}: not a CSV file, behind line {reader.line_num}: {error}") from error


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
