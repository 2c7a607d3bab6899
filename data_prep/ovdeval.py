"""OVDEval (omlab/OVDEval, arXiv 2308.13177) → detection samples.

    python data_prep/ovdeval.py --instances negation.json --images negation --out ovdeval_negation.jsonl

One JSON file in COCO's form and one folder of images per subset. The subsets of names (coco, also called object, and celebrity,
logo, landmark) ask for the whole category list in every image; those of attributes, positions, relations and negation ask for
the image's own `text` (present) and `neg_text` (hard negatives). The subset follows from the file's name, or `--subset`.

The list has the order of the file's categories: with the present ones first, the order would reveal the answer. A `text`
without a box and a box outside `text` contradict the file and are reported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.box_values import id_key
from data_prep.detection_set import Annotated, add_options, check_options, write_detection
from data_prep.instances import add_input_options, annotated_images, check_input_options, read_instances
from data_prep.writing import Report, Target, program
from vlrl.answers.span import canon

WHOLE_LIST = ("coco", "object", "celebrity", "logo", "landmark")
OWN_TEXTS = ("color", "material", "position", "relationship", "negation")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    content = read_instances(args.instances, bbox_format=args.bbox_format, encoding=args.encoding)
    # the benchmark asks for its whole list, also in an image without any of it
    annotated = [replace(one, searched=True) for one in annotated_images(content, args.images, report)]
    names = list(content.names.values())
    if args.subset in OWN_TEXTS:
        row_of = {str(id_key(row["id"])): row for row in reversed(content.images)}
        requested = ((one, own_texts(one, row_of[one.source_id], report)) for one in annotated)
        annotated = [restricted(one, texts, report) for one, texts in requested if texts is not None]
    names += [text for one in annotated for text in sorted(one.absent or ())]
    return write_detection(
        annotated,
        names,
        args,
        target,
        report,
        dataset=args.dataset or f"ovdeval-{args.subset}",
        is_xywh=content.is_xywh,
        all_annotated=True,
    )


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="OVDEval JSON -> detection samples (JSONL)")
    add_input_options(parser, "<subset>.json", "folder of the subset's images")
    parser.add_argument("--subset", choices=(*WHOLE_LIST, *OWN_TEXTS), help="default: the name of the JSON file")
    add_options(parser, per="image")
    args = parser.parse_args(argv)
    if args.subset is None:
        args.subset = args.instances.stem.lower()
        if args.subset not in (*WHOLE_LIST, *OWN_TEXTS):
            parser.error(
                f"--subset: {args.instances.name} is named after no subset; give one of {', '.join(WHOLE_LIST + OWN_TEXTS)}"
            )
    check_input_options(args, parser)
    return args, check_options(args, parser)


def own_texts(one: Annotated, image: Mapping[str, Any], report: Report) -> tuple[list[str], list[str]] | None:
    """The image's `text` and `neg_text`; None (reported) when it has none."""
    texts = [image.get(key) for key in ("text", "neg_text")]
    for key, value in zip(("text", "neg_text"), texts, strict=True):
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            problem = f"{key} is {value!r}, not a list of labels; this subset asks every image for its own"
            report.bad_image(one.where, problem, len(one.boxes))
            return None
    present, negative = texts
    return list(present or ()), list(negative or ())


def restricted(one: Annotated, texts: tuple[list[str], list[str]], report: Report) -> Annotated:
    """The image with its own labels only: those of `text` by their boxes, those of `neg_text` known to be absent."""
    present, negative = ({canon(text) for text in some} for some in texts)
    labels = {box.label or "" for box in one.boxes} | one.crowd | one.doubtful
    unlisted = {label for label in labels if canon(label) not in present}
    for label in sorted(unlisted):
        report.bad(one.where, f"it has boxes of {label!r}, which its 'text' {texts[0]} does not list")
    for text in texts[0]:
        if canon(text) not in {canon(label) for label in labels}:
            report.bad(one.where, f"its 'text' lists {text!r}, of which there is no box")
    without_box = [text for text in texts[1] if canon(text) not in present]
    for text in texts[1]:
        if canon(text) in negative & present:
            report.bad(one.where, f"{text!r} is in both 'text' and 'neg_text'")
    return replace(one.without(unlisted), absent=frozenset(without_box))


if __name__ == "__main__":
    sys.exit(program(main))
