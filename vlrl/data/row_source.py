"""What readers of other projects' rows share: a row with its images, rows that cannot be used, and the unit of its boxes.

Not here: what a row means (`vlrl.data.foreign_rows`, `vlrl.data.published_rows`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from vlrl.data.images import image_size
from vlrl.schema import SampleError

Size = tuple[int, int]
MIN_SIDE_PX = 8
"""Boxes within 0..1 are shares of any image whose sides are larger than this."""
FEW = 0.03
"""The share of boxes or rows that may be wrong in a set; more, and the set is not what it was taken for."""
N_LARGE = 20
"""So many boxes in images of more than 1,200 px a side, none beyond 1000, are thousandths rather than pixels."""
LARGE_PX = 1200


class BadRow(ValueError):
    """A row that cannot be used; the message says why. Converters report it with the row's place."""


class LeftOut(BadRow):
    """A question that is read well but cannot be asked here. `kind`: what all such questions have in common."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class UnitError(SampleError):
    """Boxes of a whole set in another unit or order than they were taken for. `option`: what to pass, `--coords norm1`."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


class Sizes(Sequence[Size]):
    """Width and height of images in pixels, EXIF rotation applied; a header is read when its size is asked for. Raises
    ImageError then."""

    def __init__(self, images: Sequence[str]) -> None:
        self._images = tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Size: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Size]: ...

    def __getitem__(self, index: int | slice) -> Size | Sequence[Size]:
        return Sizes(self._images[index]) if isinstance(index, slice) else _size_of(self._images[index])


@functools.lru_cache(maxsize=256)
def _size_of(path: str) -> Size:
    return image_size(path)


class Units:
    """Counts the boxes of a set that are taken as pixels, to see whether they are. `stated`: the user says so."""

    def __init__(self, stated: bool = False) -> None:
        self.stated = stated
        self.n = self.n_shares = self.n_thousandths = self.n_large = self.n_over_1000 = 0
        self._share: Sequence[float] = ()
        self._outside: tuple[Sequence[float], Size] = ((), (0, 0))

    def see(self, xyxy: Sequence[float], size: Size) -> None:
        """Count one box. Raises BadRow for one that lies within 0..1."""
        width, height = size
        self.n += 1
        if self.stated:
            return
        if min(size) >= MIN_SIDE_PX and all(0 <= value <= 1 for value in xyxy):
            self.n_shares, self._share = self.n_shares + 1, list(xyxy)
            raise BadRow(f"box {list(xyxy)} lies within 0..1, so its values are shares of the image, not pixels")
        if (xyxy[2] > 1.02 * width + 1 or xyxy[3] > 1.02 * height + 1) and max(xyxy) <= 1000 and min(xyxy) >= 0:
            self.n_thousandths, self._outside = self.n_thousandths + 1, (list(xyxy), size)
        if max(size) > LARGE_PX:
            self.n_large += 1
            self.n_over_1000 += max(xyxy) > 1000

    def check(self, where: str) -> None:
        """Raises UnitError where the boxes of the set are no pixels."""
        if self.stated or not self.n:
            return
        if self.n_shares > FEW * self.n:
            raise UnitError(
                f"{where}: {self.n_shares:,} of {self.n:,} boxes lie within 0..1, such as {self._share}: shares of the image,"
                " not pixels",
                "--coords norm1",
            )
        if self.n_thousandths > FEW * self.n:
            box, (width, height) = self._outside
            raise UnitError(
                f"{where}: {self.n_thousandths:,} of {self.n:,} boxes lie outside their image but within 0..1000, such as {box}"
                f" in {width}x{height} px: thousandths of the image, not pixels",
                "--coords norm1000",
            )
        if self.n_large >= N_LARGE and not self.n_over_1000:
            raise UnitError(
                f"{where}: none of {self.n_large:,} boxes in images of more than {LARGE_PX} px exceeds 1000, so they seem to be"
                " thousandths of the image, not pixels (--coords px if they are pixels)",
                "--coords norm1000",
            )


@dataclass(frozen=True)
class SourceRow:
    """A row and its images. `sizes_wh`: the size of each image in pixels, EXIF rotation applied. `coords`: the coordinate
    convention of its boxes. `clipped`: called with a message for a box that was cut at the edge of its image.
    `image_index`: the image that boxes refer to. `units`: counts boxes that are taken as pixels. `task`: what the user says
    that the rows are; "": by their words. `noted`: called with a kind of reading that a person should know of. `bare_boxes`:
    whether four numbers that no word calls a box are one in this set."""

    row: Mapping[str, Any]
    sample_id: str
    images: tuple[str, ...]
    sizes_wh: Sequence[Size]
    meta: Mapping[str, Any]
    coords: str
    reward_method: str | None
    clipped: Callable[[str], None]
    image_index: int = 0
    units: Units = field(default_factory=lambda: Units(stated=True))
    task: str = ""
    noted: Callable[[str], None] = lambda _kind: None
    bare_boxes: Callable[[], bool] = lambda: True
