"""Which held-out rows show a picture that a training row shows too. No torch.

Pictures are compared one by one (`vlrl.data.identity` says which are one picture): a held-out row that shares nothing with the
training rows but a picture with another held-out row does not count.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vlrl.data.identity import OneImage, Pictures, Shown, not_compared_note, shown_by, shown_of
from vlrl.schema import Sample

_WHOLE = 0xFFFF
"""In place of the number of an image in its row: its video and its `meta.group`."""


class _Apart(Sequence[Shown]):
    """Each picture of two sequences of rows as a row of its own. `rows`: the row of each, the first sequence before the second;
    known once all are read in order."""

    def __init__(self, first: Sequence[Sample], second: Sequence[Sample]) -> None:
        self._parts, self._n_first = (first, second), len(first)
        self._rows, self._places = array("I"), array("H")

    def __len__(self) -> int:
        return len(self._rows)

    def shown(self) -> Iterator[Shown | OneImage]:
        number = 0
        for part in self._parts:
            for one in shown_of(part):
                if isinstance(one, OneImage):
                    n = len(one.places)
                    self._rows.frombytes(np.arange(number, number + n, dtype=np.uint32).tobytes())
                    self._places.frombytes(bytes(self._places.itemsize * n))
                    number += n
                    yield one
                    continue
                for place, alone in _parts_of(one):
                    self._rows.append(number)
                    self._places.append(place)
                    yield alone
                number += 1

    def __getitem__(self, i: Any) -> Any:
        part, row = self._part(i)
        whole, place = shown_by(part[row]), self._places[i]
        return next(alone for which, alone in _parts_of(whole) if which == place)

    def __iter__(self) -> Iterator[Shown]:
        return (self[i] for i in range(len(self)))

    def image_at(self, i: int, place: int) -> str:
        """An image of a row."""
        part, row = self._part(i)
        own: Callable[[int, int], str] | None = getattr(part, "image_at", None)
        return part[row].images[self._places[i]] if own is None else own(row, self._places[i])

    def _part(self, i: int) -> tuple[Sequence[Sample], int]:
        row = self._rows[i]
        return (self._parts[0], row) if row < self._n_first else (self._parts[1], row - self._n_first)

    def n_of_first(self) -> int:
        """How many pictures the first sequence has."""
        return int(np.searchsorted(np.array(self._rows), self._n_first))

    def row_of(self, i: int) -> int:
        """The row of the second sequence whose picture this is."""
        return self._rows[i] - self._n_first


def _parts_of(one: Shown) -> Iterable[tuple[int, Shown]]:
    """A row's images, and what else links it to others, each alone, with their places."""
    for place, path in enumerate(one.images):
        yield place, Shown((path,), None, None)
    if one.video is not None:
        yield _WHOLE, Shown((), one.video, None)
    if one.group not in (None, ""):
        yield _WHOLE - 1, Shown((), None, one.group)


def shared_rows(train: Sequence[Sample], held_out: Sequence[Sample]) -> tuple[list[int], int]:
    """The numbers of the held-out rows that show a picture that a training row shows too, or have its `meta.group`; and how
    many images were compared by name alone (`vlrl.data.identity.MAX_COMPARED_BYTES`)."""
    apart = _Apart(train, held_out)
    pictures = Pictures(apart)
    n = apart.n_of_first()
    trained = set(pictures.groups[:n].tolist())
    seen: dict[int, bool] = {}
    found: dict[int, None] = {}
    for i, group in enumerate(pictures.groups[n:].tolist(), start=n):
        if group not in seen:
            seen[group] = group in trained or not trained.isdisjoint(pictures.with_equal_bytes(group))
        if seen[group]:
            found[apart.row_of(i)] = None
    return list(found), pictures.n_not_compared


def shared_ids(train: Sequence[Sample], held_out: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """The ids of the rows that `shared_rows` finds, and what a person should know of the search."""
    rows, n_not_compared = shared_rows(train, held_out)
    return [held_out[i].id for i in rows], [not_compared_note(n_not_compared)] if n_not_compared else []
