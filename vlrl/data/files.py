"""Files that hold JSON: lines, one object; files that are whole or absent; the digest that names a file in reports.

Not here: samples (`vlrl.data.sample_files`), Python files of users (`vlrl.data.user_files`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from vlrl.schema import SampleError


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_utf8(path: Path) -> str:
    """The text of a UTF-8 file. Raises SampleError for a file that is missing or holds something else."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"{path}: cannot be read: {error}") from error


def read_json_lines(path: Path, *, unique_keys: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for each line of a JSONL file, empty lines skipped; the place is `file:line`. Raises SampleError for a
    line that is not a JSON object; with `unique_keys` also for one in which an object has a key twice."""
    once = _with_unique_keys if unique_keys else None
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=once)
        except SampleError as error:
            raise SampleError(f"{where}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise SampleError(f"{where}: not a line of JSON: {error}") from error
        yield where, as_object(row, where)


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises SampleError for a key that is given twice."""
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise SampleError(f"the key {key!r} is given twice; keep one")
        row[key] = value
    return row


def as_object(row: Any, where: str) -> dict[str, Any]:
    """`row`, if it is a decoded JSON object. Raises SampleError."""
    if not isinstance(row, dict):
        raise SampleError(f"{where}: a JSON object is needed, got {type(row).__name__}")
    return row


def read_json_object(path: Path, flag: str = "") -> dict[str, Any]:
    """The JSON object in a file that the user names with `flag`, which begins the message. Raises SampleError."""
    text, where = read_utf8(path), f"{flag} {path}".lstrip()
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{where}: not JSON: {error}") from error
    return as_object(row, where)


def write_whole(path: Path, content: str | bytes, errors: str = "strict") -> None:
    """Write aside, then move into place: at any moment the file is whole or as before. Raises OSError, of a full disk too, and
    leaves nothing half written."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", errors))
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def append_whole(file: FileIO, line: bytes) -> None:
    """Add to the end of a file that is open for appending, unbuffered: all of `line` or, where the disk is full, nothing.
    Raises OSError."""
    end = file.seek(0, os.SEEK_END)
    try:
        while line:
            line = line[file.write(line) :]
    except OSError as error:
        file.truncate(end)
        error.filename = file.name
        raise


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one ASCII JSON object a line, replacing the file as a whole. Raises OSError."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))


def disk_is_full(error: BaseException, folder: str | Path) -> bool:
    """Whether a failed write was for want of space (libraries wrap ENOSPC in errors of their own)."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if any(words in str(error) for words in ("No space left", "Disk quota exceeded", "os error 28", "PytorchStreamWriter")):
        return True
    return isinstance(error, RuntimeError | OSError) and free_mib(folder) < 1


def free_mib(folder: str | Path) -> int:
    """Free space of the disk that `folder` is or would be on, in MiB."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free // 2**20
