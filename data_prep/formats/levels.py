"""A folder given one or two levels too deep: only the labels or only the images of a set, or one of its parts. The message
names the folder of the whole set with the command that reads it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.class_folders import SUFFIXES, is_junk
from data_prep.formats.tree import Tree, suffix
from data_prep.image_finding import split_of

LABELS = frozenset(
    ["labels", "label", "annotations", "annotation", "ann", "labels_txt", "labeltxt", "label_2", "xml", "xmls", "txt", "json"]
)
NAMES = ("data.yaml", "data.yml", "dataset.yaml", "obj.names", "classes.txt")
_LEVELS = 3
_LOOKED_AT = 400
"""So many entries of a folder are looked at."""


def hint(tree: Tree, given: Path, argv: Sequence[str]) -> str | None:
    """What to give in place of `given`, the `--root` of the command line `argv`; None where nothing near it looks like its
    set."""
    lacks_images = not tree.images
    if not lacks_images and len(tree.images) < len(tree.files):
        return None
    here = given.resolve()
    for above in list(here.parents)[:_LEVELS]:
        inside = here.relative_to(above).parts[0]
        others = [name for name in _folders(above) if name != inside and not is_junk(name, folder=True)]
        if lacks_images:
            found = [name for name in others if _has_images(above / name)]
            what = "holds no images"
        else:
            found = [name for name in others if name.lower() in LABELS]
            what = "holds images and no annotations"
        if not found or above == Path.home() or above.parent == above:
            continue
        root, more = above, list[str]()
        if given.is_file() and len(found) == 1:
            return f"beside {given} is the folder {found[0]}: {_command(argv, given, ['--images', str(above / found[0])])}"
        if not any((root / name).is_file() for name in NAMES) and any((root.parent / name).is_file() for name in NAMES):
            root, more = root.parent, (["--split", above.name] if split_of(above.name) else [])
        elif not more and split_of(here.name) and "--split" not in argv:
            more = ["--split", here.name]
        return f"{given} {what}; {above} has {', '.join(found[:3])} beside it: {_command(argv, root, more)}"
    return None


def names_above(root: Path) -> list[Path]:
    """Files of class names in the two folders above one that has none: the nearest."""
    for above in list(root.resolve().parents)[:2]:
        found = [above / name for name in NAMES if (above / name).is_file()]
        if found:
            return found
    return []


def _command(argv: Sequence[str], root: Path, more: Sequence[str]) -> str:
    """The command line with another root."""
    words, place = list(argv), 0
    while place < len(words):
        if words[place] == "--root":
            words[place + 1 : place + 2] = [str(root)]
            break
        if words[place].startswith("--root="):
            words[place] = f"--root={root}"
            break
        place += 1
    return f"python data_prep/annotations.py {shlex.join([*words, *more])}"


def _some(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number == _LOOKED_AT:
                    return
                yield entry
    except OSError:
        return


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _some(folder) if entry.is_dir())


def _has_images(folder: Path) -> bool:
    """Whether there are images in a folder, or in the folders directly inside."""
    inside = [folder, *(folder / name for name in _folders(folder)[:20])]
    return any(suffix(entry.name) in SUFFIXES for one in inside for entry in _some(one))
