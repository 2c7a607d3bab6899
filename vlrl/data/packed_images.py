"""Images inside larger files: a cell of a Parquet file, a member of a tar shard (as `webdataset` writes them). No torch.

`parquet:<file>#<row>/<column>[/<index>]`: the row counts from 0 over the whole file; the cell holds the encoded bytes, or
`{"bytes", "path"}`, or a list of these, of which `index` (from 0) names one. `tar:<file>#<member>`: the member's name. What a
file's own name must not hold is written as `vlrl.schema.in_file` does. A row group, or the offsets of a shard, are read once
and kept by each process; nothing open is shared with a forked one. Not here: decoding (`vlrl.data.images`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tarfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, unquote

import numpy as np

from vlrl.data.sample_json import file_of, in_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

N_ROW_GROUPS = 3
"""Row groups of one image column that a process keeps: rows in order are read once."""
MAX_GROUP_BYTES, MAX_GROUP_READS = 50_000_000, 2
"""A row group that is larger, or that is wanted again after so many reads (rows are drawn at random), costs too much to be read
for one image: its file is unpacked once into the cache of `datasets`, where each row is found at once."""
N_FILES = 64
"""Open Parquet files that a process keeps."""
N_SHARDS = 4096
"""Shards whose offsets a process keeps, 24 bytes a member."""
_ROWS_A_READ = 16
MIN_BASE64 = 64
"""Characters of the shortest text that is taken for an image in base64: a path of as many has a dot in it."""

_T = TypeVar("_T")


class _Kept(Generic[_T]):
    """The values last asked for, made once each; those of a parent process are forgotten in a forked one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.lock, self.values = threading.RLock(), OrderedDict[Hashable, _T]()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        with self.lock:
            if key not in self.values:
                self.values[key] = make()
                while len(self.values) > self.most:
                    self.values.popitem(last=False)
            self.values.move_to_end(key)
            return self.values[key]


def _version(file: str) -> tuple[str, int, int]:
    """A file as it is now. Raises OSError."""
    stat = os.stat(file)
    return file, stat.st_mtime_ns, stat.st_size


# ---- both kinds


def parquet_address(file: str | Path, row: int, column: str, index: int | None = None) -> str:
    """The address of an image in a Parquet file; `index`: its place in a cell that holds several."""
    place = f"{row}/{quote(column, safe=' ')}" + ("" if index is None else f"/{index}")
    return in_file(f"parquet:#{place}", str(file))


def tar_address(file: str | Path, member: str) -> str:
    """The address of an image in a tar shard."""
    return in_file(f"tar:#{member}", str(file))


def read_packed(address: str) -> bytes:
    """The encoded image behind an address. Raises OSError or ValueError, which say what is missing."""
    file, place = _parts(address)
    if address.startswith("tar:"):
        return _shard(file).read(file, place)
    return _bytes_of(_cell(file, _place(place)), Path(file).parent)


def packed_problem(address: str) -> str | None:
    """Why there is nothing behind an address, or None; no image is read. Of a Parquet file the number of its rows and the names
    of its columns are looked at, of a shard the names of its members."""
    try:
        file, place = _parts(address)
        if address.startswith("tar:"):
            _shard(file).at(file, place)
        else:
            wanted = _place(place)
            _row_group(_opened(file), file, wanted)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def packed_size(address: str) -> int:
    """The bytes of a shard's member; -1 where there is none."""
    try:
        file, member = _parts(address)
        return _shard(file).at(file, member)[1]
    except (OSError, ValueError):
        return -1


def _parts(address: str) -> tuple[str, str]:
    file, place = file_of(address), address.partition("#")[2]
    if not file or not place:
        kinds = "parquet:<file>#<row>/<column>[/<index>], tar:<file>#<member>"
        raise ValueError(f"{address!r} is no address of an image ({kinds})")
    return file, place


# ---- Parquet


@dataclass(frozen=True)
class _Place:
    row: int
    column: str
    index: int | None


def _place(text: str) -> _Place:
    parts = text.split("/")
    numbers = [parts[0], *parts[2:]]
    if not 2 <= len(parts) <= 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"{text!r} is no place in a Parquet file (<row>/<column>[/<index>], such as 12/image or 12/images/0)")
    return _Place(int(parts[0]), unquote(parts[1]), int(parts[2]) if len(parts) == 3 else None)


