"""Lists of images that say which part of a set each belongs to: `ImageSets/Main/val.txt` of Pascal VOC,
`ImageSets/train.txt` of KITTI, or `train.txt` beside the annotations.

Where there are several folders of lists, that of detection (`Main`) counts, then `Segmentation`, `Layout` and `Action`; of
those the first that has the part asked for. Lists of one class (`car_val.txt`) are none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_prep.annotated import Annotated
from data_prep.class_folders import SUFFIXES
from data_prep.formats.tree import Tree
from data_prep.image_finding import split_of

FOLDERS = ("main", "segmentation", "layout", "action", "imagesets", "splits", "split", "lists", "list", "sets", "")
"""Folders of lists, those that count first; "" is the root."""
_ANNOTATED = (*SUFFIXES, ".xml", ".json", ".txt")


def with_splits(tree: Tree, images: Sequence[Annotated], wanted: str | None) -> list[Annotated]:
    """The images with the parts that the lists of the tree state, where there are lists. `wanted`: the part asked for. What the
    lists and the folders state differently, and images listed twice or never, are noted; listed images of the part asked for
    without an annotation are reported."""
    part = split_of(wanted) or wanted if wanted else None
    places: dict[str, list[int]] = {}
    for place, one in enumerate(images):
        places.setdefault(_bare(one.path.name), []).append(place)
    lists = _lists(tree, part)
    stated: dict[int, str] = {}
    for name in lists:
        _read(name, part, images, places, stated, tree)
    if not stated:
        return list(images)
    result = []
    for place, one in enumerate(images):
        of = stated.get(place)
        if of is None:
            tree.report.note(one.where, f"it is in none of {', '.join(lists)}", "annotated images that no list names")
        elif one.split is not None and (split_of(one.split) or one.split) != of:
            kind = "images whose folder names another part of the set than their list, which counts"
            tree.report.note(one.where, f"its folder says {one.split}, a list says {of}", kind)
        result.append(one if of is None else replace(one, split=of))
    return result


def _read(
    name: str,
    part: str | None,
    images: Sequence[Annotated],
    places: Mapping[str, Sequence[int]],
    stated: dict[int, str],
    tree: Tree,
) -> None:
    """Enter the images of a list in `stated`."""
    of = split_of(PurePosixPath(name).stem) or ""
    missed: list[tuple[int, str]] = []
    n_found = 0
    for line, entry in enumerate(tree.text(name).splitlines(), start=1):
        if not entry.strip():
            continue
        found = _meant(entry, tree.path(name), images, places)
        n_found += bool(found)
        if not found:
            missed.append((line, entry.strip()))
        for place in found:
            first = stated.setdefault(place, of)
            if first != of and "trainval" not in (first, of):
                kind = "images that are listed in two parts of the set, taken for the first"
                tree.report.note(f"{tree.path(name)}:{line}", f"{entry.strip()!r} is listed in {first} too", kind)
    if of == part and n_found:
        for line, entry in missed:
            kind = "listed images without an annotation"
            tree.report.bad(f"{tree.path(name)}:{line}", f"no annotation of {entry!r}", kind, what="images")


def _lists(tree: Tree, part: str | None) -> list[str]:
    """The lists that count, `train`, `val` and `test` before `trainval`, which holds the first two."""
    by_sets: dict[str, dict[str, list[str]]] = {}
    for name in tree.with_suffix(".txt"):
        path = PurePosixPath(name)
        folder = path.parent.name.lower()
        inside = [number for number, one in enumerate(path.parts[:-1]) if one.lower() == "imagesets"]
        if split_of(path.stem) is None or not (inside or folder in FOLDERS[FOLDERS.index("imagesets") :]):
            continue
        root = "/".join(path.parts[: inside[-1]]) if inside else path.parent.as_posix()
        by_sets.setdefault(root, {}).setdefault(folder, []).append(name)
    chosen: list[str] = []
    for folders in by_sets.values():
        in_order = sorted(folders, key=lambda folder: FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS))
        has = [folder for folder in in_order if part in {split_of(PurePosixPath(name).stem) for name in folders[folder]}]
        chosen += folders[(has or in_order)[0]]
    return sorted(chosen, key=lambda name: (split_of(PurePosixPath(name).stem) == "trainval", name))


def _meant(entry: str, near: Path, images: Sequence[Annotated], places: Mapping[str, Sequence[int]]) -> list[int]:
    """The images that a line of the list `near` names: by its last part, and by its folders where these tell several apart. A
    number (1, 0, -1) may follow."""
    text = entry.strip().replace("\\", "/")
    words = text.rsplit(None, 1)
    for one in (text, *(words[:1] if len(words) == 2 and words[1] in ("-1", "0", "1") else ())):
        parts = PurePosixPath(one).parts
        found = list(places.get(_bare(parts[-1]), ())) if parts else []
        above = [place for place in found if images[place].path.parts[-len(parts) : -1] == parts[:-1]]
        found = above if len(parts) > 1 and above else found
        if len(found) > 1:
            shared = {place: _n_shared(images[place].path.parts, near.parts) for place in found}
            found = [place for place in found if shared[place] == max(shared.values())]
        if found:
            return found
    return []


def _n_shared(one: Sequence[str], other: Sequence[str]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _bare(name: str) -> str:
    """A file name without the suffix of an image or annotation; ids may hold dots."""
    end = next((end for end in _ANNOTATED if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)] if end else name
