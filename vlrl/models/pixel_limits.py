"""`--min_pixels` and `--max_pixels`: how large a model sees an image, by what its image processor has to set.

| image processor | what is set |
|---|---|
| resizes to any area (Qwen-VL, GLM-4V) | the smallest and the largest area |
| cuts into tiles (InternVL) | the fewest and the most tiles, of so many pixels each; a small whole image comes on top |
| picks one of several grids of tiles (LLaVA-NeXT, LLaVA-OneVision) | which grids it may pick, in the model's config too |
| resizes the longest side, then cuts (Idefics3, SmolVLM) | that side, for `--max_pixels`; all images are made as large |

Others show every image at one size and are refused. The frames of a video have the same bounds, each
frame (`_limit_videos`). Not here: loading (`vlrl.models.load`).
"""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vlrl.models.names import ModelError

PINPOINTS = "image_grid_pinpoints"


def limit_pixels(processor: Any, min_pixels: int | None, max_pixels: int | None, config: Any = None) -> None:
    """Bound the area of images as the model sees them (and keep the bound in the processor's saved config). `config`: the
    model's, which states the grids of tiles once more. Raises ModelError for a bound that cannot be kept."""
    if min_pixels is None and max_pixels is None:
        return
    if getattr(processor, "video_processor", None) is not None:
        _limit_videos(processor.video_processor, min_pixels, max_pixels)
    images = processor.image_processor
    size = images.size
    if "longest_edge" in size and "shortest_edge" in size and hasattr(images, "merge_size"):
        _limit_area(images, min_pixels, max_pixels)
    elif getattr(images, "max_patches", None) and "height" in size:
        _limit_tiles(images, min_pixels, max_pixels)
    elif getattr(images, PINPOINTS, None):
        _limit_grids(images, min_pixels, max_pixels, config)
    elif "longest_edge" in size and getattr(images, "max_image_size", None):
        _limit_side(images, min_pixels, max_pixels)
    else:
        raise ModelError(
            f"{_flags(min_pixels, max_pixels)}: {type(images).__name__} has no pixel limits to set: it shows the model every"
            f" image at {_shown(images)}; leave the flag out"
        )


def _flags(min_pixels: int | None, max_pixels: int | None) -> str:
    given = (("--min_pixels", min_pixels), ("--max_pixels", max_pixels))
    return ", ".join(f"{name} {value}" for name, value in given if value is not None)


def _shown(images: Any) -> str:
    size = getattr(images, "crop_size", None) or images.size
    return f"{size['width']}x{size['height']} px" if "height" in size else f"sides of {dict(size)}"


def _limit_area(images: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    size, n = images.size, _times_counted(images)
    low = min_pixels or size["shortest_edge"] // n
    high = max_pixels or size["longest_edge"] // n
    if low > high:
        raise ModelError(f"smallest image ({low} pixels) exceeds the largest ({high}); set both --min_pixels, --max_pixels")
    images.size = type(size)(shortest_edge=low * n, longest_edge=high * n)


def _limit_videos(videos: Any, low: int | None, high: int | None) -> None:
    """Bound the area of each frame, where the processor has such limits (Qwen-VL).

    Qwen3-VL counts the pixels of all frames together: `high` becomes the most tokens of a frame, beside its own bound of a
    whole video, and `low` the fewest pixels of a whole video.
    """
    if not isinstance(videos, Qwen2VLVideoProcessor | Qwen3VLVideoProcessor):
        return
    own: Any = videos
    size = own.size
    least = low or size["shortest_edge"]
    if high is not None:
        least = max(1, min(least, int(high / 1.05)))  # they let a frame have 1.05 times the least, whatever the most is
    if isinstance(videos, Qwen3VLVideoProcessor):
        most = size["longest_edge"]
        if high is not None and hasattr(videos, "cap_pixels_per_frame"):
            own.cap_pixels_per_frame = True
            own.max_video_tokens = max(1, high // (own.patch_size * own.merge_size) ** 2)
    else:
        most = high or size["longest_edge"]
    own.size = type(size)(shortest_edge=least, longest_edge=max(least, most))


def _times_counted(images: Any) -> int:
    """How often an image counts against the limit: GLM-4V's counts the frames of a video, of which an image is two."""
    resize = getattr(sys.modules[type(images).__module__], "smart_resize", None)
    counts_frames = resize is not None and "num_frames" in inspect.signature(resize).parameters
    return int(images.temporal_patch_size) if counts_frames else 1


def _limit_tiles(images: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    area = images.size["height"] * images.size["width"]
    fewest = images.min_patches if min_pixels is None else max(1, math.ceil(min_pixels / area))
    most = images.max_patches if max_pixels is None else max_pixels // area
    if most < fewest:
        raise ModelError(
            f"{_flags(min_pixels, max_pixels)}: this model sees images as tiles of {area} pixels"
            f" ({images.size['width']}x{images.size['height']}), so that is at most {most} of them and at least {fewest}; give"
            f" --max_pixels {max(1, fewest) * area} or more"
        )
    images.min_patches, images.max_patches = fewest, most


def _limit_grids(images: Any, min_pixels: int | None, max_pixels: int | None, config: Any) -> None:
    grids = [list(grid) for grid in getattr(images, PINPOINTS)]
    areas = sorted({high * wide for high, wide in grids})
    low, high = min_pixels or 0, max_pixels or areas[-1]
    kept = [grid for grid in grids if low <= grid[0] * grid[1] <= high]
    if not kept:
        raise ModelError(
            f"{_flags(min_pixels, max_pixels)}: this model sees an image in one of {len(grids)} grids of tiles, of"
            f" {', '.join(map(str, areas[:6]))}{', ...' if len(areas) > 6 else ''} pixels, and none is within these limits"
        )
    setattr(images, PINPOINTS, kept)
    if config is not None:
        setattr(config, PINPOINTS, kept)


def _limit_side(images: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    tile = images.max_image_size["longest_edge"]
    if min_pixels is not None or max_pixels is None:
        raise ModelError(
            f"--min_pixels {min_pixels}: this model's image processor makes the longest side of every image"
            f" {images.size['longest_edge']} px, so there is no smallest image to set; leave the flag out"
        )
    side = math.isqrt(max_pixels) // tile * tile
    if side < tile:
        raise ModelError(
            f"--max_pixels {max_pixels}: this model sees images as tiles of {tile}x{tile} px; give {tile * tile} or more"
        )
    images.size = type(images.size)(longest_edge=min(side, images.size["longest_edge"]))


def keep_grids(model: Any, config: Any) -> None:
    """Give a loaded model the grids of tiles that its processor was limited to in `config`."""
    if (kept := getattr(config, PINPOINTS, None)) and hasattr(model.config, PINPOINTS):
        setattr(model.config, PINPOINTS, kept)


def resizes_freely(processor: Any) -> bool:
    """Whether the size of the resized image follows from `input_size_px`, in whose pixels boxes may be written (resized_px)."""
    return isinstance(processor.image_processor, Qwen2VLImageProcessor | Qwen2VLImageProcessorPil)


def input_size_px(processor: Any, width: int, height: int) -> tuple[int, int]:
    """Width and height the model sees after the image processor's resize (a test compares it with `image_grid_thw`)."""
    images = processor.image_processor
    high, wide = smart_resize(
        height,
        width,
        factor=images.patch_size * images.merge_size,
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
    )
    return wide, high
