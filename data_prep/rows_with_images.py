"""Rows of published evaluation files whose images are paths, bytes in the row, or lie in Parquet → samples with image paths."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.images_in_rows import InRows, decoded_base64, export_packed
from data_prep.rows import Ids, checked, hub_rows, local_table
from data_prep.writing import Report, Target, finish
from vlrl.data.row_source import BadRow
from vlrl.data.sample_files import missing
from vlrl.data.sample_json import PACKED
from vlrl.data.subsets import drawn
from vlrl.data.tables import Table, is_encoded
from vlrl.schema import Sample

IMAGE_KEYS = ("decoded_image", "image", "images", "image_bytes", "filename", "img_filename", "file_name", "image_path")
"""Columns of images, the first that holds something counts; `decoded_image` is MathVista's, beside a path."""
Convert = Callable[[Mapping[str, Any], tuple[str, ...]], Sample]
"""(row, its images) -> its sample. Raises BadRow."""


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--images`, `--download`, `--split`."""
    parser.add_argument("--data", nargs="+", required=True, metavar="PATH", help="files or folders (ids with --download)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of the image paths (default: that of the file)")
    parser.add_argument("--download", action="store_true", help="--data are ids of the Hugging Face hub; download them")
    parser.add_argument("--split", help="part of a saved or downloaded data set (default: the only one, or train)")


def write_rows(args: argparse.Namespace, target: Target, convert: Convert) -> int:
    """Convert every row, check, draw, write; returns the exit code."""
    report, ids, inside = Report.of(args), Ids(), InRows(target.export_images)
    samples: list[Sample] = []
    n_rows = 0

    def bad(where: str, problem: str) -> None:
        report.bad(where, problem, what="rows")

    for name in args.data:
        table = hub_rows(name, args.split) if args.download else local_table(Path(name), args.split)
        n_before = n_rows
        for where, row in table.read(bad):
            n_rows += 1
            try:
                sample = checked(convert(row, _images(row, where, table, args.images, inside, target)))
            except BadRow as problem:
                report.bad(where, str(problem), what="rows", is_read=True)
                continue
            samples.append(replace(sample, id=ids.unique(sample.id)))
        report.total("rows", n_rows - n_before)
    samples = export_packed(drawn(samples, args.limit, args.seed), target, report)
    inside.drop_unused(samples)
    return finish(samples, target, report, [f"rows       {n_rows} read"], f"{n_rows} rows read")


def _images(
    row: Mapping[str, Any], where: str, table: Table, folder: Path | None, inside: InRows, target: Target
) -> tuple[str, ...]:
    """The paths or addresses of a row's images, in order. Raises BadRow for one that is not there."""
    cells = next((row[key] for key in IMAGE_KEYS if row.get(key) not in (None, "", [])), None)
    found = []
    for which, cell in enumerate(cells if isinstance(cells, list | tuple) else [] if cells is None else [cells]):
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str) and not cell.startswith(PACKED) and is_encoded(cell):
            cell = decoded_base64(cell)
        if isinstance(cell, bytes):
            if target.export_images is None:
                raise SystemExit("the images are inside the data set; --export_images [FOLDER] writes them as files")
            found.append(inside.of(table.name)(cell, f"{where}-{which}" if which else where))
        elif isinstance(cell, str) and cell:
            path = cell if cell.startswith(PACKED) else str((folder or table.folder) / cell)
            if problem := missing(path):
                raise BadRow(problem.replace("no such file", "no such image"))
            found.append(path)
        else:
            raise BadRow(f"an image is a path or the bytes of a file, got {str(cell)[:80]!r}")
    return tuple(found)


def text_of(row: Mapping[str, Any], *keys: str) -> str:
    """The first of these columns that holds text. Raises BadRow."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    raise BadRow(f"no text in {' or '.join(keys)}; it has {', '.join(map(str, row))[:200]}")


def list_of(row: Mapping[str, Any], *keys: str) -> Sequence[str] | None:
    """The first of these columns that holds a list of texts, or None."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, list | tuple) and value:
            return [str(one).strip() for one in value]
    return None
