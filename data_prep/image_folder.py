"""Folders of images, one per class, or CoOp split files → classification samples.

    python data_prep/image_folder.py --root EuroSAT/2750 --shots 4 --out eurosat_4shot.jsonl
    python data_prep/image_folder.py --split_file oxford_pets/split_zhou_OxfordPets.json --images oxford_pets/images \
        --split test --half new --out pets_new_test.jsonl

`--root` holds `<class>/<image>`; classes are numbered by name. `<split>/<class>/<image>` (train, val, test and their other
names) is recognised and `--split` chooses; so are a folder around everything, and classes in groups
(`data_prep/class_folders.py`). A split file (`split_zhou_<Name>.json` of CoOp, arXiv
2109.01134) holds lists `train`, `val` and `test` of [path, number, class]. `--class_names` renames the folders (ImageNet:
lines of "n01440764 tench"); classes of one name stay apart in counts and are one candidate.

`--half base` is the first ceil(C/2) classes by number, `new` the rest. Candidate lists follow CLS-RL (arXiv 2503.16188):
int(0.4 C) names, all C where that is under 30, at most 100. They hold the right name; the others are drawn and the order is
shuffled by (seed, id). `--open_label` writes no list.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.box_values import name_key
from data_prep.class_folders import find_classes, say_alike
from data_prep.detection_set import spellings
from data_prep.excluding import Excluded, add_exclude_option, check_exclude_option
from data_prep.rows import read_json
from data_prep.text_encoding import read_text
from data_prep.writing import (
    Report,
    add_output_options,
    check_output_options,
    draw,
    finish,
    image_size_px,
    program,
    whole_number,
)
from vlrl.schema import Sample

SPLITS = ("train", "val", "test")
MAX_VAL_SHOTS = 4
"""CoOp's few-shot validation sets have min(k, 4) images per class."""
QUESTIONS = {
    "object": "Name the kind of object in the photo.",
    "texture": "Name the texture that the photo shows.",
    "action": "Name the action of the person in the photo.",
    "aircraft": "Name the model of the aircraft in the photo.",
    "satellite": "Name what the middle of the satellite photo shows.",
    "flower": "Name the species of the flower in the photo.",
    "pet": "Name the breed of the pet in the photo.",
    "car": "Name the model of the car in the photo.",
}
KIND_OF_SET = {"texture": r"dtd|texture", "action": r"ucf", "aircraft": r"aircraft", "satellite": r"euro ?sat"}
KIND_OF_OPEN_SET = {"flower": r"flower", "pet": r"\bpets", "car": r"\bcars"}
"""Further kinds for `--open_label`: without a list of names the question states the kind (Visual-RFT, arXiv 2503.01785)."""


@dataclass(frozen=True)
class Class:
    """`number`: its place in the order of classes. `key`: seeds the drawing of its images. `name`: the label."""

    number: int
    key: str
    name: str


@dataclass(frozen=True)
class ClassImage:
    """An image and its class, not opened yet. `source_id`: its path as the source gives it."""

    path: Path
    source_id: str
    where: str
    of: Class


