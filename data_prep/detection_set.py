"""Annotated pictures → checked detection samples → JSONL: what every detection converter in this folder shares.

A converter yields `Annotated` records, one a picture, as its files state them. Here pictures are opened (header only:
a file cut short further down is not noticed), boxes are checked against them, questions are drawn and the file is
written.

What is wrong in the source is reported on standard error with its place and left out; `--strict` stops instead. A
category whose only objects in a picture were left out is *doubtful* there: it is asked neither as present nor as
absent.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from vlrl.schema import Box, Sample, box_problem, read_samples, sample_to_json
from vlrl.tags import canon

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Annotated:
    """One picture as the annotation describes it. Boxes are original pixels, right and bottom edge exclusive,
    unchecked.

    `where`: annotation file, and `object_wheres` the place of each box in it, for reports. `size_wh`: stated size,
    None where none is. `crowd`: labels with objects that are neither to be found nor absent. `doubtful`: labels of
    objects that could not be read.
    """

    path: Path
    source_id: str
    where: str
    size_wh: tuple[int, int] | None
    boxes: tuple[Box, ...]
    object_wheres: tuple[str, ...]
    crowd: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A checked `Annotated`: the file exists and is `size_wh` large, boxes lie inside it and are distinct."""

    path: Path
    source_id: str
    size_wh: tuple[int, int]
    boxes: tuple[Box, ...]
    crowd: frozenset[str]
    doubtful: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """Which questions to ask. `negatives=None`: none (`per="category"`), all absent categories (`per="image"`)."""

    categories: tuple[str, ...]
    per: str
    negatives: int | None
    shots: int | None
    limit: int | None
    seed: int
    dataset: str
    split: str | None


