"""Which rows show the same picture, so that none is in training and in the held-out set. No torch.

One picture are: a file under several spellings of its path (links, `./`, case where the file system ignores it); augmented
copies as Roboflow names them (`name.rf.<hash>.jpg`) and their original; equal bytes; an image alone and among the images of
another row; a video, its folder of frames and single frames of it; whatever `meta.group` says. Rows that are linked by any of
these, through others too, are one group. Not found: scaled, cropped or recompressed copies (`vlrl data look` shows those), and
frames of one video without the video.

Of all files only the sizes are read. Bytes are compared where a picture is about to be held out, with files of its size alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vlrl.data.images import ImageError, image_bytes
from vlrl.data.packed_images import packed_size
from vlrl.data.sample_json import ADDRESSED, PACKED, file_of
from vlrl.data.synthetic import item_rng
from vlrl.schema import Sample

_Array: TypeAlias = np.ndarray[Any, Any]
_AUGMENTED = re.compile(r"(.+?)\.rf\.[0-9a-z_-]+(?:\.[0-9a-z]+)?", re.IGNORECASE)
_COUNTED = re.compile(r"(?:img|image|frame|photo|picture|pic|dsc|scan)?[-_ ]*\d{0,4}(?:_[a-z]+)?")
"""Names that sets of different pictures share: they tell within one export only."""
_FRAME = re.compile(r"(.+?)[-_. ]+(?:frame|f)?[-_. ]*\d+\.\w+", re.IGNORECASE)
"""A frame in a folder of many videos' frames: `clip7_frame_0012.jpg`."""
_SPLITS = frozenset("train training val valid validation test testing images data".split())  # noqa: SIM905
MAX_COMPARED_BYTES = 20 * 10**9
"""Of images inside Parquet files, whose sizes are in no index: beyond this many bytes their content is not compared."""
_N_PROBED = 4096
"""Bytes from the middle of two files of one size that are compared first."""
_VIDEO = 0xFFFF
"""In place of the number of an image in its row."""


class Shown(NamedTuple):
    """What is needed of a row: its images, its video, its `meta.group`."""

    images: Sequence[str]
    video: str | None
    group: Any


class OneImage(NamedTuple):
    """Many rows that show one image each and nothing else: the different images, and of each row the place of its own."""

    paths: Sequence[str]
    places: _Array


def shown_by(sample: Sample | Shown) -> Shown:
    return sample if isinstance(sample, Shown) else Shown(sample.images, sample.video, sample.facts.get("group"))


