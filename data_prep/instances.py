"""Instances files (JSON in the form of COCO) → one `Annotated` record per image.

COCO's own files, LVIS, D3 and OVDEval have this form: `images` (id, file_name, width, height), `annotations` (image_id,
category_id, bbox, iscrowd) and `categories` (id, name), and so do exports of many tools. Ids are joined by value: they have
gaps, and 1, "1" and 1.0 are one. `bbox` is [x, y, width, height] counted from 0; where it is missing, the segmentation's box is
taken. Objects marked `iscrowd`, `ignore` or the like (`data_prep.not_counted`) are no boxes of the answer, and their category
is not asked for as absent either.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.annotated import Annotated
from data_prep.box_values import id_key
from data_prep.excluding import Excluded
from data_prep.fitting import stated_size
from data_prep.image_finding import ImageFinder, NotFound, split_of
from data_prep.image_headers import read_header
from data_prep.instances_file import Instance, Instances, kind_of_problem
from data_prep.instances_file import read_instances as read_instances
from data_prep.not_counted import is_left_out
from data_prep.report import Report
from data_prep.text_encoding import add_encoding_option, check_encoding_option
from data_prep.writing import need_file, need_folder
from vlrl.answers.span import canon
from vlrl.data.images import ImageError
from vlrl.schema import Box

_GENERAL = frozenset(
    [
        "annotation",
        "annotations",
        "label",
        "labels",
        "json",
        "coco",
        "data",
        "dataset",
        "images",
        "image",
        "result",
        "results",
        "default",
    ]
)
"""Names of folders and files that do not name a set."""


_USUAL = frozenset({"id", "file_name", "width", "height", "coco_url"})
"""Keys of images that mark nothing."""


def add_input_options(parser: argparse.ArgumentParser, instances: str, images: str) -> None:
    """Add `--instances` and `--images` with these help texts, `--bbox_format` and `--encoding`."""
    parser.add_argument("--instances", type=Path, required=True, help=instances)
    parser.add_argument("--images", type=Path, required=True, help=images)
    parser.add_argument(
        "--bbox_format",
        choices=("xywh", "xyxy"),
        help="what the four numbers of a bbox are (default: x, y, width, height, as in COCO; refused where they look like"
        " corners)",
    )
    add_encoding_option(parser)


def check_input_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program where a file or folder of the above is missing."""
    need_file(parser, "--instances", args.instances)
    need_folder(parser, "--images", args.images)
    check_encoding_option(args, parser)


def name_and_split(path: Path) -> tuple[str, str]:
    """The name of the set and of its part, from the place of an instances file: COCO's own are "coco", others have the name of
    their folder (`cells/train/_annotations.coco.json`: "cells", "train")."""
    stem = re.sub(r"^instances_", "", path.stem)
    if stem != path.stem and re.fullmatch(r"\w+20\d\d", stem):
        return "coco", stem
    words = [word for word in re.split(r"[\W_]+", path.stem) if word]
    folders = [folder.name for folder in path.resolve().parents if folder.name]
    split = next((name for name in (*words, *folders[:3]) if split_of(name)), None)
    named = (name for name in folders if not split_of(name) and name.casefold() not in _GENERAL)
    return next(named, "coco"), split or stem


def kinds_below(content: Instances) -> dict[str, frozenset[str]]:
    """Category → the categories that it is a supercategory of, and those below them, in canonical form. A name that is a
    supercategory of itself is only the group's name (`person`, of supercategory `person`)."""
    own = {
        canon(content.names[key]) for key in content.names if canon(content.supers.get(key, "")) == canon(content.names[key])
    }
    names = {canon(name) for name in content.names.values()} - own
    below: dict[str, set[str]] = {}
    for key, parent in content.supers.items():
        if canon(parent) in names and canon(parent) != canon(content.names[key]):
            below.setdefault(canon(parent), set()).add(canon(content.names[key]))
    for _ in below:
        for kinds in below.values():
            kinds |= {lower for kind in tuple(kinds) for lower in below.get(kind, ())}
    return {parent: frozenset(kinds - {parent}) for parent, kinds in below.items()}


def annotated_images(
    content: Instances,
    images: Path,
    report: Report,
    excluded: Excluded | None = None,
    *,
    file_name: Callable[[Mapping[str, Any]], str] = lambda row: str(row["file_name"]),
    names_in_ids: bool = False,
) -> list[Annotated]:
    """One record per image of the file, in its order, with the annotations of its id. `excluded`: images to leave out.
    `names_in_ids`: sample ids hold the file name where the image id does not follow from it, so that ids of two
    files, each counting from 0, do not collide."""
    path = content.path
    objects_of, lost_labels, is_lost = _joined(content, report)
    finder, set_name = ImageFinder(images, report), name_and_split(path)[0]
    annotated = []
    unjoined = _of_two_files(content.images, file_name)
    for row in content.images:
        key = str(id_key(row["id"]))
        objects = objects_of.pop(key, None)
        where, name = f"{path}: image {key}", file_name(row)
        if key in unjoined:
            problem = f"{name!r} shares an id with another file, so it is not known whose the annotations of this id are"
            report.bad_image(where, problem, len(objects or ()))
            continue
        if objects is None:
            report.bad(where, "the id occurs twice in 'images'; the first is used", what="images")
            continue
        if excluded is not None and excluded.has(key, name, images):
            continue
        if not row.keys() <= _USUAL and is_left_out(row):
            report.note(where, f"{name!r} is marked as not to be used", "images marked as not to be used, left out")
            continue
        try:
            file = finder.find(name, where)
        except NotFound as problem:
            report.bad_image(where, str(problem), len(objects))
            continue
        one = _annotated(row, key, objects, content.names, file, where, report, set_name)
        if not objects and (lost_labels or is_lost):
            one = one.with_doubt(lost_labels, unnamed=is_lost)
        if names_in_ids and not _follows(key, file):
            one = one.with_id_part(Path(name.replace("\\", "/")).as_posix())
        annotated.append(one)
    return annotated