@dataclass
class Report:
    """What was wrong, on standard error as it is found, and counted. With `strict` the first finding ends the program
    with exit code 1."""

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options all detection converters have."""
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write; image paths are relative to it")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument(
        "--categories",
        nargs="+",
        metavar="NAME",
        help="names to ask for, or one text file with a name a line (default: all categories of the annotations read)",
    )
    parser.add_argument(
        "--per",
        choices=("category", "image"),
        default="category",
        help="one sample an image and category that is present (default), or one an image asking for all categories",
    )
    parser.add_argument(
        "--negatives",
        type=_count,
        metavar="N",
        help="absent categories asked for an image, drawn by --seed (default: 0 per category, all of them per image)",
    )
    parser.add_argument(
        "--shots",
        type=_count,
        metavar="K",
        help="few-shot: for each category K images drawn by (--seed, category), none taken twice; needs --per category",
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="keep N samples, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dataset", help="name written to meta.dataset and into ids")
    parser.add_argument("--strict", action="store_true", help="stop with exit code 1 at the first bad annotation")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def check_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """What can be known to be wrong before anything is read."""
    if args.shots is not None and args.per == "image":
        parser.error("--shots draws images for one category at a time; use it with --per category")
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f"{args.out} exists; choose another --out or add --overwrite")


def choose_categories(requested: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The categories to ask for, in the order requested (or known), in the spelling of the annotations.

    Names compare by `vlrl.parsing.canon`. A single name of an existing file stands for its lines. Ends the program
    for a name that does not occur.
    """
    spelling = spellings(known)
    if not requested:
        return tuple(spelling.values())
    if len(requested) == 1 and canon(requested[0]) not in spelling and Path(requested[0]).is_file():
        requested = [line for line in Path(requested[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in requested:
        if canon(name) not in spelling:
            near = difflib.get_close_matches(canon(name), spelling, n=3)
            hint = (
                f"did you mean {', '.join(spelling[key] for key in near)}?"
                if near
                else f"known: {', '.join(spelling.values())}"
            )
            raise SystemExit(f"--categories: no category {name!r} in the annotations; {hint}")
    return tuple(dict.fromkeys(spelling[canon(name)] for name in requested))


def spellings(labels: Iterable[str]) -> dict[str, str]:
    """Canonical label → its first spelling: labels that differ only by case or white space are one category."""
    first: dict[str, str] = {}
    for label in labels:
        first.setdefault(canon(label), label)
    return first


def check_picture(annotated: Annotated, spelling: dict[str, str], report: Report) -> Picture | None:
    """`annotated` with its boxes checked and cut to the picture, or None (reported) when the picture cannot be used."""
    size_wh, problem = _size_px(annotated.path)
    if problem is None and annotated.size_wh is not None and annotated.size_wh != size_wh:
        stated, real = ("x".join(map(str, size)) for size in (annotated.size_wh, size_wh))
        problem = f"stated size is {stated} but {annotated.path} is {real}; its boxes may be in other pixels"
    if problem is not None:
        report.bad(annotated.where, problem)
        return None
    place_of: dict[Box, str] = {}
    doubtful = {spelling[canon(label)] for label in annotated.doubtful}
    for box, where in zip(annotated.boxes, annotated.object_wheres, strict=True):
        label = spelling[canon(box.label or "")]
        fitted = _fit(box, size_wh, where, report)
        if fitted is None:
            doubtful.add(label)
        elif (fitted := replace(fitted, label=label)) in place_of:
            report.bad(where, f"{label} {list(fitted.xyxy)} is the same box and label as {place_of[fitted]}")
        else:
            place_of[fitted] = where
    return Picture(
        path=annotated.path,
        source_id=annotated.source_id,
        size_wh=size_wh,
        boxes=tuple(place_of),
        crowd=frozenset(spelling[canon(label)] for label in annotated.crowd),
        doubtful=frozenset(doubtful),
    )


def _size_px(path: Path) -> tuple[tuple[int, int], str | None]:
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


def _fit(box: Box, size_wh: tuple[int, int], where: str, report: Report) -> Box | None:
    """The part of `box` inside the picture; None (counted) when under 1 px is left.

    Up to 1 px outside is rounding and cut without a word; more is reported.
    """
    if 0 <= min(box.x2 - box.x1, box.y2 - box.y1) < 1:
        report.counts["tiny"] += 1
        return None
    problem = box_problem(box.xyxy, None)
    if problem is not None:
        report.bad(where, f"{box.label}: {problem}")
        return None
    width, height = size_wh
    x1, y1, x2, y2 = max(box.x1, 0), max(box.y1, 0), min(box.x2, width), min(box.y2, height)
    outside = box_problem(box.xyxy, size_wh)
    if min(x2 - x1, y2 - y1) < 1:
        report.bad(where, f"{box.label}: {outside or f'box {list(box.xyxy)} lies outside the {width}x{height} image'}")
        return None
    if outside is not None:
        report.clipped(where, f"{box.label}: {outside}")
    elif (x1, y1, x2, y2) != box.xyxy:
        report.counts["clipped"] += 1
    # 1e-4 px: x + width carries float noise, and whole pixels read better without ".0"
    x1, y1, x2, y2 = (int(v) if v == int(v) else v for v in (round(v, 4) for v in (x1, y1, x2, y2)))
    return Box(x1, y1, x2, y2, box.label)


def build_samples(pictures: Sequence[Picture], plan: Plan) -> list[Sample]:
    """The questions `plan` asks of `pictures`, in the order of the pictures. Equal arguments give equal samples."""
    if plan.shots is not None:
        samples = _few_shot(pictures, plan, plan.shots)
    elif plan.per == "category":
        samples = [
            sample
            for picture in pictures
            for sample in (
                *(_sample(picture, (category,), plan) for category in _present(picture, plan)),
                *_negative_samples(picture, plan),
            )
        ]
    else:
        asked = ((picture, {*_present(picture, plan), *_absent(picture, plan, plan.negatives)}) for picture in pictures)
        samples = [
            _sample(picture, tuple(name for name in plan.categories if name in names), plan)
            for picture, names in asked
            if names
        ]
    if plan.limit is not None and plan.limit < len(samples):
        kept = random.Random(f"{plan.seed}:limit").sample(range(len(samples)), plan.limit)
        samples = [samples[i] for i in sorted(kept)]
    return samples


def _few_shot(pictures: Sequence[Picture], plan: Plan, shots: int) -> list[Sample]:
    """For each category in turn: its pictures shuffled by (seed, category), the first `shots` not yet taken."""
    in_order = sorted(pictures, key=lambda picture: picture.source_id)
    taken: set[str] = set()
    samples: list[Sample] = []
    for category in plan.categories:
        having = [picture for picture in in_order if category in _present(picture, plan)]
        random.Random(f"{plan.seed}:{category}").shuffle(having)
        drawn = [picture for picture in having if picture.source_id not in taken][:shots]
        if len(drawn) < shots:
            print(f"note: {category}: only {len(drawn)} of {shots} images left to take", file=sys.stderr)
        for picture in drawn:
            taken.add(picture.source_id)
            samples += [_sample(picture, (category,), plan), *_negative_samples(picture, plan)]
    return samples


def _present(picture: Picture, plan: Plan) -> list[str]:
    labels = {box.label for box in picture.boxes}
    return [category for category in plan.categories if category in labels]


def _absent(picture: Picture, plan: Plan, n: int | None) -> list[str]:
    """`n` (None: all) of the categories that are surely absent, drawn by (seed, picture)."""
    known = {box.label for box in picture.boxes} | picture.crowd | picture.doubtful
    absent = [category for category in plan.categories if category not in known]
    if n is None or n >= len(absent):
        return absent
    return random.Random(f"{plan.seed}:negatives:{picture.source_id}").sample(absent, n)


def _negative_samples(picture: Picture, plan: Plan) -> list[Sample]:
    return [_sample(picture, (category,), plan) for category in _absent(picture, plan, plan.negatives or 0)]


def _sample(picture: Picture, asked: tuple[str, ...], plan: Plan) -> Sample:
    boxes = [box for box in picture.boxes if box.label in asked]
    meta = {
        "categories": list(asked),
        "image_size": list(picture.size_wh),
        "crowd": [category for category in asked if category in picture.crowd],
        "negatives": [category for category in asked if category not in {box.label for box in boxes}],
        "dataset": plan.dataset,
        "split": plan.split,
        "source_id": picture.source_id,
    }
    parts = [plan.dataset, picture.source_id, *(asked if plan.per == "category" else ())]
    return Sample(
        id="-".join(parts),
        task="detection",
        question=", ".join(asked),
        answer=[{"bbox_2d": list(box.xyxy), "label": box.label} for box in boxes],
        images=(str(picture.path),),
        meta={key: value for key, value in meta.items() if value},
    )


def write_samples(samples: Sequence[Sample], out: Path) -> None:
    """Write `samples` to `out`, each checked once more, with image paths relative to it; all or nothing.

    Raises ValueError for a detection sample whose answer does not fit its picture or categories.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.realpath(out.parent)
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as lines:
            for sample in samples:
                _check_sample(sample)
                images = tuple(Path(os.path.relpath(os.path.abspath(path), folder)).as_posix() for path in sample.images)
                row = sample_to_json(replace(sample, images=images))
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        read_samples(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _check_sample(sample: Sample) -> None:
    for item in sample.answer:
        problem = box_problem(item["bbox_2d"], tuple(sample.meta["image_size"]))
        if problem is None and item["label"] not in sample.meta["categories"]:
            problem = f"label {item['label']!r} is not among the asked categories {sample.meta['categories']}"
        if problem is not None:
            raise ValueError(f"sample {sample.id!r}: {problem}")


def finish(pictures: Sequence[Picture], plan: Plan, out: Path, report: Report) -> int:
    """Ask, write and print the counts; returns the exit code."""
    samples = build_samples(pictures, plan)
    if not samples:
        asked = ", ".join(plan.categories) or "(none)"
        print(f"no samples: {len(pictures)} usable images, categories {asked}; nothing written", file=sys.stderr)
        return 1
    write_samples(samples, out)
    n_boxes = Counter(item["label"] for sample in samples for item in sample.answer)
    print(f"images     {len({sample.images for sample in samples})} (of {len(pictures)} usable)")
    print(f"samples    {len(samples)}")
    for category in plan.categories:
        print(f"boxes      {n_boxes[category]} {category}")
    print(f"negatives  {sum(not sample.answer for sample in samples)} samples with an empty answer")
    print(f"skipped    {report.counts['skipped']} bad annotations, {report.counts['tiny']} boxes under 1 px")
    print(f"clipped    {report.counts['clipped']} boxes")
    print(out)
    return 0
