"""Pascal VOC folders (one XML file per image) → detection samples.

    python data_prep/voc.py --root VOCdevkit/VOC2012 --split ImageSets/Main/train.txt --out voc_train.jsonl

Reads `Annotations/<id>.xml` and `JPEGImages/<id>.<jpg, png, ...>`, or the image named in the XML where there is none.

Coordinates. The official files count pixels from 1 and include the last one, so the default `--voc_offset 1` writes [xmin - 1,
ymin - 1, xmax, ymax], right and bottom edge exclusive. LabelImg raises 0 to 1 on writing for the same reason: boxes at its left
and top border are exact with offset 1 and the others begin at most 1 px too early. Use `--voc_offset 0` for files that hold
corner points counted from 0 (taken as they are); where a file has a coordinate of 0, a note at the end says so. An object with
xmax <= xmin or ymax <= ymin is an accidental click and bad under both.

Objects marked difficult leave the answer unless `--keep_difficult`; their category goes to `meta.crowd` and is no
negative. `<part>` boxes are not read.
"""

from __future__ import annotations

import argparse
import math
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.detection_set import Annotated, add_options, check_options, write_detection
from data_prep.fitting import stated_size
from data_prep.writing import Report, Target, need_folder, program
from vlrl.schema import Box

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    annotated = []
    for xml_path in _annotation_files(args, report):
        one = read_annotation(xml_path, args.images, args.voc_offset, args.keep_difficult, report)
        if one is not None:
            annotated.append(one)
    labels = {label for one in annotated for label in (*(box.label or "" for box in one.boxes), *one.crowd, *one.doubtful)}
    if report.counts["from zero"]:
        print(
            f"note: {report.counts['from zero']} objects have an xmin or ymin of 0, which counting from 1 cannot give; "
            "these files may count from 0: look at some boxes and consider --voc_offset 0",
            file=sys.stderr,
        )
    split = args.split.stem if args.split else None
    return write_detection(annotated, sorted(labels), args, target, report, dataset=args.dataset, split=split)


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="Pascal VOC XML -> detection samples (JSONL)")
    parser.add_argument("--root", type=Path, help="folder with Annotations/ and JPEGImages/")
    parser.add_argument("--annotations", type=Path, help="folder of the XML files (default: ROOT/Annotations)")
    parser.add_argument("--images", type=Path, help="folder of the images (default: ROOT/JPEGImages)")
    parser.add_argument(
        "--split",
        type=Path,
        help="a name such as train (ROOT/ImageSets/Main/train.txt) or a text file with one id per line (default: all files)",
    )
    parser.add_argument("--voc_offset", type=int, choices=(0, 1), default=1, help="number of the first pixel (default 1)")
    parser.add_argument("--keep_difficult", action="store_true", help="objects marked difficult are part of the answer")
    add_options(parser)
    args = parser.parse_args(argv)
    for name, folder in (("annotations", "Annotations"), ("images", "JPEGImages")):
        if getattr(args, name) is None:
            if args.root is None:
                parser.error("give --root, or both --annotations and --images")
            setattr(args, name, args.root / folder)
        need_folder(parser, f"--{name}", getattr(args, name))
    if args.split is not None:
        main_sets = [] if args.root is None else [args.root / "ImageSets" / "Main" / f"{args.split}.txt"]
        below_root = [] if args.root is None else [args.root / args.split]
        found = next((path for path in [args.split, *below_root, *main_sets] if path.is_file()), None)
        if found is None:
            tried = ", ".join(str(path) for path in [args.split, *below_root, *main_sets])
            parser.error(f"--split: no such file; looked for {tried}")
        args.split = found
    args.dataset = args.dataset or (args.root or args.annotations).resolve().name
    return args, check_options(args, parser)


def _annotation_files(args: argparse.Namespace, report: Report) -> Iterator[Path]:
    """The XML files to read: those of the split, or all of them sorted by name."""
    if args.split is None:
        yield from sorted(args.annotations.glob("*.xml"))
        return
    line_of: dict[str, int] = {}
    for number, line in enumerate(args.split.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        # class-wise split files have "id flag" on each line; every id belongs to the split, whatever its flag
        source_id, where = words[0], f"{args.split}:{number}"
        path = args.annotations / f"{source_id}.xml"
        if source_id in line_of:
            report.bad(where, f"id {source_id} was listed on line {line_of[source_id]}")
        elif not path.is_file():
            report.bad(where, f"no annotation {path}")
        else:
            yield path
        line_of.setdefault(source_id, number)


def read_annotation(xml_path: Path, images: Path, voc_offset: int, keep_difficult: bool, report: Report) -> Annotated | None:
    """One XML file; None (reported) when it is not VOC XML at all."""
    try:
        root = ElementTree.parse(xml_path).getroot()
    except ElementTree.ParseError as error:
        report.bad(str(xml_path), f"not well-formed XML: {error}")
        return None
    if root.tag != "annotation":
        report.bad(str(xml_path), f"the outer element is <{root.tag}>, not <annotation>")
        return None
    boxes: list[Box] = []
    wheres: list[str] = []
    crowd: set[str] = set()
    doubtful: set[str] = set()
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"{xml_path}: object {number}"
        label = " ".join((element.findtext("name") or "").split())
        if not label:
            report.bad(where, "it has no <name>")
            continue
        if not keep_difficult and (element.findtext("difficult") or "0").strip() == "1":
            crowd.add(label)
            continue
        box = _box(element, label, voc_offset, where, report)
        if box is None:
            doubtful.add(label)
        else:
            boxes.append(box)
            wheres.append(f"object {number}")
    return Annotated(
        path=_image_path(images, xml_path.stem, root.findtext("filename")),
        source_id=xml_path.stem,
        where=str(xml_path),
        size_wh=_stated_size(root),
        boxes=tuple(boxes),
        object_wheres=tuple(wheres),
        crowd=frozenset(crowd),
        doubtful=frozenset(doubtful),
    )


def _box(element: ElementTree.Element, label: str, voc_offset: int, where: str, report: Report) -> Box | None:
    texts = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    values = [_number(text) for text in texts]
    if any(value is None for value in values):
        report.bad(where, f"{label}: bndbox {dict(zip(_CORNERS, texts, strict=True))} is not four finite numbers")
        return None
    xmin, ymin, xmax, ymax = (value for value in values if value is not None)
    if xmax <= xmin or ymax <= ymin:
        report.bad(where, f"{label}: bndbox {texts} has no area (xmax must exceed xmin and ymax must exceed ymin)")
        return None
    if voc_offset and min(xmin, ymin) == 0:
        report.counts["from zero"] += 1
    return Box(xmin - voc_offset, ymin - voc_offset, xmax, ymax, label)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _stated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    return stated_size(*(_number(root.findtext(f"size/{side}")) for side in ("width", "height")))


def _image_path(images: Path, source_id: str, filename: str | None) -> Path:
    """The image with the name of the XML file: <filename> often keeps an older name."""
    for suffix in _SUFFIXES:
        if (images / f"{source_id}{suffix}").is_file():
            return images / f"{source_id}{suffix}"
    return images / (filename or "").strip() if (filename or "").strip() else images / f"{source_id}.jpg"


if __name__ == "__main__":
    sys.exit(program(main))
