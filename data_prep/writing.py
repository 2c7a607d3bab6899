"""Checked samples → JSONL: what every converter in this folder shares, whatever its task.

A converter adds `add_output_options` to its own, gets a `Target` from `check_output_options`, reports what is wrong in
its source through `Report`, and hands its samples to `finish`, which writes them and prints the counts.

What is wrong in the source is reported on standard error with its place and left out; `--strict` stops instead. Images
are opened by header only (a file cut short further down is not noticed) and stay where they are unless
`--export_images` copies them.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from vlrl.schema import Sample, read_samples, sample_to_json
from vlrl.tasks import TASKS

_EXIF_ORIENTATION = 0x0112

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Where samples go. `export_images`: the folder images are copied to, None to leave them where they are."""

    out: Path
    overwrite: bool = False
    export_images: Path | None = None


@dataclass
class Report:
    """What was wrong, on standard error as it is found, and counted. With `strict` the first finding ends the program
    with exit code 1. `counts` may hold a converter's own counts too."""

    strict: bool
    counts: Counter[str] = field(default_factory=Counter)

    def bad(self, where: str, problem: str) -> None:
        """An annotation that is left out."""
        self._say("skipped", where, problem)

    def clipped(self, where: str, problem: str) -> None:
        """A box that sticks out of its picture by more than rounding and was cut at the edge."""
        self._say("clipped", where, problem)

    def _say(self, kind: str, where: str, problem: str) -> None:
        if self.strict:
            raise SystemExit(f"{where}: {problem} (--strict stops here; without it this is {kind} and counted)")
        self.counts[kind] += 1
        print(f"{kind}: {where}: {problem}", file=sys.stderr)


def add_output_options(parser: argparse.ArgumentParser, *, dataset: bool = True) -> None:
    """The options all converters have. `dataset=False`: without `--dataset`, where that means something else."""
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write; image paths are relative to it")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument(
        "--export_images",
        type=Path,
        nargs="?",
        const=True,
        metavar="FOLDER",
        help="copy the images the samples use to FOLDER (default: <out without suffix>_images) and refer to the copies",
    )
    parser.add_argument("--limit", type=whole_number, metavar="N", help="keep N samples, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    if dataset:
        parser.add_argument("--dataset", help="name written to meta.dataset and into ids")
    parser.add_argument("--strict", action="store_true", help="stop with exit code 1 at the first bad annotation")


def whole_number(text: str) -> int:
    """An argparse type: 0, 1, 2 ..."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def check_output_options(args: argparse.Namespace) -> Target:
    """The target of `add_output_options`; ends the program when `--out` exists, before anything is read."""
    folder = args.export_images
    if folder is True:
        folder = args.out.with_name(f"{args.out.stem}_images")
    target = Target(args.out, args.overwrite, folder)
    _refuse_existing(target)
    return target


def _refuse_existing(target: Target) -> None:
    if target.out.exists() and not target.overwrite:
        raise SystemExit(f"{target.out} exists; choose another --out or add --overwrite")


def image_size_px(path: Path) -> tuple[tuple[int, int], str | None]:
    """Width and height as shown (EXIF rotation applied), from the file's header; and what is wrong with the file."""
    if not path.is_file():
        return (0, 0), f"no such image {path}"
    try:
        with Image.open(path) as image:
            width, height = image.size
            if "exif" in image.info and image.getexif().get(_EXIF_ORIENTATION) in (5, 6, 7, 8):
                return (height, width), None
            return (width, height), None
    except (OSError, Image.DecompressionBombError) as error:
        return (0, 0), f"cannot read image {path}: {error}"


def draw(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """`limit` of `items` (None: all), drawn by seed, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(f"{seed}:limit").sample(range(len(items)), limit))]


def write_samples(samples: Sequence[Sample], target: Target) -> None:
    """Write `samples`, each checked by its own task, with paths relative to the file; all or nothing.

    Raises ValueError for a sample its task refuses, SampleError (of `vlrl.schema`) for ids used twice and missing
    images; ends the program where the file exists and may not be replaced.
    """
    _refuse_existing(target)
    for sample in samples:
        problem = TASKS[sample.task].check(sample)
        if problem is not None:
            raise ValueError(f"sample {sample.id!r}: {problem}")
    copies = {} if target.export_images is None else _export(samples, target.export_images)
    out = target.out
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.realpath(out.parent)

    def written(path: str) -> str:
        if path.startswith("synthetic:"):
            return path
        return Path(os.path.relpath(os.path.abspath(copies.get(path, path)), folder)).as_posix()

    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as lines:
            for sample in samples:
                video = None if sample.video is None else written(sample.video)
                row = sample_to_json(replace(sample, images=tuple(map(written, sample.images)), video=video))
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        read_samples(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _export(samples: Sequence[Sample], folder: Path) -> dict[str, str]:
    """Copy what `samples` show to `folder`; path of each original → path of its copy.

    A name that another file of the folder has is numbered; an equal file is not copied again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies: dict[str, str] = {}
    for path in dict.fromkeys(path for one in samples for path in (*one.images, *([one.video] if one.video else []))):
        if path.startswith("synthetic:"):
            continue
        original, number = Path(path), 1
        copy = folder / original.name
        while copy.exists() and not filecmp.cmp(original, copy, shallow=False):
            number += 1
            copy = folder / f"{original.stem}-{number}{original.suffix}"
        if not copy.exists():
            shutil.copyfile(original, copy)
        copies[path] = str(copy)
    return copies


def finish(samples: Sequence[Sample], target: Target, report: Report, lines: Sequence[str] = (), none_why: str = "") -> int:
    """Write and print the counts (`lines`: the converter's own); returns the exit code. The last line is the file.

    Without samples nothing is written and the exit code is 1; `none_why` says more.
    """
    if not samples:
        print(f"no samples{': ' if none_why else ''}{none_why}; nothing written", file=sys.stderr)
        return 1
    write_samples(samples, target)
    print(f"images     {len({path for sample in samples for path in sample.images})}")
    print(f"samples    {len(samples)}")
    for line in lines:
        print(line)
    print(f"skipped    {report.counts['skipped']} bad annotations")
    print(target.out)
    return 0
