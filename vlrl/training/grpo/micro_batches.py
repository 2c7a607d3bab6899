"""The steps of many episodes as batches of an optimizer step: in random order, in parts that fit the device, without
those that have no gradient. Not here: how episodes are played and credited (`vlrl.training.grpo.episodes`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from vlrl.training.grpo.imitation import GuidedThoughts
from vlrl.training.grpo.trl_surface import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

WHOLE_BATCH = ("dapo", "cispo", "vespo")
"""Losses that TRL divides by all tokens of a generation."""


class StepBatches(GuidedThoughts):
    """`GuidedThoughts` whose rows may be steps of episodes, as many as were played."""

    _has_episodes = False
    _filled = 1.0
    """Rows a generation of all processes has for each step that was played."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's own; of episodes, their steps in random order in equal parts, one for each micro-step of a generation."""
        if not self._has_episodes or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            n = len(batch["completion_ids"])
            order = torch.randperm(n).numpy()
            self._buffered_inputs = [{"parts": self._parts(batch, rows)} for rows in np.array_split(order, steps)]
        return self._buffered_inputs[self._step % steps]

    def _parts(self, batch: dict[str, Any], rows: np.ndarray) -> list[dict[str, Any]]:
        """Rows of a batch in parts that fit the device, each with its shares of both terms and its draws of corrections.

        Rows without a gradient are left out, so that a part may hold draws alone; the last part holds rows. All processes
        have equally many parts with rows and equally many rows in each, since TRL gathers one number per row: a process with
        fewer rows to learn from adds rows of advantage 0.
        """
        at_once = len(rows) if self.is_deepspeed_enabled else self.args.per_device_train_batch_size
        teaching = self._teaching(batch, rows)
        self._metrics["train"]["episodes/taught_share"].append(len(teaching) / len(rows))
        n_draws = self._n_draws(len(rows)) if self._set is not None else 0
        wanted = (len(teaching), math.ceil(len(rows) / at_once) if n_draws else 0)
        n_rows, parts_for_draws = (max(numbers) for numbers in zip(*gather_object([wanted]), strict=True))
        n_rows = max(1, n_rows)
        n_with_rows = math.ceil(n_rows / at_once)
        n_parts = max(parts_for_draws, n_with_rows)
        if len(teaching) < n_rows:
            idle = [row for row in rows if row not in set(teaching)]
            teaching = np.array([*teaching, *idle[: n_rows - len(teaching)]])
        split = split_pixel_values_by_grid(batch)
        draws = [len(part) for part in np.array_split(np.arange(n_draws), n_parts)]
        parts: list[dict[str, Any]] = [{} for _ in range(n_parts - n_with_rows)]
        n_tokens = int(batch["completion_mask"][rows].sum())
        for own in np.array_split(teaching, n_with_rows):
            one = unsplit_pixel_values_by_grid(_picked(split, own))
            of_rows = len(own) / len(rows) * self._filled
            of_tokens = float(one["completion_mask"].sum()) / max(1, n_tokens)
            # Some losses divide by the whole generation's tokens, some by their own batch's tokens, the others by its rows.
            of_policy = 1.0 if self.loss_type in WHOLE_BATCH else of_tokens if self.loss_type == "bnpo" else of_rows
            parts.append({**one, "of_policy": of_policy})
        return [{**part, "draws": n, "of_imitation": n / max(1, n_draws)} for part, n in zip(parts, draws, strict=True)]

    def _teaching(self, batch: dict[str, Any], rows: np.ndarray) -> np.ndarray:
        """Which of these rows have a gradient: where the policy term is all there is, those with an advantage."""
        if not self._guide.options.policy:
            return rows[:0]
        others = self.beta or self._entropy_bonus_enabled or self.aux_loss_enabled or self.top_entropy_quantile < 1
        if others or self.is_deepspeed_enabled or self._is_sharded:
            return rows
        has_advantage: np.ndarray = (batch["advantages"][rows].reshape(len(rows), -1) != 0).any(dim=1).cpu().numpy()
        taught: np.ndarray = rows[has_advantage]
        return taught

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of all parts; all but the last are differentiated at once, so that one part's activations are held."""
        parts = inputs.get("parts")
        if parts is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        before = torch.zeros((), device=self.accelerator.device)
        for part in parts[:-1]:
            with self.accelerator.no_sync(model):
                loss = super().compute_loss(model, part, *args, **kwargs)
                if loss.requires_grad:
                    self.accelerator.backward(loss)
            before += loss.detach()
        return super().compute_loss(model, parts[-1], *args, **kwargs) + before


def _picked(batch: dict[str, Any], rows: Iterable[int]) -> dict[str, Any]:
    """These rows of a batch whose images are split by row."""
    rows, n = [int(row) for row in rows], len(batch["completion_ids"])
    found: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == n:
            found[name] = value[rows]
        elif isinstance(value, list) and len(value) == n:
            found[name] = [value[row] for row in rows]
        else:
            found[name] = value
    return found
