"""Images that lie inside rows, as bytes, in base64 or in Parquet files → files of their own."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.writing import Report, Target, numbered_path
from vlrl.data.images import ImageError, as_rgb, image_bytes, opened_image
from vlrl.data.row_source import BadRow
from vlrl.data.sample_json import PACKED
from vlrl.schema import Sample

_AS_THEY_ARE = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


class InRows:
    """Writes images inside rows as files of `folder` while the rows are read."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._written: set[Path] = set()

    def of(self, name: str) -> Callable[[str | bytes, str], str]:
        """What makes a path of an image, for rows of the table `name` (see `vlrl.data.foreign_rows.RowReading.place`)."""
        return lambda cell, where: self._write(cell, f"{name}-{_number(where)}")

    def _write(self, cell: str | bytes, name: str) -> str:
        assert self._folder is not None
        data = cell if isinstance(cell, bytes) else decoded_base64(cell)
        self._folder.mkdir(parents=True, exist_ok=True)
        before = set(self._folder.glob(f"{name}*")) - self._written
        try:
            path = save_image(data, self._folder, name)
        except ImageError as error:
            raise BadRow(str(error)) from error
        if path not in before:
            self._written.add(path)
        return str(path)

    def drop_unused(self, samples: Sequence[Sample]) -> None:
        """Remove what was written for rows that are not among the samples."""
        used = {image for sample in samples for image in sample.images}
        for path in self._written:
            if str(path) not in used:
                path.unlink(missing_ok=True)


def _number(where: str) -> str:
    number = where.rpartition(":")[2].rpartition(" ")[2]
    return f"{int(number):06}" if number.isdigit() else number


def decoded_base64(text: str) -> bytes:
    """The bytes of an image in base64, with or without `data:image/png;base64,` before it. Raises BadRow."""
    try:
        return base64.b64decode(
            "".join(text.partition(",")[2].split() if text.startswith("data:") else text.split()), validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise BadRow(f"its image is no base64 ({error}): {text[:40]!r}") from error


def export_packed(samples: Sequence[Sample], target: Target, report: Report) -> list[Sample]:
    """Write the images of Parquet files and shards as files where `--export_images` asks for that, and refer to these. Samples
    whose image cannot be read are reported and left out."""
    if target.export_images is None:
        return list(samples)
    target.export_images.mkdir(parents=True, exist_ok=True)
    file_of: dict[str, str] = {}
    kept = []
    for sample in samples:
        try:
            for which, image in enumerate(sample.images):
                if image.startswith(PACKED) and image not in file_of:
                    name = f"{sample.id}" + (f"-{which}" if which else "")
                    file_of[image] = str(save_image(image_bytes(image), target.export_images, name.replace("/", "-")))
        except ImageError as error:
            report.bad(sample.id, f"cannot decode its image: {error}", what="rows", is_read=True)
            continue
        kept.append(replace(sample, images=tuple(file_of.get(image, image) for image in sample.images)))
    return kept


def save_image(data: bytes, folder: Path, name: str) -> Path:
    """Write an image unchanged, or as an RGB PNG file where its mode or format is not a common one; returns the file. Raises
    ImageError."""
    with opened_image(io.BytesIO(data), "the image in the row") as image:
        suffix = _AS_THEY_ARE.get(image.format or "")
        if suffix is None or image.mode not in ("RGB", "L") or "transparency" in image.info:
            written = io.BytesIO()
            as_rgb(image).save(written, "PNG")
            data, suffix = written.getvalue(), ".png"
    path = numbered_path(folder, name, suffix, lambda other: other.read_bytes() == data)
    path.write_bytes(data)
    return path
