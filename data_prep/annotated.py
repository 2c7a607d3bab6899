"""The record that every reader of annotations makes, one per image, and what becomes of it once it is checked.

What a file leaves open stays open here: a label may be *absent* (the image was searched for it, and nothing was
found), *doubtful* (something about it could not be read or joined, so nothing is asked), or neither is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vlrl.schema import Box


@dataclass(frozen=True, slots=True)
class Annotated:
    """One image as the annotation describes it, unchecked.

    `boxes`: corners counted from 0, right and bottom edge exclusive, in the unit that `coords` names (`px`, `norm1`:
    shares of width and height, `norm100`: per cent, `norm1000`: thousandths). `object_wheres`: the place of each box inside
    `where`, for reports. `size_wh`: the size in pixels that the annotation states, None where it states none.

    `crowd`: labels with objects that are not boxes of the answer, yet not absent. `doubtful`: labels of objects that
    could not be read. `unnamed`: there is an object whose label could not be read, so that every label is doubtful.
    `absent`: the labels known to be absent; None: every label that the set annotates and this image has no object of.
    `searched`: False where the file only lists the image, so that it may never have been annotated; nothing is then
    absent, unless `--empty_images negative` says so.

    `any_crowd`: a region of the image was not annotated, so that every label may have objects without a box. `declared`:
    the labels that the file of this image looks for, where a set has files of several lists; None: all of the set.

    `group`: the photograph that the image is a copy of, where the file says so; copies share `meta.group` and are
    never divided between training and evaluation. `id_part`: what stands for the image in sample ids; "":
    `source_id`. `split`: the part of the set that the image belongs to (`meta.split`); None: that of the whole run.
    """

    path: Path
    source_id: str
    where: str
    size_wh: tuple[int, int] | None
    boxes: tuple[Box, ...]
    object_wheres: tuple[str, ...]
    crowd: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    absent: frozenset[str] | None = None
    unnamed: bool = False
    searched: bool = True
    coords: str = "px"
    group: str | None = None
    id_part: str = ""
    split: str | None = None
    any_crowd: bool = False
    declared: frozenset[str] | None = None

    def without(self, labels: Iterable[str]) -> Annotated:
        """The same image with nothing known about `labels`: their boxes are removed, and they are doubtful."""
        unknown = frozenset(labels)
        kept = [pair for pair in zip(self.boxes, self.object_wheres, strict=True) if pair[0].label not in unknown]
        return replace(
            self,
            boxes=tuple(box for box, _ in kept),
            object_wheres=tuple(where for _, where in kept),
            doubtful=self.doubtful | unknown,
        )

    def with_doubt(self, labels: Iterable[str], *, unnamed: bool = False) -> Annotated:
        """The same image with these labels doubtful too, or all of them (`unnamed`)."""
        return replace(self, doubtful=self.doubtful | frozenset(labels), unnamed=self.unnamed or unnamed)

    def with_id_part(self, id_part: str) -> Annotated:
        """The same image with another part of sample ids."""
        return replace(self, id_part=id_part)

    def place(self, number: int) -> str:
        """Where box `number` (from 0) stands, for reports."""
        return f"{self.where}: {self.object_wheres[number]}"


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """A checked `Annotated`: the file exists, its size as shown is `size_wh` (pixels, EXIF rotation applied), and its
    boxes lie inside it, in the pixels shown, and are distinct."""

    path: Path
    source_id: str
    size_wh: tuple[int, int]
    boxes: tuple[Box, ...]
    crowd: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    absent: frozenset[str] | None = None
    group: str | None = None
    id_part: str = ""
    split: str | None = None
