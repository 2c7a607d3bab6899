"""Images that look alike: copies that were scaled, recompressed or slightly changed, by the perceptual hash of `imagehash`.

Pairs whose hashes are near each other are compared once more as small grey images, as plain pictures have near hashes by
chance. Crops, mirrored and rotated copies are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from vlrl.data.images import ImageError, open_image

_MAX_BITS = 6
"""Of 64, in which the hashes of two images that look alike differ."""
_MAX_DIFFERENCE = 0.06
"""The mean difference of two small grey images that look alike, as a share of black to white."""
_GREY_SIDE_PX = 24
_N_THREADS = 4
_Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SeenImage:
    """An image that was decoded: its size in pixels, its hash (None without the library) and itself in small."""

    size: tuple[int, int]
    hash: int | None
    grey: _Array


def hash_function() -> Callable[[Image.Image], int] | None:
    """The perceptual hash of 64 bits; None where the library (extra `[data]`) is missing."""
    try:
        import imagehash
    except ImportError:
        return None
    return lambda image: int(str(imagehash.phash(image)), 16)


def look_at(paths: Sequence[str]) -> tuple[dict[str, SeenImage], dict[str, str]]:
    """The images that can be decoded, and why the others cannot, by path."""
    hashed = hash_function()

    def one(path: str) -> SeenImage | str:
        try:
            image = open_image(path)
        except (ImageError, ValueError) as error:
            return str(error)
        grey = image.convert("L").resize((_GREY_SIDE_PX, _GREY_SIDE_PX), Image.Resampling.BOX)
        return SeenImage(image.size, None if hashed is None else hashed(image), np.asarray(grey, np.float32) / 255)

    with ThreadPoolExecutor(_N_THREADS) as pool:
        found = list(tqdm(pool.map(one, paths), total=len(paths), desc="looking at images", disable=None, leave=False))
    pairs = list(zip(paths, found, strict=True))
    return {path: one for path, one in pairs if isinstance(one, SeenImage)}, {
        path: one for path, one in pairs if isinstance(one, str)
    }


def alike(seen: Mapping[str, SeenImage]) -> list[list[str]]:
    """Groups of images that look alike, the largest first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    paths = [path for path, one in seen.items() if one.hash is not None]
    if len(paths) < 2:
        return []
    hashes = np.array([seen[path].hash for path in paths], np.uint64)
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)
    ones = bits.sum(1)
    links: list[tuple[int, int]] = []
    for i in range(len(paths) - 1):
        distance = ones[i] + ones[i + 1 :] - 2 * (bits[i + 1 :] @ bits[i])
        for j in np.flatnonzero(distance <= _MAX_BITS) + i + 1:
            if np.abs(seen[paths[i]].grey - seen[paths[j]].grey).mean() <= _MAX_DIFFERENCE:
                links.append((i, int(j)))
    if not links:
        return []
    a, b = np.array(links).T
    n, labels = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(paths), len(paths))), directed=False)
    groups: list[list[str]] = [[] for _ in range(n)]
    for path, label in zip(paths, labels, strict=True):
        groups[label].append(path)
    return sorted((group for group in groups if len(group) > 1), key=len, reverse=True)
