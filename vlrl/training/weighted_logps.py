"""Weights on the log-probabilities that TRL's trainers make their losses of.

TRL's supervised and preference losses begin with `log_probs` of a forward pass, one number a token. A hook multiplies them, so
that a weighted loss is TRL's own on weighted numbers and nothing of it is written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class WeightedLogps:
    """Multiplies the `log_probs` of these models' forward passes while `by` is entered; otherwise they pass unchanged."""

    def __init__(self, *models: torch.nn.Module | None) -> None:
        self.weights: torch.Tensor | None = None
        for model in models:
            if model is not None:
                model.register_forward_hook(self._weigh)

    @contextmanager
    def by(self, weights: torch.Tensor | None) -> Iterator[None]:
        """`weights`: [B, 1], or [B, T - 1] for the tokens after the first; None: as they are."""
        self.weights = weights
        try:
            yield
        finally:
            self.weights = None

    def _weigh(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        if self.weights is not None and getattr(output, "log_probs", None) is not None:
            output.log_probs = output.log_probs * self.weights.to(output.log_probs.device)
        return output
