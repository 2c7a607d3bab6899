"""Apple's Create ML, also as Roboflow exports it: a JSON list of images with boxes by their centres, in pixels."""

from __future__ import annotations

import re
from typing import Any

from data_prep.formats.gathering import Gathering, OneImage, Tree, number, some
from data_prep.formats.shapes import Corners
from data_prep.not_counted import marks_in


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"lists of Create ML in {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    mark = re.compile(r'^\s*\[.*"image(filename)?"\s*:.*"annotations?"\s*:', re.S)
    other = re.compile(r'^\s*\[.*"annotations?"\s*:.*"image(filename)?"\s*:', re.S)
    return [
        name
        for name in tree.with_suffix(".json")
        if (mark.match(head := tree.head(name)) or other.match(head)) and tree.has(name, '"coordinates"')
    ]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all lists."""
    for file in files_of(tree):
        content = tree.json(file)
        for place, entry in enumerate(content if isinstance(content, list) else [], start=1):
            entry = entry if isinstance(entry, dict) else {}
            image = entry.get("image", entry.get("imagefilename"))
            one = gathering.image(f"{tree.path(file)}: image {place} ({image})")
            found = entry.get("annotations", entry.get("annotation"))
            for number_, annotation in enumerate(found if isinstance(found, list) else [], start=1):
                annotation = annotation if isinstance(annotation, dict) else {}
                _object(annotation, one, f"object {number_}")
            beside = f"{file.rpartition('/')[0]}/{image}".lstrip("/")
            names = [str(image)] if isinstance(image, str) else []
            one.done(one.named(*([beside] if (tree.images_root / beside).is_file() else []), *names), searched=False)


def _object(annotation: dict[str, Any], one: OneImage, place: str) -> None:
    one.box("box", annotation.get("label"), lambda: _corners(annotation), place, *marks_in(annotation))


def _corners(annotation: dict[str, Any]) -> Corners:
    cx, cy, width, height = (number(annotation["coordinates"][key]) for key in ("x", "y", "width", "height"))
    if min(width, height) <= 0:
        raise ValueError(f"width {width:g} and height {height:g}")
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
