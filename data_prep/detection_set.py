"""Annotated images → checked detection samples: what every detection converter in this folder shares.

A converter makes one `Annotated` record per image, as its files state it. This module checks the boxes against the images and
draws the questions; `data_prep.writing` writes the samples.

No sample asks for what is not known. A category of which something could not be read in an image is *doubtful* there and is not
asked for, neither as present nor as absent. A category that no image of the set has an object of is not known to be annotated
at all: it is not asked for as absent, unless `--classes` names it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.annotated import Annotated as Annotated
from data_prep.annotated import CheckedImage as CheckedImage
from data_prep.ap_marks import ApMarks
from data_prep.box_units import COORDS
from data_prep.box_values import name_key
from data_prep.checking import Reading, check_images
from data_prep.class_folders import say_alike
from data_prep.detection_rows import Drawn as Drawn
from data_prep.detection_rows import Plan as Plan
from data_prep.detection_rows import Question
from data_prep.excluding import Excluded, add_exclude_option, check_exclude_option
from data_prep.fitting import box_counts
from data_prep.not_counted import is_category, without_regions
from data_prep.text_encoding import read_text
from data_prep.writing import Report, Target, add_output_options, check_output_options, draw, whole_number
from data_prep.writing import finish as finish_writing
from vlrl.answers.span import canon
from vlrl.data.name_values import nearest
from vlrl.schema import Sample

MAX_COUNTED = 100
"""Up to this many categories the number of boxes of each is printed."""


def add_options(parser: argparse.ArgumentParser, *, per: str = "category") -> None:
    """The options that all detection converters have; `per`: the default of `--per`."""
    add_output_options(parser)
    add_exclude_option(parser)
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names to ask for, or one text file with one name per line (default: all categories of the annotations)",
    )
    parser.add_argument(
        "--per",
        choices=("category", "image"),
        default=per,
        help=f"one sample per image and category that is present, or one per image asking for a list (default: {per})",
    )
    parser.add_argument(
        "--negatives",
        type=whole_number,
        metavar="N",
        help="absent categories to ask for in each image, drawn by --seed (default: none with --per category, all with "
        "--per image; so --per image asks for all names and --per image --negatives 0 for those present)",
    )
    parser.add_argument(
        "--shots",
        type=whole_number,
        metavar="K",
        help="few-shot: K images for each category, drawn by (--seed, category), none taken twice; needs --per category",
    )
    parser.add_argument(
        "--coords",
        choices=COORDS,
        help="unit of the boxes: px, norm1 (shares of width and height), norm100 (per cent) or norm1000 (thousandths); default:"
        " as the format has it, and refused where the boxes of the set contradict it",
    )
    parser.add_argument(
        "--boxes_in",
        choices=("auto", "stored", "shown"),
        default="auto",
        help="which pixels boxes count in photographs turned by EXIF: those stored in the file or those shown (default auto: "
        "by the stated size, by the boxes, by the rest of the set; undecided ones are left out)",
    )
    parser.add_argument(
        "--empty_images",
        choices=("unknown", "negative"),
        default="unknown",
        help="images that the annotations only list, without any object: unknown (default): they may never have been annotated,"
        " so nothing is asked; negative: every category is absent there",
    )


def add_ap_option(parser: argparse.ArgumentParser, what: str) -> None:
    """`--for_ap`, of converters whose benchmark needs more than boxes."""
    parser.add_argument("--for_ap", action="store_true", help=what)


def check_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Target:
    """Where to write; ends the program for options that cannot be used, before anything is read."""
    if args.shots is not None and args.per == "image":
        parser.error("--shots draws images for one category at a time; use it with --per category")
    check_exclude_option(args, parser)
    return check_output_options(args)


def write_detection(
    annotated: Iterable[Annotated],
    labels: Iterable[str],
    args: argparse.Namespace,
    target: Target,
    report: Report,
    *,
    dataset: str,
    split: str | None = None,
    named: Mapping[str, Sequence[str]] | None = None,
    wanted: frozenset[str] | None = None,
    keep: Callable[[Sequence[CheckedImage]], Sequence[CheckedImage]] | None = None,
    is_xywh: bool = False,
    below: Mapping[str, frozenset[str]] | None = None,
    all_annotated: bool = False,
    marks: ApMarks | None = None,
) -> int:
    """Check the images, draw the samples that the options of `add_options` ask for, and write them; returns the exit code.

    `labels`: all category names of the set; the first spelling counts. `named`: lists for `--classes`. `wanted`: the only
    categories to ask for, in canonical form. `keep`: selects among the checked images. `is_xywh`, `below`: see `Reading`.
    `all_annotated`: the set is known to search its images for all `labels`, also those without a single object. `marks`: see
    `Plan`.
    """
    labels = [label for label in labels if is_category(label)]
    spelling = spellings(labels, name_key)
    report_spellings(labels, spelling, report)
    annotated = without_regions(without_excluded(annotated, args), report)
    categories = choose_categories(args.classes, spelling.values(), named)
    if wanted is not None:
        categories = tuple(name for name in categories if canon(name) in wanted)
    if not (all_annotated or args.classes):
        categories = annotated_categories(categories, annotated)
    reading = Reading(args.coords, args.boxes_in, args.empty_images == "negative", is_xywh, _by_name(below or {}))
    images: Sequence[CheckedImage] = check_images(annotated, spelling, report, reading)
    del annotated
    if keep is not None:
        images = keep(images)
    plan = Plan(categories, args.per, args.negatives, args.shots, args.limit, args.seed, dataset, split, marks)
    return finish(images, plan, target, report)


def _by_name(below: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The kinds of each category, by `name_key`."""
    found: dict[str, frozenset[str]] = {}
    for parent, kinds in below.items():
        key = name_key(parent)
        found[key] = found.get(key, frozenset()) | (frozenset(map(name_key, kinds)) - {key})
    return found


