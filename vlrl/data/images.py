"""Opens what a sample shows: an image file, a synthetic image, a video. No torch, except for decoding a video file.

Of a video some frames are taken, in order. Not here: resizing for a model, and which models take a video as one
(`vlrl.models.videos`).
"""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from vlrl.data import synthetic
from vlrl.data.deep_images import in_8_bits, is_deep
from vlrl.data.packed_images import read_packed
from vlrl.data.png_chunks import says_more_after_pixels
from vlrl.data.sample_json import PACKED
from vlrl.schema import Sample, SampleError

VIDEO_FRAMES = 16
"""The most frames taken of a video, unless `--video_max_frames` or `meta.video_frames` states another number."""
VIDEO_FPS = 2.0
"""Frames per second taken of a video, as in Qwen's own recipes, unless `--video_fps` or `meta.video_fps` states another."""
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, UnidentifiedImageError)
"""What Pillow raises for a file that it cannot read, damaged ones included."""


MAX_IMAGE_PIXELS = 50_000_000
"""Width times height of the largest image that is decoded: a photograph of 48 megapixels passes, and decoding takes up to 15
bytes a pixel. The environment variable `VLRL_MAX_IMAGE_PIXELS` sets another number."""
MAX_PIXELS_VARIABLE = "VLRL_MAX_IMAGE_PIXELS"
# Pillow warns of images that are refused here, or that a user has allowed.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image or video that cannot be opened or decoded; the message names it."""


def open_image(path: str) -> Image.Image:
    """The RGB image in a file (see `as_rgb`), or behind an address (`synthetic:`, `parquet:`, `tar:`). Raises ImageError."""
    if path.startswith("synthetic:"):
        return synthetic.draw(path)
    with opened_image(path) as image:
        return as_rgb(image)


def max_image_pixels() -> int:
    """The most pixels of an image that is decoded. Raises ImageError where the environment variable holds no such number."""
    stated = os.environ.get(MAX_PIXELS_VARIABLE) or str(MAX_IMAGE_PIXELS)
    if not (stated.isascii() and stated.isdigit() and int(stated) > 0):
        raise ImageError(f"{MAX_PIXELS_VARIABLE} is {stated!r}; give a whole number of pixels, or leave it out")
    return int(stated)


class ImageTooLarge(ImageError):
    """An image of more pixels than are decoded."""


@contextmanager
def opened_image(source: str | Path | IO[bytes], name: str | None = None) -> Iterator[Image.Image]:
    """The image in a file or behind a `parquet:` or `tar:` address, undecoded and within `max_image_pixels` by its header.
    Raises ImageTooLarge, and ImageError where Pillow cannot open it, or read it inside the block. `name`: what messages call
    it, if not by its path."""
    name, most = name or f"image {source}", max_image_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = most  # Pillow's own bound, which it warns of and then refuses at twice its size
    try:
        with _open(_file(source)) as image:
            width, height = image.size
            if width * height > most:
                raise ImageTooLarge(_too_large(name, f"{width}x{height} = {width * height:,}", most, width * height))
            if image.format == "TIFF":
                setattr(image, "filename", "")  # noqa: B010  # Pillow maps a file of this name into memory, and a rotated one wrongly
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(_too_large(name, "too many", most, None)) from error
    except _UNREADABLE as error:
        raise ImageError(f"cannot read {name}: {error}") from error


def _open(file: str | Path | IO[bytes]) -> Image.Image:
    """As `Image.open`; HEIC and AVIF too, where the libraries of the extra `[images]` are there."""
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        kind = _added_format(file)
        if kind is None:
            raise
        if not can_open(kind):
            raise OSError(f"it is {kind}, which Pillow cannot read here; pip install 'vlrl[images]'") from error
        return Image.open(file)


def _added_format(file: str | Path | IO[bytes]) -> str | None:
    """Whether a file that Pillow does not know is HEIC or AVIF, by its first bytes."""
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            head = opened.read(64)
    else:
        file.seek(0)
        head = file.read(64)
        file.seek(0)
    if head[4:8] != b"ftyp":
        return None
    brands = head[8 : int.from_bytes(head[:4], "big")]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    return "HEIC" if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")) else None


@cache
def can_open(kind: str) -> bool:
    """Whether files of a format ("HEIC", "AVIF") can be read. Its library is made known to Pillow."""
    if kind == "HEIC":
        try:
            import pillow_heif
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
        return True
    if features.check("avif"):
        return True
    try:
        import pillow_avif  # noqa: F401
    except ImportError:
        return False
    return True


