"""DOTA's text files, also Roboflow's "YOLOv5 OBB": four corners in pixels, the category and a difficulty in each line.

Objects marked difficult leave the answer and are no negatives (`meta.crowd`), as in Pascal VOC. The box is that of the four
corners.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from data_prep.formats.gathering import Gathering, OneImage, Tree, number
from data_prep.formats.shapes import around, pairs

FOLDERS = ("labeltxt", "labeltxt-v1.0", "labeltxt-v1.5", "labels", "annfiles", "annotations")
_LINE = re.compile(r"(-?[\d.]+(e-?\d+)?\s+){8}\S.*\s\d\s*")
_HEADING = re.compile(r"(imagesource|gsd|acquisition dates)\s*:", re.I)


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    lines = [
        line for name in files[:20] for line in tree.head(name).splitlines()[:4] if line.strip() and not _HEADING.match(line)
    ]
    fits = sum(bool(_LINE.fullmatch(line)) for line in lines)
    return f"{len(files)} text files with four corners and a category a line" if fits and fits * 2 >= len(lines) else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    return [name for name in tree.with_suffix(".txt") if PurePosixPath(name).parent.name.lower() in FOLDERS]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all files of labels."""
    for file in files_of(tree):
        one = gathering.image(str(tree.path(file)))
        for line_number, line in enumerate(tree.text(file).splitlines(), start=1):
            if line.strip() and not _HEADING.match(line):
                _object(line, one, f"line {line_number}")
        path = PurePosixPath(file)
        one.done(one.named((path.parent.parent / "images" / path.stem).as_posix(), path.stem))


def _object(line: str, one: OneImage, place: str) -> None:
    words = line.split()
    label = " ".join(words[8:-1])
    if not label or not words[-1].isdigit():
        one.unreadable("rotated box", label or None, place, f"{line!r} is not eight numbers, a category and a difficulty")
    elif words[-1] != "0":
        one.set_aside("difficult object", label)
    else:
        one.box("rotated box", label, lambda: around(pairs([number(word) for word in words[:8]])), place)
