"""Annotated pictures → checked detection samples: what every detection converter in this folder shares.

A converter yields `Annotated` records, one a picture, as its files state them. Here boxes are checked against their
pictures and questions are drawn; `data_prep.writing` writes them.

A category whose only objects in a picture had to be left out is *doubtful* there: it is asked neither as present nor as
absent.
"""

from __future__ import annotations

import argparse
import difflib
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.fitting import box_counts, fit_box, usable_size_px
from data_prep.writing import Report, Target, add_output_options, check_output_options, draw, whole_number
from data_prep.writing import finish as finish_writing
from vlrl.answers.span import canon
from vlrl.schema import Box, Sample

MAX_COUNTED = 100
"""Up to this many categories, the boxes of each are printed."""


@dataclass(frozen=True)
class Annotated:
    """One picture as the annotation describes it. Boxes are original pixels, right and bottom edge exclusive,
    unchecked.

    `where`: annotation file, and `object_wheres` the place of each box in it, for reports. `size_wh`: stated size,
    None where none is. `crowd`: labels with objects that are neither to be found nor absent. `doubtful`: labels of
    objects that could not be read. `absent`: the labels known to be absent; None: every label without an object is.
    """

    path: Path
    source_id: str
    where: str
    size_wh: tuple[int, int] | None
    boxes: tuple[Box, ...]
    object_wheres: tuple[str, ...]
    crowd: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    absent: frozenset[str] | None = None

    def without(self, labels: Iterable[str]) -> Annotated:
        """The same picture with nothing known of `labels`: their boxes go and they are doubtful."""
        unknown = frozenset(labels)
        kept = [pair for pair in zip(self.boxes, self.object_wheres, strict=True) if pair[0].label not in unknown]
        return replace(
            self,
            boxes=tuple(box for box, _ in kept),
            object_wheres=tuple(where for _, where in kept),
            doubtful=self.doubtful | unknown,
        )


@dataclass(frozen=True)
class Picture:
    """A checked `Annotated`: the file exists and is `size_wh` large, boxes lie inside it and are distinct."""

    path: Path
    source_id: str
    size_wh: tuple[int, int]
    boxes: tuple[Box, ...]
    crowd: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    absent: frozenset[str] | None = None


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


def add_options(parser: argparse.ArgumentParser, *, per: str = "category") -> None:
    """The options all detection converters have; `per`: the default of `--per`."""
    add_output_options(parser)
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names to ask for, or one text file with a name a line (default: all categories of the annotations read)",
    )
    parser.add_argument(
        "--per",
        choices=("category", "image"),
        default=per,
        help=f"one sample an image and category that is present, or one an image asking for a list (default: {per})",
    )
    parser.add_argument(
        "--negatives",
        type=whole_number,
        metavar="N",
        help="absent categories asked for an image, drawn by --seed (default: 0 per category, all of them per image; "
        "so --per image asks for all names and --per image --negatives 0 for those present)",
    )
    parser.add_argument(
        "--shots",
        type=whole_number,
        metavar="K",
        help="few-shot: for each category K images drawn by (--seed, category), none taken twice; needs --per category",
    )


def check_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Target:
    """What can be known to be wrong before anything is read."""
    if args.shots is not None and args.per == "image":
        parser.error("--shots draws images for one category at a time; use it with --per category")
    return check_output_options(args)


def plan_of(args: argparse.Namespace, categories: tuple[str, ...], dataset: str, split: str | None) -> Plan:
    """What the options of `add_options` ask of these categories."""
    return Plan(categories, args.per, args.negatives, args.shots, args.limit, args.seed, dataset, split)


def choose_categories(
    requested: Sequence[str] | None, known: Iterable[str], named: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The categories to ask for, in the order requested (or known), in the spelling of the annotations.

    Names compare by `vlrl.answers.span.canon`. A single name that is no category stands for a list in `named` or for the lines
    of an existing file. Ends the program for a name that does not occur.
    """
    spelling = spellings(known)
    if not requested:
        return tuple(spelling.values())
    if len(requested) == 1 and canon(requested[0]) not in spelling:
        if named and requested[0] in named:
            requested = named[requested[0]]
        elif Path(requested[0]).is_file():
            requested = [line for line in Path(requested[0]).read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in requested:
        if canon(name) not in spelling:
            near = difflib.get_close_matches(canon(name), spelling, n=3)
            hint = (
                f"did you mean {', '.join(spelling[key] for key in near)}?"
                if near
                else f"known: {', '.join(spelling.values())}"
            )
            raise SystemExit(f"--classes: no category {name!r} in the annotations; {hint}")
    return tuple(dict.fromkeys(spelling[canon(name)] for name in requested))


def spellings(labels: Iterable[str]) -> dict[str, str]:
    """Canonical label → its first spelling: labels that differ only by case or white space are one category."""
    first: dict[str, str] = {}
    for label in labels:
        first.setdefault(canon(label), label)
    return first


def check_pictures(annotated: Iterable[Annotated], spelling: Mapping[str, str], report: Report) -> list[Picture]:
    """Those that can be used, with their boxes checked and cut to the picture; the others are reported."""
    checked = (_check_picture(one, spelling, report) for one in annotated)
    return [picture for picture in checked if picture is not None]


def _check_picture(annotated: Annotated, spelling: Mapping[str, str], report: Report) -> Picture | None:
    size_wh = usable_size_px(annotated.path, annotated.size_wh, annotated.where, report)
    if size_wh is None:
        return None

    def spelt(labels: Iterable[str]) -> frozenset[str]:
        return frozenset(spelling[canon(label)] for label in labels)

    place_of: dict[Box, str] = {}
    doubtful = set(spelt(annotated.doubtful))
    for box, where in zip(annotated.boxes, annotated.object_wheres, strict=True):
        label = spelling[canon(box.label or "")]
        fitted = fit_box(box, size_wh, where, report)
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
        crowd=spelt(annotated.crowd),
        doubtful=frozenset(doubtful),
        absent=None if annotated.absent is None else spelt(annotated.absent),
    )


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
    return draw(samples, plan.limit, plan.seed)


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
    absent = [
        category
        for category in plan.categories
        if category not in known and (picture.absent is None or category in picture.absent)
    ]
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


def finish(pictures: Sequence[Picture], plan: Plan, target: Target, report: Report) -> int:
    """Ask, write and print the counts; returns the exit code."""
    samples = build_samples(pictures, plan)
    n_boxes = Counter(item["label"] for sample in samples for item in sample.answer)
    if len(plan.categories) <= MAX_COUNTED:
        boxes = [f"boxes      {n_boxes[category]} {category}" for category in plan.categories]
    else:
        boxes = [f"boxes      {n_boxes.total()} of {len(n_boxes)} categories ({len(plan.categories)} chosen)"]
    lines = [
        f"usable     {len(pictures)} images",
        *boxes,
        f"negatives  {sum(not sample.answer for sample in samples)} samples with an empty answer",
        *box_counts(report),
    ]
    asked = ", ".join(plan.categories[:MAX_COUNTED]) or "(none)"
    return finish_writing(samples, target, report, lines, f"{len(pictures)} usable images, categories {asked}")
