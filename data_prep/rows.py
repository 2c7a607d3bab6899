"""Rows of question and answer, as other projects have them, or named by `--map` → samples.

    python data_prep/rows.py --data train.parquet --out samples.jsonl
    python data_prep/rows.py --data llava.json --images coco --coords norm1 --out samples.jsonl
    python data_prep/rows.py --data own.csv --map question=prompt,answer=target,image=file --out samples.jsonl

`--data` are files (JSONL, JSON, CSV, TSV, Parquet), folders of Parquet files or folders saved by `datasets`; nothing is
downloaded unless `--download` is given, which takes ids of the Hugging Face hub. Training and `vlrl bench` read most of these
as they are; this is for what they cannot know: the unit of boxes, the names behind numbers, other columns, images inside rows.
Images in Parquet stay there unless `--export_images` is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.images_in_rows import InRows, export_packed
from data_prep.writing import (
    Report,
    add_output_options,
    check_output_options,
    finish,
    image_size_px,
    need_folder,
    program,
)
from vlrl.data.foreign_rows import ROW_FAMILIES, RowReading, foreign_samples
from vlrl.data.row_counts import Found
from vlrl.data.row_images import InsideRow
from vlrl.data.row_labels import BOX_ORDERS
from vlrl.data.row_source import BadRow, UnitError
from vlrl.data.subsets import drawn
from vlrl.data.tables import Table, open_table, table_of
from vlrl.data.text_tables import OnBad, TableRow
from vlrl.schema import COORDS, Sample, SampleError
from vlrl.tasks import KNOWN

MAPPED = ("question", "answer", "image", "images", "choices", "label", "bbox", "id", "hint", "group")
"""What `--map` can name."""


class Ids:
    """Makes sample ids unique in a file: an id that is taken gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        """`wanted`, with a number appended where it was returned before."""
        found, number = wanted, 1
        while found in self._taken:
            number += 1
            found = f"{wanted}-{number}"
        self._taken.add(found)
        return found


def checked(sample: Sample) -> Sample:
    """`sample` itself. Raises BadRow where its task refuses it."""
    problem = KNOWN[sample.task].check(sample)
    if problem is not None:
        raise BadRow(problem)
    return sample


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of each image in pixels, EXIF rotation applied. Raises BadRow for a missing or unreadable one."""
    sizes = []
    for path in paths:
        size_wh, problem = image_size_px(path)
        if problem is not None:
            raise BadRow(problem)
        sizes.append(size_wh)
    return sizes


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; ends the program where it is not JSON. `object_hook`: as of `json.loads`."""
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path}: not JSON: {error}") from error


def local_table(path: Path, split: str | None) -> Table:
    """The rows of a local file or folder, as `vlrl.data.tables.open_table`; ends the program where there are none."""
    if not path.exists():
        raise SystemExit(f"{path}: no such file or folder; a data set of the Hugging Face hub needs --download")
    return _ending(lambda: open_table(path, split))


def _ending(opened: Callable[[], Table]) -> Table:
    """A table that ends the program where its rows cannot be read."""
    try:
        table = opened()
    except SampleError as error:
        raise SystemExit(str(error)) from error

    def read(on_bad: OnBad) -> Iterator[TableRow]:
        try:
            yield from table.read(on_bad)
        except SampleError as error:
            raise SystemExit(str(error)) from error

    return replace(table, read=read)


def hub_rows(hub_id: str, split: str | None) -> Table:
    """The rows of a data set of the Hugging Face hub, which is downloaded (into the cache of `datasets`)."""
    import datasets

    return _ending(lambda: table_of(datasets.load_dataset(hub_id), hub_id.rpartition("/")[2], Path(), split))


# ---- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Read, convert, check, write. Returns the exit code; the last line printed is the file written."""
    args = _arguments(argv)
    target = check_output_options(args)
    report, found, ids = Report.of(args), Found(), Ids()
    inside = InRows(target.export_images)
    samples: list[Sample] = []
    for index, name in enumerate(args.data):
        table = hub_rows(name, args.split) if args.download else local_table(Path(name), args.split)
        images = None if args.images is None else args.images[index if len(args.images) > 1 else 0]
        reading = replace(_reading(args), place=inside.of(table.name) if target.export_images is not None else None)
        n_before = found.n_rows
        samples += _converted(table, reading, images, found, report, ids)
        report.total("rows", found.n_rows - n_before)
    samples = export_packed(drawn(samples, args.limit, args.seed), target, report)
    inside.drop_unused(samples)
    lines = [f"rows       {found.n_rows} read", *(f"form       {n} {name}" for name, n in found.families.most_common())]
    lines += [f"task       {n} {name}" for name, n in sorted(Counter(sample.task for sample in samples).items())]
    lines += [f"note       {note}" for note in found.notes()]
    return finish(samples, target, report, lines, f"{found.n_rows} rows read")


