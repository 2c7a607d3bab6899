"""What the readers of annotation formats share: the tree of files, and the account of every annotation in it.

Each annotation that a reader comes across is entered once, as a box or as left out with its reason, so that the printed counts
add up. What has no box (a point, a line) or cannot be read makes its category doubtful in that image; where not even the
category can be read, all of them.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.annotated import Annotated
from data_prep.class_folders import SUFFIXES, is_junk
from data_prep.formats.shapes import Corners
from data_prep.image_finding import ImageFinder, NotFound, split_of
from data_prep.report import Report
from vlrl.schema import Box

N_SAMPLED = 500
"""So many files of one suffix are looked at to recognise a format."""
HEAD_BYTES = 4096
"""How much of a file is read to recognise its format."""


@dataclass(frozen=True)
class Options:
    """What the command line says about reading. `label_key`: the attribute that holds the label; `label`: the label of objects
    that have none; `names`: a file of class names; `boxes`: what four numbers of a table are; `encoding`: of text files."""

    label_key: str | None = None
    label: str | None = None
    names: Path | None = None
    boxes: str | None = None
    encoding: str = "utf-8-sig"


class Tree:
    """The files below a folder, or one file and the images beside it. What operating systems leave behind is not there."""

    def __init__(self, root: Path, images: Path | None, options: Options, report: Report) -> None:
        self.root = root if root.is_dir() else root.parent
        self.options = options
        self.report = report
        self.files = _files(self.root) if root.is_dir() else [root.name]
        self.images_root = images or self.root
        self.finder = ImageFinder(self.images_root, report)
        self._by_suffix: dict[str, list[str]] | None = None

    @cached_property
    def images(self) -> list[str]:
        """The images below the folder of images, relative to it, sorted."""
        names = self.files if self.images_root == self.root and len(self.files) > 1 else _files(self.images_root)
        return [name for name in names if suffix(name) in SUFFIXES]

    def sampled(self) -> Tree:
        """The same tree with some files of each kind only, where there are thousands: enough to recognise a format."""
        by_suffix: dict[str, list[str]] = {}
        for name in self.files:
            by_suffix.setdefault(suffix(name), []).append(name)
        several = {end: names for end, names in by_suffix.items() if end not in SUFFIXES and len(names) > N_SAMPLED}
        if not several:
            return self
        dropped = {name for names in several.values() for name in names} - {
            name for names in several.values() for name in names[:: -(-len(names) // N_SAMPLED)]
        }
        some_files = copy(self)
        some_files.files = [name for name in self.files if name not in dropped]
        some_files._by_suffix = None
        return some_files

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files whose names end in one of `suffixes` (lower case, with the dot)."""
        if self._by_suffix is None:
            self._by_suffix = {}
            for name in self.files:
                self._by_suffix.setdefault(suffix(name), []).append(name)
        return sorted(name for end in suffixes for name in self._by_suffix.get(end, ()))

    def path(self, name: str) -> Path:
        """The file `name` of `files`."""
        return self.root / name

    def head(self, name: str) -> str:
        """The first few thousand characters of a file, whatever its encoding: enough to recognise it."""
        with self.path(name).open("rb") as file:
            data = file.read(HEAD_BYTES)
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", errors="replace").lstrip("\ufeff")

    def text(self, name: str) -> str:
        """The text of a file. Ends the program where it is not in the encoding of the options."""
        return read_text(self.path(name), self.options.encoding)

    def has(self, name: str, *texts: str) -> bool:
        """Whether a file holds all these texts (ASCII); read piece by piece, as a file may be large."""
        missing = {text.encode() for text in texts}
        before = b""
        with self.path(name).open("rb") as file:
            while missing and (piece := file.read(1 << 20)):
                missing = {text for text in missing if text not in before + piece}
                before = piece[-64:]
        return not missing

    def table(self, name: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
        """The rows of a table with the numbers of their lines, one at a time. Ends the program where it is none."""
        csv.field_size_limit(1 << 27)
        path = self.path(name)
        with path.open("rb") as file:
            encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else self.options.encoding
        with path.open(encoding=encoding, newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter)
            try:
                for row in reader:
                    yield reader.line_num, row
            except UnicodeDecodeError as error:
                raise SystemExit(_other_encoding(path, encoding, error)) from None
            except csv.Error as error:
                raise SystemExit(f"{path}: line {reader.line_num}: not a table: {error}") from None

    def json(self, name: str) -> Any:
        """The content of a JSON file with many images; ends the program where it is none."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise SystemExit(f"{self.path(name)}: not JSON: {error}") from None

    def json_of_image(self, name: str) -> Any:
        """The content of the JSON file of one image; None (reported) where it is none."""
        try:
            return self.json(name)
        except SystemExit as problem:
            why = str(problem).removeprefix(f"{self.path(name)}: ")
            self.report.bad(str(self.path(name)), why, "files that are not JSON", what="images")
            return None


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """The text of a file; ends the program where it has another encoding."""
    data = path.read_bytes()
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else encoding)
    except UnicodeDecodeError as error:
        raise SystemExit(_other_encoding(path, encoding, error)) from None


def _other_encoding(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    return f"{path}: not {encoding} text ({error.reason} at byte {error.start}); give its --encoding"


def suffix(name: str) -> str:
    """The suffix of a file name, in lower case with the dot."""
    return os.path.splitext(name)[1].lower()


def split_in(name: str) -> str | None:
    """The part of the set that the folders of a path name (the innermost counts), or None."""
    found = [split_of(part) for part in PurePosixPath(name).parts[:-1]]
    return next((split for split in reversed(found) if split), None)


def _files(root: Path) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_junk(name, folder=True))
        below = os.path.relpath(place, root).replace(os.sep, "/")
        found += [name if below == "." else f"{below}/{name}" for name in names if not is_junk(name, folder=False)]
    return sorted(found)


def number(value: Any) -> float:
    """A coordinate: a number, or a text of one. Raises ValueError for anything else, NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    try:
        result = float(value)
    except OverflowError:
        result = float("inf")
    if not abs(result) < 1e9:
        raise ValueError(f"{str(value)[:40]} is not a finite number")
    return result


def text_of(value: Any) -> str | None:
    """A label: a text that is not blank, or a whole number as text; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return " ".join(value.split()) or None if isinstance(value, str) else None


@dataclass
class Gathering:
    """All annotations of a set as they are read. `names`: the category names, declared ones first, in order. `below` and
    `is_xywh`: see `data_prep.checking.Reading`."""

    tree: Tree
    images: list[Annotated] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    read: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    below: dict[str, frozenset[str]] = field(default_factory=dict)
    is_xywh: bool = False

    @property
    def report(self) -> Report:
        return self.tree.report

    def declare(self, names: Iterable[str]) -> None:
        """Category names that the set states to be annotated."""
        self.names.update(dict.fromkeys(names))

    def image(self, where: str, *, split: str | None = None) -> OneImage:
        """A new image, whose annotations stand in `where`."""
        return OneImage(self, where, split=split)

    def crowded(self, places: Iterable[int]) -> None:
        """In these images (places in `images`) any category may have objects without a box. To be called at the end."""
        for place in places:
            self.images[place] = replace(self.images[place], crowd=frozenset(self.names))

    def adopt(self, images: Iterable[Annotated], names: Iterable[str]) -> None:
        """Records of another reader, with the names of the set. What it read is entered by `account`."""
        self.declare(names)
        for one in images:
            self.declare(sorted({*one.doubtful, *one.crowd}))
            self.images.append(one)

    def account(self, kind: str, n_read: int, n_converted: int, left_out: Mapping[str, int]) -> None:
        """Annotations that another reader has read, and how many of which kinds it left out."""
        self.read[kind] += n_read
        self.converted[kind] += n_converted
        self.left_out.update({why: n for why, n in left_out.items() if n})

    def lines(self) -> list[str]:
        """The account: what was read, what became boxes, what was left out."""

        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{n} {kind}" for kind, n in counts.most_common()) or "none"

        lines = [
            f"read       {self.read.total()} annotations of {len(self.images)} images: {listed(self.read)}",
            f"converted  {self.converted.total()} to boxes: {listed(self.converted)}",
        ]
        if self.left_out:
            lines.append(f"left out   {self.left_out.total()}: {listed(self.left_out)}")
        return lines


@dataclass
class OneImage:
    """The annotations of one image while they are read; `done` makes the record of it."""

    all: Gathering
    where: str
    split: str | None = None
    boxes: list[Box] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    crowd: set[str] = field(default_factory=set)
    absent: frozenset[str] | None = None
    unnamed: bool = False

    def box(self, kind: str, label: Any, corners: Callable[[], Corners], place: str) -> None:
        """An annotation with an area. `corners` gives its box, or raises ValueError, KeyError, TypeError or IndexError where it
        cannot be read."""
        name = self._entered(kind, label)
        try:
            x1, y1, x2, y2 = corners()
            if not (x2 > x1 and y2 > y1):
                raise ValueError(f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}] has no area")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            self._lost(f"unreadable {kind}", name, place, f"{name or 'an object'}: {kind} cannot be read: {why}", None)
            return
        if name is None:
            problem = f"a {kind} without a label (--label NAME names those that have none)"
            self._lost(f"{kind} without a label", name, place, problem, f"a {kind} without a label")
            return
        self.all.converted[kind] += 1
        self.boxes.append(Box(x1, y1, x2, y2, name))
        self.places.append(place)

    def no_box(self, kind: str, label: Any, place: str) -> None:
        """An annotation that says something else than a box, such as a point: its category is not asked for in this image."""
        name = self._entered(kind, label)
        self.all.left_out[kind] += 1
        self._doubt(name)
        what = f"a {kind} is no box; its category is not asked for in this image"
        self.all.report.note(
            f"{self.where}: {place}", f"{name}: {what}" if name else what, f"annotations that are no boxes ({kind})"
        )

    def set_aside(self, kind: str, label: str) -> None:
        """An object that is no part of the answer, yet there: its category goes to `meta.crowd` and is no negative."""
        self._entered(kind, label)
        self.all.left_out[kind] += 1
        self.crowd.add(label)

    def unreadable(self, kind: str, label: Any, place: str, problem: str, finding: str | None = None) -> None:
        """An annotation that cannot be read at all."""
        name = self._entered(kind, label)
        self._lost(f"unreadable {kind}", name, place, problem, finding)

    def _entered(self, kind: str, label: Any) -> str | None:
        self.all.read[kind] += 1
        name = text_of(label) or self.all.tree.options.label
        if name is not None:
            self.all.names.setdefault(name)
        return name

    def _lost(self, kind: str, name: str | None, place: str, problem: str, finding: str | None) -> None:
        self.all.left_out[kind] += 1
        self._doubt(name)
        self.all.report.bad(f"{self.where}: {place}", problem, finding)

    def _doubt(self, name: str | None) -> None:
        if name is None:
            self.unnamed = True
        else:
            self.doubtful.add(name)

    def named(self, *names: str) -> Path | None:
        """The image file that the first of `names` with one stands for; None (reported) where there is none. Names are tried in
        the order of how exact they are."""
        problem = ""
        for name in names:
            try:
                return self.all.tree.finder.find(name, self.where)
            except NotFound as error:
                problem = problem or str(error)
        self.missing(problem or "no file name of the image is stated")
        return None

    def missing(self, problem: str) -> None:
        """The image cannot be used: its annotations are lost."""
        self.all.report.bad_image(self.where, problem, len(self.boxes))

    def done(
        self,
        path: Path | None,
        size_wh: tuple[int, int] | None = None,
        *,
        searched: bool = True,
        coords: str = "px",
    ) -> None:
        """Enter the image, whose annotations are complete now. `path`: None for one that `named` did not find. `searched`:
        False where an image without annotations may never have been looked at."""
        if path is None:
            return
        self.all.declare(sorted({*self.doubtful, *self.crowd, *(self.absent or ())}))
        try:
            source_id = path.relative_to(self.all.tree.images_root).as_posix()
        except ValueError:
            source_id = path.as_posix()
        self.all.images.append(
            Annotated(
                path=path,
                source_id=source_id,
                where=self.where,
                size_wh=size_wh,
                boxes=tuple(self.boxes),
                object_wheres=tuple(self.places),
                crowd=frozenset(self.crowd),
                doubtful=frozenset(self.doubtful),
                absent=self.absent,
                unnamed=self.unnamed,
                searched=searched or bool(self.boxes or self.doubtful or self.unnamed),
                coords=coords,
                split=self.split or split_in(source_id),
            )
        )


def size_of(width: Any, height: Any) -> tuple[int, int] | None:
    """A stated size in pixels, also as text; None where it is missing, zero or no number."""
    try:
        size = round(number(width)), round(number(height))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def note(text: str) -> None:
    """Something that a person should know, on standard error."""
    print(f"note: {text}", file=sys.stderr)


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of `names` in a message."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
