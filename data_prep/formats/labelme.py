"""LabelMe's JSON (the program of that name by wkentaro, and what writes like it): one file per image, with `shapes`.

Rectangles, polygons, circles and masks become boxes; shapes of one label and one `group_id` are parts of one object, as
LabelMe's own converters take them. Points and lines are no boxes. A file with no shapes says that nothing is in its image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.class_folders import SUFFIXES
from data_prep.formats.gathering import Gathering, OneImage, Tree, number, size_of, text_of
from data_prep.formats.shapes import Corners, around, of_mask, of_two_corners, png_mask
from data_prep.not_counted import is_left_out, marks_in

NO_BOXES = {"point": "point", "points": "point", "line": "line", "linestrip": "line"}
SHAPES = ("rectangle", "polygon", "circle", "mask", "rotation", "oriented_rectangle", "quadrilateral")


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"{len(files)} JSON files with 'shapes' and 'imagePath'" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format; some have an encoded image before the shapes."""
    objects = [name for name in tree.with_suffix(".json") if tree.head(name).lstrip().startswith("{")]
    return [name for name in objects if '"shapes"' in tree.head(name) or tree.has(name, '"shapes"', '"imagePath"')]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all files of the tree."""
    of_two: set[Path] = set()
    for name in files_of(tree):
        content = tree.json_of_image(name)
        if content is None:
            continue
        one = gathering.image(str(tree.path(name)))
        if isinstance(content, dict) and is_left_out(content):
            one.left_out()
            continue
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            one.missing("no list 'shapes'; this is no file of LabelMe")
            continue
        for place, members in _objects(shapes):
            _object(members, one, place)
        stated = content.get("imagePath")
        path = PurePosixPath(name)
        size = size_of(content.get("imageWidth"), content.get("imageHeight"))
        image = one.named(*_image_names(stated, path, tree))
        own = image and _own_image(path, image, tree)
        if image and own:
            problem = f"its imagePath is {stated!r}, and beside it lies {own.name}: it is not known whose its shapes are"
            one.missing(problem)
            of_two.add(image)
            continue
        one.done(image, size)
    for image in sorted(of_two):
        _leave_out(image, gathering)


def _own_image(file: PurePosixPath, image: Path, tree: Tree) -> Path | None:
    """The image that has the name of the JSON file and lies beside it, where that is another one than `image`."""
    if image.stem == file.stem:
        return None
    beside = [tree.images_root / file.with_suffix(end) for low in SUFFIXES for end in (low, low.upper())]
    return next((path for path in beside if path.is_file() and not path.samefile(image)), None)


def _leave_out(image: Path, gathering: Gathering) -> None:
    """Leave out an image that the file of another one claims."""
    kept = [one for one in gathering.images if one.path != image]
    n_boxes = sum(len(one.boxes) for one in gathering.images if one.path == image)
    gathering.images[:] = kept
    gathering.report.bad_image(str(image), "the file of another image names it too", n_boxes)


def _image_names(stated: Any, file: PurePosixPath, tree: Tree) -> list[str]:
    """`imagePath` is relative to the file of the JSON. Names that lead elsewhere are looked for by their last part."""
    names = []
    if isinstance(stated, str) and stated.strip():
        posix = stated.strip().replace("\\", "/")
        beside = os.path.normpath(str(file.parent / posix)).replace(os.sep, "/")
        if not beside.startswith("..") and (tree.images_root / beside).is_file():
            names.append(beside)
        base = PurePosixPath(posix).name
        beside = (file.parent / base).as_posix()
        if (tree.images_root / beside).is_file():
            names.append(beside)
        names += [posix] if ".." not in posix.split("/") else [base]
    return names or [(file.parent / file.stem).as_posix()]


def _objects(shapes: list[Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The shapes, those of one label and group together; with the place of the first."""
    found: dict[Any, tuple[str, list[Mapping[str, Any]]]] = {}
    for number_, shape in enumerate(shapes, start=1):
        shape = shape if isinstance(shape, dict) else {}
        group = shape.get("group_id")
        key = number_ if group is None or _kind(shape) not in SHAPES else (text_of(shape.get("label")), str(group))
        found.setdefault(key, (f"shape {number_}", []))[1].append(shape)
    return list(found.values())


def _kind(shape: Mapping[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")


def _object(members: list[Mapping[str, Any]], one: OneImage, place: str) -> None:
    kind, label = _kind(members[0]), members[0].get("label")
    if kind in NO_BOXES:
        one.no_box(NO_BOXES[kind], label, place)
    elif kind in SHAPES:
        name = "box" if kind == "rectangle" else kind if kind in ("polygon", "circle", "mask") else "rotated box"
        one.box(name if len(members) == 1 else "group of shapes", label, lambda: _together(members), place, *_marks(members))
    else:
        one.unreadable(kind, label, place, f"{label}: a shape {kind!r} is not known", "shapes that are not known")


def _marks(members: list[Mapping[str, Any]]) -> list[Any]:
    """What may mark the object as not to be counted: keys of its shapes, and their flags and attributes."""
    return [marks for shape in members for marks in marks_in(shape)]


def _together(members: list[Mapping[str, Any]]) -> Corners:
    boxes = [_corners(shape) for shape in members]
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _corners(shape: Mapping[str, Any]) -> Corners:
    points = [(number(x), number(y)) for x, y in shape["points"]]
    kind = _kind(shape)
    if kind == "mask":
        return of_mask(png_mask(shape["mask"], packed=False), *points[0])
    if kind == "circle":
        (cx, cy), (x, y) = points
        radius = ((x - cx) ** 2 + (y - cy) ** 2) ** 0.5
        return cx - radius, cy - radius, cx + radius, cy + radius
    if kind == "rectangle" and len(points) == 2:
        return of_two_corners(*points)
    if kind == "rectangle" and len(points) != 4:
        raise ValueError(f"a rectangle of {len(points)} points")
    return around(points)