class Pictures:
    """What each row of a sequence (of samples, or of `Shown`) shows. Rows are read once in order, and those again whose bytes
    are compared."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows
        self.n_not_compared = 0
        """Images whose content was not compared (see `MAX_COMPARED_BYTES`)."""
        self._keys, self._weak = _Links(), _Links()
        self._places = (array("I"), array("H"))
        self._file_keys, self._sizes = array("q"), array("q")
        self._videos: dict[str, dict[str, list[int]]] = {}
        self._has_copies = False
        self._content: dict[int, bytes] = {}
        self._alike: dict[int, dict[int, list[int]]] = {}
        self._n_read = 0
        self._stat = lru_cache(maxsize=131_072)(_stat)
        number = 0
        for one in shown_of(rows):
            number += self._add_many(number, one) if isinstance(one, OneImage) else self._add(number, one)
        self._link_names()
        self.groups, self.n_groups = self._grouped()
        """The group of each row, numbered in the order of their first rows."""
        self._sort()

    # ---- keys

    def _add_many(self, first: int, many: OneImage) -> int:
        """The rows from `first` on; returns how many they are."""
        n = len(many.places)
        text = "\0".join(many.paths)
        if any(mark in text for mark in (".rf.", *ADDRESSED)):
            return sum(self._add(first + i, Shown((many.paths[place],), None, None)) for i, place in enumerate(many.places))
        found = np.array([self._stat(path) for path in many.paths], np.int64)[many.places]
        rows, keys = np.arange(first, first + n, dtype=np.uint32).tobytes(), found[:, 0].tobytes()
        self._keys.add_bytes(rows, keys)
        self._places[0].frombytes(rows)
        self._places[1].frombytes(bytes(self._places[1].itemsize * n))
        self._file_keys.frombytes(keys)
        self._sizes.frombytes(found[:, 1].tobytes())
        return n

    def _add(self, number: int, one: Shown) -> int:
        """One row; returns 1."""
        if one.group not in (None, ""):
            self._keys.add(number, hash(("group", str(one.group))))
        if one.video is not None:
            self._add_video(number, one.video)
        for place, path in enumerate(one.images):
            if not path.startswith(ADDRESSED):
                key, size = self._stat(path)
            elif path.startswith("synthetic:"):
                self._keys.add(number, hash(("drawn", path)))
                continue
            else:
                key, size = self._inside(path, len(self._sizes))
            self._keys.add(number, key)
            self._add_file(number, place, key, size)
            if ".rf." in path and (copied := _copied_from(path)) is not None:
                self._has_copies = True
                self._keys.add(number, hash(copied))
        return 1

    def _add_file(self, number: int, place: int, key: int, size: int) -> None:
        self._places[0].append(number)
        self._places[1].append(place)
        self._file_keys.append(key)
        self._sizes.append(size)

    def _add_video(self, number: int, path: str) -> None:
        key, size = self._stat(path)
        self._keys.add(number, key)
        real = os.path.realpath(path)
        if os.path.isdir(path):
            frames = real
        else:
            self._add_file(number, _VIDEO, key, size)
            frames = os.path.splitext(real)[0]
        self._keys.add(number, hash(("folder", frames)))
        self._videos.setdefault(PurePath(frames).name, {}).setdefault(frames, []).append(number)

    def _link_names(self) -> None:
        """Originals of augmented copies, and frames of videos, by their names: looked for only where there are such."""
        for stem, places in self._videos.items():
            if len(places) == 1 and stem.lower() not in _SPLITS:  # several videos of one name are different ones
                for number in next(iter(places.values())):
                    self._keys.add(number, hash(("clip", stem)))
        if not self._videos and not self._has_copies:
            return
        for number, sample in enumerate(self.rows):
            for path in sample.images:
                if file_of(path) is None or path.startswith("parquet:"):
                    continue
                if self._has_copies:
                    self._weak.add(number, hash(_as_original(path)))
                folder, _, base = path.rpartition("/")
                if self._videos and not path.startswith("tar:"):
                    self._weak.add(number, hash(("folder", _real(folder))))
                    self._weak.add(number, hash(("clip", folder.rpartition("/")[2])))
                    if found := _FRAME.fullmatch(base):
                        self._weak.add(number, hash(("clip", found[1])))

    def _inside(self, path: str, place: int) -> tuple[int, int]:
        """The key and the size in bytes (-1: not known) of an image inside a file."""
        key = hash((self._stat(file_of(path) or "")[0], path.partition("#")[2]))
        if path.startswith("tar:"):
            return key, packed_size(path)
        if self._n_read > MAX_COMPARED_BYTES:
            self.n_not_compared += 1
            return key, -1
        try:
            data = image_bytes(path)
        except ImageError:
            return key, -1  # other checks refuse it
        self._n_read += len(data)
        self._content[place] = _digest(data)
        return key, len(data)

    # ---- groups

    def _grouped(self) -> tuple[_Array, int]:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n = len(self.rows)
        rows, keys = self._keys.arrays()
        weak_rows, weak = self._weak.arrays()
        is_used = np.isin(weak, keys)
        rows, keys = np.concatenate([rows, weak_rows[is_used]]), np.concatenate([keys, weak[is_used]])
        names, numbers = np.unique(keys, return_inverse=True)
        side = n + len(names)
        links = coo_array((np.ones(len(rows), np.int8), (rows, n + numbers)), shape=(side, side))
        found = connected_components(links, directed=False)[1][:n]
        _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
        order = np.empty(len(first), np.int64)
        order[np.argsort(first)] = np.arange(len(first))
        return order[inverse], len(first)

    def _sort(self) -> None:
        """Files by size, and files and rows by group."""
        keys = np.frombuffer(self._file_keys, np.int64) if self._file_keys else np.zeros(0, np.int64)
        self._distinct = np.unique(keys, return_index=True)[1]
        sizes = np.frombuffer(self._sizes, np.int64)[self._distinct] if self._sizes else np.zeros(0, np.int64)
        by_size = np.argsort(sizes, kind="stable")
        self._distinct, self._sorted_sizes = self._distinct[by_size], sizes[by_size]
        shown_by = np.frombuffer(self._places[0], np.uint32)[self._distinct] if self._sizes else np.zeros(0, np.uint32)
        self._group_of_file = self.groups[shown_by]
        self._files_by_group = np.argsort(self._group_of_file, kind="stable")
        self._file_ends = np.searchsorted(self._group_of_file[self._files_by_group], np.arange(self.n_groups + 1))
        self.n_rows = np.bincount(self.groups, minlength=self.n_groups)
        """How many rows each group has."""

    def with_equal_bytes(self, group: int) -> set[int]:
        """The group, and those linked to it by files of equal bytes."""
        found, waiting = {group}, [group]
        while waiting:
            one = waiting.pop()
            for file in self._files_by_group[self._file_ends[one] : self._file_ends[one + 1]]:
                for other in self._equal_files(int(file)):
                    if other not in found:
                        found.add(other)
                        waiting.append(other)
        return found

    def _equal_files(self, file: int) -> Iterable[int]:
        """The other groups that have a file of the same bytes."""
        size = int(self._sorted_sizes[file])
        if size <= 0:
            return
        if size not in self._alike:
            self._alike[size] = self._alike_of(size)
        for other in self._alike[size].get(file, ()):
            if self._group_of_file[other] != self._group_of_file[file] and self._is_equal(file, other):
                yield int(self._group_of_file[other])

    def _alike_of(self, size: int) -> dict[int, list[int]]:
        """Of the files of one size, those that agree in a few bytes with others, each with all of these."""
        low, high = map(int, np.searchsorted(self._sorted_sizes, [size, size + 1]))
        found: dict[bytes, list[int]] = {}
        for file in range(low, high) if high > low + 1 else ():
            try:
                found.setdefault(self._probe(file, size), []).append(file)
            except (ImageError, OSError):
                continue  # other checks refuse it
        return {file: same for same in found.values() if len(same) > 1 for file in same}

    def _is_equal(self, a: int, b: int) -> bool:
        try:
            return self._whole(a) == self._whole(b)
        except (ImageError, OSError):
            return False  # other checks refuse it

    def _path(self, file: int) -> str:
        number = self._distinct[file]
        place, row = self._places[1][number], self._places[0][number]
        if place == _VIDEO:
            return str(self.rows[row].video)
        own: Callable[[int, int], str] | None = getattr(self.rows, "image_at", None)
        return self.rows[row].images[place] if own is None else own(row, place)

    def _probe(self, file: int, size: int) -> bytes:
        """A few bytes of a file. Raises ImageError, OSError."""
        path, start = self._path(file), max(0, (size - _N_PROBED) // 2)
        if path.startswith(PACKED):
            return _digest(image_bytes(path)[start : start + _N_PROBED])
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _digest(os.pread(opened, _N_PROBED, start))
        finally:
            os.close(opened)

    def _whole(self, file: int) -> bytes:
        """A digest of all bytes of a file. Raises ImageError, OSError."""
        number, path = int(self._distinct[file]), self._path(file)
        if number not in self._content and path.startswith(PACKED):
            self._content[number] = _digest(image_bytes(path))
        elif number not in self._content:
            with open(path, "rb") as opened:
                self._content[number] = hashlib.file_digest(opened, partial(hashlib.blake2b, digest_size=16)).digest()
        return self._content[number]


def not_compared_note(n: int) -> str:
    """What a person should know where `n` images were not compared by their content."""
    return (
        f"{n:,} images inside Parquet files are beyond the first {MAX_COMPARED_BYTES / 1e9:g} GB, whose content is compared:"
        " copies among them are not found, so one may be trained on while another is held out (meta.group keeps rows together)"
    )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class _Links:
    """Which row has which key, in 12 bytes a link."""

    def __init__(self) -> None:
        self._rows, self._keys = array("I"), array("q")
        self._add_row: Callable[[int], None] = self._rows.append
        self._add_key: Callable[[int], None] = self._keys.append

    def add(self, row: int, key: int) -> None:
        self._add_row(row)
        self._add_key(key)

    def add_bytes(self, rows: bytes, keys: bytes) -> None:
        """Several, as numbers of 32 and 64 bits."""
        self._rows.frombytes(rows)
        self._keys.frombytes(keys)

    def arrays(self) -> tuple[_Array, _Array]:
        return np.array(self._rows, np.int64), np.array(self._keys, np.int64)


def _stat(path: str) -> tuple[int, int]:
    """A key that is the same for each spelling of a path, and the file's size in bytes (-1: no such file)."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return hash(os.path.normpath(path)), -1
    return hash((stat.st_dev, stat.st_ino)), stat.st_size