def _of_two_files(rows: Sequence[Mapping[str, Any]], file_name: Callable[[Mapping[str, Any]], str]) -> frozenset[str]:
    """The ids that rows of different files have, and the other ids of these files: their annotations may be among those of
    the first."""
    first: dict[str, str] = {}
    named = [(str(id_key(row["id"])), file_name(row).replace("\\", "/").removeprefix("./")) for row in rows]
    ambiguous = {key for key, name in named if first.setdefault(key, name) != name}
    files = {name for key, name in named if key in ambiguous}
    return frozenset(key for key, name in named if name in files)


_NUMBER_AT_END = re.compile(r"(\d+)\.\w+$")


def _follows(key: str, file: Path) -> bool:
    """Whether the image's id is the number at the end of its file name: COCO's 000000000139.jpg is image 139."""
    found = _NUMBER_AT_END.search(str(file))
    return found is not None and (found.group(1).lstrip("0") or "0") == key


def _joined(content: Instances, report: Report) -> tuple[dict[str, list[Instance]], frozenset[str], bool]:
    """The annotations of each image; the labels of those of no image; whether one of these has no readable label."""
    objects_of: dict[str, list[Instance]] = {str(id_key(row["id"])): [] for row in content.images}
    by_number: dict[str, str | None] = {}
    for key in objects_of:
        if key.isdecimal() and key != (short := str(int(key))):
            by_number[short] = None if short in by_number or short in objects_of else key
    lost: set[str] = set()
    is_lost = False
    for one in content.annotations:
        image = one.image if one.image in objects_of else by_number.get(one.image or "")
        if image is not None:
            objects_of[image].append(one)
            continue
        where = f"{content.path}: {one.name} (image {one.image})"
        report.bad(where, one.problem or f"no image with id {one.image}", "annotations of an image that is not in 'images'")
        if one.category in content.names:
            lost.add(content.names[one.category])
        else:
            is_lost = True
    return objects_of, frozenset(lost), is_lost


def _annotated(
    image: Mapping[str, Any],
    key: str,
    objects: Sequence[Instance],
    names: Mapping[str, str],
    file: Path,
    where: str,
    report: Report,
    set_name: str,
) -> Annotated:
    boxes: list[Box] = []
    wheres: list[str] = []
    crowd: set[str] = set()
    doubtful: set[str] = set()
    is_unnamed = is_unlisted = False
    size_wh = stated_size(image.get("width"), image.get("height"))
    for one in objects:
        label = None if one.category is None else names.get(one.category)
        if label is None:
            kind = "annotations of a category that is not in 'categories'"
            report.bad(f"{where}: {one.name}", f"no category with id {one.category}", kind)
            is_unnamed, is_unlisted = is_unnamed or one.category is None, True
        elif one.is_crowd is None:
            report.bad(
                f"{where}: {one.name}",
                f"{label}: its flag 'iscrowd', 'ignore' or the like cannot be read",
                "flags that cannot be read",
            )
            doubtful.add(label)
        elif one.is_crowd:
            crowd.add(label)
        elif one.mask_wh is not None and one.mask_wh not in (sizes := [size_wh] if size_wh else _sizes(file, one.mask_wh)):
            problem = f"{label}: its mask is of {one.mask_wh} px, its image of {sizes[0]}"
            report.bad(f"{where}: {one.name}", problem, "masks of another size than their image")
            doubtful.add(label)
        elif one.box is None:
            report.bad(f"{where}: {one.name}", f"{label}: {one.problem}", kind_of_problem(one))
            doubtful.add(label)
        else:
            boxes.append(Box(*one.box, label))
            wheres.append(one.name)
    return Annotated(
        path=file,
        source_id=key,
        where=where,
        size_wh=size_wh,
        boxes=tuple(boxes),
        object_wheres=tuple(wheres),
        crowd=frozenset(crowd),
        doubtful=frozenset(doubtful),
        absent=frozenset() if is_unlisted else None,
        unnamed=is_unnamed,
        searched=bool(objects),
        group=_photograph(image, set_name),
    )


def _sizes(file: Path, otherwise: tuple[int, int]) -> list[tuple[int, int]]:
    """The sizes of an image as shown and as stored; `otherwise` where it cannot be read, which is reported later."""
    try:
        header = read_header(file)
    except ImageError:
        return [otherwise]
    return [header.shown_wh, header.stored_wh]


def _photograph(image: Mapping[str, Any], set_name: str) -> str | None:
    """The photograph that an exported image is a copy of, as Roboflow states it. Sets have photographs of the same name."""
    extra = image.get("extra")
    name = extra.get("name") if isinstance(extra, dict) else None
    return f"{set_name}/{name}" if isinstance(name, str) and name.strip() else None
