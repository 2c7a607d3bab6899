"""Instances files (JSON in the form of COCO) → one `Annotated` record per image.

COCO's own files, LVIS, D3 and OVDEval have this form: `images` (id, file_name, width, height), `annotations` (image_id,
category_id, bbox, iscrowd) and `categories` (id, name). Ids are joined by value: they have gaps. `bbox` is [x, y, width,
height] counted from 0. `iscrowd=1` regions are no boxes of the answer, and their category is not asked for as absent either.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.detection_set import Annotated
from data_prep.fitting import stated_size, xywh_to_box
from data_prep.rows import read_json
from data_prep.writing import Report, need_file, need_folder
from vlrl.schema import Box


def read_instances(path: Path, image_keys: Sequence[str] = ("id", "file_name")) -> dict[str, Any]:
    """An instances file; ends the program where one of its three lists, or a key that joins them, is missing. `image_keys`: the
    keys that every image needs."""
    content = read_json(path)
    for key, needed in (("images", image_keys), ("annotations", ("image_id",)), ("categories", ("id", "name"))):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise SystemExit(f"{path}: no list {key!r}; this reads COCO instances files (images, annotations, categories)")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or any(not _usable(name, row.get(name)) for name in needed):
                raise SystemExit(f"{path}: {key}[{number}] lacks {' or '.join(map(repr, needed))}: {str(row)[:200]}")
    return dict(content)


def _usable(key: str, value: Any) -> bool:
    if key in ("name", "file_name"):
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, int | str)


def category_names(content: Mapping[str, Any]) -> dict[Any, str]:
    """Category id → name."""
    return {category["id"]: category["name"] for category in content["categories"]}


def add_input_options(parser: argparse.ArgumentParser, instances: str, images: str, *, exclude: bool = True) -> None:
    """Add `--instances` and `--images` with these help texts, and `--exclude_images`."""
    parser.add_argument("--instances", type=Path, required=True, help=instances)
    parser.add_argument("--images", type=Path, required=True, help=images)
    if exclude:
        add_exclude_option(parser)


def add_exclude_option(parser: argparse.ArgumentParser) -> None:
    """Add `--exclude_images`."""
    parser.add_argument(
        "--exclude_images",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="images to leave out: text files with one image id or file name per line, or .jsonl files of samples",
    )


def check_input_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program where a file or folder of the above is missing."""
    for name, files in (("instances", [args.instances]), ("exclude_images", getattr(args, "exclude_images", []))):
        for file in files:
            need_file(parser, f"--{name}", file)
    need_folder(parser, "--images", args.images)


def read_excluded(paths: Sequence[Path]) -> frozenset[str]:
    """The keys (see `image_keys`) of the images in lists of ids or file names, or in files of samples."""
    keys: set[str] = set()
    for path in paths:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            lines = [image for line in lines for image in json.loads(line).get("images", ())]
        keys.update(key for line in lines for key in image_keys(line))
    return frozenset(keys)


def image_keys(id_or_name: str) -> frozenset[str]:
    """The keys that an image may be listed by: its base name, and its number (COCO_train2014_000000000009.jpg is image 9)."""
    name = Path(id_or_name).name
    number = re.search(r"^(?:COCO_\w+_)?0*(\d+)$", Path(name).stem)
    return frozenset({name, number.group(1)} if number else {name})


def annotated_images(
    content: Mapping[str, Any], images: Path, path: Path, report: Report, excluded: frozenset[str] = frozenset()
) -> list[Annotated]:
    """One record per image of the file, in its order, with the annotations of its id. `excluded`: keys of images to leave out
    (counted). `path`: the file, for reports."""
    names = category_names(content)
    objects_of: dict[Any, list[tuple[str, Any]]] = {}
    for row in content["images"]:
        if row["id"] in objects_of:
            report.bad(f"{path}: image {row['id']}", "the id occurs twice in 'images'; the first is used")
        objects_of.setdefault(row["id"], [])
    for number, row in enumerate(content["annotations"]):
        where = f"{path}: annotation {row.get('id', f'number {number}')} (image {row['image_id']})"
        category = row.get("category_id")
        if row["image_id"] not in objects_of:
            report.bad(where, f"no image with id {row['image_id']}")
        elif not isinstance(category, int | str) or category not in names:
            report.bad(where, f"no category with id {category}")
        else:
            objects_of[row["image_id"]].append((where, row))
    annotated = []
    for row in content["images"]:
        objects = objects_of.pop(row["id"], None)
        if objects is None:
            continue
        if excluded and excluded & (image_keys(str(row["id"])) | image_keys(row["file_name"])):
            report.counts["excluded"] += 1
            continue
        annotated.append(_annotated(row, objects, names, images, path, report))
    return annotated


def _annotated(
    image: dict[str, Any],
    objects: list[tuple[str, Any]],
    names: dict[Any, str],
    images: Path,
    path: Path,
    report: Report,
) -> Annotated:
    boxes: list[Box] = []
    wheres: list[str] = []
    crowd: set[str] = set()
    doubtful: set[str] = set()
    for where, row in objects:
        label = names[row["category_id"]]
        if row.get("iscrowd", 0) == 1:
            crowd.add(label)
            continue
        box = xywh_to_box(row.get("bbox"), label)
        if box is None:
            report.bad(where, f"{label}: bbox {row.get('bbox')} is not [x, y, width, height], four finite numbers")
            doubtful.add(label)
        else:
            boxes.append(box)
            wheres.append(where)
    return Annotated(
        path=images / image["file_name"],
        source_id=str(image["id"]),
        where=f"{path}: image {image['id']}",
        size_wh=stated_size(image.get("width"), image.get("height")),
        boxes=tuple(boxes),
        object_wheres=tuple(wheres),
        crowd=frozenset(crowd),
        doubtful=frozenset(doubtful),
    )
