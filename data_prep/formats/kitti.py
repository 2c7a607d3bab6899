"""KITTI's object detection: `label_2/<number>.txt` beside `image_2/<number>.png`, 15 words a line, boxes in pixels.

Regions marked DontCare hold objects that nobody annotated, of any category: nothing is asked as absent from such an image, and
`meta.crowd` names what is asked. differs: the official evaluation only leaves out detections inside these regions.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from data_prep.formats.gathering import Gathering, OneImage, Tree, number

NO_OBJECT = "DontCare"


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    lines = [line for name in files[:20] for line in tree.head(name).splitlines()[:2] if line.strip()]
    fits = [line for line in lines if re.fullmatch(r"[A-Za-z_]\S*(\s+-?[\d.]+(e-?\d+)?){14,15}\s*", line)]
    return f"{len(files)} files of labels with 15 words a line" if lines and len(fits) == len(lines) else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    folders = ("label_2", "labels", "label", "label_02")
    return [name for name in tree.with_suffix(".txt") if PurePosixPath(name).parent.name.lower() in folders]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all files of labels."""
    for file in files_of(tree):
        one = gathering.image(str(tree.path(file)))
        for line_number, line in enumerate(tree.text(file).splitlines(), start=1):
            words = line.split()
            if words and words[0] == NO_OBJECT:
                one.region(NO_OBJECT)
            elif words:
                _object(words, one, f"line {line_number}")
        path = PurePosixPath(file)
        folder = (
            path.parent.parent / path.parent.name.lower().replace("labels", "images").replace("label", "image")
        ).as_posix()
        one.done(one.named(f"{folder}/{path.stem}.png", f"{folder}/{path.stem}"))


def _object(words: list[str], one: OneImage, place: str) -> None:
    if len(words) != 15:
        problem = "a score at the end: predictions are no annotations" if len(words) == 16 else f"{len(words)} words, needs 15"
        one.unreadable("box", words[0], place, problem, f"lines of {len(words)} words")
        return
    one.box("box", words[0], lambda: (number(words[4]), number(words[5]), number(words[6]), number(words[7])), place)