def _opened(file: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return _files.get(_version(file), lambda: pq.ParquetFile(file))


def _row_group(opened: pq.ParquetFile, file: str, place: _Place) -> tuple[int, int]:
    """The row group that holds a row, and the row's number in it. Raises ValueError."""
    names = opened.schema_arrow.names
    if place.column not in names:
        raise ValueError(f"{file} has no column {place.column!r}, but {', '.join(names)}")
    metadata = opened.metadata
    if place.row >= metadata.num_rows:
        raise ValueError(f"{file} has {metadata.num_rows:,} rows, so none of number {place.row} (the first is 0)")
    ends = _ends.get(_version(file), lambda: _row_group_ends(opened))
    number = int(np.searchsorted(ends, place.row, side="right"))
    return number, place.row - (int(ends[number - 1]) if number else 0)


def _row_group_ends(opened: pq.ParquetFile) -> np.ndarray[Any, Any]:
    metadata = opened.metadata
    return np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])


def _cell(file: str, place: _Place) -> Any:
    """The value of a cell. Raises OSError or ValueError."""
    with _files.lock:  # pyarrow's reader is for one thread at a time
        opened = _opened(file)
        number, row = _row_group(opened, file, place)
        key = (*_version(file), place.column, number)
        is_costly = key not in _groups.values and _is_costly(opened, key)
        unpacked = _unpacked.get(key[:-1], lambda: _unpack(file, place.column)) if is_costly else None
        if unpacked is not None:
            value = unpacked[place.row].as_py()
        else:
            value = _groups.get(key, lambda: _read(opened, number, place.column))[row].as_py()
    if isinstance(value, list):
        if place.index is None or place.index >= len(value):
            at = f"of number {place.index}" if place.index is not None else "that the address names (/0 is the first)"
            raise ValueError(f"row {place.row} of {file} has {len(value)} images in column {place.column!r}, none {at}")
        return value[place.index]
    if place.index:
        raise ValueError(f"row {place.row} of {file} has one image in column {place.column!r}, none of number {place.index}")
    return value


def _is_costly(opened: pq.ParquetFile, key: tuple[str, int, int, str, int]) -> bool:
    """Whether a row group is too large, or was read too often, to be read for one image."""
    *_, name, number = key
    if key[:-1] in _unpacked.values:
        return True
    group = opened.metadata.row_group(number)
    parts = (group.column(i) for i in range(group.num_columns))
    n_bytes = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.partition(".")[0] == name)
    reads = _reads.get(key[:-1], Counter)
    reads[number] += 1
    return n_bytes > MAX_GROUP_BYTES or reads[number] > MAX_GROUP_READS


def _read(opened: pq.ParquetFile, number: int, column: str) -> pa.ChunkedArray:
    """A column of one row group; in parts, as reading it at once takes four times its memory."""
    import pyarrow as pa

    parts = opened.iter_batches(_ROWS_A_READ, row_groups=[number], columns=[column], use_threads=False)
    return pa.Table.from_batches(parts, pa.schema([opened.schema_arrow.field(column)]))[0]


def _unpack(file: str, column: str) -> pa.ChunkedArray | None:
    """A column of a file, memory-mapped from a copy that is not packed, which is written where it is not there yet; None where
    the disk is full or the cache cannot be written: row groups are then read again and again."""
    try:
        return _unpacked_column(file, column)
    except OSError:
        return None


def _unpacked_column(file: str, column: str) -> pa.ChunkedArray:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from filelock import FileLock

    key = hashlib.sha256(repr((os.path.realpath(file), *_version(file)[1:], column)).encode()).hexdigest()[:32]
    path = Path(datasets.config.HF_DATASETS_CACHE) / "vlrl-unpacked" / f"{key}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            unfinished, packed = path.with_suffix(".partial"), pq.ParquetFile(file)
            schema = pa.schema([packed.schema_arrow.field(column)])
            with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, schema) as written:
                for part in packed.iter_batches(_ROWS_A_READ, columns=[column], use_threads=False):
                    written.write_batch(part)
            unfinished.replace(path)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()[0]


