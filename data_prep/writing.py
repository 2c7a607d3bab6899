"""Checked samples → JSONL: what every converter in this folder shares, whatever its task.

A converter adds `add_output_options` to its own, gets a `Target` from `check_output_options`, reports what is wrong in
its source through `Report`, and hands its samples to `finish`, which writes them and prints the counts.

What is wrong in the source is reported on standard error with its place and left out; `--strict` stops instead. Images stay
where they are unless `--export_images` copies them. Of an image only the size is read, mostly from the header, so that a file
cut short further down may pass.
"""

from __future__ import annotations

import argparse
import filecmp
import gc
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from data_prep.progress import progress
from data_prep.report import MAX_SKIPPED, share
from data_prep.report import Report as Report
from vlrl.answers.whole_text import is_whole
from vlrl.data.files import disk_is_full, free_mib
from vlrl.data.images import ImageError, image_size
from vlrl.data.sample_json import PACKED, file_of, in_file, sample_to_json
from vlrl.schema import Sample, SampleError
from vlrl.tasks import KNOWN
from vlrl.training.stopping import Stopped, StopRequests

T = TypeVar("T")
N_AT_ONCE = 500
"""Samples that are written at once."""


@dataclass(frozen=True)
class Target:
    """Where samples are written. `export_images`: the folder that images are copied to, None to leave them where they are."""

    out: Path
    overwrite: bool = False
    export_images: Path | None = None


def add_output_options(parser: argparse.ArgumentParser, *, dataset: bool = True) -> None:
    """The options that all converters have. `dataset=False`: without `--dataset`, for a converter where it means something
    else."""
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
    parser.add_argument(
        "--max_skipped",
        type=share,
        default=MAX_SKIPPED,
        metavar="SHARE",
        help="the share of annotations, images or rows that may be left out as unusable; with more, nothing is written and the "
        f"exit code is 1 (default {MAX_SKIPPED:g}; 1: write whatever can be used)",
    )


def whole_number(text: str) -> int:
    """An argparse type: 0, 1, 2 ..."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def need_file(parser: argparse.ArgumentParser, flag: str, path: Path) -> None:
    """Ends the program where the file that `flag` names does not exist."""
    if not path.is_file():
        parser.error(f"{flag}: no such file {path}")


def need_folder(parser: argparse.ArgumentParser, flag: str, path: Path) -> None:
    """Ends the program where the folder that `flag` names does not exist."""
    if not path.is_dir():
        parser.error(f"{flag}: no such folder {path}")


def check_output_options(args: argparse.Namespace) -> Target:
    """The target of `add_output_options`; ends the program where `--out` exists, before anything is read."""
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
    """Width and height in pixels with the EXIF rotation applied, and what is wrong with the file, or None."""
    if not path.is_file():
        return (0, 0), f"no such image {path}"
    try:
        return image_size(str(path)), None
    except ImageError as error:
        return (0, 0), str(error)


def draw(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """`limit` of `items` (None: all), drawn by `seed`, in their original order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(f"{seed}:limit").sample(range(len(items)), limit))]


def write_samples(samples: Iterable[Sample], target: Target) -> tuple[int, int]:
    """Write `samples`, each checked by its own task, with paths relative to the file; the file is whole or absent. Returns the
    numbers of samples and of images.

    Only one sample is in memory at a time where `samples` makes them one by one. Raises ValueError for a sample its task
    refuses, SampleError (of `vlrl.schema`) for ids used twice and missing images; ends the program where the file exists and
    may not be replaced.
    """
    _refuse_existing(target)
    out = target.out
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = _Paths(os.path.realpath(out.parent), target.export_images)
    line_of: dict[str, int] = {}
    images: set[str] = set()
    unfinished = out.with_name(f"{out.name}.partial")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as lines:
            rows = (
                samples.lines(partial(paths.written, where=str(out)))
                if isinstance(samples, Lines)
                else _lines(samples, paths, out)
            )
            n = len(samples) if isinstance(samples, Sized) else None
            rows = iter(progress(rows, "writing samples", n))
            while some := list(islice(rows, N_AT_ONCE)):
                lines.write(_text(some, line_of, out))
                images.update(*[shown for _, shown, _ in some])
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(line_of), len(images)


def _text(rows: Sequence[Line], line_of: dict[str, int], out: Path) -> str:
    """The lines as one text. `line_of`: id → its line, of all before. Raises SampleError for an id used twice and for text
    that no file can hold."""
    n = len(line_of)
    new = {row[0]: number for number, row in enumerate(rows, start=n + 1)}
    if len(new) < len(rows) or not line_of.keys().isdisjoint(new):
        for number, row in enumerate(rows, start=n + 1):
            first = line_of.setdefault(row[0], number)
            if first != number:
                raise SampleError(f"{out}:{number}: id {row[0]!r} was used on line {first}; ids must be unique")
    line_of |= new
    text = "".join([row[2] for row in rows])
    if not text.isascii():
        for sample_id, _, line in rows:
            if not is_whole(line):
                raise SampleError(f"{out} (id {sample_id!r}): holds half of a surrogate pair, which no file can hold")
    return text


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