def main(argv: Sequence[str] | None = None) -> int:
    """Read, choose, ask, write. Returns the exit code; the last line printed is the file written."""
    args = _arguments(argv)
    target = check_output_options(args)
    report = Report.of(args)
    if args.split_file is not None:
        class_images, classes = read_split_file(args.split_file, args.images, args.split, report)
    else:
        renamed = read_class_names(args.class_names) if args.class_names else None
        class_images, classes, args.split = read_folder(args.root, renamed, args.split, args.classes_at, report)
    class_images = _without_excluded(class_images, args)
    say_alike(one.name for one in classes)
    classes = half_of(classes, args.half)
    chosen = list(choose(class_images, classes, shots_of(args.shots, args.split), args.seed, report))
    chosen = draw(chosen, args.limit, args.seed)
    names = list(spellings((one.name for one in classes), name_key).values())
    n_candidates = 0 if args.open_label else min(n_candidates_of(len(classes)), len(names))
    samples = [_sample(image, names, n_candidates, args) for image in chosen]
    per_class = Counter(image.of.number for image in chosen)
    counts = [per_class[one.number] for one in classes]
    lines = [
        f"classes    {len(classes)}",
        f"per class  {min(counts, default=0)} to {max(counts, default=0)}",
        f"candidates {n_candidates or 'none (open label)'}",
    ]
    return finish(samples, target, report, lines, f"{len(class_images)} images of {len(classes)} classes")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="images by class -> classification samples (JSONL)")
    parser.add_argument("--root", type=Path, help="folder with one folder of images per class")
    parser.add_argument("--class_names", type=Path, help="with --root: file with '<folder> <name>' a line")
    parser.add_argument("--split_file", type=Path, help="CoOp's split_zhou_<Name>.json instead of --root")
    parser.add_argument("--images", type=Path, help="with --split_file: folder its paths are relative to")
    parser.add_argument("--split", choices=SPLITS, help="part of a split file or of <root>/<split>/<class> (default: train)")
    parser.add_argument(
        "--classes_at",
        choices=("top", "leaf"),
        help="with --root where folders lie in folders: the classes are the outer folders or those that hold the images",
    )
    parser.add_argument("--half", choices=("all", "base", "new"), default="all", help="base-to-new: which classes")
    parser.add_argument(
        "--shots", type=whole_number, metavar="K", help="K images per class, drawn by (--seed, class); val: at most 4"
    )
    parser.add_argument("--open_label", action="store_true", help="ask for the name without a list of candidates")
    parser.add_argument("--kind", choices=QUESTIONS, help="what is to be named (default: by the name of the data set)")
    add_output_options(parser)
    add_exclude_option(parser)
    args = parser.parse_args(argv)
    if (args.root is None) == (args.split_file is None):
        parser.error("give either --root or --split_file with --images")
    if (args.split_file is None) != (args.images is None):
        parser.error("--split_file and --images belong together")
    if args.root is None:
        args.split = args.split or SPLITS[0]
        if args.classes_at is not None:
            parser.error("--classes_at is about the folders of --root")
    if args.class_names is not None and args.root is None:
        parser.error("--class_names names the folders of --root")
    for name, is_there in (
        ("root", Path.is_dir),
        ("images", Path.is_dir),
        ("class_names", Path.is_file),
        ("split_file", Path.is_file),
    ):
        if getattr(args, name) is not None and not is_there(getattr(args, name)):
            parser.error(f"--{name}: not found: {getattr(args, name)}")
    check_exclude_option(args, parser)
    if args.shots is not None and args.split == "test":
        parser.error("--shots draws training and validation images; a test set stays whole (--limit shortens it)")
    args.dataset = args.dataset or (args.root.resolve().name if args.root else re.sub("^split_zhou_", "", args.split_file.stem))
    args.kind = args.kind or kind_of(args.dataset, args.open_label)
    return args


def _without_excluded(class_images: list[ClassImage], args: argparse.Namespace) -> list[ClassImage]:
    if not args.exclude_images:
        return class_images
    excluded, root = Excluded.of(args), args.root or args.images
    kept = [one for one in class_images if not excluded.has("", os.path.relpath(one.path, root), root)]
    excluded.report()
    return kept


def kind_of(dataset: str, open_label: bool) -> str:
    """The kind of thing that a data set shows, found by its name; "object" where the name matches none."""
    kinds = {**KIND_OF_SET, **KIND_OF_OPEN_SET} if open_label else KIND_OF_SET
    name = re.sub("(?<=[a-z])(?=[A-Z])", " ", dataset).replace("_", " ").lower()
    return next((kind for kind, pattern in kinds.items() if re.search(pattern, name)), "object")


def read_class_names(path: Path) -> dict[str, str]:
    """Folder → name, from lines of "<folder> <name with spaces>"."""
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        folder, _, name = line.strip().partition(" ")
        if folder and not name.strip():
            raise SystemExit(f"{path}:{number}: a line is '<folder> <name>', got {line!r}")
        if folder:
            names[folder] = name.strip()
    return names


def read_folder(
    root: Path, names: dict[str, str] | None, split: str | None, at: str | None, report: Report
) -> tuple[list[ClassImage], list[Class], str]:
    """Images and classes of a tree of folders, both in the order of their names, and the split read (see `find_classes`)."""
    found, split = find_classes(root, split, at, names, report)
    classes = [Class(number, one.key, one.name) for number, one in enumerate(found)]
    class_images = [
        ClassImage(path, source_id, str(path), of)
        for one, of in zip(found, classes, strict=True)
        for path, source_id in zip(one.paths, one.source_ids, strict=True)
    ]
    return class_images, classes, split


