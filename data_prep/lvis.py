"""LVIS v1 JSON → detection samples.

    python data_prep/lvis.py --instances lvis_v1_train.json --images coco --classes few6 --shots 10 --out lvis.jsonl

LVIS has COCO's form, and its images: the file is the last two parts of `coco_url` (val2017 of LVIS takes images from
COCO's train2017). Names keep their underscores.

Annotation is federated: an image was searched only for some categories. Negatives come from its `neg_category_ids` alone, so
`--per image` asks for the categories that are present or known to be absent, never for all 1,203 names. A category in
`not_exhaustive_category_ids` has objects that are not annotated; no sample asks for it there. LVIS' own AP counts those too:
`--for_ap` asks for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.ap_marks import ApMarks, read_areas, read_frequencies
from data_prep.box_values import id_key
from data_prep.detection_set import Annotated, add_ap_option, add_options, check_options, write_detection
from data_prep.excluding import Excluded
from data_prep.instances import (
    add_input_options,
    annotated_images,
    check_input_options,
    read_instances,
)
from data_prep.writing import Report, Target, program

FEW6 = ("horse_buggy", "die", "kitchen_table", "omelet", "papaya", "stepladder")
"""Few-shot categories of Visual-RFT (arXiv 2503.01785), all rare."""
OPEN13 = (
    *("casserole", "die", "egg_roll", "futon", "garbage", "handsaw", "hippopotamus", "kitchen_table", "mallet", "omelet"),
    *("shot_glass", "stepladder", "sugar_bowl"),
)
"""Categories that the same paper evaluates on after training on others."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    content = read_instances(args.instances, ("id",), args.bbox_format, args.encoding)
    row_of = {str(id_key(row["id"])): row for row in reversed(content.images)}
    names = content.names
    images = annotated_images(
        content, args.images, report, Excluded.of(args), file_name=lambda row: file_name(row, args.instances)
    )
    annotated = [federated(one, row_of[one.source_id], names, report, keep_partial=args.for_ap) for one in images]
    what = "asked also" if args.for_ap else "unasked   "
    print(f"{what} {report.counts['not exhaustive']} pairs of image and category that are not annotated in full")
    marks = _marks(args, row_of, names) if args.for_ap else None
    return write_detection(
        annotated,
        names.values(),
        args,
        target,
        report,
        dataset=args.dataset or "lvis",
        split=args.instances.stem.removeprefix("lvis_v1_"),
        named={"few6": FEW6, "open13": OPEN13},
        is_xywh=content.is_xywh,
        marks=marks,
    )


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="LVIS JSON -> detection samples (JSONL)")
    add_input_options(parser, "lvis_v1_train.json or lvis_v1_val.json", "folder that holds train2017/ and val2017/ of COCO")
    add_options(parser)
    add_ap_option(
        parser,
        "ask also for categories that are not annotated in full, and write what LVIS' own AP needs: meta.not_exhaustive,"
        " meta.frequency, areas (bench run --protocol lvis)",
    )
    args = parser.parse_args(argv)
    check_input_options(args, parser)
    return args, check_options(args, parser)


def file_name(image: Mapping[str, Any], path: Path) -> str:
    """Where the image lies below COCO's folder: `train2017/000000000009.jpg`. Version 0.5 states the base name."""
    if isinstance(image.get("coco_url"), str) and "/" in image["coco_url"]:
        return "/".join(image["coco_url"].split("/")[-2:])
    if isinstance(image.get("file_name"), str):
        return str(image["file_name"])
    raise SystemExit(f"{path}: image {image['id']} has neither a 'coco_url' nor a 'file_name'; this reads LVIS files")


def _marks(args: argparse.Namespace, row_of: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> ApMarks:
    partial = {key: stated_names(row, "not_exhaustive_category_ids", names) for key, row in row_of.items()}
    areas = read_areas(args.instances, args.bbox_format, args.encoding)
    return ApMarks(areas, partial, read_frequencies(args.instances, names, args.encoding))


def stated_names(image: Mapping[str, Any], key: str, names: Mapping[str, str]) -> frozenset[str]:
    """The categories whose ids an image lists under a key; unknown ids are left out."""
    ids = map(id_key, image.get(key) or [])
    return frozenset(names[text] for text in ids if text is not None and text in names)


def federated(
    one: Annotated, image: Mapping[str, Any], names: Mapping[str, str], report: Report, *, keep_partial: bool = False
) -> Annotated:
    """`one` with the federated annotation of its image applied: categories not annotated in full are doubtful (with
    `keep_partial` asked for all the same), and only the stated ones are absent."""
    stated: dict[str, frozenset[str]] = {}
    for key in ("not_exhaustive_category_ids", "neg_category_ids"):
        ids = image.get(key) or []
        for unknown in [number for number in ids if id_key(number) not in names]:
            report.bad(one.where, f"{key}: no category with id {unknown}", f"{key}: no category with the id")
        stated[key] = stated_names(image, key, names)
    partial = stated["not_exhaustive_category_ids"]
    report.counts["not exhaustive"] += len(partial)
    absent = stated["neg_category_ids"] if keep_partial else stated["neg_category_ids"] - partial
    return replace(
        one if keep_partial else one.without(partial),
        absent=absent if one.absent is None else absent & one.absent,
        searched=True,
    )


if __name__ == "__main__":
    sys.exit(program(main))
