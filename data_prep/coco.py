"""COCO instances JSON → detection samples.

    python data_prep/coco.py --instances annotations/instances_val2017.json --images val2017 --out coco_val.jsonl

Boxes are written as [x, y, x + width, y + height]. `iscrowd=1` regions leave the answer; their category goes to `meta.crowd`
and is not asked for as absent. Boxes under 1 px are dropped and counted. `--classes` also takes the published lists `few8`,
`novel15` and `base65`.

`--per category` asks for one category per sample (Visual-RFT), `--per image` for a list (VLM-R1, Vision-R1): all names, or
with `--negatives 0` those that are present.

`--subset` keeps the images that VLM-R1 evaluates on. differs: only images with a box are kept, and crowd regions do not count.

Val and test images of RefCOCO, RefCOCO+ and RefCOCOg are COCO train images: `--exclude_images` keeps them out of
training.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.ap_marks import ApMarks, read_areas
from data_prep.detection_set import CheckedImage, add_ap_option, add_options, check_options, spellings, write_detection
from data_prep.excluding import Excluded
from data_prep.instances import (
    add_input_options,
    annotated_images,
    check_input_options,
    kinds_below,
    name_and_split,
    read_instances,
)
from data_prep.writing import Report, Target, program

FEW8 = ("bus", "train", "fire hydrant", "stop sign", "cat", "dog", "bed", "toilet")
"""Few-shot categories of Visual-RFT (arXiv 2503.01785)."""
NOVEL15 = (
    *("mouse", "fork", "hot dog", "cat", "airplane", "suitcase", "parking meter", "sandwich", "train", "hair drier"),
    *("toilet", "toaster", "snowboard", "frisbee", "bear"),
)
"""Categories not trained on in the open-vocabulary setting of the same paper; `base65` is the rest of the 80."""
MAX_BOXES = 10
"""The most boxes in VLM-R1's evaluation subsets: of one category in pos_1, in an image in pos_3."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    content = read_instances(args.instances, bbox_format=args.bbox_format, encoding=args.encoding)
    if any("neg_category_ids" in row for row in content.images):
        raise SystemExit(
            f"{args.instances} is an LVIS file: each image was searched for some categories only; use data_prep/lvis.py"
        )
    annotated = annotated_images(content, args.images, report, Excluded.of(args), names_in_ids=True)
    names, below = list(content.names.values()), kinds_below(content)
    dataset, split = name_and_split(args.instances)
    is_xywh = content.is_xywh
    del content
    marks = ApMarks(read_areas(args.instances, args.bbox_format, args.encoding)) if args.for_ap else None
    return write_detection(
        annotated,
        names,
        args,
        target,
        report,
        dataset=args.dataset or dataset,
        split=split,
        named={"few8": FEW8, "novel15": NOVEL15, "base65": [name for name in spellings(names).values() if name not in NOVEL15]},
        keep=None if args.subset is None else partial(evaluation_subset, name=args.subset),
        is_xywh=is_xywh,
        below=below,
        marks=marks,
    )


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="COCO instances JSON -> detection samples (JSONL)")
    add_input_options(parser, "instances_*.json", "folder the file names of the JSON are relative to")
    parser.add_argument(
        "--subset",
        choices=("pos_1", "pos_2", "pos_3"),
        help="VLM-R1's evaluation subsets: pos_1 leaves out an image's categories of more than 10 boxes; "
        "pos_2: images whose categories have one box each; pos_3: images of at most 10 boxes",
    )
    add_options(parser)
    add_ap_option(parser, "write the area of each object, by which COCO tells small from large (bench run --protocol coco)")
    args = parser.parse_args(argv)
    check_input_options(args, parser)
    return args, check_options(args, parser)


def evaluation_subset(images: Sequence[CheckedImage], name: str) -> list[CheckedImage]:
    """VLM-R1's subsets of val2017 (see `--subset`). The categories that pos_1 leaves out of an image become doubtful there."""
    kept = []
    for image in images:
        n_boxes = Counter(box.label or "" for box in image.boxes)
        if name == "pos_1":
            many = frozenset(label for label, n in n_boxes.items() if n > MAX_BOXES)
            boxes = tuple(box for box in image.boxes if box.label not in many)
            if boxes:
                kept.append(replace(image, boxes=boxes, doubtful=image.doubtful | many))
        elif n_boxes and (max(n_boxes.values()) == 1 if name == "pos_2" else n_boxes.total() <= MAX_BOXES):
            kept.append(image)
    return kept


if __name__ == "__main__":
    sys.exit(program(main))
