"""Station 7, losses: TRL's policy term and KL, and terms of our own beside it, over the parts of a micro-batch.

A term is a `Loss`: a function of the model and a part of a batch. GRPO, Dr.GRPO, DAPO, GSPO, CISPO and the rest are TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from vlrl.training.grpo.batch import BatchPart, MicroBatch


class Loss(Protocol):
    """A term beside the policy's."""

    @property
    def is_on(self) -> bool: ...
    @property
    def replaces_policy(self) -> bool:
        """Whether the policy term counts for nothing."""

    def __call__(self, model: Any, part: BatchPart) -> torch.Tensor | None:
        """The term of a part, weighed, or None."""


def loss_of_part(
    model: Any, part: BatchPart, policy_term: Callable[[BatchPart], torch.Tensor], extras: Sequence[Loss], device: torch.device
) -> torch.Tensor:
    """The policy term of a part (0 for one without rows) in its share, and the extra terms that are on in training."""
    loss = torch.zeros((), device=device)
    if part.tensors is not None:
        loss = policy_term(part) * part.of_policy
    for extra in extras if model.training else ():
        if not extra.is_on:
            continue
        if extra.replaces_policy:
            loss = loss * 0.0
        term = extra(model, part)
        if term is not None:
            loss = loss + term
    return loss


def loss_of_parts(
    batch: MicroBatch,
    of_part: Callable[[BatchPart], torch.Tensor],
    backward: Callable[[torch.Tensor], None],
    no_sync: Callable[[], AbstractContextManager[Any]],
) -> torch.Tensor:
    """The loss of a micro-batch; all parts but the last are differentiated at once, so that one part's activations are held."""
    if len(batch.parts) == 1:
        return of_part(batch.parts[0])
    before: torch.Tensor | None = None
    for part in batch.parts[:-1]:
        with no_sync():
            loss = of_part(part)
            if loss.requires_grad:
                backward(loss)
        before = loss.detach() if before is None else before + loss.detach()
    last = of_part(batch.parts[-1])
    return last if before is None else last + before
