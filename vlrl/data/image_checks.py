"""Whether a row's images can be shown to a model: their sizes from the headers, and the pixels by decoding them. No torch.

Training, evaluation and `vlrl bench check` ask here, so what one of them refuses the others refuse in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlrl.answers.geometry import box_problem
from vlrl.data.images import ImageError, frames_taken, image_size, open_images
from vlrl.data.row_source import FEW
from vlrl.data.synthetic import item_rng
from vlrl.schema import Sample

MAX_ASPECT = 200
"""Qwen's image processors refuse thinner images than this."""
N_DECODED = 256
"""How many samples' images are decoded before training; the others are when they are used."""


def shown_sizes(sample: Sample) -> list[tuple[int, int]]:
    """Width and height in pixels of the sample's images, or of one frame of its video; headers alone are read, and of a video
    file two frames. Raises ImageError."""
    if sample.video is None:
        return [image_size(path) for path in sample.images]
    return [frames_taken(sample.video).size]


def size_problem(sample: Sample, sizes: Sequence[tuple[int, int]]) -> str | None:
    """Why a model could not be shown images of these sizes (those of `shown_sizes`), or why the row's `meta` contradicts them;
    None where neither is so."""
    names = sample.images or ((sample.video,) if sample.video else ())
    if not names:
        return None
    index = image_index(sample)
    if not 0 <= index < len(names):
        return f"meta.image_index {index} of {len(names)} images"
    stated, found = sample.facts.get("image_size"), list(sizes[index])
    if stated is not None and list(stated) != found:
        return f"meta.image_size is {list(stated)}, but {names[index]} is {found}"
    for name, (width, height) in zip(names, sizes, strict=True):
        if max(width, height) > MAX_ASPECT * min(width, height):
            return f"image of {width}x{height} px is too thin (sides 1 : {MAX_ASPECT} at most): {name}"
    return None


def boxes_in_shares(samples: Sequence[Sample]) -> str | None:
    """Why the boxes of a set are no pixels, though nothing says so: more than a few rows have only values from 0 to 1, some of
    them fractions. None where that is not so."""
    with_boxes = [(sample, boxes) for sample in samples if (boxes := _true_boxes(sample))]
    shares = [(sample, boxes) for sample, boxes in with_boxes if _are_shares([float(value) for box in boxes for value in box])]
    if len(shares) <= FEW * len(with_boxes):
        return None
    sample, boxes = shares[0]
    return (
        f"the boxes of {len(shares):,} of {len(with_boxes):,} rows lie within 0..1, such as {list(boxes[0])} of {sample.id!r}:"
        " these are shares of the image; boxes are pixels of the original image (multiply them by its width and height)"
    )


def _are_shares(values: Sequence[float]) -> bool:
    return all(0 <= value <= 1 for value in values) and any(value != int(value) for value in values)


def _true_boxes(sample: Sample) -> list[Sequence[float]]:
    """The boxes of an answer that has some, in a sound form; the others are left to the task."""
    items = sample.answer if isinstance(sample.answer, list) else [sample.answer]
    boxes: list[Any] = [one.get("bbox_2d") for one in items if isinstance(one, dict)]
    return [box for box in boxes if box_problem(box, None) is None]


def image_index(sample: Sample) -> int:
    """Which image boxes refer to; of a video its frames, which are all alike."""
    return 0 if sample.video is not None else int(sample.facts.get("image_index", 0))


def decode_problem(sample: Sample) -> str | None:
    """Why an image of the sample cannot be decoded to its last pixel, or None."""
    try:
        open_images(sample)
    except ImageError as error:
        return str(error)
    return None


def drawn_to_decode(samples: Sequence[Sample], seed: int, n: int = N_DECODED) -> list[Sample]:
    """At most `n` samples with images in files, drawn by seed, in order; of an image that several share, the first."""
    firsts: dict[str, Sample] = {}
    for sample in samples:
        for path in sample.images or ((sample.video,) if sample.video else ()):
            if not path.startswith("synthetic:"):
                firsts.setdefault(path, sample)
    distinct = list({id(sample): sample for sample in firsts.values()}.values())
    if len(distinct) <= n:
        return distinct
    chosen = item_rng("images to decode", seed).choice(len(distinct), n, replace=False)
    return [distinct[i] for i in sorted(int(i) for i in chosen)]
