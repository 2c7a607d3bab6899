"""The data sets of VLM-R1, Visual-RFT, CLS-RL and Vision-R1 as they are published → samples.

    python data_prep/published.py --format vlm_r1 --data refcoco_train.jsonl refcocog_train.jsonl --images coco --out rec.jsonl
    python data_prep/published.py --format visual_rft --data share_data/ViRFT_COCO --export_images --out virft.jsonl

`--data` are files (JSONL, JSON, CSV, Parquet), folders of Parquet files or folders saved by `datasets`; nothing is
downloaded unless `--download` is given, which takes ids of the Hugging Face hub.

- `vlm_r1`: `image` (path or list) and `conversations`, or `problem` and `solution`. A box without a label is a
  grounding sample, boxes with labels are detection, anything else is qa. `accu_reward_method` (of the row, or
  `--reward_method` for a file) becomes `meta.rewards`. Boxes are pixels; `--coords norm1000` reads the files for InternVL.
- `visual_rft`: `image`, `problem`, `solution`; Position boxes and corner pairs run from 0 to 1000. Its LISA file too.
- `cls_rl`: `image`, `problem` with the list of names, `solution`.
- `vision_r1`: `image`, `problem`, `solution` (JSON text), `width`, `height`, `target_id_maps`.

Images inside a data set are written as files by `--export_images`, those with transparency on a white background.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.images_in_rows import decoded_base64, save_image
from data_prep.rows import Ids, checked, hub_rows, local_table
from data_prep.writing import (
    Report,
    Target,
    add_output_options,
    check_output_options,
    draw,
    finish,
    need_folder,
    program,
    whole_number,
)
from vlrl.data import published_rows
from vlrl.data.images import ImageError, displayed_size, image_bytes, image_size, opened_image
from vlrl.data.row_source import BadRow, SourceRow, UnitError, Units
from vlrl.data.sample_files import missing
from vlrl.data.sample_json import PACKED, file_of, in_file
from vlrl.data.tables import Table, is_encoded
from vlrl.schema import COORDS, Sample

FORMATS = {
    "vlm_r1": published_rows.vlm_r1,
    "visual_rft": published_rows.visual_rft,
    "cls_rl": published_rows.cls_rl,
    "vision_r1": published_rows.vision_r1,
}
_IN_TEXT = re.compile(r"<img>(.*?)</img>", re.DOTALL)


@dataclass(frozen=True)
class Input:
    """One of `--data` with its image folder and reward method."""

    table: Table
    images: Path
    reward_method: str | None
    units: Units


def main(argv: Sequence[str] | None = None) -> int:
    """Read, convert, check, write. Returns the exit code; the last line printed is the file written."""
    args = _arguments(argv)
    target = check_output_options(args)
    report = Report.of(args)
    inputs = _inputs(args)
    ids, n_rows = Ids(), 0
    samples: list[Sample] = []
    bad = partial(report.bad, what="rows")
    for index, one in enumerate(inputs):
        for number, (where, whole) in enumerate(one.table.read(bad), start=1):
            n_rows += 1
            problems: list[str] = []
            for turn, row in enumerate(published_rows.rounds_of(whole)):
                try:
                    sample = convert(row, f"{index}:{number}", one, args, target, partial(report.clipped, where))
                except BadRow as problem:
                    problems.append(str(problem))
                    continue
                if sample.task == "detection" and not args.min_boxes <= len(sample.answer) <= args.max_boxes:
                    report.counts["left out"] += 1
                    continue
                samples.append(replace(sample, id=ids.unique(sample.id + (f"-turn{turn + 1}" if turn else ""))))
            if problems:  # a row is bad once, however many of its turns are
                more = f" (so are {len(problems) - 1} more of its turns)" if len(problems) > 1 else ""
                bad(where, problems[0] + more, is_read=True)
        try:
            one.units.check(one.table.name)
        except UnitError as error:
            raise SystemExit(f"{error}. Say so: {error.option}") from error
    report.total("rows", n_rows)
    samples = draw(samples, args.limit, args.seed)
    samples = export_embedded(samples, inputs, target, report)
    tasks = Counter(sample.task for sample in samples)
    rewards = Counter(name for sample in samples for name in sample.meta.get("rewards", ()))
    lines = [f"rows       {n_rows} read", *(f"task       {n} {name}" for name, n in sorted(tasks.items()))]
    lines += [f"rewards    {n} {name}" for name, n in sorted(rewards.items())]
    lines += [f"left out   {report.counts['left out']} by --min_boxes and --max_boxes"] if report.counts["left out"] else []
    return finish(samples, target, report, [*lines, f"clipped    {report.counts['clipped']} boxes"], f"{n_rows} rows read")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="published data sets -> samples (JSONL)")
    parser.add_argument("--format", choices=FORMATS, required=True, help="whose data it is")
    parser.add_argument("--data", nargs="+", required=True, metavar="PATH", help="files or folders (ids with --download)")
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="FOLDER", help="folder of the image paths: one for all, or one per --data"
    )
    parser.add_argument("--download", action="store_true", help="--data are ids of the Hugging Face hub; download them")
    parser.add_argument("--split", help="part of a saved or downloaded data set (default: the only one, or train)")
    parser.add_argument(
        "--reward_method",
        nargs="+",
        choices=published_rows.REWARD_METHODS,
        help="vlm_r1: for rows without one; one, or one per --data",
    )
    parser.add_argument(
        "--coords",
        choices=[name for name in COORDS if name != "resized_px"],
        help="vlm_r1: unit of the boxes (px)",
    )
    parser.add_argument("--min_boxes", type=whole_number, default=0, metavar="N", help="detection: leave out rows with fewer")
    parser.add_argument("--max_boxes", type=whole_number, default=sys.maxsize, metavar="N", help="... and with more")
    add_output_options(parser)
    args = parser.parse_args(argv)
    for name in ("images", "reward_method"):
        given = getattr(args, name)
        if given is not None and len(given) not in (1, len(args.data)):
            parser.error(f"--{name}: {len(given)} for {len(args.data)} --data; give one for all or one each")
    for folder in args.images or ():
        need_folder(parser, "--images", folder)
    if args.format != "vlm_r1" and (args.reward_method is not None or args.coords is not None):
        parser.error("--reward_method and --coords are for --format vlm_r1; the other formats fix both")
    return args


def _inputs(args: argparse.Namespace) -> list[Input]:
    inputs = []
    for index, name in enumerate(args.data):
        table = hub_rows(name, args.split) if args.download else local_table(Path(name), args.split)
        images, method = (
            None if given is None else given[index if len(given) > 1 else 0] for given in (args.images, args.reward_method)
        )
        units = Units(stated=args.coords is not None)
        inputs.append(Input(table, images or table.folder, method, units))
    return inputs


def convert(
    row: Mapping[str, Any], place: str, one: Input, args: argparse.Namespace, target: Target, clipped: Callable[[str], None]
) -> Sample:
    """The sample of a row; images inside the row get the address `embedded:<place>:<which>`. Raises BadRow."""
    images, sizes_wh = [], []
    for which, cell in enumerate(image_cells(row)):
        if isinstance(cell, str) and cell.startswith(PACKED) and target.export_images is not None:
            cell = _bytes_behind(cell)
        if isinstance(cell, bytes):
            if target.export_images is None:
                raise SystemExit("the images are inside the data set; --export_images [FOLDER] writes them as files")
            images.append(f"embedded:{place}:{which}")
            sizes_wh.append(embedded_size_px(cell))
        else:
            path = in_file(cell, str(one.images / (file_of(cell) or cell)))
            if problem := missing(path):
                raise BadRow(problem.replace("no such file", "no such image"))
            images.append(path)
            sizes_wh.append(_size_px(path))
    dataset = args.dataset or one.table.name
    source_id = str(row.get("id", place.rpartition(":")[2]))
    meta = {"dataset": dataset, "source_id": source_id} | ({"split": args.split} if args.split else {})
    source = SourceRow(
        row=row,
        sample_id=f"{dataset}-{source_id}",
        images=tuple(images),
        sizes_wh=tuple(sizes_wh),
        meta=meta,
        coords="norm1000" if args.format == "visual_rft" else args.coords or "px",
        reward_method=one.reward_method,
        clipped=clipped,
        units=one.units,
    )
    return checked(FORMATS[args.format](source))


def image_cells(row: Mapping[str, Any]) -> list[str | bytes]:
    """The images of a row: paths, or bytes where the row holds the image itself. Raises BadRow."""
    named = next((row[key] for key in ("image", "images", "image_path") if row.get(key) is not None), None)
    if named is None and isinstance(row.get("conversations"), list):
        named = [path.strip() for turn in row["conversations"][:1] for path in _IN_TEXT.findall(str(turn))]
    cells: list[str | bytes] = []
    for cell in named if isinstance(named, list) else [] if named is None else [named]:
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str) and not cell.startswith(PACKED) and is_encoded(cell):
            cell = decoded_base64(cell)
        if not isinstance(cell, str | bytes) or not cell:
            raise BadRow(f"an image is a path or the bytes of a file, got {str(cell)[:80]!r}")
        cells.append(cell)
    return cells


def _size_px(path: str) -> tuple[int, int]:
    """Width and height in pixels of an image, EXIF rotation applied. Raises BadRow."""
    try:
        return image_size(path)
    except ImageError as error:
        raise BadRow(str(error)) from error


def _bytes_behind(address: str) -> bytes:
    """The encoded image behind an address. Raises BadRow where there is none."""
    try:
        data = image_bytes(address)
    except ImageError as error:
        raise BadRow(str(error)) from error
    if not data:
        raise BadRow("an image is a path or the bytes of a file, got 'None'")
    return data


def embedded_size_px(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of an image in memory, EXIF rotation applied. Raises BadRow."""
    try:
        with opened_image(io.BytesIO(data), "the image in the row") as image:
            return displayed_size(image)
    except ImageError as error:
        raise BadRow(str(error)) from error


