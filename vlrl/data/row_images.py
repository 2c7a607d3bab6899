"""Where the images of another project's row are: paths, addresses, bytes or objects → paths and addresses of samples."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlrl.data.row_source import BadRow
from vlrl.data.sample_files import missing
from vlrl.data.sample_json import PACKED, file_of, in_file
from vlrl.data.tables import FILE_COLUMNS, IMAGE_COLUMNS, IMAGE_FILES, is_encoded, numbered_images
from vlrl.schema import SampleError

PlaceInside = Callable[[str | bytes, str], str]
"""Makes a path of an image that is inside a row (bytes, or base64), given its place."""
_KEYS = ("bytes", "path", "image", "image_path", "file_name", "filename", "file", "name", "image_url", "url", "data")
"""Keys of an object that stands for an image: Hugging Face's, verl's, OpenAI's."""
_NAMES_AN_IMAGE = re.compile(
    r"(?:image|img|picture|photo)s?[_ ]?(?:id|ids|name|names|file|files|file[_ ]?names?|paths?)?", re.I
)


class InsideRow(SampleError):
    """A file that holds images inside its rows, in a form that only the converter reads."""


def path_of(cell: Any, root: Path, place: PlaceInside | None, where: str) -> str:
    """The path or address of an image, which is there. Raises BadRow; InsideRow for one that is inside the row, where there is
    no `place`."""
    whole = cell
    while isinstance(cell, Mapping):
        cell = next((cell[key] for key in _KEYS if cell.get(key)), None)
    if isinstance(cell, bytes) or (isinstance(cell, str) and not cell.startswith(PACKED) and is_encoded(cell)):
        if place is None:
            raise InsideRow(f"{where}: its images are inside the rows")
        return place(cell, where)
    if not isinstance(cell, str) or not cell:
        raise BadRow(f"an image is a path, or an object with path or bytes, got {str(whole)[:60]!r}")
    if cell.startswith(("http://", "https://")):
        raise BadRow(f"its image is on the web: {cell[:100]}; download it first")
    cell = cell.removeprefix("file://")
    file = file_of(cell)
    path = cell if file is None else in_file(cell, os.path.join(root, file))
    if "\\" in path and missing(path):
        path = path.replace("\\", "/")  # as Windows writes it
    if problem := missing(path):
        raise BadRow(f"{problem}; paths are relative to {root} (--image_root changes that)")
    return path


def check_no_image_is_lost(row: Mapping[str, Any], where: str) -> None:
    """Raises SampleError where a row without images seems to name one in a column that is not read for images."""
    if any(key in row for key in IMAGE_COLUMNS) or numbered_images(row):
        return
    for key, value in row.items():
        is_file = isinstance(value, str) and len(value) < 1000 and value.lower().endswith(IMAGE_FILES) and "\n" not in value
        if is_file or (_NAMES_AN_IMAGE.fullmatch(key) and isinstance(value, str | int) and value != ""):
            raise SampleError(
                f"{where}: its rows are in no known form: column {key!r} ({value!r:.60}) seems to name an image, but images are"
                f" read as paths in columns such as {', '.join(IMAGE_COLUMNS[1:4])} or {FILE_COLUMNS[0]}"
            )
