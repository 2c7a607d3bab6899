"""From a `Sample` to what the trainer and the generator take: images opened, boxes' dialect known, messages built.

Training, the supervised stage and evaluation all come through here, so all three see the same prompt and pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from vlrl import synthetic
from vlrl.model import Loaded, input_size_px
from vlrl.schema import Sample, SampleError, Task

MAX_ASPECT = 200
"""Qwen's image processors refuse thinner images than this."""


class ImageError(ValueError):
    """An image that cannot be opened or decoded; the message names it."""


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
        return synthetic.SIDE_PX, synthetic.SIDE_PX
    try:
        with Image.open(path) as file:
            width, height = file.size
            rotated = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read image {path}: {error}") from error
    return (height, width) if rotated else (width, height)


def situate(sample: Sample, loaded: Loaded) -> Sample:
    """The sample with `meta` telling how its completion is written: `coords`, `image_size`, `input_size`.

    Raises ImageError, or SampleError if `meta.image_size` contradicts the file.
    """
    meta: dict[str, Any] = {**sample.meta, "coords": loaded.coords}
    if sample.images:
        index = int(meta.get("image_index", 0))
        if not 0 <= index < len(sample.images):
            raise SampleError(f"id {sample.id!r}: meta.image_index {index} of {len(sample.images)} images")
        width, height = image_size(sample.images[index])
        stated = meta.get("image_size")
        if stated is not None and list(stated) != [width, height]:
            raise SampleError(
                f"id {sample.id!r}: meta.image_size is {list(stated)}, but {sample.images[index]} is {[width, height]}"
            )
        meta["image_size"] = [width, height]
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise SampleError(f"id {sample.id!r}: image of {width}x{height} px is too thin (sides 1 : {MAX_ASPECT} at most)")
        if loaded.coords == "resized_px":
            meta["input_size"] = list(input_size_px(loaded.processor, width, height))
    return dataclasses.replace(sample, meta=meta)


def check_samples(samples: Sequence[Sample], task: Task, loaded: Loaded, where: str) -> list[Sample]:
    """Situate and check every sample before training: answers, boxes against image sizes, headers of all images.

    Raises SampleError naming file, id and value.
    """
    ready = []
    for sample in tqdm(samples, desc=f"checking {where}", disable=len(samples) < 2000, leave=False):
        if sample.task != task.name:
            raise SampleError(f"{where} (id {sample.id!r}): its task is {sample.task!r}, but this run's is {task.name!r}")
        try:
            sample = situate(sample, loaded)
        except ValueError as error:
            raise SampleError(f"{where} (id {sample.id!r}): {error}") from error
        problem = task.check(sample)
        if problem:
            raise SampleError(f"{where} (id {sample.id!r}): {problem}")
        ready.append(sample)
    return ready


def messages(sample: Sample, task: Task) -> list[dict[str, Any]]:
    """The user turn, images first, as structured content with one placeholder an image."""
    content: list[dict[str, Any]] = [{"type": "image"} for _ in sample.images]
    content.append({"type": "text", "text": task.prompt(sample)})
    return [{"role": "user", "content": content}]


class Samples:
    """Samples by index, opened on demand; an image that turns out unreadable is reported by sample id and replaced by the
    next readable sample, so a long run goes on. Replacement depends on the index alone: groups stay whole."""

    def __init__(self, n: int, get: Callable[[int], Sample], report: Callable[[str], None] = print) -> None:
        self.n, self.get, self.report = n, get, report
        self.unreadable: dict[str, str] = {}

    def open(self, index: int) -> tuple[Sample, list[Image.Image]]:
        for step in range(min(self.n, 100)):
            sample = self.get((index + step) % self.n)
            try:
                return sample, [open_image(path) for path in sample.images]
            except ImageError as error:
                if sample.id not in self.unreadable:
                    self.unreadable[sample.id] = str(error)
                    self.report(f"sample {sample.id}: {error}; the next sample takes its place")
        raise ImageError(f"100 samples in a row have unreadable images, the last: {self.unreadable[sample.id]}")


def dataset(samples: Samples, task: Task, sft: bool = False) -> Dataset:
    """A lazily opened data set of TRL's rows: `prompt`, `images`, `sample`, and with `sft` a `completion`."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        opened = [samples.open(index) for index in batch["index"]]
        columns: dict[str, list[Any]] = {
            "prompt": [messages(sample, task) for sample, _ in opened],
            "images": [images for _, images in opened],
        }
        if sft:
            columns["completion"] = [
                [{"role": "assistant", "content": [{"type": "text", "text": task.sft_target(sample)}]}] for sample, _ in opened
            ]
        else:
            columns["sample"] = [sample for sample, _ in opened]
        return columns

    return Dataset.from_dict({"index": list(range(samples.n))}).with_transform(rows)
