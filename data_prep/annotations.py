"""Annotations of images in any common format → detection samples.

    python data_prep/annotations.py --root my_yolo_set --out train.jsonl --split train
    python data_prep/annotations.py --root via_region_data.json --images photos --format via --label kudzu --out kudzu.jsonl

`--format auto` says which format it found and by what; where several fit it lists them and stops. COCO, Pascal VOC, YOLO,
CVAT, LabelMe, VIA, Label Studio, Supervisely, Create ML, VoTT, DOTA, KITTI, VisDrone, Open Images and tables (CSV) are read
here, file by file; other formats by the library datumaro (extra `[data]`). LVIS has a script of its own, which is named;
`coco.py` and `voc.py` have more options.

Boxes, turned boxes, polygons, masks, circles, ellipses and cuboids become boxes. What is no box or cannot be read makes its
category doubtful in that image: nothing is asked about it. How many annotations were read, converted and left out is printed
by kind.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.annotated import Annotated
from data_prep.detection_set import add_options, check_options, write_detection
from data_prep.formats import (
    coco,
    create_ml,
    cvat,
    datumaro_sets,
    dota,
    kitti,
    label_studio,
    labelme,
    levels,
    lvis,
    not_read,
    open_images,
    supervisely,
    table,
    via,
    visdrone,
    voc,
    vott,
    yolo,
)
from data_prep.formats.gathering import Gathering, Options, Tree, note, some, suffix
from data_prep.formats.split_lists import with_splits
from data_prep.formats.unusable import drop_unusable, first_problem, report_cut_short
from data_prep.image_finding import split_of
from data_prep.text_encoding import add_encoding_option, check_encoding_option
from data_prep.writing import Report, Target, program


@dataclass(frozen=True)
class Format:
    """How a format is recognised (why the tree is one, or None) and read, and which files are read."""

    recognise: Callable[[Tree], str | None]
    read: Callable[[Tree, Gathering], None]
    files: Callable[[Tree], list[str]]


FORMATS = {
    "coco": Format(coco.recognise, coco.read, coco.files_of),
    "voc": Format(voc.recognise, voc.read, voc.files_of),
    "yolo": Format(yolo.recognise, yolo.read, yolo.files_of),
    "cvat": Format(cvat.recognise, cvat.read, cvat.files_of),
    "labelme": Format(labelme.recognise, labelme.read, labelme.files_of),
    "via": Format(via.recognise, via.read, via.files_of),
    "label_studio": Format(label_studio.recognise, label_studio.read, label_studio.files_of),
    "supervisely": Format(supervisely.recognise, supervisely.read, supervisely.files_of),
    "csv": Format(table.recognise, table.read, table.files_of),
    "create_ml": Format(create_ml.recognise, create_ml.read, create_ml.files_of),
    "vott": Format(vott.recognise, vott.read, vott.files_of),
    "dota": Format(dota.recognise, dota.read, dota.files_of),
    "kitti": Format(kitti.recognise, kitti.read, kitti.files_of),
    "visdrone": Format(visdrone.recognise, visdrone.read, visdrone.files_of),
    "open_images": Format(open_images.recognise, open_images.read, open_images.files_of),
}
BY_DATUMARO = "datumaro:"


def main(argv: Sequence[str] | None = None) -> int:
    """Recognise, read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    argv = sys.argv[1:] if argv is None else argv
    args, target, options = _arguments(argv)
    report = Report.of(args)
    tree = Tree(args.root, args.images, options, report)
    name, why = (args.format, "as asked") if args.format != "auto" else recognise(tree, args.root, argv)
    print(f"format     {name}: {why}")
    gathering = Gathering(tree)
    if name.startswith(BY_DATUMARO):
        datumaro_sets.read(tree, gathering, name.removeprefix(BY_DATUMARO))
    else:
        drop_unusable(tree, FORMATS[name].files(tree))
        FORMATS[name].read(tree, gathering)
        _say_what_is_not_read(tree, name)
        if not gathering.images and not tree.images:
            hint = levels.hint(tree, args.root, argv) or "give the folder of the images with --images"
            _refuse(f"{tree.images_root}: there are no images below; {hint}")
    for line in gathering.lines():
        print(line)
    numbers = [label for label in gathering.names if label.isdecimal()]
    if numbers and name != "yolo":
        note(f"category names are numbers ({some(numbers)}) and are asked for as such")
    # YOLO's lists are those that its yaml names
    listed = gathering.images if name == "yolo" else with_splits(tree, gathering.images, args.split)
    annotated = of_split(listed, args.split)
    _say_what_is_left(gathering)
    return write_detection(
        annotated,
        gathering.names,
        args,
        target,
        report,
        dataset=args.dataset or args.root.resolve().stem,
        split=args.split,
        is_xywh=gathering.is_xywh,
        below=gathering.below,
    )


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target, Options]:
    parser = argparse.ArgumentParser(description="annotations in any common format -> detection samples (JSONL)")
    parser.add_argument(
        "--root", type=Path, required=True, help="folder of the set as its tool exports it, or one annotation file"
    )
    parser.add_argument(
        "--format", default="auto", help=f"auto, {', '.join(FORMATS)}, or datumaro:NAME for a format of that library"
    )
    parser.add_argument("--images", type=Path, help="folder of the images, where it is not below --root")
    parser.add_argument("--split", help="the part to write: train, val or test by folder, list or column (default: all)")
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="yolo: class names, one a line in their order, or a yaml file"
    )
    parser.add_argument("--label_key", metavar="KEY", help="via, csv: the attribute or column that holds the label")
    parser.add_argument("--label", metavar="NAME", help="the label of objects that have none, for sets of one category")
    parser.add_argument(
        "--boxes",
        choices=("xyxy", "xywh", "cxcywh"),
        help="csv: what four numbers are: two corners, top left corner and size, or middle and size",
    )
    add_encoding_option(parser, "text files")
    add_options(parser)
    args = parser.parse_args(argv)
    if not args.root.exists():
        parser.error(f"--root: no such file or folder {args.root}")
    if args.images is not None and not args.images.is_dir():
        parser.error(f"--images: no such folder {args.images}")
    if args.names is not None and not args.names.is_file():
        parser.error(f"--names: no such file {args.names}")
    if args.format not in ("auto", *FORMATS) and not args.format.startswith(BY_DATUMARO):
        parser.error(f"--format: no format {args.format!r}; there are auto, {', '.join(FORMATS)} and datumaro:NAME")
    check_encoding_option(args, parser)
    if args.root.is_file() and suffix(args.root.name) in (".yaml", ".yml"):
        args.names, args.root = args.names or args.root, yolo.folder_of(args.root)
    target = check_options(args, parser)
    return args, target, Options(args.label_key, args.label, args.names, args.boxes, args.encoding)