def export_embedded(samples: Sequence[Sample], inputs: Sequence[Input], target: Target, report: Report) -> list[Sample]:
    """Write the images inside the rows of `samples` as files, and refer to these. Samples whose image cannot be decoded are
    reported and left out. The rows are read a second time, so that only one is in memory at a time."""
    wanted = {image for sample in samples for image in sample.images if image.startswith("embedded:")}
    if not wanted or target.export_images is None:
        return list(samples)
    target.export_images.mkdir(parents=True, exist_ok=True)
    file_of: dict[str, str] = {}
    for address, where, name, data in _embedded(inputs, wanted):
        try:
            file_of[address] = str(save_image(data, target.export_images, name))
        except (OSError, ImageError) as error:
            report.bad(where, f"cannot decode its image: {error}", what="rows", is_read=True)
    return [
        replace(sample, images=tuple(file_of.get(image, image) for image in sample.images))
        for sample in samples
        if all(image in file_of for image in sample.images if image in wanted)
    ]


def _embedded(inputs: Sequence[Input], wanted: set[str]) -> Iterator[tuple[str, str, str, bytes]]:
    """Address, place, file name and bytes of each wanted image."""
    rows = {address.rpartition(":")[0] for address in wanted}
    for index, one in enumerate(inputs):
        for number, (where, row) in enumerate(one.table.read(lambda _where, _problem: None), start=1):
            if f"embedded:{index}:{number}" not in rows:
                continue
            for which, cell in enumerate(image_cells(row)):
                address = f"embedded:{index}:{number}:{which}"
                if address in wanted:
                    cell = _bytes_behind(cell) if isinstance(cell, str) else cell
                    yield address, where, f"{one.table.name}-{number:06}" + (f"-{which}" if which else ""), cell


if __name__ == "__main__":
    sys.exit(program(main))
