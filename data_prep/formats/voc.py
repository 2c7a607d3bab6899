"""Pascal VOC, one XML file an image, read as `data_prep/voc.py` reads it with its defaults (pixels counted from 1).

That script has more options (`--voc_offset`, `--keep_difficult`, any list of `ImageSets`).
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_prep.formats.gathering import Gathering, Tree, some, split_in
from data_prep.image_finding import ImageFinder
from data_prep.voc import read_annotation, say_from_zero
from data_prep.voc_files import BadXml, read_xml

IMAGE_FOLDERS = ("jpegimages", "images", "imgs", "img")


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    folders = _folders(tree)
    return f"{sum(map(len, folders.values()))} XML files with <annotation> in {some([*folders])}" if folders else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    return [name for files in _folders(tree).values() for name in files]


def _folders(tree: Tree) -> dict[str, list[str]]:
    """Folder → its files of VOC."""
    found: dict[str, list[str]] = {}
    for name in tree.with_suffix(".xml"):
        if re.search(r"<annotation[\s>]", tree.head(name)):
            found.setdefault(PurePosixPath(name).parent.as_posix(), []).append(name)
    return found


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all XML files."""
    folders = _folders(tree)
    encoding = tree.options.encoding
    for folder, files in folders.items():
        finder = ImageFinder(_images_of(folder, tree), tree.report)
        args = argparse.Namespace(annotations=tree.path(folder), encoding=encoding, voc_offset=1, keep_difficult=False)
        for name in files:
            before = tree.report.counts.copy()
            one = read_annotation(tree.path(name), args, finder, tree.report)
            n_new = tree.report.counts - before
            n_objects = _n_objects(tree.path(name), encoding)
            if one is None:
                gathering.account("box", n_objects, 0, Counter({"box of an image that cannot be used": n_objects}))
                continue
            if len(folders) > 1:
                one = replace(one, source_id=f"{folder}/{one.source_id}")
            split = split_in(name) or split_in(one.path.as_posix().removeprefix(tree.images_root.as_posix()))
            gathering.adopt([replace(one, split=split)], sorted({box.label or "" for box in one.boxes}))
            n_boxes = len(one.boxes)
            counts = Counter({"difficult or ignored object": n_new["set aside"], "deleted object": n_new["deleted"]})
            lost = n_objects - n_boxes - counts.total()
            gathering.account("box", n_objects, n_boxes, counts + Counter({"unreadable box": lost}))
            if n_regions := n_new["ignored regions"]:
                gathering.account("region", n_regions, 0, Counter({"region without annotations": n_regions}))

    say_from_zero(tree.report, "data_prep/voc.py --voc_offset 0")


def _n_objects(path: Path, encoding: str | None) -> int:
    """How many objects a file has."""
    try:
        return sum(1 for _ in read_xml(path, encoding).iter("object"))
    except BadXml:
        return 0


def _images_of(folder: str, tree: Tree) -> Path:
    """The folder of the images: that of the XML files, its neighbour of a usual name, or the one of all images."""
    if tree.images_root != tree.root:
        return tree.images_root
    parents = {PurePosixPath(image).parent for image in tree.images}
    if PurePosixPath(folder) in parents:
        return tree.path(folder)
    above = PurePosixPath(folder).parent
    beside = [parent for parent in sorted(parents) if parent.parent == above and parent.name.lower() in IMAGE_FOLDERS]
    return tree.path(beside[0].as_posix()) if len(beside) == 1 else tree.images_root
