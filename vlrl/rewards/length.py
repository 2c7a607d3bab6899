"""Rewards on how long and how repetitive a completion is. They adjust what another reward scores."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from vlrl.answers.boxes import MAX_CHARS
from vlrl.answers.kind import BOX, BOXES, answer_kinds
from vlrl.answers.read import read_boxes
from vlrl.schema import Sample, Score

N_GRAM = 6


def cosine_length(text: str, sample: Sample, *, n_tokens: int | None, base: float | None, max_tokens: int = 1024) -> Score:
    """Right answers (`base` >= 0.7) score 1 when short down to 0.5 at `max_tokens`, wrong ones -0.5 up to 0; in -0.5..1.

    r(L) = a + (b - a) * (1 - cos(pi * min(L, Lmax) / Lmax)) / 2 with L = `n_tokens`; None without the length or the base
    reward's value. Source: arXiv 2502.03373, as in VLM-R1. differs: its true `base` decides (VLM-R1: every
    answer is right), and the length is clamped.
    """
    if n_tokens is None or base is None:
        return Score(None, None, "needs the length in tokens and the value of another reward")
    start, end = (1.0, 0.5) if base >= 0.7 else (-0.5, 0.0)
    value = start + (end - start) * (1 - math.cos(math.pi * min(n_tokens, max_tokens) / max_tokens)) / 2
    return Score(value, n_tokens, f"{n_tokens} tokens of {max_tokens}, base {base:.2f}")


def repetition(text: str, sample: Sample) -> Score:
    """-(1 - unique / total), in -1..0: over boxes with their labels where the answer is a box list, else over word 6-grams.

    The words are those of the whole completion in lower case; fewer than 6 score 0. Source: VLM-R1.
    """
    units, kind = _units(text, sample)
    if not units:
        return Score(0.0, 0, f"no {kind}")
    unique = len(set(units))
    value = 0.0 if unique == len(units) else unique / len(units) - 1
    return Score(value, unique, f"{unique} of {len(units)} {kind} are unique")


def _units(text: str, sample: Sample) -> tuple[Sequence[Hashable], str]:
    if answer_kinds(sample) & {BOX, BOXES}:
        parsed, _ = read_boxes(text, sample, as_written=True)
        if parsed is not None:
            return [(box.xyxy, box.label) for box in parsed.items], "boxes"
    words = text[:MAX_CHARS].lower().split()
    return [tuple(words[i : i + N_GRAM]) for i in range(len(words) - N_GRAM + 1)], f"runs of {N_GRAM} words"