@lru_cache(maxsize=65_536)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _copied_from(path: str) -> tuple[str, str, str] | None:
    """The key of the original of an augmented copy, None for any other file: Roboflow writes the copies of `a.jpg` as
    `a_jpg.rf.<hash>.jpg`."""
    folder, base = _folder_and_name(path)
    original = base
    while ".rf." in original and (found := _AUGMENTED.fullmatch(original)):
        original = found[1]
    return None if original == base else _augmented(folder, original)


def _as_original(path: str) -> tuple[str, str, str]:
    """The key that copies of this file would have."""
    folder, base = _folder_and_name(path)
    return _augmented(folder, base.replace(".", "_"))


def _folder_and_name(path: str) -> tuple[str, str]:
    """Of a file, or of a shard and its member, in lower case."""
    file = file_of(path) or path
    name = (path if file == path else path.partition("#")[2]).rpartition("/")[2].lower()
    return (file.rpartition("/")[0] if file == path else file), name


def _augmented(folder: str, original: str) -> tuple[str, str, str]:
    return "augmented", _export(folder) if _COUNTED.fullmatch(original) else "", original


@lru_cache(maxsize=65_536)
def _export(folder: str) -> str:
    """The folder of a data set, given that of an image in one of its splits."""
    place = PurePath(_real(folder))
    while place.name.lower() in _SPLITS:
        place = place.parent
    return str(place)


