"""Reward models that score completions: each folder loaded once, frozen, batched over a generation, its values kept.

Not here: what a completion is paid for its values (`vlrl.rewards.model_reward`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

import torch

from vlrl.data.value_head_files import PREFERENCES, STEPS
from vlrl.models.value_head import Encoder, StepValueModel, load_prm, score_solutions

_Solution = tuple[tuple[str, ...], str, tuple[str, ...]]
"""Images, question and steps."""
N_KEPT = 65_536
"""Solutions whose values are remembered: completions repeat, and dynamic sampling scores each twice."""
DIGITS = 6
"""Values are rounded: their last digits depend on what else is in a batch, and a run that goes on has other batches to
score."""


class ValueModels:
    """Values of steps by folder. `device`: where the models are. `seconds`, `n_scored`, `n_known`: spent, valued by a model,
    and found among those remembered, since the start. Raises ModelError for a folder that cannot be loaded."""

    def __init__(self, folders: Sequence[str], device: torch.device | str, batch_size: int = 32) -> None:
        self.device, self.batch_size = torch.device(device), batch_size
        self.seconds, self.n_scored, self.n_known = 0.0, 0, 0
        self._held = {folder: self._loaded(folder) for folder in folders}
        self._kept: OrderedDict[tuple[str, _Solution], list[float]] = OrderedDict()

    def _loaded(self, folder: str) -> tuple[StepValueModel, Encoder]:
        model, loaded = load_prm(folder, (STEPS, PREFERENCES))
        model.to(self.device).requires_grad_(False)
        return model, Encoder(loaded)

    @property
    def n_parameters(self) -> int:
        return sum(weight.numel() for model, _ in self._held.values() for weight in model.parameters())

    def __call__(self, folder: str, solutions: Sequence[_Solution]) -> list[list[float]]:
        """The value of every step of each solution, in order. Raises ImageError."""
        started = time.monotonic()
        new = [one for one in dict.fromkeys(solutions) if (folder, one) not in self._kept]
        new.sort(key=lambda one: sum(map(len, one[2])))  # rows of like length, so that little is padding
        model, encoder = self._held[folder]
        fresh = score_solutions(model, encoder, new, self.batch_size)
        values = {one: [round(value, DIGITS) for value in row] for one, row in zip(new, fresh, strict=True)}
        found = [values[one] if one in values else self._kept[folder, one] for one in solutions]
        for one in solutions:
            self._kept.setdefault((folder, one), values.get(one, []))
            self._kept.move_to_end((folder, one))
        while len(self._kept) > N_KEPT:
            self._kept.popitem(last=False)
        self.n_scored += len(new)
        self.n_known += len(solutions) - len(new)
        self.seconds += time.monotonic() - started
        return found
