"""Which training rows share a picture or a question with the items of an evaluation, so that they can be left out.

Pictures compare by a difference hash of 8 x 8 cells (64 bits), at most `MAX_BITS` of which may differ: scaled or recompressed
copies are found, crops and turned pictures are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from PIL import Image

from vlrl.answers.span import canon

SIDE, MAX_BITS = 8, 2


def picture_hash(image: Image.Image) -> int:
    """64 bits: whether each cell is brighter than its right neighbour."""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def question_form(question: str) -> str:
    """A question's words, without case, punctuation and white space."""
    return " ".join(re.sub(r"[^\w\s]", " ", canon(question)).split())


class Known:
    """The pictures and questions of an evaluation."""

    def __init__(self, pictures: Iterable[Image.Image], questions: Iterable[str]) -> None:
        self.hashes = sorted({picture_hash(image) for image in pictures})
        self.questions = {question_form(question) for question in questions} - {""}

    def has_picture(self, image: Image.Image) -> bool:
        own = picture_hash(image)
        return any((own ^ other).bit_count() <= MAX_BITS for other in self.hashes)

    def has_question(self, question: str) -> bool:
        return question_form(question) in self.questions
