"""A road seen from the driver's seat, and the right plan for it by a handful of rules.

Rules: at a red light STOP. A turn in the navigation is taken, and above 6 m/s the car slows down for it. A car close ahead is
passed on the left if that lane is free, else on the right, else DECELERATE. On a free road below 8 m/s ACCELERATE, else KEEP.
Noisy labels are KEEP, STRAIGHT in six of ten samples, like most of ordinary driving. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vlrl.data.synthetic.items import IMAGE_SIDE_PX, address, item_rng
from vlrl.schema import Sample

NAVIGATION = ("go straight", "turn left", "turn right")
HORIZON_PX = 44
PLAN_NOISE_RATE = 0.6
"""Share of the noisy labels that are KEEP, STRAIGHT whatever the right plan is."""
TURN_LIMIT_MPS, CRUISE_MPS, MAX_MPS = 6, 8, 15


@dataclass(frozen=True)
class Road:
    """An image and what it shows. `light` is "red", "green" or None; `car` (ahead in the own lane) is "near", "far" or None;
    `left_free` and `right_free`: the neighbour lane is empty."""

    image: Image.Image
    light: str | None
    car: str | None
    left_free: bool
    right_free: bool


def _lane_x(lane: float, y: float) -> float:
    """Horizontal pixel of a lane's middle (-1, 0, 1) or edge (halves) at height `y`."""
    return IMAGE_SIDE_PX / 2 + lane * 10 + lane * 34 * (y - HORIZON_PX) / (IMAGE_SIDE_PX - HORIZON_PX)


def _car(draw: ImageDraw.ImageDraw, rng: np.random.Generator, lane: int, bottom: float) -> None:
    scale = 0.25 + (bottom - HORIZON_PX) / (IMAGE_SIDE_PX - HORIZON_PX)
    middle, width, height = _lane_x(lane, bottom), 30 * scale, 24 * scale
    paint = tuple(int(v) for v in rng.integers(20, 120, size=3))
    draw.rectangle((middle - width / 2, bottom - height, middle + width / 2, bottom), fill=paint)
    draw.rectangle(
        (middle - width / 3, bottom - height * 0.9, middle + width / 3, bottom - height * 0.55), fill=(190, 215, 235)
    )
    for side in (-1, 1):
        x = middle + side * width * 0.38
        draw.rectangle((x - 2, bottom - height * 0.4, x + 2, bottom - height * 0.25), fill=(220, 30, 30))


@lru_cache(maxsize=512)
def road(split: str, seed: int, index: int) -> Road:
    """Draw road `index`, `IMAGE_SIDE_PX` square."""
    rng = item_rng("road", split, seed, index)
    light = ("red", "green", None, None)[int(rng.integers(4))]
    car = ("near", "near", "far", None)[int(rng.integers(4))]
    left_free, right_free = (bool(v) for v in rng.random(2) < 0.5)
    sky = tuple(int(v) for v in np.asarray((150, 190, 230)) + rng.integers(-30, 25, size=3))
    ground = tuple(int(v) for v in np.asarray((110, 140, 90)) + rng.integers(-30, 30, size=3))
    grey = int(rng.integers(85, 135))
    image = Image.new("RGB", (IMAGE_SIDE_PX, IMAGE_SIDE_PX), ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, IMAGE_SIDE_PX, HORIZON_PX), fill=sky)
    corners = [
        (_lane_x(lane, y), y)
        for lane, y in ((-1.5, HORIZON_PX), (1.5, HORIZON_PX), (1.5, IMAGE_SIDE_PX), (-1.5, IMAGE_SIDE_PX))
    ]
    draw.polygon(corners, fill=(grey, grey, grey))
    for lane in (-0.5, 0.5):
        for start in range(HORIZON_PX, IMAGE_SIDE_PX, 14):
            draw.line((_lane_x(lane, start), start, _lane_x(lane, start + 7), start + 7), fill=(235, 235, 235), width=2)
    if light is not None:
        x = int(rng.integers(40, 72))
        draw.rectangle((x - 8, 2, x + 8, 34), fill=(30, 30, 30))
        for place, name, colour in ((10, "red", (235, 40, 40)), (26, "green", (50, 220, 90))):
            draw.ellipse((x - 6, place - 6, x + 6, place + 6), fill=colour if name == light else (70, 70, 70))
    for lane, free in ((-1, left_free), (1, right_free)):
        if not free:
            _car(draw, rng, lane, rng.uniform(76, 96))
    if car is not None:
        _car(draw, rng, 0, rng.uniform(80, 100) if car == "near" else rng.uniform(48, 54))
    noise = rng.normal(0, 4, size=(IMAGE_SIDE_PX, IMAGE_SIDE_PX, 1))
    pixels = np.clip(np.asarray(image).astype(float) + noise, 0, 255).astype(np.uint8)
    return Road(Image.fromarray(pixels), light, car, left_free, right_free)


def plan(seen: Road, speed_mps: float, navigation: str) -> tuple[str, str, str]:
    """Speed word, path word and the reason, by the rules of this module."""
    turn = {"turn left": "LEFT_TURN", "turn right": "RIGHT_TURN"}.get(navigation)
    if seen.light == "red":
        return "STOP", turn or "STRAIGHT", "red light"
    if turn:
        slow = speed_mps > TURN_LIMIT_MPS or seen.car == "near"
        return "DECELERATE" if slow else "KEEP", turn, "turn, car ahead" if seen.car == "near" else "turn"
    free_speed = "ACCELERATE" if speed_mps < CRUISE_MPS else "KEEP"
    if seen.car != "near":
        return free_speed, "STRAIGHT", "free road"
    if seen.left_free:
        return free_speed, "LEFT_CHANGE", "car ahead, left free"
    if seen.right_free:
        return free_speed, "RIGHT_CHANGE", "car ahead, right free"
    return "DECELERATE", "STRAIGHT", "car ahead, no lane free"


def planning_sample(seed: int, split: str, index: int) -> Sample:
    """Road `index` with a speed and a navigation command (half the time straight on)."""
    seen = road(split, seed, index)
    rng = item_rng("question", "planning", split, seed, index)
    speed_mps = int(rng.integers(0, MAX_MPS + 1))
    navigation = NAVIGATION[max(0, int(rng.integers(4)) - 1)]
    speed, path, reason = plan(seen, speed_mps, navigation)
    is_noisy = rng.random() < PLAN_NOISE_RATE
    loose = {"speed": "KEEP", "path": "STRAIGHT"} if is_noisy else {"speed": speed, "path": path}
    return Sample(
        id=f"synthetic-planning-{split}-{seed}-{index}",
        task="planning",
        images=(address("planning", split, seed, index),),
        question="plan the next three seconds",
        answer={"speed": speed, "path": path},
        meta={
            "speed_mps": speed_mps,
            "navigation": navigation,
            "image_size": [IMAGE_SIDE_PX, IMAGE_SIDE_PX],
            "loose_answer": loose,
            "thinking": reason,
            "dataset": "synthetic",
            "split": split,
        },
    )
