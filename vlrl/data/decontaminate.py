"""Finds training rows that share an image or a question with the items of an evaluation, so that they can be left out.

Images compare by a difference hash of 8 x 8 cells (64 bits), at most `MAX_BITS` of which may differ: scaled or recompressed
copies are found, crops and rotated images are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from PIL import Image

from vlrl.answers.span import canon

SIDE, MAX_BITS = 8, 2


def image_hash(image: Image.Image) -> int:
    """The difference hash, 64 bits: whether each cell is brighter than its right neighbour."""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def question_form(question: str) -> str:
    """A question's words, without case, punctuation and white space."""
    return " ".join(re.sub(r"[^\w\s]", " ", canon(question)).split())


class KnownItems:
    """The images and questions of an evaluation."""

    def __init__(self, images: Iterable[Image.Image], questions: Iterable[str]) -> None:
        self.hashes = sorted({image_hash(image) for image in images})
        self.questions = {question_form(question) for question in questions} - {""}

    def has_image(self, image: Image.Image) -> bool:
        """Whether an item shows this image, or a scaled or recompressed copy of it."""
        own = image_hash(image)
        return any((own ^ other).bit_count() <= MAX_BITS for other in self.hashes)

    def has_question(self, question: str) -> bool:
        """Whether an item asks this, whatever the case and punctuation."""
        return question_form(question) in self.questions
