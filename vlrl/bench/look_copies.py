"""Images of a set that look alike: copies that were scaled, recompressed or slightly changed (`vlrl.data.decontaminate`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from vlrl.data.decontaminate import MAX_HASH_BITS, Likeness, can_compare, likeness
from vlrl.data.images import ImageError, open_image

_N_THREADS = 4


@dataclass(frozen=True)
class SeenImage:
    """An image that was decoded: its size in pixels, and what it is compared by (None where the library is missing)."""

    size: tuple[int, int]
    likeness: Likeness | None


def look_at(paths: Sequence[str]) -> tuple[dict[str, SeenImage], dict[str, str]]:
    """The images that can be decoded, and why the others cannot, by path."""

    def one(path: str) -> SeenImage | str:
        try:
            image = open_image(path)
        except (ImageError, ValueError) as error:
            return str(error)
        return SeenImage(image.size, likeness(image) if can_compare() else None)

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

    compared = {path: one.likeness for path, one in seen.items() if one.likeness is not None}
    paths, likes = list(compared), list(compared.values())
    if len(paths) < 2:
        return []
    hashes = np.array([one.hash for one in likes], np.uint64)
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32)
    ones = bits.sum(1)
    links: list[tuple[int, int]] = []
    for i in range(len(paths) - 1):
        distance = ones[i] + ones[i + 1 :] - 2 * (bits[i + 1 :] @ bits[i])
        near = np.flatnonzero(distance <= MAX_HASH_BITS) + i + 1
        links += [(i, int(j)) for j in near if likes[i].is_like(likes[j])]
    if not links:
        return []
    a, b = np.array(links).T
    n, labels = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(paths), len(paths))), directed=False)
    groups: list[list[str]] = [[] for _ in range(n)]
    for path, label in zip(paths, labels, strict=True):
        groups[label].append(path)
    return sorted((group for group in groups if len(group) > 1), key=len, reverse=True)