def _file(source: str | Path | IO[bytes]) -> str | Path | IO[bytes]:
    """What Pillow opens. Raises OSError or ValueError for an address behind which there is nothing."""
    return io.BytesIO(read_packed(source)) if isinstance(source, str) and source.startswith(PACKED) else source


def image_bytes(path: str) -> bytes:
    """The encoded image in a file or behind a `parquet:` or `tar:` address. Raises ImageError."""
    try:
        return read_packed(path) if path.startswith(PACKED) else Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read image {path}: {error}") from error


def _too_large(name: str, has: str, most: int, needed: int | None) -> str:
    raised = f"{MAX_PIXELS_VARIABLE}={needed or 'NUMBER'}"
    return f"{name} has {has} pixels, the most are {most:,}: make it smaller, or set {raised} if the memory allows it"


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image of any mode as RGB in 8 bits (`vlrl.data.deep_images`), with its EXIF rotation applied and transparency
    on white; of several pages or frames the first."""
    image = ImageOps.exif_transpose(in_8_bits(image) if is_deep(image) else image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def image_size(path: str) -> tuple[int, int]:
    """Width and height in pixels of what `open_image` returns, without decoding the file (but see `displayed_size`). Raises
    ImageError."""
    if path.startswith("synthetic:"):
        return synthetic.size_px(path)
    with opened_image(path) as image:
        return displayed_size(image)


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels of an opened image with its EXIF rotation applied, as `as_rgb` does. A PNG file is decoded
    only where EXIF may follow its pixels."""
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and (width, height) != (tags.get(256), tags.get(257)):
        return width, height  # of a rotated TIFF, newer versions of Pillow state this size
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 (shown as stored) to 8. Values outside that mean 1, as Pillow has it."""
    file = getattr(image, "fp", None)
    if image.format == "PNG" and file is not None and not says_more_after_pixels(file):
        exif = Image.Image.getexif(image)  # Pillow's own method for PNG files decodes them
    else:
        exif = image.getexif()
    stated = exif.get(ExifTags.Base.Orientation, 1)
    return stated if stated in range(1, 9) else 1


# -- videos ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are wanted: `fps` a second, at most `at_most`. `folder_fps`: how many a second a folder of
    frames holds; None: as many as are wanted, so that all of them are taken, up to the most."""

    fps: float = VIDEO_FPS
    at_most: int = VIDEO_FRAMES
    folder_fps: float | None = None

    @classmethod
    def of(cls, sample: Sample) -> FrameChoice:
        """As the row states in `meta`. Raises SampleError for what is no such number."""
        fps, at_most = _stated(sample, "video_fps", 0), _stated(sample, "video_frames", 1)
        if at_most is not None and at_most != int(at_most):
            raise SampleError(f"id {sample.id!r}: meta.video_frames is {at_most}; give a whole number")
        return cls(
            VIDEO_FPS if fps is None else fps,
            VIDEO_FRAMES if at_most is None else int(at_most),
            _stated(sample, "folder_fps", 1e-4),
        )


def _stated(sample: Sample, name: str, least: float) -> float | None:
    value = sample.meta.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf and value >= least):
        bound = f"of at least {least:g}" if least else "above 0"
        raise SampleError(f"id {sample.id!r}: meta.{name} is {value!r}; give a number {bound}")
    return float(value)


@dataclass(frozen=True)
class FramesTaken:
    """Which frames of a video are shown: their places in the file or folder, from 0, which holds `n_frames` at `fps` a second.
    `size`: width and height in pixels of the first of them."""

    places: tuple[int, ...]
    n_frames: int
    fps: float
    size: tuple[int, int]

    @property
    def metadata(self) -> dict[str, Any]:
        """As video processors of transformers take it, made anew each time: they write into it."""
        width, height = self.size
        return {
            "total_num_frames": self.n_frames,
            "fps": self.fps,
            "frames_indices": list(self.places),
            "duration": self.n_frames / self.fps,
            "width": width,
            "height": height,
        }


@dataclass(frozen=True)
class Video:
    """An opened video: some of its frames, in order, and which they are."""

    taken: FramesTaken
    frames: tuple[Image.Image, ...]

    def __deepcopy__(self, memo: Any) -> Video:
        return self  # nobody changes it, and TRL copies the prompts of a batch