def held_out_rows(pictures: Pictures, seed: int, wanted: int) -> _Array:
    """Which rows are held out, as truth values: whole groups, drawn by seed until there are `wanted` rows. A group of many more
    rows is passed over unless all are so. All False where the rows cannot be split."""
    order = item_rng("held out", seed).permutation(pictures.n_groups)
    chosen: set[int] = set()
    for most in (max(2 * wanted, int(pictures.n_rows.min(initial=len(pictures.rows)))), len(pictures.rows) // 2):
        n = 0
        for index in map(int, order):
            if n >= wanted or len(chosen) + 1 >= pictures.n_groups:
                break
            if index in chosen or pictures.n_rows[index] > most:
                continue
            linked = pictures.with_equal_bytes(index)
            n_linked = int(pictures.n_rows[list(linked)].sum())
            if len(chosen) + len(linked) < pictures.n_groups and n_linked <= most:
                chosen |= linked
                n += n_linked
        if chosen:
            break
    return np.isin(pictures.groups, list(chosen))


def shown_of(rows: Sequence[Any]) -> Iterable[Shown | OneImage]:
    """What rows show, without making a sample of each where they know better; a member may stand for many rows."""
    own: Callable[[], Iterable[Shown | OneImage]] | None = getattr(rows, "shown", None)
    return map(shown_by, rows) if own is None else own()