def without_excluded(annotated: Iterable[Annotated], args: argparse.Namespace) -> list[Annotated]:
    """The images that `--exclude_images` does not name; prints how many it named."""
    if not args.exclude_images:
        return list(annotated)
    excluded = Excluded.of(args)
    root = getattr(args, "images", None) or getattr(args, "root", None) or Path()
    kept = [one for one in annotated if not excluded.has(one.source_id, os.path.relpath(one.path, root), root)]
    excluded.report()
    return kept


def choose_categories(
    requested: Sequence[str] | None, known: Iterable[str], named: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The categories to ask for, in the order requested (or known), in the spelling of the annotations.

    Names compare by `data_prep.box_values.name_key`. A single name that is no category stands for a list in `named` or for the
    lines of an existing file. Ends the program for a name that does not occur.
    """
    spelling = spellings(known, name_key)
    if not requested:
        return tuple(spelling.values())
    if len(requested) == 1 and name_key(requested[0]) not in spelling:
        if named and requested[0] in named:
            requested = named[requested[0]]
        elif Path(requested[0]).is_file():
            requested = [line for line in read_text(Path(requested[0])).splitlines() if line.strip()]
    for name in requested:
        if name_key(name) not in spelling:
            hint = nearest(name_key(name), spelling) or f"; known: {', '.join(spelling.values())}"
            raise SystemExit(f"--classes: no category {name!r} in the annotations{hint}")
    return tuple(dict.fromkeys(spelling[name_key(name)] for name in requested))


def spellings(labels: Iterable[str], key: Callable[[str], str] = canon) -> dict[str, str]:
    """Labels as `key` compares them → their first spelling. By default those that differ only by case or white space are one
    category; with `name_key` also those that differ by `_` or `-`."""
    first: dict[str, str] = {}
    for label in labels:
        first.setdefault(key(label), label)
    return first


def report_spellings(labels: Iterable[str], spelling: Mapping[str, str], report: Report) -> None:
    """Note the names that are taken as one category, and those that may be one."""
    for label in dict.fromkeys(labels):
        if spelling[name_key(label)] != label:
            report.note(f"category {label!r}", f"is taken as {spelling[name_key(label)]!r}", "names taken as one category")
    if len(spelling) <= MAX_COUNTED:
        say_alike(spelling.values())


def annotated_categories(categories: Sequence[str], annotated: Iterable[Annotated]) -> tuple[str, ...]:
    """Those of `categories` that some image has an object of, or that some image states as absent; the others are named."""
    seen: set[str | None] = set()
    for one in annotated:
        seen.update(box.label for box in one.boxes)
        seen |= one.crowd | one.doubtful | (one.absent or frozenset())
    known = {name_key(label) for label in seen if label}
    unknown = [name for name in categories if name_key(name) not in known]
    if unknown:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        print(
            f"note: no image has an object of {len(unknown)} of {len(categories)} categories ({some}), so nothing says that"
            " images were searched for them, and they are not asked for; --classes asks for what it names",
            file=sys.stderr,
        )
    return tuple(name for name in categories if name_key(name) in known)


def build_samples(images: Sequence[CheckedImage], plan: Plan) -> list[Sample]:
    """The samples that `plan` draws, in the order of the images. Equal arguments give equal samples."""
    return list(Drawn(draw_questions(images, plan), plan))


def draw_questions(images: Sequence[CheckedImage], plan: Plan) -> list[Question]:
    """What `plan` asks for, in the order of the images."""
    if plan.shots is not None:
        questions = _few_shot(images, plan, plan.shots)
    elif plan.per == "category":
        questions = [question for image in images for question in _by_category(image, _present(image, plan), plan)]
    else:
        requested = ((image, {*_present(image, plan), *_absent(image, plan, plan.negatives)}) for image in images)
        questions = [(image, tuple(name for name in plan.categories if name in names)) for image, names in requested if names]
    return draw(questions, plan.limit, plan.seed)


def _by_category(image: CheckedImage, present: Sequence[str], plan: Plan) -> list[Question]:
    """One question for each of `present`, and for the negatives of the image."""
    absent = _absent(image, plan, plan.negatives) if plan.negatives else ()
    return [(image, (category,)) for category in (*present, *absent)]


def _few_shot(images: Sequence[CheckedImage], plan: Plan, shots: int) -> list[Question]:
    """For each category in turn: its images shuffled by (seed, category), the first `shots` not yet taken. Copies of one
    photograph count once."""
    in_order = sorted(images, key=lambda image: image.source_id)
    taken: set[str] = set()
    questions: list[Question] = []
    for category in plan.categories:
        having = [image for image in in_order if category in _present(image, plan)]
        random.Random(f"{plan.seed}:{category}").shuffle(having)
        drawn: list[CheckedImage] = []
        for image in having:
            photograph = image.group or _copied_name(image.path) or image.source_id
            if len(drawn) < shots and photograph not in taken:
                taken.add(photograph)
                drawn.append(image)
        if len(drawn) < shots:
            print(f"note: {category}: only {len(drawn)} of {shots} images left to take", file=sys.stderr)
        for image in drawn:
            questions += _by_category(image, [category], plan)
    return questions


def _copied_name(path: Path) -> str | None:
    """What Roboflow's copies of one photograph share in their names (`name.rf.<hash>.jpg`)."""
    name, mark, _ = path.name.partition(".rf.")
    return name if mark else None


def _present(image: CheckedImage, plan: Plan) -> list[str]:
    labels = {box.label for box in image.boxes} & plan.order.keys()
    return [plan.categories[index] for index in sorted(plan.order[label] for label in labels)]


def _absent(image: CheckedImage, plan: Plan, n: int | None) -> list[str]:
    """`n` (None: all) of the categories known to be absent, drawn by (seed, image)."""
    known = {box.label for box in image.boxes} | image.crowd | image.doubtful
    absent = [
        category for category in plan.categories if category not in known and (image.absent is None or category in image.absent)
    ]
    if n is None or n >= len(absent):
        return absent
    return random.Random(f"{plan.seed}:negatives:{image.source_id}").sample(absent, n)


def finish(images: Sequence[CheckedImage], plan: Plan, target: Target, report: Report) -> int:
    """Draw the samples, write them and print the counts; returns the exit code."""
    questions = draw_questions(images, plan)
    n_boxes: Counter[str | None] = Counter()
    n_empty = 0
    counted: CheckedImage | None = None
    labels: list[str | None] = []
    for image, asked in questions:
        if image is not counted:
            counted, labels = image, [box.label for box in image.boxes]
        is_empty = True
        for name in asked:
            n = labels.count(name)
            n_boxes[name] += n
            is_empty = is_empty and not n
        n_empty += is_empty
    if len(plan.categories) <= MAX_COUNTED:
        boxes = [f"boxes      {n_boxes[category]} {category}" for category in plan.categories]
    else:
        boxes = [f"boxes      {n_boxes.total()} of {len(n_boxes)} categories ({len(plan.categories)} chosen)"]
    lines = [
        f"usable     {len(images)} images",
        *boxes,
        f"negatives  {n_empty} samples with an empty answer",
        *box_counts(report),
        *_unknowns(images, plan, report),
    ]
    requested = ", ".join(plan.categories[:MAX_COUNTED]) or "(none)"
    return finish_writing(Drawn(questions, plan), target, report, lines, f"{len(images)} usable images, categories {requested}")


def _unknowns(images: Sequence[CheckedImage], plan: Plan, report: Report) -> list[str]:
    """What was not asked because it is not known, where there is such."""
    n_doubtful = sum(name in image.doubtful for image in images for name in plan.categories if image.doubtful)
    return [
        *([f"doubtful   {n_doubtful} pairs of image and category, not asked for"] if n_doubtful else []),
        *([f"unnamed    {n} images with an object of unknown category, left out"] if (n := report.counts["unnamed"]) else []),
        *(
            [f"only listed {n} images without any object: nothing asked for as absent (--empty_images negative: all is)"]
            if (n := report.counts["only listed"])
            else []
        ),
    ]
