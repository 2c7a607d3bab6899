"""Finds training rows that share an image or a question with the items of an evaluation, so that they can be left out.

Images are alike whose perceptual hashes (`imagehash.phash`, 64 bits) differ in `MAX_HASH_BITS` at most, and which differ little
as small grey images: plain pictures have near hashes by chance. Of 272 photographs and drawn scenes this finds 95 to 100 % of
the copies at half or a third of the size, recompressed, brighter or stretched, 67 % of those cropped by 3 % a side, and no pair
of different ones (a difference hash of 8 x 8 cells: 56 to 88 %, 12 %, one). Mirrored and rotated copies are not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from vlrl.answers.span import canon
from vlrl.schema import SampleError

MAX_HASH_BITS = 8
"""Of 64, in which the hashes of two images that look alike differ."""
MAX_DIFFERENCE = 0.03
"""The mean difference of two small grey images around their means that look alike, as a share of black to white."""
_SIDE_PX, _PLAIN = 24, 0.03
_Grey: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Likeness:
    """What images are compared by: the hash, the image in small and grey around its mean, and its mean colour (0 to 1), which
    is all that an image of one colour has."""

    hash: int
    grey: _Grey
    colour: _Grey

    def is_like(self, other: Likeness) -> bool:
        """Whether the other shows this image, or a scaled or recompressed copy of it."""
        if (self.hash ^ other.hash).bit_count() > MAX_HASH_BITS or np.abs(self.grey - other.grey).mean() > MAX_DIFFERENCE:
            return False
        is_plain = min(np.abs(self.grey).max(), np.abs(other.grey).max()) < _PLAIN
        return not is_plain or bool(np.abs(self.colour - other.colour).max() < _PLAIN)


@cache
def can_compare() -> bool:
    """Whether the library `imagehash` (extra `[data]`) is there."""
    try:
        import imagehash  # noqa: F401
    except ImportError:
        return False
    return True


def likeness(image: Image.Image) -> Likeness:
    """What an RGB image is compared by. Raises SampleError where the library is missing."""
    if not can_compare():
        raise SampleError("images are compared by the library imagehash, which is missing: pip install 'vlrl[data]'")
    import imagehash

    small = image.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32) / 255
    colour = np.asarray(image.convert("RGB").resize((1, 1), Image.Resampling.BOX), np.float32)[0, 0] / 255
    return Likeness(int(str(imagehash.phash(image)), 16), grey - grey.mean(), colour)


def question_form(question: str) -> str:
    """A question's words, without case, punctuation and white space."""
    return " ".join(re.sub(r"[^\w\s]", " ", canon(question)).split())


class KnownItems:
    """The images and questions of an evaluation."""

    def __init__(self, images: Iterable[Image.Image], questions: Iterable[str]) -> None:
        self.shown = [likeness(image) for image in images]
        self.questions = {question_form(question) for question in questions} - {""}

    def has_image(self, image: Image.Image) -> bool:
        """Whether an item shows this image, or a scaled or recompressed copy of it."""
        if not self.shown:
            return False
        own = likeness(image)
        return any(own.is_like(other) for other in self.shown)

    def has_question(self, question: str) -> bool:
        """Whether an item asks this, whatever the case and punctuation."""
        return question_form(question) in self.questions
