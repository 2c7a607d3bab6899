"""Annotated images → checked ones: the files exist and are what the annotation speaks of, and boxes are pixels inside them.

In turn: the image's header is read; records of one file become one; boxes of photographs turned by EXIF are turned
(`data_prep.orientation`); boxes that are no pixels are refused (`data_prep.box_units`); the rest is cut at the edges.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from data_prep.annotated import Annotated, CheckedImage
from data_prep.box_units import Marks, scaled
from data_prep.box_values import Corners, name_key
from data_prep.fitting import fit_box, inside, is_sliver, tidy
from data_prep.image_headers import Header, read_header
from data_prep.orientation import STORED, SizeMismatch, decided, frame_of, turned
from data_prep.progress import progress
from data_prep.report import Report
from vlrl.data.images import ImageError
from vlrl.schema import Box

Opened = tuple[Annotated, Header]


@dataclass(frozen=True)
class Reading:
    """How the annotations are to be understood, where they do not say it themselves.

    `coords`: the unit of the boxes, None: each record's own. `boxes_in`: "stored", "shown" or "auto". `empty_is_negative`:
    whether images that the source only lists were searched. `is_xywh`: the boxes were read as x, y, width, height without the
    user saying so. `below`: category → the categories that are kinds of it, all as `name_key`: a bus is a vehicle.
    """

    coords: str | None = None
    boxes_in: str = "auto"
    empty_is_negative: bool = False
    is_xywh: bool = False
    below: Mapping[str, frozenset[str]] = field(default_factory=dict)


def check_images(
    annotated: Iterable[Annotated], spelling: Mapping[str, str], report: Report, reading: Reading | None = None
) -> list[CheckedImage]:
    """The usable images, with their boxes checked and cut at the edges of the image; the others are reported. `spelling`:
    `name_key` of a label → the label to write. Ends the program where the boxes of the set are no pixels."""
    reading = reading or Reading()
    opened = _joined(_opened(annotated, report), report)
    frames: list[str | None] = []
    usable: list[Opened] = []
    for one, header in opened:
        try:
            frames.append(
                frame_of(one if reading.coords is None else replace(one, coords=reading.coords), header, reading.boxes_in)
            )
            usable.append((one, header))
        except SizeMismatch as mismatch:
            _lose(one, str(mismatch), report)
    framed = [pair for pair in zip(usable, decided(frames, usable, report), strict=True) if pair[1] is not None]
    in_pixels = [(one, header, _in_pixels(one, header, str(frame), reading)) for (one, header), frame in framed]
    marks = Marks()
    for one, header, boxes in in_pixels:
        marks.add(boxes, header.shown_wh, one.place)
    problem = marks.problem(report.max_skipped, coords_are_stated=reading.coords is not None, is_xywh=reading.is_xywh)
    if problem is not None:
        raise SystemExit(f"nothing written: {problem}")
    if reading.coords is None and (remark := marks.remark()):
        print(f"note: {remark}", file=sys.stderr)
    spelt = cache(lambda label: spelling[name_key(label)])
    everything = frozenset(spelling.values())
    images = []
    # what is done with is let go, so that a large set is in memory once
    for index, (one, header, boxes) in enumerate(in_pixels):
        in_pixels[index] = (one, header, ())
        image = _checked(one, header.shown_wh, boxes, spelt, report, reading)
        if image is not None:
            images.append(replace(image, crowd=image.crowd | everything) if one.any_crowd else image)
    return images


def _opened(annotated: Iterable[Annotated], report: Report) -> list[Opened]:
    opened = []
    for one in progress(annotated, "reading image headers"):
        report.total("images")
        report.total("annotations", len(one.boxes))
        try:
            opened.append((one, read_header(one.path)))
        except ImageError as error:
            _lose(one, str(error), report)
    return opened


def _lose(one: Annotated, problem: str, report: Report) -> None:
    report.bad_image(one.where, problem, len(one.boxes), is_read=True)


def _joined(opened: Sequence[Opened], report: Report) -> list[Opened]:
    """One record a file. Records that name what is absent in their image stay apart: each is a question of its own."""
    index_of: dict[object, int] = {}
    joined: list[Opened] = []
    for one, header in opened:
        index = index_of.get(header.file_id)
        if index is None or (one.absent is not None and joined[index][0].absent is not None):
            index_of.setdefault(header.file_id, len(joined))
            joined.append((one, header))
            continue
        first = joined[index][0]
        if (one.size_wh or first.size_wh) != (first.size_wh or one.size_wh) or one.coords != first.coords:
            _lose(one, f"{one.path} is the image of {first.where} too, with another stated size or unit", report)
            continue
        report.note(
            one.where, f"is the same file as {first.where}; their annotations are put together", "one file listed twice"
        )
        joined[index] = (_together(first, one), header)
    return joined


def _together(first: Annotated, second: Annotated) -> Annotated:
    """What two records say of one file. A label that both have boxes of, but other boxes, is doubtful."""
    labels = [{box.label for box in one.boxes} for one in (first, second)]
    sets = [{box for box in one.boxes if box.label in labels[0] & labels[1]} for one in (first, second)]
    twice = {box.label or "" for box in sets[0] ^ sets[1]}
    new = [i for i, box in enumerate(second.boxes) if box not in sets[0]]
    both = (first.absent, second.absent)
    return replace(
        first,
        size_wh=first.size_wh or second.size_wh,
        boxes=(*first.boxes, *(second.boxes[i] for i in new)),
        object_wheres=(*first.object_wheres, *(second.place(i) for i in new)),
        crowd=first.crowd | second.crowd,
        doubtful=first.doubtful | second.doubtful,
        absent=both[0] & both[1] if both[0] is not None and both[1] is not None else both[0] if both[1] is None else both[1],
        unnamed=first.unnamed or second.unnamed,
        searched=first.searched or second.searched,
        any_crowd=first.any_crowd or second.any_crowd,
        declared=None if first.declared is None or second.declared is None else first.declared | second.declared,
        group=first.group or second.group,
        split=first.split or second.split,
    ).without(twice)


def _in_pixels(one: Annotated, header: Header, frame: str, reading: Reading) -> tuple[Box, ...]:
    """The boxes in pixels of the image as shown."""
    coords = reading.coords or one.coords
    if frame == STORED and header.orientation > 1:
        return tuple(turned(scaled(box, header.stored_wh, coords), header.stored_wh, header.orientation) for box in one.boxes)
    return one.boxes if coords == "px" else tuple(scaled(box, header.shown_wh, coords) for box in one.boxes)


def _checked(
    one: Annotated,
    size_wh: tuple[int, int],
    boxes: Sequence[Box],
    spelt: Callable[[str], str],
    report: Report,
    reading: Reading,
) -> CheckedImage | None:
    """The image with the boxes that fit it; None (counted) where an object of it may be of any category."""
    if one.unnamed:
        report.counts["unnamed"] += 1
        return None

    def all_spelt(labels: Iterable[str]) -> frozenset[str]:
        return frozenset(map(spelt, labels)) if labels else frozenset()

    place_of: dict[tuple[Corners, str], int] = {}
    fitting: list[Box] = []
    doubtful, slivers = set(all_spelt(one.doubtful)), set[str]()
    for number, box in enumerate(boxes):
        label = spelt(box.label or "")
        fitted = inside(box, size_wh) or fit_box(box, size_wh, one.place(number), report)
        if fitted is None:
            (slivers if is_sliver(box) else doubtful).add(label)
            continue
        first = place_of.setdefault((fitted.xyxy, label), number)
        if first != number:
            numbers = [tidy(value) for value in fitted.xyxy]
            problem = f"{label} {numbers} is the same box and label as {one.place(first)}; it is taken once"
            report.note(one.place(number), problem, "boxes that are given twice, taken once")
        else:
            fitting.append(fitted if fitted.label == label else replace(fitted, label=label))
    doubtful |= slivers - {box.label for box in fitting}
    crowd = all_spelt(one.crowd)
    if reading.below:
        related = _related({*(box.label or "" for box in fitting), *crowd, *doubtful}, reading.below)
        doubtful |= {spelt(name) for name in related}
    known = one.declared if one.absent is None else one.absent
    absent = None if known is None else all_spelt(known)
    if not one.searched and not reading.empty_is_negative:
        report.counts["only listed"] += 1
        absent = frozenset()
    return CheckedImage(
        path=one.path,
        source_id=one.source_id,
        size_wh=size_wh,
        boxes=tuple(box for box in fitting if box.label not in doubtful),
        crowd=crowd,
        doubtful=frozenset(doubtful),
        absent=absent,
        group=one.group,
        id_part=one.id_part,
        split=one.split,
    )


def _related(labels: Iterable[str], below: Mapping[str, frozenset[str]]) -> set[str]:
    """Categories about which objects of `labels` leave a doubt: a bus is a vehicle that nobody marked as one, and what is
    marked as a vehicle may be a bus."""
    here = {name_key(label) for label in labels}
    above = {parent for parent, kinds in below.items() if kinds & here}
    inside = {kind for parent in here for kind in below.get(parent, frozenset()) - here}
    return above | inside
