"""Pascal VOC XML as tools write it → elements, boxes and file names. Nothing is guessed: what has two readings is a problem.

Files come in the encoding that they declare (GBK and UTF-16 too), with a bare `&`, inside one more element, and with shapes
other than `bndbox`: rotated boxes of roLabelImg (`robndbox`) and polygons of Roboflow and LabelMe, of which the upright
box is taken.
"""

from __future__ import annotations

import codecs
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from data_prep.box_values import Corners, number
from data_prep.image_headers import not_fetched

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml.*?\?>", re.DOTALL)
_BARE_AMPERSAND = re.compile(r"&(?!(?:[A-Za-z_][\w.-]*|#\d+|#x[0-9A-Fa-f]+);)")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class BadXml(ValueError):
    """Why a file is no VOC annotation."""


def read_xml(path: Path, encoding: str | None) -> ElementTree.Element:
    """The `annotation` element of a file. `encoding`: of files that are not in the one that they declare (UTF-8 where they
    declare none); None: such files are refused. Raises BadXml."""
    problem = not_fetched(path)
    if problem is not None:
        raise BadXml(problem)
    text = _DECLARATION.sub("", _text(path.read_bytes(), encoding), count=1)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        try:
            root = ElementTree.fromstring(_BARE_AMPERSAND.sub("&amp;", text))
        except ElementTree.ParseError:
            raise BadXml(f"not well-formed XML: {error}") from error
    if root.tag == "annotation":
        return root
    inside = root.findall("annotation")
    if len(inside) != 1:
        raise BadXml(f"the outer element is <{root.tag}>, not <annotation>, and holds {len(inside)} of them")
    return inside[0]


def _text(content: bytes, encoding: str | None) -> str:
    declared = _DECLARED.match(content)
    marked = next((name for bom, name in _BOMS if content.startswith(bom)), None)
    first = marked or (declared.group(1).decode("ascii") if declared else "utf-8")
    for name in (first, *([encoding] if encoding else [])):
        try:
            return content.decode(name)
        except UnicodeDecodeError as error:
            problem = str(error)
        except LookupError:
            problem = f"the encoding {name} is not known"
    says = f"declares {first}" if declared else "declares no encoding"
    raise BadXml(f"it {says} and is not in {first} ({problem}); name its encoding with --encoding (cp1252, gbk, ...)")


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
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return cx - half_x, cy - half_y, cx + half_x, cy + half_y


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
