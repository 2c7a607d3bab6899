"""Supervisely projects: `meta.json`, and in each data set `ann/<image>.json` beside `img/<image>`.

Rectangles, polygons and bitmaps become boxes; points, lines and graphs of key points are no boxes. Every image has a file,
also one that nobody has looked at, so that an image without objects is not known to be empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from data_prep.formats.gathering import Gathering, OneImage, Tree, number, size_of, some, text_of
from data_prep.formats.shapes import Corners, around, of_mask, of_two_corners, png_mask
from data_prep.image_finding import split_of
from data_prep.not_counted import is_region

AREAS = {"rectangle": "box", "polygon": "polygon", "bitmap": "mask"}
NO_BOXES = {"point": "point", "line": "line", "polyline": "line", "graph": "skeleton", "keypoints": "skeleton"}


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    metas, files = _metas(tree), files_of(tree)
    if not files or not (metas or all(tree.has(name, '"objects"', '"size"') for name in files[:20])):
        return None
    return f"{some(metas) or 'no meta.json'} and {len(files)} files in folders ann"


def _metas(tree: Tree) -> list[str]:
    return [
        name
        for name in tree.with_suffix(".json")
        if PurePosixPath(name).name == "meta.json" and re.search(r'"classes"\s*:', tree.head(name))
    ]


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are annotations of images."""
    return [name for name in tree.with_suffix(".json") if PurePosixPath(name).parent.name == "ann"]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all data sets of the projects."""
    for meta in _metas(tree):
        content = tree.json(meta)
        classes = content.get("classes") if isinstance(content, dict) else None
        for one_class in classes if isinstance(classes, list) else []:
            name = text_of(one_class.get("title")) if isinstance(one_class, dict) else None
            if name is not None and not is_region(name, neutral=True) and one_class.get("shape", "any") not in NO_BOXES:
                gathering.declare([name])
    for file in files_of(tree):
        content = tree.json_of_image(file)
        if content is None:
            continue
        path = PurePosixPath(file)
        one = gathering.image(str(tree.path(file)), split=_split(content, path))
        objects = content.get("objects") if isinstance(content, dict) else None
        if not isinstance(objects, list):
            one.missing("no list 'objects'; this is no annotation of Supervisely")
            continue
        for place, found in enumerate(objects, start=1):
            _object(found if isinstance(found, dict) else {}, one, f"object {place}")
        size = content.get("size") if isinstance(content.get("size"), dict) else {}
        image = (path.parent.parent / "img" / path.name.removesuffix(".json")).as_posix()
        stem = (path.parent.parent / "img" / path.stem).as_posix()
        one.done(one.named(image, stem), size_of(size.get("width"), size.get("height")), searched=False)


def _split(content: Any, path: PurePosixPath) -> str | None:
    """A tag of the image, or the name of the data set, if it is that of a split."""
    tags = content.get("tags") if isinstance(content, dict) else None
    named = [str(tag.get("name")) for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    found = [split for split in map(split_of, [*named, path.parent.parent.name]) if split]
    return found[0] if found else None


def _marks(found: Mapping[str, Any]) -> dict[str, Any]:
    """The tags of an object with their values; a tag without a value is set."""
    tags = found.get("tags")
    named = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return {str(tag.get("name")): True if tag.get("value") in (None, "") else tag["value"] for tag in named}


def _object(found: Mapping[str, Any], one: OneImage, place: str) -> None:
    label = found.get("classTitle")
    if isinstance(label, str) and is_region(label, neutral=True):
        one.region("region without annotations")
        return
    kind = found.get("geometryType") or ("bitmap" if found.get("bitmap") else _shape_of(found))
    if kind in AREAS:
        one.box(AREAS[kind], label, lambda: _corners(str(kind), found), place, _marks(found))
    elif kind in NO_BOXES:
        one.no_box(NO_BOXES[kind], label, place)
    else:
        one.unreadable(str(kind), label, place, f"{label}: a shape {kind!r} is not known", "shapes that are not known")


def _shape_of(found: Mapping[str, Any]) -> str:
    """Old files do not state the shape: two points are a rectangle, more a polygon."""
    points = found.get("points")
    exterior = points.get("exterior") if isinstance(points, dict) else None
    n = len(exterior) if isinstance(exterior, list) else 0
    return "point" if n == 1 else "rectangle" if n == 2 else "polygon"


def _corners(kind: str, found: Mapping[str, Any]) -> Corners:
    if kind == "bitmap":
        left, top = found["bitmap"]["origin"]
        return of_mask(png_mask(found["bitmap"]["data"], packed=True), number(left), number(top))
    points = [(number(x), number(y)) for x, y in found["points"]["exterior"]]
    if kind == "rectangle":
        one, other = points
        return of_two_corners(one, other)
    return around(points)
