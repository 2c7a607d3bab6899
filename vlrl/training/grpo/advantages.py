"""Station 4, advantages: TRL's within a group, or the credits of an episode's steps; thought tokens may weigh less.

TRL computes the advantages of single answers (`scale_rewards`, `multi_objective_aggregation`) and pads rows on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from vlrl.gtr.masks import token_weights
from vlrl.training.grpo.batch import Batch
from vlrl.training.grpo.thoughts import Thoughts


def with_credits(batch: Batch) -> Batch:
    """The batch with the advantages that its rows bring along, if they do."""
    if batch.credits_B is None:
        return batch
    device = batch.made.advantages_B.device
    return batch.with_advantages(torch.tensor(batch.credits_B, device=device, dtype=torch.float32))


def with_thoughts_weighed(batch: Batch, thoughts: Thoughts, masks: Sequence[Sequence[bool]]) -> Batch:
    """Advantages a token, (B, T), those of thought tokens (`masks`, row by row) times their weight; the batch as it is where
    none weighs less."""
    weights = [thoughts.weight(row["sample"]) for row in batch.rows]
    if all(weight == 1.0 for weight in weights):
        return batch
    advantages_B = batch.made.advantages_B
    rows = [
        torch.tensor(token_weights(mask, weight), device=advantages_B.device)
        for mask, weight in zip(masks, weights, strict=True)
    ]
    each = advantages_B if advantages_B.ndim == 2 else advantages_B[:, None]
    return batch.with_advantages(each * pad_sequence(rows, batch_first=True, padding_value=1.0))
