"""The imitation term: cross-entropy on thought tokens, a mean over records of the mean over their tokens."""

from __future__ import annotations

import torch

from vlrl.gtr.masks import IGNORED


def thought_cross_entropy(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Mean over rows with labels of the mean cross-entropy of their tokens; 0 (with a gradient of 0) without any.

    `logits_BTV[:, t]` predicts `labels_BT[:, t + 1]`; labels of `IGNORED` do not count. differs: the published mean is over
    minibatches of one record, which is the same number.
    """
    logits, labels = logits_BTV[:, :-1], labels_BT[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none")
    counted = labels != IGNORED
    n_tokens = counted.sum(dim=1)
    per_row = losses.sum(dim=1) / n_tokens.clamp(min=1)
    return per_row.sum() / (n_tokens > 0).sum().clamp(min=1)
