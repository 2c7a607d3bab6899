"""Scenes of coloured shapes on varied backgrounds, drawn with Pillow from a seed.

Boxes are exact to the pixel, taken from the mask of what stays visible. Not here: the questions about a scene
(`vlrl.data.synthetic.shapes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vlrl.data.synthetic.items import IMAGE_SIDE_PX, item_rng

COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 210),
    "yellow": (240, 200, 40),
    "purple": (140, 60, 170),
    "orange": (245, 130, 30),
}
SHAPE_NAMES = ("circle", "square", "triangle")
CATEGORIES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPE_NAMES)
MAX_OBJECTS = 4
CURRICULUM = {"coldstart-1": 1, "coldstart-2": 2}
"""Split name -> the most objects in a scene, for the first epochs of the supervised cold start."""
MIN_VISIBLE = 0.75
"""Share of its pixels that an object keeps when others are drawn over it."""
LOOSE_PAD = (0.10, 0.35)
"""Range of the padding of noisy boxes, a share of the box's length."""


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape. `category`: colour and shape, as in "red circle"."""

    category: str
    box_px: tuple[int, int, int, int]
    """x1, y1, x2, y2 of the visible pixels, right and bottom exclusive."""


@dataclass(frozen=True)
class Scene:
    """An image and its objects, in the order in which they were drawn."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


def _shape_mask(rng: np.random.Generator, shape: str) -> Image.Image:
    """A one-bit mask, `IMAGE_SIDE_PX` square, of one shape of random size (16 to 60 px a side) and place."""
    width = int(rng.integers(16, 61))
    height = int(np.clip(round(width * rng.uniform(0.75, 1.33)), 16, 60))
    x1 = int(rng.integers(1, IMAGE_SIDE_PX - width))
    y1 = int(rng.integers(1, IMAGE_SIDE_PX - height))
    x2, y2 = x1 + width - 1, y1 + height - 1
    mask = Image.new("1", (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    draw = ImageDraw.Draw(mask)
    if shape == "circle":
        draw.ellipse((x1, y1, x2, y2), fill=1)
    elif shape == "square":
        draw.rectangle((x1, y1, x2, y2), fill=1)
    else:
        apex = x1 + int(width * rng.uniform(0.3, 0.7))
        draw.polygon(((apex, y1), (x1, y2), (x2, y2)), fill=1)
    return mask


def background(rng: np.random.Generator) -> np.ndarray:
    """`[IMAGE_SIDE_PX, IMAGE_SIDE_PX, 3]` uint8: flat, gradient, stripes or noise, in muted colours that no object has."""
    low, high = (int(v) for v in sorted(rng.integers(60, 236, size=2)))
    tint = rng.integers(-18, 19, size=3)
    y, x = np.mgrid[0:IMAGE_SIDE_PX, 0:IMAGE_SIDE_PX] / (IMAGE_SIDE_PX - 1)
    kind = rng.integers(4)
    if kind == 0:
        level = np.full((IMAGE_SIDE_PX, IMAGE_SIDE_PX), float(low))
    elif kind == 1:
        angle = rng.uniform(0, 2 * math.pi)
        ramp = x * math.cos(angle) + y * math.sin(angle)
        level = low + (high - low) * (ramp - ramp.min()) / (ramp.max() - ramp.min())
    elif kind == 2:
        period, angle = rng.uniform(0.1, 0.4), rng.uniform(0, math.pi)
        level = low + 0.5 * (high - low) * (np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period) > 0)
    else:
        level = low + rng.normal(0, 12, size=(IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    return np.clip(level[..., None] + tint, 0, 255).astype(np.uint8)


@lru_cache(maxsize=512)
def scene(task: str, split: str, seed: int, index: int, number: int = 0) -> Scene:
    """Draw scene `index`: 1 to 4 objects on a background (one for classification, fewer in the splits of `CURRICULUM`),
    none hidden by more than a quarter. `number`: which image, for an item with several."""
    rng = item_rng("scene", task, split, seed, index, *([number] if number else []))
    pixels = background(rng)
    at_most = 1 if task == "classification" else CURRICULUM.get(split, MAX_OBJECTS)
    n_objects = int(rng.integers(1, at_most + 1))
    masks: list[np.ndarray] = []
    names: list[str] = []
    for _ in range(20 * n_objects):
        if len(masks) == n_objects:
            break
        # One in four objects repeats the category of the one before, so that some questions have two boxes.
        repeat = bool(names) and rng.random() < 0.25
        name = names[-1] if repeat else CATEGORIES[int(rng.integers(len(CATEGORIES)))]
        mask = np.asarray(_shape_mask(rng, name.split()[1]))
        if all((other & ~mask).sum() >= MIN_VISIBLE * other.sum() for other in masks) and _apart(mask, name, masks, names):
            masks = [*masks, mask]
            names.append(name)
    boxes = []
    for i, (mask, name) in enumerate(zip(masks, names, strict=True)):
        visible = mask.copy()
        for later in masks[i + 1 :]:
            visible &= ~later
        colour = np.asarray(COLOURS[name.split()[0]]) * rng.uniform(0.85, 1.0) + rng.integers(-8, 9, size=3)
        pixels[mask] = np.clip(colour, 0, 255)
        boxes.append(SceneObject(name, _extent(visible)))
    return Scene(Image.fromarray(pixels), tuple(boxes))


def _apart(mask: np.ndarray, name: str, masks: list[np.ndarray], names: list[str]) -> bool:
    """Objects of one category must not touch: together they would look like one."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return not any((grown & other).any() for other, label in zip(masks, names, strict=True) if label == name)


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def loosen(box_px: tuple[float, ...], rng: np.random.Generator, pad: tuple[float, float] = LOOSE_PAD) -> list[float]:
    """A box that is too large, as in noisy annotation: each side is moved outwards by a share in `pad` of the box's length
    along that axis, and clipped to the image. In pixels, rounded to 0.1."""
    x1, y1, x2, y2 = box_px
    left, top, right, bottom = rng.uniform(*pad, size=4)
    width, height = x2 - x1, y2 - y1
    return [
        round(max(0.0, x1 - left * width), 1),
        round(max(0.0, y1 - top * height), 1),
        round(min(float(IMAGE_SIDE_PX), x2 + right * width), 1),
        round(min(float(IMAGE_SIDE_PX), y2 + bottom * height), 1),
    ]
