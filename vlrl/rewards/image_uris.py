"""The images of a sample as `data:` addresses for a chat endpoint, bounded in number, side and bytes.

Images are read from files (or drawn), never from the network: a path that is an address is a file that does not exist.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from vlrl.data.images import FrameChoice, ImageError, open_image, open_video
from vlrl.data.sample_json import file_of
from vlrl.schema import Sample

MAX_IMAGES = 16
"""As many frames as are shown of a video, unless a run asks for more: then these are spread over it."""
MAX_SIDE_PX = 1024
MAX_IMAGE_BYTES = 500_000
"""Of one encoded image, before base64 makes four bytes of three: a request holds 11 MB of images at most."""
_LOSSLESS_PX = 512 * 512
"""Images of up to this many pixels are sent as PNG if that fits, so that small text and thin lines stay sharp."""
_QUALITIES = (90, 75, 50)


def image_uris(sample: Sample) -> list[str]:
    """The images that a model sees with a sample (of a video, its frames), each as `data:image/...;base64,...`.

    As training shows them: rotated as EXIF says, transparency on white. Scaled down to `MAX_SIDE_PX` and encoded within
    `MAX_IMAGE_BYTES` each. Raises ImageError for an image that cannot be read, and for more than `MAX_IMAGES`.
    """
    if sample.video is not None:
        choice = FrameChoice.of(sample)
        fewer = replace(choice, at_most=min(choice.at_most, MAX_IMAGES))
        return [_encoded(frame) for frame in open_video(sample.video, fewer).frames]
    if len(sample.images) > MAX_IMAGES:
        raise ImageError(f"{len(sample.images)} images, at most {MAX_IMAGES} are shown")
    return [_uri(path, _version(path)) for path in sample.images]


def _version(path: str) -> tuple[int, int]:
    """What changes when a file does. (0, 0) for what is drawn, or not there."""
    try:
        stat = Path(file_of(path) or "").stat()
    except (OSError, ValueError):
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _uri(path: str, version: tuple[int, int]) -> str:
    """Kept for the other completions of the group."""
    return _encoded(open_image(path))


def _encoded(image: Image.Image) -> str:
    """An RGB image as a data address within the bounds."""
    image = _within(image, MAX_SIDE_PX)
    if image.width * image.height <= _LOSSLESS_PX:
        data = _bytes(image, "PNG")
        if len(data) <= MAX_IMAGE_BYTES:
            return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    while True:
        for quality in _QUALITIES:
            data = _bytes(image, "JPEG", quality)
            if len(data) <= MAX_IMAGE_BYTES:
                return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        image = _within(image, max(image.size) // 2)


def _within(image: Image.Image, side_px: int) -> Image.Image:
    longest = max(image.size)
    if longest <= side_px:
        return image
    width, height = (max(1, round(side * side_px / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _bytes(image: Image.Image, kind: str, quality: int = 90) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return written.getvalue()
