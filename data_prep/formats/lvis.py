"""LVIS is not read here: `data_prep/lvis.py` knows which categories each image was searched for."""

from __future__ import annotations

import shlex

from data_prep.formats.coco import lvis_files
from data_prep.formats.gathering import Tree


def commands(tree: Tree) -> list[str]:
    """The commands that read the files of LVIS in the tree."""
    images = shlex.quote(str(tree.images_root))
    return [
        f"python data_prep/lvis.py --instances {shlex.quote(str(tree.path(name)))} --images {images}"
        for name in lvis_files(tree)
    ]
