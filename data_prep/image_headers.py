"""What the header of an image file says: size as stored, EXIF orientation, which file it is. Pixels are not decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vlrl.data.images import ImageError, displayed_size, opened_image, orientation

_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Header:
    """`stored_wh`: size in pixels as the file stores it; `shown_wh`: with the EXIF rotation applied, as every viewer, training
    and evaluation show it. `file_id`: equal for two paths of one file."""

    stored_wh: tuple[int, int]
    shown_wh: tuple[int, int]
    orientation: int
    file_id: tuple[int, int] | str


def read_header(path: Path) -> Header:
    """The header of an image file. Raises ImageError, also for a file that is missing."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageError(f"no such image {path}") from error
    try:
        with opened_image(path) as image:
            turned = orientation(image)
            shown_wh = displayed_size(image)
    except ImageError as error:
        raise ImageError(not_fetched(path) or str(error)) from error
    stored_wh = shown_wh[::-1] if turned > 4 else shown_wh
    file_id = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
    return Header(stored_wh, shown_wh, turned, file_id)


def not_fetched(path: Path) -> str | None:
    """What is wrong with a file that Git LFS has not fetched (it holds a pointer of three lines), or None."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except OSError:
        return None
    return f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository" if start == _LFS else None
