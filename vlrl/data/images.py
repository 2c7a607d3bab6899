"""Opening what a sample shows: an image file, a drawn picture, frames of a video. Needs no torch (a video file's decoder may).

A video is shown as some of its frames, in order, as so many images.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from vlrl.data import synthetic
from vlrl.schema import Sample

VIDEO_FRAMES = 16
"""At most so many frames of a video are shown, unless `meta.video_frames` says otherwise (an even number, at least 2)."""
VIDEO_FPS = 2.0
"""Frames a second that are shown of a short video, as in Qwen's own recipes."""
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


class ImageError(ValueError):
    """An image or video that cannot be opened or decoded; the message names it."""


def open_image(path: str) -> Image.Image:
    """An RGB image: from a file of any mode (EXIF rotation applied, transparency on white) or drawn for a `synthetic:`
    address. Raises ImageError."""
    if path.startswith("synthetic:"):
        return synthetic.draw(path)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                white.alpha_composite(image)
                image = white
            return image.convert("RGB")
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read image {path}: {error}") from error


def image_size(path: str) -> tuple[int, int]:
    """Width and height in pixels as `open_image` would return them, from the file's header. Raises ImageError."""
    if path.startswith("synthetic:"):
        return synthetic.size_px(path)
    try:
        with Image.open(path) as file:
            width, height = file.size
            rotated = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read image {path}: {error}") from error
    return (height, width) if rotated else (width, height)


def video_frames(path: str, at_most: int = VIDEO_FRAMES) -> list[Image.Image]:
    """Frames of a video in order, evenly spaced from first to last, in their original size.

    A file is decoded by `qwen_vl_utils` (decord): `VIDEO_FPS` frames a second, an even number, 2 to `at_most`. Of a folder
    of frames (in the order of their names) all are taken, or `at_most` of them. Raises ImageError.
    """
    if Path(path).is_dir():
        files = frame_files(path)
        n = min(len(files), at_most)
        return [open_image(files[round(i * (len(files) - 1) / max(n - 1, 1))]) for i in range(n)]
    # Imports torchvision and takes seconds; few runs have videos.
    from qwen_vl_utils import vision_process

    errors: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError)
    if vision_process.is_decord_available():
        from decord import DECORDError

        backend, errors = "decord", (*errors, DECORDError)
    else:
        backend = vision_process.get_video_reader_backend()
    wanted = {"video": path, "fps": VIDEO_FPS, "min_frames": 2, "max_frames": max(2, at_most)}
    try:
        frames_TCHW, *_ = vision_process.VIDEO_READER_BACKENDS[backend](wanted)
    except errors as error:
        raise ImageError(f"cannot read video {path}: {error}") from error
    return [Image.fromarray(frame_HWC) for frame_HWC in frames_TCHW.permute(0, 2, 3, 1).numpy()]


def frame_files(folder: str) -> list[str]:
    """The frames of a folder by name. Raises ImageError where there are none."""
    files = sorted(str(file) for file in Path(folder).iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    if not files:
        raise ImageError(f"cannot read video {folder}: the folder holds no frames ({', '.join(sorted(FRAME_SUFFIXES))})")
    return files


def open_images(sample: Sample) -> list[Image.Image]:
    """What the model sees with a sample's question: its images, its video's frames, or nothing. Raises ImageError."""
    if sample.video is None:
        return [open_image(path) for path in sample.images]
    return video_frames(sample.video, int(sample.meta.get("video_frames", VIDEO_FRAMES)))
