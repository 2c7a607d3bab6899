"""Pascal VOC XML as tools write it → elements, boxes and file names. Nothing is guessed: what has two readings is a problem.

Files come in the encoding that they declare (GBK and UTF-16 too), with a bare `&`, inside one more element, and with shapes
other than `bndbox`: rotated boxes of roLabelImg (`robndbox`) and polygons of Roboflow and LabelMe, of which the upright
box is taken.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from data_prep.box_values import Corners, flag, number, turned_box
from data_prep.image_headers import not_fetched
from data_prep.not_counted import is_marked, is_region
from data_prep.text_encoding import WrongEncoding, xml_text

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_BARE_AMPERSAND = re.compile(r"&(?!(?:[A-Za-z_][\w.-]*|#\d+|#x[0-9A-Fa-f]+);)")
_SHAPES = frozenset({"bndbox", "robndbox", "polygon", "bbox", "xmin"})


class BadXml(ValueError):
    """Why a file is no VOC annotation."""


def read_xml(path: Path, encoding: str | None) -> ElementTree.Element:
    """The `annotation` element of a file. `encoding`: of files that are not in the one that they declare (UTF-8 where they
    declare none); None: such files are refused. Raises BadXml."""
    if pointer := not_fetched(path):
        raise BadXml(pointer)
    data = path.read_bytes()
    if not data.strip(b"\xef\xbb\xbf\xff\xfe \r\n\t\0"):
        raise BadXml("the file is empty")
    try:
        text = xml_text(data, encoding)
    except WrongEncoding as problem:
        raise BadXml(str(problem)) from None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        try:
            root = ElementTree.fromstring(_BARE_AMPERSAND.sub("&amp;", text))
        except ElementTree.ParseError:
            raise BadXml(f"not well-formed XML: {error}") from error
    inside = [root] if root.tag == "annotation" else root.findall("annotation")
    if len(inside) != 1:
        raise BadXml(f"the outer element is <{root.tag}>, not <annotation>, and holds {len(inside)} of them")
    boxes = sum(1 for element in inside[0].iter() if element.tag.casefold() in _SHAPES)
    if boxes and not inside[0].findall(".//object") and not n_regions(inside[0]):
        raise BadXml(f"it has {boxes} boxes or polygons and no <object> around them; this reads Pascal VOC files")
    return inside[0]


def objects(annotation: ElementTree.Element) -> list[ElementTree.Element]:
    """The objects of an annotation, those that LabelMe marks as deleted apart. A mark that cannot be read deletes nothing:
    see `is_set_aside`."""
    return [one for one in annotation.iter("object") if flag(one.findtext("deleted")) is not True]


def n_deleted(annotation: ElementTree.Element) -> int:
    """How many objects are marked as deleted."""
    return sum(1 for _ in annotation.iter("object")) - len(objects(annotation))


def n_regions(annotation: ElementTree.Element) -> int:
    """How many regions that nobody annotated stand beside the objects: `<ignore><bndbox>...`, `<ignored_region><box .../>`."""
    shapes = {*_SHAPES, "box"} - {"xmin"}
    regions = [one for one in annotation if is_region(one.tag)]
    boxes = [sum(1 for part in one.iter() if part.tag.casefold() in shapes) for one in regions]
    return sum(n or (len(one) > 0 or flag(one.text) is True) for n, one in zip(boxes, regions, strict=True))


def is_set_aside(element: ElementTree.Element) -> bool | None:
    """Whether an object is marked difficult or to be ignored, by an element or by one of its <attributes>; None: that cannot
    be read."""
    own = {child.tag: (child.text or "").strip() for child in element}
    named = {(one.findtext("name") or ""): (one.findtext("value") or "").strip() for one in element.iter("attribute")}
    if flag(own.pop("deleted", None)) is None:
        return None
    # LabelMe's attributes are words, or words with values
    words = [word.strip() for word in re.split(r"[,;]", own.pop("attributes", ""))]
    listed = {name.strip(): value.strip() or "1" for name, _, value in (word.partition("=") for word in words)}
    return is_marked(own, named, listed, element.attrib)


def object_box(element: ElementTree.Element) -> tuple[Corners, str] | None:
    """The numbers of an object's box as they stand (xmin, ymin, xmax, ymax), with the element they come from; None: none can be
    read."""
    for tag, read in (("bndbox", _bndbox), ("robndbox", _rotated), ("polygon", _polygon)):
        found = element.find(tag)
        if found is not None:
            box = read(found)
            return None if box is None else (box, tag)
    return None


def _values(element: ElementTree.Element, names: Sequence[str]) -> list[float] | None:
    values = [number(element.findtext(name) or "") for name in names]
    return None if None in values else [value for value in values if value is not None]


def _bndbox(element: ElementTree.Element) -> Corners | None:
    values = _values(element, CORNERS)
    return None if values is None else (values[0], values[1], values[2], values[3])


def _rotated(element: ElementTree.Element) -> Corners | None:
    """The upright box around a rectangle turned by `angle` (radians) about its centre."""
    values = _values(element, ("cx", "cy", "w", "h", "angle"))
    if values is None or values[2] <= 0 or values[3] <= 0 or abs(values[4]) > 2 * math.pi:
        return None
    cx, cy, width, height, angle = values
    return turned_box((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), angle)


def _polygon(element: ElementTree.Element) -> Corners | None:
    """The upright box of points given as x1, y1, x2, y2, ... or as `pt` elements."""
    points = [_values(point, ("x", "y")) for point in (*element.findall("pt"), *element.findall("point"))]
    if not points:
        n = sum(1 for child in element if re.fullmatch(r"x\d+", child.tag))
        points = [_values(element, (f"x{i}", f"y{i}")) for i in range(1, n + 1)]
    if len(points) < 3 or None in points:
        return None
    xs, ys = zip(*(point for point in points if point), strict=True)
    return min(xs), min(ys), max(xs), max(ys)
