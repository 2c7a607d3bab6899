"""COCO's instances files, one or several (Roboflow has one for train, valid and test), read as `data_prep/coco.py` reads them.

That script has more options (subsets, published class lists, `--bbox_format`). LVIS has a script of its own: its images were
searched for some categories only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_prep.formats.gathering import Gathering, Tree, some, split_in
from data_prep.image_finding import split_of
from data_prep.instances import annotated_images, kinds_below, name_and_split
from data_prep.instances_file import read_instances
from data_prep.not_counted import is_category

KEYS = ('"images"', '"annotations"', '"categories"')
LVIS_KEY = '"neg_category_ids"'


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"images, annotations and categories in {some(files)}" if files else None


def lvis_files(tree: Tree) -> list[str]:
    """The files of LVIS, which this module does not read."""
    return [name for name in _all_files(tree) if tree.has(name, LVIS_KEY)]


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    return [name for name in _all_files(tree) if not tree.has(name, LVIS_KEY)]


def _all_files(tree: Tree) -> list[str]:
    """The instances files; where COCO's own names are there, the others hold the same boxes (`person_keypoints_*`) or none."""
    files = [name for name in tree.with_suffix(".json") if tree.head(name).lstrip().startswith("{") and tree.has(name, *KEYS)]
    official = [name for name in files if PurePosixPath(name).name.startswith("instances_")]
    return official or files


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all instances files."""
    files = files_of(tree)
    for file in files:
        content = read_instances(tree.path(file), encoding=tree.options.encoding)
        folder = _folder(tree, file)
        found = annotated_images(content, folder, tree.report, names_in_ids=True)
        named = (
            split_of(PurePosixPath(file).stem.removeprefix("instances_"))
            or split_in(file)
            or name_and_split(tree.path(file))[1]
        )
        split = split_of(named) or named
        if len(files) > 1:
            declared = frozenset(filter(is_category, content.names.values()))
            found = [replace(one, id_part=f"{file}/{one.id_part or one.source_id}", declared=declared) for one in found]
        gathering.adopt([replace(one, split=split) for one in found], content.names.values())
        gathering.is_xywh = gathering.is_xywh or content.is_xywh
        for parent, kinds in kinds_below(content).items():
            gathering.below[parent] = gathering.below.get(parent, frozenset()) | kinds
        n_boxes = sum(len(one.boxes) for one in found)
        counts = Counter("crowd region" for one in content.annotations if one.is_crowd)
        lost = len(content.annotations) - n_boxes - counts.total()
        gathering.account("box", len(content.annotations), n_boxes, counts + Counter({"unreadable box": lost}))


def _folder(tree: Tree, file: str) -> Path:
    """The folder of the images: that of the file where some lie beside it, else the one of all images."""
    beside = PurePosixPath(file).parent.as_posix()
    if tree.images_root == tree.root and any(PurePosixPath(image).parent.as_posix() == beside for image in tree.images):
        return tree.path(beside)
    return tree.images_root
