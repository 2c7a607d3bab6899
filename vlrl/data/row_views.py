"""Samples of a large set as sequences: made when they are used, from places in a file or from parts of other sequences.

Each has `shown`, what its rows show without making samples (`vlrl.data.identity`). Not here: finding the places of rows
(`vlrl.data.line_index`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from vlrl.data.identity import OneImage, Shown, shown_of
from vlrl.data.line_index import sample_of_line
from vlrl.data.shown_rows import placed, shown_in_lines
from vlrl.schema import Sample

_Array: TypeAlias = np.ndarray[Any, Any]


class Lines(Sequence[Sample]):
    """Samples of a file of lines, by offset. The file stays open: who replaces it meanwhile changes nothing here."""

    def __init__(self, file: IO[bytes], starts: _Array, root: Path, where: str) -> None:
        self._file, self._starts, self._root, self._where = file, starts, root, where
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: Any) -> Any:
        return sample_of_line(self._line(i), f"{self._where}: row {i + 1}", self._root)

    def _line(self, i: int) -> bytes:
        start = int(self._starts[i])
        end = int(self._starts[i + 1]) if i + 1 < len(self._starts) else self._size
        raw = os.pread(self._file.fileno(), end - start, start)  # shared by processes and threads: it moves no position
        return raw.split(b"\n", 1)[0]

    def image_at(self, i: int, place: int) -> str:
        """An image of a row that was read before, without making a sample."""
        return placed(json.loads(self._line(i))["images"][place], str(self._root))

    def shown(self) -> Iterator[Shown | OneImage]:
        return shown_in_lines(self._file.fileno(), str(self._root))


class Picked(Sequence[Sample]):
    """The members of a sequence at these places."""

    def __init__(self, rows: Sequence[Sample], places: _Array) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: Any) -> Any:
        return self._rows[int(self._places[i])]

    def shown(self) -> Iterator[Shown | OneImage]:
        """Those of all rows are passed over in order."""
        first = 0
        for one in shown_of(self._rows):
            n = len(one.places) if isinstance(one, OneImage) else 1
            own = self._places[slice(*np.searchsorted(self._places, [first, first + n]))] - first  # places are in order
            if isinstance(one, OneImage):
                yield OneImage(one.paths, one.places[own])
            elif len(own):
                yield one
            first += n


class Joined(Sequence[Sample]):
    """Several sequences after each other; an id that an earlier one has used gets the name of its file."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: Any) -> Any:
        number = int(np.searchsorted(self._ends, i, side="right"))
        return self._parts[number][int(i - (self._ends[number - 1] if number else 0))]

    def shown(self) -> Iterator[Shown | OneImage]:
        return chain.from_iterable(shown_of(part) for part in self._parts)


class Named(Sequence[Sample]):
    """Samples whose ids begin with the number of their file."""

    def __init__(self, rows: Sequence[Sample], prefix: str) -> None:
        self._rows, self._prefix = rows, prefix

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        sample = self._rows[i]
        return replace(sample, id=self._prefix + sample.id) if self._prefix else sample

    def shown(self) -> Iterable[Shown | OneImage]:
        return shown_of(self._rows)
