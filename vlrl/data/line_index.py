"""Where the rows of a large JSONL file of samples lie, and what is needed of all of them: ids, tasks, images, questions.

The file is read once, in blocks, by pyarrow's parser; of a row its place and two hashes are kept. Whatever that
parser refuses is looked at again line by line, so that a message names the line. Not here: the answers, which are checked when
rows are used.
"""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.data.sample_json import sample_from_json
from vlrl.schema import Sample, SampleError

BLOCK = 8 << 20
"""Bytes read at a time; a longer line is read whole."""
_BLANK = b" \t\r\n"

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LineIndex:
    """`starts`: the offset of each row's line; `prompts`: a hash of what it shows and asks, `ids` of its id, for this process
    alone."""

    starts: _Array
    prompts: _Array
    ids: _Array


def count_lines(path: Path, at_least: int) -> int:
    """The lines of a file; stops counting once there are `at_least`."""
    n = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            n += block.count(b"\n")
            if n >= at_least:
                break
    return n


def index_lines(path: Path) -> LineIndex:
    """Read a file of samples once. Raises SampleError for a line that is no JSON, a row without id, task or question, and an id
    that is used twice."""
    starts, prompts, ids = array("q"), array("q"), array("q")
    for offset, block in _blocks(path):
        at = _line_starts(block)
        table = _columns(block, len(at))
        if table is None:
            raise _bad_line(path, offset, block)
        starts.extend((offset + at).tolist())
        ids.extend(map(hash, table["id"].to_pylist()))
        asked = zip(*(table[name].to_pylist() for name in ("question", "images", "video")), strict=True)
        prompts.extend(hash((question, tuple(own) if own else video)) for question, own, video in asked)
    at, asked_by, named = (np.frombuffer(one, dtype=np.int64) for one in (starts, prompts, ids))
    found = LineIndex(at, asked_by, named)
    _refuse_repeated_ids(path, found)
    return found


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines) from start to end."""
    offset = 0
    with path.open("rb") as file:
        rest = b""
        while block := file.read(BLOCK):
            whole, line, begun = (rest + block).rpartition(b"\n")
            rest = begun
            if line:
                yield offset, whole + line
                offset += len(whole) + 1
        if rest.strip():
            yield offset, rest + b"\n"


def _line_starts(block: bytes) -> _Array:
    """Where the lines of a block that are not blank begin."""
    ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
    begins = np.concatenate([[0], ends[:-1] + 1])
    short = np.flatnonzero(ends - begins < 3)
    blank = [i for i in short if not block[begins[i] : ends[i]].strip(_BLANK)]
    return np.delete(begins, blank) if blank else begins


def _columns(block: bytes, n: int) -> Any:
    """A table of id, task, question, images and video of the rows of a block; None where some line is not as it should be."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    names = ("id", "task", "question", "images", "video")
    kinds = (pa.string(), pa.string(), pa.string(), pa.list_(pa.string()), pa.string())
    options = arrow_json.ParseOptions(
        explicit_schema=pa.schema(list(zip(names, kinds, strict=True))), unexpected_field_behavior="ignore"
    )
    reading = arrow_json.ReadOptions(use_threads=False, block_size=max(len(block), 1))
    try:
        table = arrow_json.read_json(io.BytesIO(block), read_options=reading, parse_options=options)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError):
        return None
    if table.num_rows != n or any(table[name].null_count for name in names[:3]):
        return None
    return table


def _bad_line(path: Path, offset: int, block: bytes) -> SampleError:
    """What is wrong with the first line of a block that is no sample."""
    before = 0
    with path.open("rb") as file:
        left = offset
        while left and (part := file.read(min(BLOCK, left))):
            before, left = before + part.count(b"\n"), left - len(part)
    lines = block.split(b"\n")
    for number, raw in enumerate(lines, start=before + 1):
        if raw.strip():
            try:
                sample_of_line(raw, f"{path}:{number}", path.parent)
            except SampleError as error:
                return error
    return SampleError(f"{path}: holds a line between {before + 1:,} and {before + len(lines):,} that is no sample")


def sample_of_line(raw: bytes, where: str, root: Path) -> Sample:
    """The sample in a line. Raises SampleError."""
    try:
        row = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{where}: not a line of UTF-8 JSON: {error}") from error
    return sample_from_json(row, where, root)


def _refuse_repeated_ids(path: Path, found: LineIndex) -> None:
    order = np.argsort(found.ids, kind="stable")
    same = np.flatnonzero(found.ids[order][1:] == found.ids[order][:-1])
    for i in same:
        first, second = (int(found.starts[order[j]]) for j in (i, i + 1))
        with path.open("rb") as file:
            file.seek(first)
            one = sample_of_line(file.readline(), str(path), path.parent)
            file.seek(second)
            other = sample_of_line(file.readline(), str(path), path.parent)
        if one.id == other.id:
            numbers = [int(np.searchsorted(found.starts, at)) + 1 for at in (first, second)]
            raise SampleError(f"{path}: id {one.id!r} is used by rows {numbers[0]:,} and {numbers[1]:,}; ids must be unique")
