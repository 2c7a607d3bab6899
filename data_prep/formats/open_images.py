"""Open Images: `*-annotations-bbox.csv`, the names of classes, and the labels that people verified for whole images.

The annotation is federated: an image was searched only for the labels that someone verified in it, so that only what was
verified as absent (`*-human-imagelabels*.csv`, confidence 0) is a negative. A label verified as present without a box is not
asked, nor is one whose kind (a "Man" is a "Person") has a box: the hierarchy file says so where it is there. Boxes around
groups leave the answer (`meta.crowd`). Rows of images that are not on this disk are counted and left out: most people have a
part of the set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from data_prep.formats.gathering import Gathering, Tree, note, number, some
from data_prep.formats.shapes import Corners

BOX_COLUMNS = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}


@dataclass
class Verified:
    """What people said of whole images: image → labels that are there, and labels that are not."""

    present: dict[str, set[str]] = field(default_factory=dict)
    absent: dict[str, set[str]] = field(default_factory=dict)


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"boxes of Open Images in {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that hold boxes."""
    return [name for name in tree.with_suffix(".csv") if set(_columns(tree, name)) >= BOX_COLUMNS]


def _columns(tree: Tree, name: str) -> list[str]:
    return [word.strip(' "') for word in tree.head(name).partition("\n")[0].strip().split(",")]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read the boxes of the images that are there."""
    name_of = _class_names(tree)
    path_of: dict[str, str] = {}
    for image in tree.images:
        path_of.setdefault(PurePosixPath(image).stem, image)
    verified = _verified(tree, name_of, path_of)
    kinds = _kinds(tree, name_of)
    rows: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
    elsewhere = 0
    for file in files_of(tree):
        for place, row in _rows(tree, file):
            image_id = row.get("ImageID", "")
            if image_id in path_of:
                rows.setdefault(image_id, []).append((file, place, row))
            else:
                elsewhere += 1
    for image_id in sorted({*rows, *verified.present, *verified.absent}):
        found = rows.get(image_id, [])
        one = gathering.image(f"{tree.path(found[0][0]) if found else tree.root}: {image_id}")
        for _, place, row in found:
            label = name_of.get(row.get("LabelName", ""))
            if row.get("IsGroupOf") == "1" and label is not None:
                one.set_aside("group of objects", label)
                continue
            one.box("box", label, partial(_corners, row), place)
        boxed = {box.label for box in one.boxes if box.label} | one.crowd
        one.doubtful |= {kind for label in boxed for kind in kinds.get(label, ())}
        one.doubtful |= verified.present.get(image_id, set()) - boxed
        one.absent = frozenset(verified.absent.get(image_id, set()) - boxed)
        one.done(tree.images_root / path_of[image_id], coords="norm1")
    if elsewhere:
        note(f"{elsewhere} boxes are of images that are not below {tree.images_root}; they are left out")


def _corners(row: Mapping[str, str]) -> Corners:
    return number(row["XMin"]), number(row["YMin"]), number(row["XMax"]), number(row["YMax"])


def _rows(tree: Tree, file: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV, one at a time: these files have millions."""
    headings: list[str] | None = None
    for line, cells in tree.table(file):
        if headings is None:
            headings = [cell.strip() for cell in cells]
        else:
            yield f"line {line}", dict(zip(headings, cells, strict=False))


def _class_names(tree: Tree) -> Mapping[str, str]:
    """/m/01g317 → Person. Ends the program without such a file: identifiers are no names to ask for."""
    found: dict[str, str] = {}
    for name in tree.with_suffix(".csv"):
        if "class-descriptions" in PurePosixPath(name).name:
            for _, row in tree.table(name):
                if len(row) >= 2 and row[0].startswith("/"):
                    found[row[0]] = " ".join(row[1].split())
    if not found:
        raise SystemExit(
            f"{tree.root}: no class-descriptions*.csv, so that /m/01g317 has no name; download it beside the boxes"
        )
    return found


def _verified(tree: Tree, name_of: Mapping[str, str], path_of: Mapping[str, str]) -> Verified:
    verified = Verified()
    files = [name for name in tree.with_suffix(".csv") if re.search(r"human-?imagelabels", PurePosixPath(name).name)]
    for file in files:
        for _, row in _rows(tree, file):
            label = name_of.get(row.get("LabelName", ""))
            if row.get("ImageID") in path_of and label is not None:
                side = verified.absent if re.fullmatch(r"0(\.0*)?", row.get("Confidence", "")) else verified.present
                side.setdefault(row["ImageID"], set()).add(label)
    if not files:
        note("no *-human-imagelabels*.csv: nothing is known to be absent, so there are no negatives")
    return verified


def _kinds(tree: Tree, name_of: Mapping[str, str]) -> dict[str, set[str]]:
    """Label → the labels above it in the hierarchy."""
    files = [name for name in tree.with_suffix(".json") if "hierarchy" in PurePosixPath(name).name]
    if not files:
        note("no *hierarchy*.json: a Man may be boxed and a Person, which he is, asked without him")
        return {}
    above: dict[str, set[str]] = {}

    def walk(node: object, parents: frozenset[str]) -> None:
        if not isinstance(node, dict):
            return
        label = name_of.get(str(node.get("LabelName")))
        if label is not None:
            above.setdefault(label, set()).update(parents - {label})
        for child in node.get("Subcategory") or ():
            walk(child, parents | ({label} if label else set()))

    walk(json.loads(tree.text(files[0])), frozenset())
    return above
