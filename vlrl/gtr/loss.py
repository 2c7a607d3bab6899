"""The imitation term: minus the log-probability of thought tokens, a mean over records of the mean over their tokens."""

from __future__ import annotations

import torch


def thought_cross_entropy(logps_BT: torch.Tensor, is_thought_BT: torch.Tensor) -> torch.Tensor:
    """Mean over rows with thought tokens of their mean cross-entropy; 0 (with a gradient of 0) without any.

    `logps_BT`: the log-probability of each completion token, of the model as it is (no temperature). differs: the published
    mean is over minibatches of one record, which is the same number.
    """
    counted = is_thought_BT.to(logps_BT.dtype)
    n_tokens = counted.sum(dim=1)
    per_row = -(logps_BT * counted).sum(dim=1) / n_tokens.clamp(min=1)
    return per_row.sum() / (n_tokens > 0).sum().clamp(min=1)
