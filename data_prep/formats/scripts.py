"""Formats that have a script of their own in this folder: the command to run, for each file or folder found."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

from data_prep.formats.gathering import Tree

COCO_KEYS = ('"images"', '"annotations"', '"categories"')


def own_scripts(tree: Tree) -> list[str]:
    """The commands for what is COCO, LVIS or Pascal VOC in the tree."""
    commands = []
    for name in tree.with_suffix(".json"):
        if tree.head(name).lstrip().startswith("{") and _has(tree, name, COCO_KEYS):
            script = "lvis" if _has(tree, name, ('"neg_category_ids"',)) else "coco"
            folder = shlex.quote(str(tree.path(name).parent))
            commands.append(f"python data_prep/{script}.py --instances {shlex.quote(str(tree.path(name)))} --images {folder}")
    files = [name for name in tree.with_suffix(".xml") if re.search(r"<annotation[\s>]", tree.head(name))]
    for folder in sorted({PurePosixPath(name).parent for name in files}):
        place = shlex.quote(str(tree.path(folder.as_posix())))
        images = shlex.quote(str(tree.images_root))
        commands.append(f"python data_prep/voc.py --annotations {place} --images {images}")
    return commands


def _has(tree: Tree, name: str, keys: tuple[str, ...]) -> bool:
    """Whether a file holds all these texts; read piece by piece, as such files may be large."""
    missing = {key.encode() for key in keys}
    before = b""
    with tree.path(name).open("rb") as file:
        while missing and (piece := file.read(1 << 20)):
            missing = {key for key in missing if key not in before + piece}
            before = piece[-32:]
    return not missing
