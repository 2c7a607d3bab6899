"""The images inside a result page: small, each once, at most so many and so many bytes; which are left out is counted.

The page is one file that opens in a browser at once, so of a large run the images of the worst answers are in it alone.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from vlrl.data.images import ImageError, as_rgb, displayed_size, open_image, open_images, opened_image
from vlrl.data.markup import in_base64
from vlrl.data.sample_files import is_there
from vlrl.schema import Sample

N_IMAGES = 1_000
"""Images inside a page, unless `--report_images` says another number."""
MAX_BYTES = 24 * 2**20
"""Bytes of all images together, before base64."""
SIDES_PX = ((150, 480), (500, 384), (2_000, 288))
"""(up to so many images, the longer side of each); more of them get `SMALLEST_PX`."""
SMALLEST_PX = 192
MAX_A_SAMPLE, MAX_VIDEOS = 4, 60
"""Images shown of one sample; videos that are opened."""
_AT_ONCE = 64


@dataclass(frozen=True)
class Thumbnail:
    """An image in small. `shown_px`: width and height on the page; `size_px`: of the original."""

    jpeg: bytes
    shown_px: tuple[int, int]
    size_px: tuple[int, int]


@dataclass
class PageImages:
    """The images of a page. `of_sample`: sample id -> the places of its images in `thumbnails`, None for one that is not in the
    page; `problems`: sample id -> why an image cannot be shown; `n_left_out`: images that exist and are not inside."""

    thumbnails: list[Thumbnail] = field(default_factory=list)
    of_sample: dict[str, list[int | None]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    n_left_out: int = 0

    def to_json(self) -> list[list[object]]:
        """Width, height, base64 of each."""
        return [[*one.shown_px, str(in_base64(one.jpeg))] for one in self.thumbnails]


def page_images(samples: Sequence[Sample], most: int) -> PageImages:
    """The images of `samples`, those of the first ones first. `most`: so many images at most."""
    found = PageImages()
    paths_of = {sample.id: list(sample.images[:MAX_A_SAMPLE]) for sample in samples}
    wanted = list(dict.fromkeys(path for paths in paths_of.values() for path in paths))
    chosen = wanted[:most]
    place_of, problems = _opened(chosen, found, _side_px(len(chosen)))
    for sample in samples:
        if sample.video is None:
            paths = paths_of[sample.id]
            found.of_sample[sample.id] = [place_of.get(path) for path in paths]
            bad = next((problems[path] for path in paths if path in problems), None)
            if bad is not None:
                found.problems[sample.id] = bad
    found.n_left_out = sum(path not in place_of and path not in problems for path in wanted)
    _add_videos([sample for sample in samples if sample.video is not None], found, most)
    return found


def _side_px(n: int) -> int:
    return next((side for up_to, side in SIDES_PX if n <= up_to), SMALLEST_PX)


def _opened(paths: Sequence[str], found: PageImages, side_px: int) -> tuple[dict[str, int], dict[str, str]]:
    """Open and keep images until `MAX_BYTES` are used. Returns the places of those kept, and why others cannot be opened."""
    place_of: dict[str, int] = {}
    problems: dict[str, str] = {}
    n_bytes = 0

    def opened(path: str) -> Thumbnail | str:
        if not is_there(path):
            return "the image does not exist"
        try:
            return _thumbnail(path, side_px)
        except (ImageError, ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            for path, made in zip(some, pool.map(opened, some), strict=True):
                if isinstance(made, str):
                    problems[path] = made
                elif n_bytes + len(made.jpeg) <= MAX_BYTES:
                    n_bytes += len(made.jpeg)
                    place_of[path] = len(found.thumbnails)
                    found.thumbnails.append(made)
            if n_bytes > MAX_BYTES - 2**18:  # another batch would hardly fit
                break
    return place_of, problems


def _thumbnail(path: str, side_px: int) -> Thumbnail:
    """Raises ImageError, and ValueError or OSError for an address behind which there is nothing."""
    if path.startswith("synthetic:"):
        image = open_image(path)
        return _small(image, image.size, side_px)
    with opened_image(path) as image:
        size_px = displayed_size(image)
        if image.format == "JPEG":
            image.draft("RGB", (2 * side_px, 2 * side_px))  # decodes a large photograph several times as fast
        return _small(as_rgb(image), size_px, side_px)


def _small(image: Image.Image, size_px: tuple[int, int], side_px: int) -> Thumbnail:
    scale = side_px / max(size_px)
    shown = (max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale)))
    if image.width > shown[0]:  # a smaller image is enlarged by the browser
        image = image.resize(shown, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return Thumbnail(buffer.getvalue(), shown, size_px)


def _add_videos(samples: Sequence[Sample], found: PageImages, most: int) -> None:
    """Some frames, evenly spaced, of the first videos."""
    n_opened = 0
    for sample in samples:
        video = str(sample.video)
        if not is_there(video):
            found.problems[sample.id] = "the video does not exist"
        elif n_opened >= MAX_VIDEOS or len(found.thumbnails) >= most:
            found.of_sample[sample.id] = [None]
            found.n_left_out += 1
        else:
            try:
                frames = open_images(sample)
            except ValueError as error:
                found.problems[sample.id] = str(error)
                continue
            n_opened += 1
            first = len(found.thumbnails)
            n = min(len(frames), MAX_A_SAMPLE)
            some = [frames[round(i * (len(frames) - 1) / max(1, n - 1))] for i in range(n)]
            found.thumbnails += [_small(frame, frame.size, SIDES_PX[1][1]) for frame in some]
            found.of_sample[sample.id] = list(range(first, len(found.thumbnails)))