def open_video(path: str, choice: FrameChoice = FrameChoice()) -> Video:
    """Frames of a video, evenly spaced from first to last, in their original size.

    A file is decoded by `qwen_vl_utils` (decord, or torchcodec where that is not installed): an even number of frames, at least
    2. From a folder (ordered by name) see `FrameChoice`. Raises ImageError.
    """
    if Path(path).is_dir():
        files, fps = frame_files(path), choice.folder_fps or choice.fps
        places = _places_in_folder(len(files), choice)
        frames = tuple(open_image(files[place]) for place in places)
        return Video(FramesTaken(places, len(files), fps, frames[0].size), frames)
    return _decoded(path, choice.fps, choice.at_most)


def frames_taken(path: str, choice: FrameChoice = FrameChoice()) -> FramesTaken:
    """Which frames `open_video` takes; of a file that has not changed its first and last frame are decoded once. Raises
    ImageError."""
    if Path(path).is_dir():
        files = frame_files(path)
        return FramesTaken(
            _places_in_folder(len(files), choice), len(files), choice.folder_fps or choice.fps, image_size(files[0])
        )
    try:
        about = os.stat(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read video {path}: {error}") from error
    probed = _probed(path, about.st_mtime_ns, about.st_size)
    return replace(probed, places=_spread(probed.n_frames, _n_taken(probed.n_frames, probed.fps, choice)))


@lru_cache(maxsize=4096)
def _probed(path: str, changed_ns: int, n_bytes: int) -> FramesTaken:
    return _decoded(path, VIDEO_FPS, 2).taken


def _n_taken(n_frames: int, fps: float, choice: FrameChoice) -> int:
    """How many frames of a video of `n_frames` at `fps` are taken, by the rule of `qwen_vl_utils`: an even number."""
    most = max(2, choice.at_most) // 2 * 2
    return int(min(max(n_frames / fps * choice.fps, 2), most, n_frames) // 2 * 2)


def _places_in_folder(n_files: int, choice: FrameChoice) -> tuple[int, ...]:
    if choice.folder_fps is None:
        return _spread(n_files, min(n_files, choice.at_most))
    return _spread(n_files, max(1, _n_taken(n_files, choice.folder_fps, choice)))


def _spread(n_frames: int, n: int) -> tuple[int, ...]:
    """`n` places from the first to the last of `n_frames`, evenly spaced."""
    return tuple(round(i * (n_frames - 1) / max(n - 1, 1)) for i in range(n))


def _decoded(path: str, fps: float, at_most: int) -> Video:
    """Frames of a video file. Raises ImageError."""
    # Imports torchvision and takes seconds; few runs have videos.
    from qwen_vl_utils import vision_process

    errors: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, TypeError, ImportError)
    if vision_process.is_decord_available():
        from decord import DECORDError

        reader, errors = "decord", (*errors, DECORDError)
    elif vision_process.is_torchcodec_available():
        reader = "torchcodec"
    else:
        raise ImageError(
            f"cannot read video {path}: neither decord nor torchcodec is installed; pip install torchcodec, or give a folder of"
            " its frames"
        )
    vision_process.logger.setLevel("ERROR")  # it warns of each file that holds fewer frames a second than are wanted
    wanted = {"video": path, "fps": fps, "min_frames": 2, "max_frames": max(2, at_most)}
    try:
        frames_TCHW, about, _ = vision_process.VIDEO_READER_BACKENDS[reader](wanted)
    except errors as error:
        raise ImageError(f"cannot read video {path}: {error}") from error
    frames = tuple(Image.fromarray(frame_HWC) for frame_HWC in frames_TCHW.permute(0, 2, 3, 1).numpy())
    places = tuple(int(place) for place in about["frames_indices"])
    return Video(FramesTaken(places, int(about["total_num_frames"]), float(about["fps"]), frames[0].size), frames)


def video_frames(path: str, at_most: int = VIDEO_FRAMES) -> list[Image.Image]:
    """The frames of `open_video`. Raises ImageError."""
    return list(open_video(path, FrameChoice(at_most=at_most)).frames)


def frame_files(folder: str) -> list[str]:
    """The frames of a folder, sorted by name. Raises ImageError where there are none."""
    files = sorted(str(file) for file in Path(folder).iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    if not files:
        raise ImageError(f"cannot read video {folder}: the folder holds no frames ({', '.join(sorted(FRAME_SUFFIXES))})")
    return files


def open_images(sample: Sample) -> list[Image.Image]:
    """The images of a sample, the frames of its video as so many images, or none. Raises ImageError, and SampleError for what
    the row asks of its video."""
    if sample.video is None:
        return [open_image(path) for path in sample.images]
    return list(open_video(sample.video, FrameChoice.of(sample)).frames)
