"""Pascal VOC folders (one XML file per image) → detection samples.

    python data_prep/voc.py --root VOCdevkit/VOC2012 --split ImageSets/Main/train.txt --out voc_train.jsonl

Reads `Annotations/<id>.xml`, in subfolders too, and `JPEGImages/<id>.<jpg, png, ...>`, or the image named in the XML where
there is none. Other names of the folders (`annotations/`, `images/`) and XML files beside their images are found too.

Coordinates. The official files count pixels from 1 and include the last one, so the default `--voc_offset 1` writes [xmin - 1,
ymin - 1, xmax, ymax], right and bottom edge exclusive. LabelImg raises 0 to 1 on writing for the same reason: boxes at its left
and top border are exact with offset 1 and the others begin at most 1 px too early. Use `--voc_offset 0` for files that hold
corner points counted from 0 (taken as they are); where a file has a coordinate of 0, a note at the end says so. An object
without area is bad under both: a point or a line is a slip of the hand and left out, swapped corners make it doubtful.

Of polygons and rotated boxes the upright box is taken. Rotated ones (`robndbox`: centre, size, angle) are no counted pixels, so
the offset does not apply to them.

Objects marked difficult or to be ignored leave the answer unless `--keep_difficult`; their category goes to `meta.crowd` and
is no negative. Deleted ones are left out and counted; beside `<ignore>` regions any category may have objects. `<part>` boxes
are not read.
"""

from __future__ import annotations

import argparse
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.box_values import number
from data_prep.detection_set import Annotated, add_options, check_options, write_detection
from data_prep.fitting import stated_size
from data_prep.image_finding import ImageFinder, NotFound, split_of
from data_prep.text_encoding import check_encoding_option, read_text
from data_prep.voc_files import CORNERS, BadXml, is_set_aside, n_deleted, n_regions, object_box, objects, read_xml
from data_prep.writing import Report, Target, need_folder, program
from vlrl.schema import Box

