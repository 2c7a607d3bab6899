"""What all synthetic items share: a random generator for each item, the address of its image, the side of the image."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

IMAGE_SIDE_PX = 112


def item_rng(*key: Any) -> np.random.Generator:
    """The random generator of one item, seeded by everything that names the item; independent of order and process."""
    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def address(task: str, split: str, seed: int, index: int, number: int = 0) -> str:
    """The address of an item's image. `number`: which one, for an item with several."""
    return f"synthetic:{task}/{split}/{seed}/{index}" + (f"/{number}" if number else "")
