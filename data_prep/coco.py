"""COCO instances JSON → detection samples.

    python data_prep/coco.py --instances annotations/instances_val2017.json --images val2017 --out coco_val.jsonl

Category ids have gaps and are mapped by id. `bbox` is [x, y, width, height] counted from 0, written as [x, y, x +
width, y + height]. `iscrowd=1` regions leave the answer; their category goes to `meta.crowd` and is no negative.
Boxes under 1 px are dropped and counted. `--categories` also takes the published subsets `few8`, `novel15` and
`base65`.

Val and test images of RefCOCO, RefCOCO+ and RefCOCOg are COCO train images: `--exclude_images` keeps them out of
training.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.detection_set import (
    Annotated,
    Plan,
    Report,
    add_options,
    check_options,
    check_picture,
    choose_categories,
    finish,
    spellings,
)
from vlrl.schema import Box

FEW8 = ("bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet")
"""Few-shot categories of Visual-RFT (arXiv 2503.01785)."""
NOVEL15 = (
    *("mouse", "fork", "hot dog", "cat", "airplane", "suitcase", "parking meter", "sandwich", "train", "hair drier"),
    *("toilet", "toaster", "snowboard", "frisbee", "bear"),
)
"""Categories not trained on in the open-vocabulary setting of the same paper; `base65` is the rest of the 80."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args = _arguments(argv)
    report = Report(args.strict)
    content = read_instances(args.instances)
    names = {category["id"]: category["name"] for category in content["categories"]}
    excluded = read_excluded(args.exclude_images) if args.exclude_images else frozenset()
    annotated = annotated_images(content, names, args.images, args.instances, excluded, report)
    spelling = spellings(names.values())
    plan = Plan(
        categories=choose_categories(_subset(args.categories, list(names.values())), spelling.values()),
        per=args.per,
        negatives=args.negatives,
        shots=args.shots,
        limit=args.limit,
        seed=args.seed,
        dataset=args.dataset or "coco",
        split=re.sub("^instances_", "", args.instances.stem),
    )
    checked = (check_picture(one, spelling, report) for one in annotated)
    pictures = [picture for picture in checked if picture is not None]
    if args.exclude_images:
        print(f"excluded   {report.counts['excluded']} images")
    return finish(pictures, plan, args.out, report)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="COCO instances JSON -> detection samples (JSONL)")
    parser.add_argument("--instances", type=Path, required=True, help="instances_*.json")
    parser.add_argument("--images", type=Path, required=True, help="folder the file names of the JSON are relative to")
    parser.add_argument(
        "--exclude_images",
        type=Path,
        help="images to leave out: a text file with an image id or file name a line, or a .jsonl file of samples",
    )
    add_options(parser)
    args = parser.parse_args(argv)
    for name in ("instances", "exclude_images"):
        if getattr(args, name) is not None and not getattr(args, name).is_file():
            parser.error(f"--{name}: no such file {getattr(args, name)}")
    if not args.images.is_dir():
        parser.error(f"--images: no such folder {args.images}")
    check_options(args, parser)
    return args


def _subset(requested: Sequence[str] | None, names: Sequence[str]) -> Sequence[str] | None:
    published = {"few8": FEW8, "novel15": NOVEL15, "base65": [name for name in names if name not in NOVEL15]}
    return published.get(requested[0], requested) if requested and len(requested) == 1 else requested


def read_instances(path: Path) -> dict[str, Any]:
    """The JSON file, with its three lists present; ends the program otherwise, because nothing can be saved then."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SystemExit(f"{path}: not JSON: {error}") from error
    for key, needed in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id",)),
        ("categories", ("id", "name")),
    ):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise SystemExit(f"{path}: no list {key!r}; this reads COCO instances files (images, annotations, categories)")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or any(name not in row for name in needed):
                raise SystemExit(f"{path}: {key}[{number}] lacks {' or '.join(map(repr, needed))}: {str(row)[:200]}")
    return content


def read_excluded(path: Path) -> frozenset[str]:
    """Image keys (see `image_keys`) of a list of ids or file names, or of the images of a sample file."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        lines = [image for line in lines for image in json.loads(line).get("images", ())]
    return frozenset(key for line in lines for key in image_keys(line))


def image_keys(id_or_name: str) -> frozenset[str]:
    """What an image may be known by: its base name, and its number (COCO_train2014_000000000009.jpg is image 9)."""
    name = Path(id_or_name).name
    number = re.search(r"^(?:COCO_\w+_)?0*(\d+)$", Path(name).stem)
    return frozenset({name, number.group(1)} if number else {name})


def annotated_images(
    content: dict[str, Any],
    names: dict[Any, str],
    images: Path,
    path: Path,
    excluded: frozenset[str],
    report: Report,
) -> list[Annotated]:
    """One record an image of the file, in its order, annotations joined by image id."""
    objects_of: dict[Any, list[tuple[str, Any]]] = {}
    for row in content["images"]:
        if row["id"] in objects_of:
            report.bad(f"{path}: image {row['id']}", "the id occurs twice in 'images'; the first is used")
        objects_of.setdefault(row["id"], [])
    for number, row in enumerate(content["annotations"]):
        where = f"{path}: annotation {row.get('id', f'number {number}')} (image {row['image_id']})"
        if row["image_id"] not in objects_of:
            report.bad(where, f"no image with id {row['image_id']}")
        elif row.get("category_id") not in names:
            report.bad(where, f"no category with id {row.get('category_id')}")
        else:
            objects_of[row["image_id"]].append((where, row))
    annotated = []
    for row in content["images"]:
        objects = objects_of.pop(row["id"], None)
        if objects is None:
            continue
        if excluded & (image_keys(str(row["id"])) | image_keys(row["file_name"])):
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
        label, bbox = names[row["category_id"]], row.get("bbox")
        if row.get("iscrowd", 0) == 1:
            crowd.add(label)
        elif not _is_xywh(bbox):
            report.bad(where, f"{label}: bbox {bbox} is not [x, y, width, height], four finite numbers")
            doubtful.add(label)
        else:
            x, y, width, height = bbox
            boxes.append(Box(x, y, x + width, y + height, label))
            wheres.append(where)
    stated = (image.get("width"), image.get("height"))
    return Annotated(
        path=images / image["file_name"],
        source_id=str(image["id"]),
        where=f"{path}: image {image['id']}",
        size_wh=(int(stated[0]), int(stated[1])) if stated[0] and stated[1] else None,
        boxes=tuple(boxes),
        object_wheres=tuple(wheres),
        crowd=frozenset(crowd),
        doubtful=frozenset(doubtful),
    )


def _is_xywh(bbox: Any) -> bool:
    return (
        isinstance(bbox, list)
        and len(bbox) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in bbox)
    )


if __name__ == "__main__":
    sys.exit(main())
