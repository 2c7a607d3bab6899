"""Reads a folder of annotations and says in a line an image what is known about it."""

import annotation_files as files
from annotation_files import H, W

from data_prep import annotations
from data_prep.formats.gathering import Gathering, Options, Tree
from data_prep.report import Report

PLAIN = "red 20,10,60,50; blue 100,20,180,80"
R = "red 20,10,60,50"


def told(root, name, images=None, **options):
    """Image → what is known about it: boxes in pixels, `red?` doubtful, `red~` crowd, `~` crowd of any label, `?` a label unread, `-` only listed."""
    tree = Tree(root, images, Options(**options), Report(False))
    gathering = Gathering(tree)
    annotations.FORMATS[name].read(tree, gathering)
    assert gathering.read.total() == gathering.converted.total() + gathering.left_out.total(), (
        "every annotation is accounted for"
    )
    found = {}
    for one in gathering.images:
        x, y = (W, H) if one.coords == "norm1" else (1, 1)
        boxes = [
            f"{b.label} " + ",".join(f"{round(v * s, 2):g}" for v, s in zip(b.xyxy, (x, y, x, y), strict=True))
            for b in one.boxes
        ]
        marks = [f"{label}?" for label in sorted(one.doubtful)] + [f"{label}~" for label in sorted(one.crowd)]
        marks += [f"{label}!" for label in sorted(one.absent or ())] + ["~"] * one.any_crowd
        found[one.source_id] = "; ".join([*boxes, *marks, *["?"] * one.unnamed]) or ("" if one.searched else "-")
    return found


def one_image(root, name="a.jpg"):
    files.pictures(root, [name])