Line = tuple[str, tuple[str, ...], str]
"""Id, images and JSON of a sample."""


@runtime_checkable
class Lines(Protocol):
    """Samples that write themselves: for each its id, its images and its line of JSON, valid by the way they are made.
    `written`: the path of an image as the file states it."""

    def lines(self, written: Callable[[str], str]) -> Iterator[Line]: ...


def _lines(samples: Iterable[Sample], paths: _Paths, out: Path) -> Iterator[Line]:
    """The lines of any samples, each checked."""
    for sample in samples:
        where = f"{out} (id {sample.id!r})"
        problem = KNOWN[sample.task].check(sample)
        if problem is not None:
            raise ValueError(f"sample {sample.id!r}: {problem}")
        row = sample_to_json(sample)
        for key in ("id", "question"):
            if not isinstance(row[key], str) or not row[key]:
                raise SampleError(f"{where}: {key!r} must be a non-empty string, got {row[key]!r}")
        if sample.images:
            row["images"] = [paths.written(path, where) for path in sample.images]
        if sample.video is not None:
            row["video"] = paths.written(sample.video, where)
        yield sample.id, sample.images, _ENCODER.encode(row) + "\n"


@dataclass
class _Paths:
    """The paths of images and videos as the file in `folder` writes them. With `export_to` each is copied there at its first
    use; an equal file that is already there is not copied again, and images inside Parquet files and shards stay there."""

    folder: str
    export_to: Path | None
    known: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def written(self, path: str, where: str) -> str:
        """Relative to the folder. Raises SampleError where there is no such file."""
        if path not in self.known:
            self.known[path] = self._written(path, where)
        return self.known[path]

    def _written(self, path: str, where: str) -> str:
        file = file_of(path)
        if file is None:
            return path
        if not os.path.exists(file):
            raise SampleError(f"{where}: no such file {file}")
        if self.export_to is not None and not path.startswith(PACKED):
            path = file = str(_copied(Path(path), self.export_to))
        above, name = os.path.split(file)
        if above not in self.folders:
            relative = Path(os.path.relpath(os.path.abspath(above), self.folder)).as_posix()
            self.folders[above] = "" if relative == "." else f"{relative}/"
        return in_file(path, self.folders[above] + name)


def _copied(original: Path, folder: Path) -> Path:
    """The copy of an image or video in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = numbered_path(folder, original.stem, original.suffix, partial(filecmp.cmp, original, shallow=False))
    if not copy.exists():
        unfinished = copy.with_name(f"{copy.name}.partial")
        try:
            shutil.copyfile(original, unfinished)
            unfinished.replace(copy)
        finally:
            unfinished.unlink(missing_ok=True)
    return copy


def numbered_path(folder: Path, stem: str, suffix: str, is_same: Callable[[Path], bool]) -> Path:
    """`folder/stem.suffix`, or `stem-2.suffix` and so on where other content has the name. An existing file for which
    `is_same` holds is returned."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists() and not is_same(path):
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def program(main: Callable[[], int]) -> int:
    """`main` as a program: a request to stop and a full disk are one line, and what was there before stays. Returns the exit
    code: 1 for a full disk, 130 for Ctrl-C, 143 for SIGTERM."""
    # millions of small records live until the end; looking for cycles among them again and again takes a tenth of the time
    gc.disable()
    with StopRequests():
        try:
            return main()
        except Stopped as stopped:
            print(f"stopped by {stopped.request.why}; no samples were written", file=sys.stderr)
            return stopped.request.code
        except SampleError as error:
            print(f"nothing written: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            place = str(error.filename or ".")
            if not disk_is_full(error, place):
                raise
            print(f"stopped: no space left for {place} ({free_mib(place)} MiB free); free some and repeat", file=sys.stderr)
            return 1


def finish(samples: Collection[Sample], target: Target, report: Report, lines: Sequence[str] = (), none_why: str = "") -> int:
    """Write and print the counts (`lines`: the converter's own); returns the exit code. The last line is the file.

    Nothing is written, and the exit code is 1, where too much of the source could not be used or no samples are left (for
    `none_why`).
    """
    report.summary()
    too_many = report.too_many()
    if too_many is not None:
        print(f"nothing written: {too_many}", file=sys.stderr)
        return 1
    if not samples:
        print(f"no samples{': ' if none_why else ''}{none_why}; nothing written", file=sys.stderr)
        return 1
    n_samples, n_images = write_samples(samples, target)
    print(f"images     {n_images}")
    print(f"samples    {n_samples}")
    for line in lines:
        print(line)
    print(f"skipped    {report.counts['skipped']} bad annotations")
    print(target.out)
    return 0