def read_split_file(path: Path, images: Path, split: str, report: Report) -> tuple[list[ClassImage], list[Class]]:
    """The images of one list of a CoOp split file; the classes of all its lists, by number.

    Ends the program where the file is not a split file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(split), list):
        raise SystemExit(f"{path}: no list {split!r}; a split file holds lists train, val and test of [path, number, class]")
    class_of: dict[int, Class] = {}
    class_images: list[ClassImage] = []
    seen: set[str] = set()
    for part in SPLITS:
        for number, row in enumerate(content.get(part) or []):
            where = f"{path}: {part}[{number}]"
            problem = _row_problem(row, class_of)
            if problem is None and part == split and row[0] in seen:
                problem = f"{row[0]} occurs twice"
            if problem is not None:
                report.bad(where, problem)
                continue
            one = class_of.setdefault(row[1], Class(row[1], row[2], row[2]))
            if part == split:
                seen.add(row[0])
                class_images.append(ClassImage(images / row[0], row[0], where, one))
    return class_images, [class_of[number] for number in sorted(class_of)]


def _row_problem(row: Any, class_of: dict[int, Class]) -> str | None:
    if not isinstance(row, list) or len(row) != 3 or [type(value) for value in row] != [str, int, str]:
        return f"a row is [path, number, class], got {str(row)[:80]}"
    if not row[0] or not row[2].strip():
        return f"path and class must not be empty, got {row}"
    known = class_of.get(row[1])
    if known is not None and known.name != row[2]:
        return f"class {row[1]} is {known.name!r} elsewhere, {row[2]!r} here"
    return None


def half_of(classes: Sequence[Class], half: str) -> list[Class]:
    """The classes of a half, in order: base = the first ceil(C/2), new = the rest."""
    n_base = (len(classes) + 1) // 2
    return list({"all": classes, "base": classes[:n_base], "new": classes[n_base:]}[half])


def n_candidates_of(n_classes: int) -> int:
    """How many names a list of candidates has (CLS-RL): 40 % of the classes, all where that is under 30, at most 100."""
    n = int(0.4 * n_classes)
    return min(n_classes if n < 30 else n, 100)


def shots_of(shots: int | None, split: str) -> int | None:
    """The number of images per class: `shots`, at most `MAX_VAL_SHOTS` for `val`."""
    return min(shots, MAX_VAL_SHOTS) if shots is not None and split == "val" else shots


def choose(
    class_images: Sequence[ClassImage], classes: Sequence[Class], shots: int | None, seed: int, report: Report
) -> Iterator[ClassImage]:
    """The readable images of `classes`; with `shots` the first so many of each class, shuffled by (seed, class)."""
    of_class: dict[int, list[ClassImage]] = {one.number: [] for one in classes}
    for image in class_images:
        if image.of.number in of_class:
            of_class[image.of.number].append(image)
    for one in classes:
        members = sorted(of_class[one.number], key=lambda image: image.source_id)
        if shots is not None:
            random.Random(f"{seed}:{one.key}").shuffle(members)
        taken = 0
        for image in members:
            if taken == shots:
                break
            _, problem = image_size_px(image.path)
            if problem is not None:
                report.bad(image.where, problem)
                continue
            taken += 1
            yield image
        if shots is not None and taken < shots:
            print(f"note: {one.name}: only {taken} of {shots} images", file=sys.stderr)


def candidates(answer: str, names: Sequence[str], n: int, seed: int, sample_id: str) -> tuple[str, ...]:
    """`n` distinct names with `answer` among them, drawn and shuffled by (seed, id)."""
    rng = random.Random(f"{seed}:candidates:{sample_id}")
    listed = [answer, *rng.sample([name for name in names if name_key(name) != name_key(answer)], n - 1)]
    rng.shuffle(listed)
    return tuple(listed)


def _sample(image: ClassImage, names: Sequence[str], n_candidates: int, args: argparse.Namespace) -> Sample:
    sample_id = f"{args.dataset}-{args.split}-{image.source_id}"
    answer = image.of.name
    meta = {"dataset": args.dataset, "split": args.split, "source_id": image.source_id}
    if args.half != "all":
        meta["half"] = args.half
    return Sample(
        id=sample_id,
        task="classification",
        question=QUESTIONS[args.kind],
        answer=answer,
        images=(str(image.path),),
        choices=candidates(answer, names, n_candidates, args.seed, sample_id) if n_candidates else None,
        meta=meta,
    )


if __name__ == "__main__":
    sys.exit(program(main))
