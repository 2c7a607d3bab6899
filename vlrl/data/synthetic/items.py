"""What every synthetic item has: a random generator of its own, an address, a side length."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

SIDE_PX = 112


def item_rng(*key: Any) -> np.random.Generator:
    """A generator of its own for one item, from everything that names it; independent of order and process."""
    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def address(task: str, split: str, seed: int, index: int, number: int = 0) -> str:
    """The address of an item's picture (`number`: which one, where it has several)."""
    return f"synthetic:{task}/{split}/{seed}/{index}" + (f"/{number}" if number else "")