def recognise(tree: Tree, root: Path, argv: Sequence[str] = ()) -> tuple[str, str]:
    """The one format that fits the tree, and why. Ends the program (exit code 2) where none or several do. `argv`: the
    command line, for a better one in the message."""
    whole, tree = tree, tree.sampled()
    found = {name: why for name, one in FORMATS.items() if (why := one.recognise(tree)) is not None}
    scripts = lvis.commands(tree)
    if len(tree.files) < len(whole.files):
        found = {name: f"{why} (of {len(tree.files)} files looked at)" for name, why in found.items()}
    if len(found) == 1 and not scripts:
        return next(iter(found.items()))
    if not found and not scripts:
        others = datumaro_sets.candidates(tree)
        if len(others) == 1:
            return f"{BY_DATUMARO}{others[0]}", "datumaro recognises it"
        found = {f"{BY_DATUMARO}{name}": "datumaro recognises it" for name in others}
    if not found and not scripts:
        endings = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in tree.files).most_common(6)
        seen = ", ".join(f"{n} {ending}" for ending, n in endings) or "nothing"
        hint = "" if datumaro_sets.available() else "; more formats with pip install -e '.[data]'"
        if any(suffix(name) in (".zip", ".tar", ".gz", ".rar", ".7z") for name in whole.files):
            hint = "; unpack the archive first"
        elif level := levels.hint(whole, root, argv):
            hint = f"; {level}"
        elif whole.images and len(whole.images) == len(whole.files):
            hint = "; images in folders of their classes are read by data_prep/image_folder.py"
        elif problem := first_problem(whole) or not_read.described(whole):
            hint = f"; {problem}"
        _refuse(f"{root}: no format of annotations is recognised in {len(tree.files)} files ({seen}); --format names one{hint}")
    lines = [f"  --format {name}    {why}" for name, why in found.items()] + [f"  {script}" for script in scripts]
    what = "several formats fit; choose one" if len(lines) > 1 else "this format has a script of its own"
    _refuse("\n".join([f"{root}: {what}:", *lines]))
    raise AssertionError


def _refuse(text: str) -> None:
    print(text, file=sys.stderr)
    raise SystemExit(2)


def of_split(images: Sequence[Annotated], wanted: str | None) -> list[Annotated]:
    """The images of a split; all of them (counted) without one."""
    counts = Counter(one.split for one in images)
    if wanted is not None:
        part = split_of(wanted) or wanted
        parts = {part, "train", "val"} if part == "trainval" else {part}
        chosen = [one for one in images if one.split and (split_of(one.split) or one.split) in parts]
        if not chosen:
            known = ", ".join(sorted(name for name in counts if name)) or "none"
            raise SystemExit(f"--split {wanted}: no image is of this split; the splits are: {known}")
        return chosen
    if len([name for name in counts if name]) > 1:
        shown = ", ".join(f"{n} {name or 'without a split'}" for name, n in counts.most_common())
        note(f"images of several splits go into one file ({shown}); meta.split names each, and --split writes one")
    return list(images)


def _say_what_is_not_read(tree: Tree, name: str) -> None:
    """Files that look as if they belonged to the set by their names, and have another content."""
    read = set(FORMATS[name].files(tree))
    endings = {suffix(file) for file in read}
    about = (*yolo.NAME_FILES, "readme", "license")
    others = [
        file
        for file in tree.files
        if suffix(file) in endings and file not in read and not PurePosixPath(file).name.lower().startswith(about)
    ]
    others = report_cut_short(tree, others)
    if others:
        note(f"{len(others)} other {' and '.join(sorted(endings))} files hold no annotations of {name}: {some(others)}")


def _say_what_is_left(gathering: Gathering) -> None:
    """Images that no annotation names."""
    known = {one.path for one in gathering.images}
    silent = sum(gathering.tree.images_root / name not in known for name in gathering.tree.images)
    if silent:
        note(f"{silent} images below {gathering.tree.images_root} are in no annotation and are left out")


if __name__ == "__main__":
    sys.exit(program(main))
