"""VisDrone's text files: `x,y,width,height,score,category,truncation,occlusion` a line, in pixels, one file an image.

The categories are numbers of a fixed list. Regions of category 0 (ignored regions) and 11 (others) were not annotated: nothing
is asked as absent from such an image, and `meta.crowd` names what is asked. An object whose score is 0 is left out of the
official evaluation and leaves the answer. differs: the official evaluation only leaves out detections inside these regions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_prep.formats.gathering import Gathering, OneImage, Tree, number
from data_prep.formats.shapes import Corners

NAMES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus"),
    *("motor", "others"),
)
REGIONS = (0, 11)
FOLDERS = ("annotations", "annotation", "labels", "label")
_LINE = re.compile(r"\s*-?\d+(\s*,\s*-?\d+){3}\s*,\s*[01]\s*,\s*(\d|1[01])\s*,\s*-?\d\s*,\s*-?\d\s*,?\s*")


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"{len(files)} text files with x,y,width,height,score,category,truncation,occlusion a line" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format: all of a folder in which there are such lines, and hardly any others."""
    by_folder: dict[str, list[str]] = {}
    stems = {PurePosixPath(image).stem for image in tree.images}
    for name in tree.with_suffix(".txt", ".csv"):
        path = PurePosixPath(name)
        if path.stem in stems or path.parent.name.lower() in FOLDERS:
            by_folder.setdefault(path.parent.as_posix(), []).append(name)
    return [name for names in by_folder.values() if _are_lines(tree, names[:20]) for name in names]


def _are_lines(tree: Tree, names: list[str]) -> bool:
    lines = [line for name in names for line in tree.head(name).splitlines()[:5] if line.strip()]
    fits = sum(bool(_LINE.fullmatch(line)) for line in lines)
    return bool(fits) and fits * 2 >= len(lines)


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all files of labels."""
    gathering.declare(name for place, name in enumerate(NAMES) if place not in REGIONS)
    for file in files_of(tree):
        one = gathering.image(str(tree.path(file)))
        for line_number, line in enumerate(tree.text(file).splitlines(), start=1):
            if line.strip():
                enter([word.strip() for word in line.strip().rstrip(",").split(",")], one, f"line {line_number}")
        path = PurePosixPath(file)
        beside = [(path.parent / path.stem).as_posix(), (path.parent.parent / "images" / path.stem).as_posix()]
        near = [f"{stem}{end}" for stem in beside for end in (".jpg", ".jpeg", ".png", ".JPG")]
        one.done(one.named(*[name for name in near if (tree.images_root / name).is_file()], path.stem))


def enter(words: Sequence[str], one: OneImage, place: str) -> None:
    """An object or region as its eight words: x, y, width, height, score, category, truncation, occlusion."""
    category = int(words[5]) if len(words) == 8 and words[5].isdecimal() else -1
    if not 0 <= category < len(NAMES):
        problem = f"{list(words)} is not x,y,width,height,score,category (0 to {len(NAMES) - 1}),truncation,occlusion"
        one.unreadable("box", None, place, problem, "lines that are none of VisDrone")
    elif category in REGIONS:
        one.region("region without annotations")
    else:
        one.box("box", NAMES[category], lambda: _corners(words), place, {"ignore": {"0": 1, "1": 0}.get(words[4], "?")})


def _corners(words: Sequence[str]) -> Corners:
    x, y, width, height = (number(word) for word in words[:4])
    if min(width, height) <= 0:
        raise ValueError(f"width {width:g} and height {height:g}")
    return x, y, x + width, y + height