_FOLDERS = {
    "annotations": ("Annotations", "Annotation", "xml", "xmls", "labels"),
    "images": ("JPEGImages", "images", "imgs", "img"),
}
"""Usual names of the two folders below the root, in any case; the first is VOC's own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    finder = ImageFinder(args.images, report)
    annotated = []
    for xml_path in _annotation_files(args, report):
        one = read_annotation(xml_path, args, finder, report)
        if one is not None:
            annotated.append(one)
    labels = {label for one in annotated for label in (*(box.label or "" for box in one.boxes), *one.crowd, *one.doubtful)}
    say_from_zero(report, "--voc_offset 0")
    for count, what in (
        ("set aside", "objects marked difficult, ignored or the like"),
        ("deleted", "objects marked as deleted"),
    ):
        if report.counts[count]:
            print(f"left out   {report.counts[count]} {what}")
    split = args.split.stem if args.split else None
    return write_detection(annotated, sorted(labels), args, target, report, dataset=args.dataset, split=split)


def say_from_zero(report: Report, option: str) -> None:
    """Note that files may count pixels from 0; `option`: what reads them so."""
    if report.counts["from zero"]:
        print(
            f"note: {report.counts['from zero']} objects have an xmin or ymin of 0, which counting from 1 cannot give; "
            f"these files may count from 0: look at some boxes and consider {option}",
            file=sys.stderr,
        )


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
    parser.add_argument("--encoding", help="encoding of XML files that are not in the one they declare, such as gbk or cp1252")
    add_options(parser)
    args = parser.parse_args(argv)
    for name, usual in _FOLDERS.items():
        if getattr(args, name) is None:
            if args.root is None:
                parser.error("give --root, or both --annotations and --images")
            need_folder(parser, "--root", args.root)
            setattr(args, name, _folder(args.root, usual))
        need_folder(parser, f"--{name}", getattr(args, name))
    check_encoding_option(args, parser)
    if args.split is not None:
        sets = ("Main", "Segmentation", "Layout", ".")
        main_sets = [] if args.root is None else [args.root / "ImageSets" / one / f"{args.split}.txt" for one in sets]
        below_root = [] if args.root is None else [args.root / args.split]
        found = next((path for path in [args.split, *below_root, *main_sets] if path.is_file()), None)
        if found is None:
            tried = ", ".join(str(path) for path in [args.split, *below_root, *main_sets])
            parser.error(f"--split: no such file; looked for {tried}")
        args.split = found
    args.dataset = args.dataset or (args.root or args.annotations).resolve().name
    if args.coords is not None and args.coords != "px":
        args.voc_offset = 0  # shares and thousandths are no pixels, so they are not counted
    return args, check_options(args, parser)


def _folder(root: Path, usual: Sequence[str]) -> Path:
    """The folder below `root` with one of the usual names, the first that is there; else `root` itself, where XML files lie
    beside their images."""
    below = {path.name.casefold(): path for path in sorted(root.iterdir(), reverse=True) if path.is_dir()}
    below |= {path.name: path for path in below.values()}
    return next((below[name] for one in usual for name in (one, one.casefold()) if name in below), root)


def _annotation_files(args: argparse.Namespace, report: Report) -> Iterator[Path]:
    """The XML files to read: those of the split, or all of them sorted by name, below subfolders too."""
    if args.split is None:
        files = sorted(
            path
            for path in args.annotations.rglob("*")
            if path.suffix.lower() == ".xml" and not path.name.startswith("._") and "__MACOSX" not in path.parts
        )
        folders = {path.relative_to(args.annotations).parts[0] for path in files if path.parent != args.annotations}
        parts = sorted(folder for folder in folders if split_of(folder))
        if len({split_of(folder) for folder in parts}) > 1:
            raise SystemExit(
                f"{args.annotations} holds several parts of a set ({', '.join(parts)}), which must not be mixed; convert each"
                f" one: --root {args.annotations / parts[0]}, or --annotations and --images"
            )
        yield from files
        return
    line_of: dict[str, int] = {}
    for line_number, line in enumerate(read_text(args.split).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        # class-wise split files have "id flag" on each line; every id belongs to the split, whatever its flag
        source_id, where = words[0], f"{args.split}:{line_number}"
        path = args.annotations / f"{source_id}.xml"
        if source_id in line_of:
            report.note(where, f"id {source_id} was listed on line {line_of[source_id]}", "ids listed twice in the split file")
        elif not path.is_file():
            report.bad(where, f"no annotation {path}", "ids of the split without an annotation", what="images")
        else:
            yield path
        line_of.setdefault(source_id, line_number)


def read_annotation(xml_path: Path, args: argparse.Namespace, finder: ImageFinder, report: Report) -> Annotated | None:
    """One XML file; None (reported) when it is not VOC XML at all, or its image is not there."""
    try:
        root = read_xml(xml_path, args.encoding)
    except BadXml as problem:
        report.bad(str(xml_path), str(problem), what="images")
        return None
    source_id = xml_path.relative_to(args.annotations).with_suffix("").as_posix()
    found, n_apart = objects(root), n_regions(root)
    report.counts["deleted"] += n_deleted(root)
    report.counts["ignored regions"] += n_apart
    try:
        image = _image(finder, xml_path, source_id, root.findtext("filename"), args.annotations)
    except NotFound as problem:
        report.bad_image(str(xml_path), str(problem), len(found))
        return None
    boxes: list[Box] = []
    wheres: list[str] = []
    crowd: set[str] = set()
    doubtful, clicks = set[str](), set[str]()
    is_unnamed = False
    for index, element in enumerate(found, start=1):
        where = f"{xml_path}: object {index}"
        label = " ".join((element.findtext("name") or "").split())
        if not label:
            report.bad(where, "it has no <name>")
            is_unnamed = True
            continue
        is_difficult = is_set_aside(element)
        if is_difficult is None:
            report.bad(
                where, f"{label}: its flag <difficult>, <ignore> or the like cannot be read", "flags that cannot be read"
            )
            doubtful.add(label)
        elif is_difficult and not args.keep_difficult:
            crowd.add(label)
            report.counts["set aside"] += 1
        elif (box := _box(element, label, args.voc_offset, where, report)) is None:
            (clicks if _is_click(element) else doubtful).add(label)
        else:
            boxes.append(box)
            wheres.append(f"object {index}")
    return Annotated(
        path=image,
        source_id=source_id,
        where=str(xml_path),
        size_wh=stated_size(*(number(root.findtext(f"size/{side}") or "") for side in ("width", "height"))),
        boxes=tuple(boxes),
        object_wheres=tuple(wheres),
        crowd=frozenset(crowd),
        doubtful=frozenset(doubtful | (clicks - {box.label or "" for box in boxes})),
        unnamed=is_unnamed,
        any_crowd=n_apart > 0,
    )


def _is_click(element: ElementTree.Element) -> bool:
    """Whether the box is a point or a line: a slip of the hand and no object, as a box under 1 px."""
    found = object_box(element)
    if found is None:
        return False
    xmin, ymin, xmax, ymax = found[0]
    return min(xmax - xmin, ymax - ymin) == 0


def _box(element: ElementTree.Element, label: str, voc_offset: int, where: str, report: Report) -> Box | None:
    found = object_box(element)
    if found is None:
        texts = {corner: element.findtext(f"bndbox/{corner}") for corner in CORNERS}
        report.bad(where, f"{label}: bndbox {texts} is not four finite numbers", "a bndbox that is not four finite numbers")
        return None
    (xmin, ymin, xmax, ymax), tag = found
    if xmax <= xmin or ymax <= ymin:
        problem = f"{label}: {tag} {[xmin, ymin, xmax, ymax]} has no area (xmax must exceed xmin and ymax must exceed ymin)"
        report.bad(where, problem, "boxes without area")
        return None
    if len(element.findall(tag)) > 1:
        report.note(
            where, f"{label}: it has {len(element.findall(tag))} {tag} elements; the first is taken", "objects with two boxes"
        )
    if tag != "bndbox":
        report.note(where, f"{label}: the upright box of its {tag} is taken", f"the upright box of a {tag} is taken")
    elif voc_offset and min(xmin, ymin) == 0:
        report.counts["from zero"] += 1
    if tag == "robndbox":
        return Box(xmin, ymin, xmax, ymax, label)
    return Box(xmin - voc_offset, ymin - voc_offset, xmax, ymax, label)


def _image(finder: ImageFinder, xml_path: Path, source_id: str, filename: str | None, annotations: Path) -> Path:
    """The image with the name of the XML file: <filename> often keeps an older name, and decides only between a.jpg and a.png.
    Raises NotFound, also where <filename> names the image of another XML file."""
    stated = (filename or "").strip()
    named = finder.of_stem(source_id)
    if len(named) > 1:
        named = [name for name in named if Path(name).name == Path(stated.replace("\\", "/")).name] or named
    if len(named) > 1:
        raise NotFound(f"{', '.join(named)} have its name, and <filename> {stated!r} is none of them")
    if named:
        return finder.root / named[0]
    try:
        if stated and (finder.root / stated).is_file():
            found = finder.find(stated, str(xml_path))
        else:
            found = finder.find(source_id, str(xml_path))
    except NotFound as problem:
        if not stated:
            raise
        try:
            found = finder.find(stated, str(xml_path))
        except NotFound:
            raise problem from None
    owner = annotations / os.path.relpath(found.with_suffix(".xml"), finder.root)
    if owner.is_file() and not owner.samefile(xml_path):
        raise NotFound(f"no image {finder.root / source_id}.*, and its <filename> {stated!r} is the image of {owner}")
    return found


if __name__ == "__main__":
    sys.exit(program(main))
