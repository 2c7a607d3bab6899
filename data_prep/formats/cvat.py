"""CVAT's XML, "CVAT for images" and "CVAT for video" 1.1, exported from a task, a job or a project.

Boxes (turned ones too), polygons, ellipses, cuboids and masks become boxes. Points, lines, skeletons and tags are no boxes. In
a video a shape with `outside="1"` is not in its frame; the frames are the files `frame_000000.*` of the export.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import PurePosixPath

from data_prep.formats.gathering import Gathering, OneImage, Tree, number, size_of, some
from data_prep.formats.shapes import Corners, around, of_ellipse, of_runs, turned
from data_prep.image_finding import split_of
from data_prep.not_counted import is_category, is_left_out
from data_prep.text_encoding import WrongEncoding, xml_text

AREAS = ("box", "polygon", "ellipse", "cuboid", "mask")
NO_BOXES = {"points": "point", "polyline": "line", "skeleton": "skeleton", "tag": "tag"}
NO_BOX_TYPES = ("points", "polyline", "skeleton", "tag")
"""Types of labels that are never drawn as an area."""


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"XML with <annotations> in {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    return [name for name in tree.with_suffix(".xml") if re.search(r"<annotations[\s>]", tree.head(name))]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all XML files of the tree."""
    files = files_of(tree)
    for name in files:
        try:
            root = ElementTree.fromstring(xml_text(tree.path(name).read_bytes(), tree.options.encoding))
        except ElementTree.ParseError as error:
            raise SystemExit(f"{tree.path(name)}: not well-formed XML: {error}") from None
        except WrongEncoding as wrong:
            raise SystemExit(f"{tree.path(name)}: {wrong}") from None
        labels, first = _labels(root), len(gathering.images)
        gathering.declare(labels)
        for element in root.iter("image"):
            _image(element, name, tree, gathering)
        tracks = root.findall("track")
        if tracks:
            _video(root, tracks, name, tree, gathering)
        if len(files) > 1:
            declared = frozenset(filter(is_category, labels))
            gathering.images[first:] = [replace(one, declared=declared) for one in gathering.images[first:]]


def _labels(root: ElementTree.Element) -> list[str]:
    """The names of the labels that may be drawn as an area, without the parts of skeletons."""
    found = [label for label in root.iterfind("meta//label") if label.find("parent") is None]
    return [
        " ".join((label.findtext("name") or "").split())
        for label in found
        if (label.findtext("type") or "any").strip() not in NO_BOX_TYPES and (label.findtext("name") or "").strip()
    ]


def _image(element: ElementTree.Element, file: str, tree: Tree, gathering: Gathering) -> None:
    stated, subset = element.get("name") or "", element.get("subset")
    where = f"{tree.path(file)}: image {element.get('id')} ({stated})"
    one = gathering.image(where, split=split_of(subset) or subset if subset and subset.lower() != "default" else None)
    if is_left_out(element.attrib):
        one.left_out()
        return
    for place, shape in enumerate(element, start=1):
        _shape(shape, shape.get("label"), one, f"{shape.tag} {place}")
    folder = PurePosixPath(file).parent
    near = [str(folder / inside / stated) for inside in ([f"images/{subset}", subset] if subset else []) + ["images", ""]]
    exact = [name for name in near if stated and (tree.images_root / name).is_file()]
    one.done(one.named(*exact, stated), size_of(element.get("width"), element.get("height")), searched=False)


def _shape(shape: ElementTree.Element, label: str | None, one: OneImage, place: str) -> None:
    if shape.tag in AREAS:
        kind = "rotated box" if shape.tag == "box" and (shape.get("rotation") or "0").strip("0.") else shape.tag
        marks = {attribute.get("name") or "": (attribute.text or "").strip() for attribute in shape.iter("attribute")}
        one.box(kind, label, lambda: _corners(shape), place, marks)
    elif shape.tag in NO_BOXES:
        one.no_box(NO_BOXES[shape.tag], label, place)
    elif shape.tag != "attribute":
        one.unreadable(shape.tag, label, place, f"{label}: a shape <{shape.tag}> is not known", "shapes that are not known")


def _corners(shape: ElementTree.Element) -> Corners:
    def values(*names: str) -> tuple[float, ...]:
        return tuple(number(shape.attrib[name]) for name in names)

    degrees = number(shape.get("rotation") or "0")
    if shape.tag == "box":
        x1, y1, x2, y2 = values("xtl", "ytl", "xbr", "ybr")
        if not (x2 > x1 and y2 > y1):
            raise ValueError(f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}] has no area")
        return turned((x1, y1, x2, y2), degrees)
    if shape.tag == "ellipse":
        cx, cy, rx, ry = values("cx", "cy", "rx", "ry")
        return of_ellipse(cx, cy, rx, ry, degrees)
    if shape.tag == "mask":
        left, top, width, height = values("left", "top", "width", "height")
        counts = [int(run) for run in shape.attrib["rle"].split(",")]
        return of_runs(counts, int(width), int(height), left, top)
    if shape.tag == "cuboid":
        ends = [f"{corner}{side}" for corner in ("tl", "bl", "tr", "br") for side in (1, 2)]
        return around([(number(shape.attrib[f"x{end}"]), number(shape.attrib[f"y{end}"])) for end in ends])
    points = [point.split(",") for point in shape.attrib["points"].split(";")]
    return around([(number(x), number(y)) for x, y in points])


def _video(root: ElementTree.Element, tracks: list[ElementTree.Element], file: str, tree: Tree, gathering: Gathering) -> None:
    """Tracks → frames. Frames without a shape are listed as not searched: the export does not say which were annotated."""
    images = {
        int(number_in.group(1)): name
        for name in tree.images
        if (number_in := re.fullmatch(r"(?:.*/)?frame_(\d+)\.\w+", name, re.I)) and _near(file, name, tree)
    }
    if not images:
        raise SystemExit(
            f"{tree.path(file)}: its tracks name frames by number, and below {tree.images_root} are no files frame_000000.*; "
            "export the task with its images, or as 'CVAT for images'"
        )
    shapes: dict[int, list[tuple[str | None, ElementTree.Element, str]]] = {frame: [] for frame in images}
    for track in tracks:
        for shape in track:
            if shape.get("outside") != "1" and shape.tag != "attribute":
                stated = shape.get("frame") or ""
                frame = int(stated) if stated.isdecimal() else -1
                shapes.setdefault(frame, []).append((track.get("label"), shape, f"track {track.get('id')}"))
    size = root.find(".//original_size")
    size_wh = None if size is None else size_of(size.findtext("width"), size.findtext("height"))
    for frame, found in sorted(shapes.items()):
        one = gathering.image(f"{tree.path(file)}: frame {frame}")
        for label, shape, place in found:
            _shape(shape, label, one, place)
        if frame in images:
            one.done(tree.images_root / images[frame], size_wh, searched=False)
        else:
            one.missing(f"no image frame_{frame:06d}.* below {tree.images_root}")


def _near(file: str, image: str, tree: Tree) -> bool:
    """Whether an image lies below the folder of the XML file, or the images have a folder of their own."""
    folder = PurePosixPath(file).parent
    return tree.images_root != tree.root or folder == PurePosixPath(".") or PurePosixPath(image).is_relative_to(folder)