def _converted(table: Table, reading: RowReading, images: Path | None, found: Found, report: Report, ids: Ids) -> list[Sample]:
    """The samples of one input that their tasks accept. Ends the program where the whole of it cannot be read."""

    def bad(where: str, problem: str) -> None:
        if found.is_first_of_row():
            report.bad(where, problem, what="rows", is_read=True)

    samples = []
    try:
        for sample in foreign_samples(table, reading, images, found, bad):
            problem = KNOWN[sample.task].check(sample)
            if problem is not None:
                bad(sample.id, problem)
                continue
            samples.append(replace(sample, id=ids.unique(sample.id)))
    except UnitError as error:
        raise SystemExit(f"{error}. Say which: {error.option}") from error
    except InsideRow as error:
        raise SystemExit(f"{error}; --export_images [FOLDER] writes them as files") from error
    except SampleError as error:
        hint = "; name them: --map question=COLUMN,answer=COLUMN,image=COLUMN" if "no known form" in str(error) else ""
        raise SystemExit(f"{error}{hint}") from error
    return samples


def _reading(args: argparse.Namespace) -> RowReading:
    return RowReading(
        family="" if args.format == "auto" else args.format,
        coords=args.coords,
        order=args.boxes,
        names={"*": tuple(args.names)} if args.names else {},
        columns=args.map or {},
        dataset=args.dataset,
        task=args.task or "",
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="rows of question and answer -> samples (JSONL)")
    forms = "; ".join(f"{name}: {family.about}" for name, family in ROW_FAMILIES.items())
    parser.add_argument("--format", choices=["auto", *ROW_FAMILIES], default="auto", help=f"auto: by the columns. {forms}")
    parser.add_argument("--data", nargs="+", required=True, metavar="PATH", help="files or folders (ids with --download)")
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="FOLDER", help="folder of the image paths: one for all, or one per --data"
    )
    parser.add_argument(
        "--map",
        type=_pairs,
        metavar="OURS=THEIRS,...",
        help=f"columns by name; ours: {', '.join(MAPPED)}; theirs may lead into an object: extra.answer",
    )
    parser.add_argument(
        "--coords",
        choices=[name for name in COORDS if name != "resized_px"],
        help="unit of boxes (default: pixels)",
    )
    parser.add_argument("--boxes", choices=BOX_ORDERS, help="how objects write boxes (default: the way that fits the images)")
    parser.add_argument(
        "--task",
        choices=("grounding", "detection", "qa"),
        help="what a row with one box, or with four numbers, is: one object, all of a kind, or text (default: by its words)",
    )
    parser.add_argument("--names", type=_names, metavar="A,B,...", help="names behind labels 0, 1, ...; or a file of them")
    parser.add_argument("--download", action="store_true", help="--data are ids of the Hugging Face hub; download them")
    parser.add_argument("--split", help="part of a saved or downloaded data set (default: the only one, or train)")
    add_output_options(parser)
    args = parser.parse_args(argv)
    if args.images is not None and len(args.images) not in (1, len(args.data)):
        parser.error(f"--images: {len(args.images)} for {len(args.data)} --data; give one for all or one each")
    for folder in args.images or ():
        need_folder(parser, "--images", folder)
    return args


def _pairs(text: str) -> dict[str, str]:
    """An argparse type: `ours=theirs,...`."""
    pairs: dict[str, str] = {}
    for word in text.split(","):
        ours, equals, theirs = (part.strip() for part in word.partition("="))
        if not equals or not theirs or ours not in MAPPED:
            raise argparse.ArgumentTypeError(f"{word.strip()!r}: write OURS=THEIRS, ours one of {', '.join(MAPPED)}")
        if ours in pairs:
            raise argparse.ArgumentTypeError(f"{ours} is given twice")
        pairs[ours] = theirs
    return pairs


def _names(text: str) -> list[str]:
    """An argparse type: names with commas, or a file that holds one a line."""
    path = Path(text)
    names = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: give different names, with commas, or a file with one a line")
    return names


if __name__ == "__main__":
    sys.exit(program(main))
