"""What of a batch's images belongs to which row, in the layouts of transformers' processors and TRL, and rows as one batch.

Covers every family whose images have no grid (`image_grid_thw`): one entry an image (LLaVA), one a tile (InternVL, Gemma 3),
tiles padded to equally many an image (LLaVA-NeXT, LLaVA-OneVision) or a row (Idefics3, SmolVLM). TRL 1.16 splits such batches
by comparing counts, which is wrong where these are equal by chance (two rows, of two images and none).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlrl.models.prefix_sharing.facts import base_of, forward_arguments, unwrapped

PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
"""What a processor returns per token; everything else that it adds to ids and mask is about images."""
ABOUT_IMAGES = ("pixel_values", "pixel_attention_mask", "image_sizes", "batch_num_images")
ROW_COUNTS = ("num_images", "num_tiles", "num_videos")
"""What TRL adds, images and tiles of each row, and we: its videos."""


def knows(fields: Mapping[str, Any]) -> bool:
    """Whether these fields of a batch are in one of the layouts that are split here: images without grids, and nothing else."""
    about = {name for name, value in fields.items() if isinstance(value, Tensor)} - {*PER_TOKEN, *ROW_COUNTS}
    return "pixel_values" in about and about <= {*ABOUT_IMAGES} and fields.get("num_images") is not None


def by_row(fields: Mapping[str, Any], image_tokens: Sequence[int]) -> list[dict[str, Tensor]]:
    """The fields about images of each row, {} for a row without. `image_tokens`: how many image tokens each row has.

    Raises ValueError where the entries of a field do not go by rows.
    """
    num_images = [int(n) for n in fields["num_images"]]
    rows: list[dict[str, Tensor]] = [{} for _ in num_images]
    for name in ABOUT_IMAGES:
        if (value := fields.get(name)) is None:
            continue
        counts = _counts(name, value, fields, num_images, image_tokens)
        if sum(counts) != len(value):
            raise ValueError(f"{name} has {len(value)} entries for {sum(num_images)} images in {len(num_images)} rows")
        for row, n, own in zip(rows, num_images, torch.split(value, counts), strict=True):
            if n:
                row[name] = own
    return rows


def _counts(
    name: str, value: Tensor, fields: Mapping[str, Any], num_images: list[int], image_tokens: Sequence[int]
) -> list[int]:
    """Entries of a field that belong to each row."""
    pixels = fields["pixel_values"]
    if name == "batch_num_images" or (pixels.ndim == 5 and fields.get("image_sizes") is None):
        # Tiles padded to equally many a row: processors keep an empty entry for rows without images, plans do not.
        return [1] * len(num_images) if len(value) == len(num_images) else [int(n > 0) for n in num_images]
    if name == "pixel_values" and pixels.ndim == 4 and len(value) != sum(num_images):
        # Every tile has equally many tokens.
        return [n * len(value) // max(1, sum(image_tokens)) for n in image_tokens]
    return num_images


def rows_joined(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The fields of several rows after each other; entries of unequal size are padded with zeros, which models leave out."""
    names = next((list(row) for row in rows if row), [])
    return {name: _stacked([row[name] for row in rows if row]) for name in names}


def _stacked(values: Sequence[Tensor]) -> Tensor:
    shapes = [value.shape[1:] for value in values]
    if len(set(shapes)) > 1:
        widest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        lacking = [[want - has for want, has in zip(widest, shape, strict=True)] for shape in shapes]
        values = [pad(one, [n for lack in reversed(own) for n in (0, lack)]) for one, own in zip(values, lacking, strict=True)]
    return torch.cat(list(values))


def n_tiles(rows: Sequence[Mapping[str, Tensor]], num_images: Sequence[int]) -> list[int] | None:
    """Tiles of each row as TRL counts them, None where there is one an image."""
    counts = [len(row["pixel_values"]) if row else 0 for row in rows]
    flat = next((row["pixel_values"].ndim == 4 for row in rows if row), False)
    return counts if flat and counts != list(num_images) else None


@contextmanager
def told_image_counts(model: Any, num_images: Sequence[int] | None) -> Iterator[None]:
    """Within, a model that cuts an image into tiles only where it is a row's only one (LLaVA-OneVision) is told how many images
    the rows of each pass have, which TRL leaves out. `num_images`: of all rows, in the order of the passes."""
    base = base_of(unwrapped(model))
    if num_images is None or "batch_num_images" not in forward_arguments(base):
        yield
        return
    at = 0

    def told(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        nonlocal at
        n = len(kwargs["input_ids"])
        counts = [int(count) for count in num_images[at : at + n] if count]
        at += n
        return args, {**kwargs, "batch_num_images": torch.tensor(counts)}

    handle = base.base_model.register_forward_pre_hook(told, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def told_videos(model: Any, about_videos: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, the one pass of a model sees these videos: TRL has no arguments for them. `about_videos`: of all its rows."""
    if not about_videos:
        yield
        return

    def told(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, **about_videos}

    handle = base_of(unwrapped(model)).base_model.register_forward_pre_hook(told, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
