"""What the readers of annotation formats share: the tree of files, and the account of every annotation in it.

Each annotation that a reader comes across is entered once, as a box or as left out with its reason, so that the printed counts
add up. What has no box (a point, a line) or cannot be read makes its category doubtful in that image; where not even the
category can be read, all of them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.annotated import Annotated
from data_prep.formats.shapes import Corners
from data_prep.formats.tree import Options as Options
from data_prep.formats.tree import Tree as Tree
from data_prep.formats.tree import read_text as read_text
from data_prep.formats.tree import split_in as split_in
from data_prep.formats.tree import suffix as suffix
from data_prep.image_finding import NotFound
from data_prep.not_counted import is_marked
from data_prep.report import Report
from vlrl.schema import Box


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
    any_crowd: bool = False

    def box(self, kind: str, label: Any, corners: Callable[[], Corners], place: str, *marks: Any) -> None:
        """An annotation with an area. `corners` gives its box, or raises ValueError, KeyError, TypeError or IndexError where it
        cannot be read. `marks`: names and values that may mark it as not to be counted."""
        marked = is_marked(*marks)
        if marked:
            self.set_aside(f"{kind} marked as not to be counted", text_of(label) or self.all.tree.options.label)
            return
        name = self._entered(kind, label)
        if marked is None:
            problem = f"{name or 'an object'}: its flag 'ignore', 'difficult' or the like cannot be read"
            self._lost(f"{kind} with an unreadable flag", name, place, problem, "flags that cannot be read")
            return
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

    def set_aside(self, kind: str, label: str | None) -> None:
        """An object that is no part of the answer, yet there: its category goes to `meta.crowd` and is no negative; without a
        label it may be of any category."""
        self._entered(kind, label)
        self.all.left_out[kind] += 1
        if label is None:
            self.any_crowd = True
        else:
            self.crowd.add(label)

    def region(self, kind: str) -> None:
        """A region that nobody annotated: it is no category, and any may have objects there."""
        self.all.read[kind] += 1
        self.all.left_out[kind] += 1
        self.any_crowd = True

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

    def left_out(self) -> None:
        """The image is marked as not to be used: it is no loss, and nothing of it is known."""
        kind = "images marked as not to be used, left out"
        self.all.report.note(self.where, "it is marked as not to be used", kind)

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
                any_crowd=self.any_crowd,
                searched=searched or bool(self.boxes or self.doubtful or self.unnamed or self.crowd or self.any_crowd),
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
