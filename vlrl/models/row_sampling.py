"""Completions of a batch drawn row by row: what a row says does not depend on the rows beside it, nor on any random state.

`generate` of transformers draws all rows of a batch from one generator, so that another batch gives other texts. Here each row
has a generator of its own, and a token is drawn by inverting the distribution. Not here: generation (`vlrl.models.generate`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from vlrl.data.synthetic import item_rng


class RowSampling(LogitsProcessor):
    """For greedy generation: leaves each row the one token that its generator draws from softmax(logits / `temperature`).
    `keys`: of each row what its generator is made of."""

    def __init__(self, keys: Sequence[str], temperature: float = 1.0) -> None:
        self.temperature = temperature
        self._generators = [item_rng("row sampling", key) for key in keys]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`scores`: logits (B, V) of the next token, -inf where one is banned."""
        below_BV = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(dim=-1)
        drawn = [generator.random() for generator in self._generators]
        places_B1 = torch.tensor(drawn, dtype=torch.float64, device=scores.device)[:, None] * below_BV[:, -1:]
        chosen_B1 = torch.searchsorted(below_BV, places_B1, right=True)  # the first token whose cumulated share lies above
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B1, 0.0)  # type: ignore[return-value]  # floats stay floats