def _bytes_of(value: Any, folder: Path) -> bytes:
    """The encoded image that a cell holds, or names as a file; in base64 where it is a long text."""
    if isinstance(value, dict) and value.get("image") is not None:
        value = value["image"]
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"its cell holds no image, but {value!r:.60}")
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    if value.startswith("data:") or (len(value) >= MIN_BASE64 and "." not in value):
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise ValueError(f"its cell holds text that is no base64 ({error}): {value!r:.40}") from error
    return (folder / value).read_bytes()


_files: _Kept[Any] = _Kept(N_FILES)
_ends: _Kept[np.ndarray[Any, Any]] = _Kept(N_FILES)
_groups: _Kept[pa.ChunkedArray] = _Kept(N_ROW_GROUPS)
_reads: _Kept[Counter[int]] = _Kept(N_SHARDS)
_unpacked: _Kept[pa.ChunkedArray | None] = _Kept(N_SHARDS)


# ---- tar


@dataclass(frozen=True)
class _Shard:
    """Where the members of a shard lie, sorted by a hash of their names."""

    hashes: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    sizes: np.ndarray[Any, Any]

    def at(self, file: str, member: str) -> tuple[int, int]:
        """Offset and size in bytes. Raises OSError for a shard that is cut short, ValueError where it has no such member."""
        wanted = _name_hash(member)
        # Of several members of one name the last counts, as when the shard is unpacked.
        i = int(np.searchsorted(self.hashes, wanted, side="right")) - 1
        if i < 0 or self.hashes[i] != wanted:
            raise ValueError(f"{file} has no member {member!r} among its {len(self.hashes):,}")
        offset, size, end = int(self.offsets[i]), int(self.sizes[i]), os.path.getsize(file)
        if offset + size > end:
            raise OSError(f"{file} ends within {member!r}: {max(0, end - offset):,} of its {size:,} bytes are there")
        return offset, size

    def read(self, file: str, member: str) -> bytes:
        offset, size = self.at(file, member)
        with open(file, "rb") as shard:
            shard.seek(offset)
            return shard.read(size)


def _name_hash(member: str) -> np.uint64:
    name = member.removeprefix("./").encode("utf-8", "surrogateescape")
    return np.uint64(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big"))


def _shard(file: str) -> _Shard:
    return _shards.get(_version(file), lambda: _index(file))


def _index(file: str) -> _Shard:
    """The members of a shard, from their headers. Raises OSError for a file that is no plain tar."""
    found: list[tuple[np.uint64, int, int]] = []
    try:
        with open(file, "rb", buffering=0) as raw, tarfile.open(fileobj=raw, mode="r:") as shard:
            at, most = 0, os.fstat(raw.fileno()).st_size
            while at < most:
                raw.seek(at)
                plain = _plain_member(raw.read(tarfile.BLOCKSIZE))
                if plain is None:
                    shard.offset = at  # long names, large files, the end: tarfile reads them
                    raw.seek(at)
                    member = tarfile.TarInfo.fromtarfile(shard)
                    at = shard.offset
                    if member.isreg() and not member.issparse():
                        found.append((_name_hash(member.name), member.offset_data, member.size))
                    continue
                name, size = plain
                found.append((_name_hash(name), at + tarfile.BLOCKSIZE, size))
                at += tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))
    except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
        pass
    except tarfile.TarError as error:
        why = " (a compressed shard has no offsets: unpack it, e.g. with gunzip)" if _is_compressed(file) else ""
        raise OSError(f"{file} is no tar file: {error}{why}") from error
    hashes = np.array([one[0] for one in found], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    offsets, sizes = (np.array([one[i] for one in found], dtype=np.int64)[order] for i in (1, 2))
    return _Shard(hashes[order], offsets, sizes)


def _plain_member(header: bytes) -> tuple[str, int] | None:
    """Name and size of a regular file whose header has both in plain fields, ten times as fast as `tarfile`, or None."""
    size = header[124:135]
    if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0") or not size.isdigit():
        return None
    name = header[:100].rstrip(b"\0")
    if header[262:263] == b"\0" and (prefix := header[345:500].rstrip(b"\0")):
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape"), int(size, 8)


def _is_compressed(file: str) -> bool:
    with open(file, "rb") as opened:
        return opened.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


_shards: _Kept[_Shard] = _Kept(N_SHARDS)
