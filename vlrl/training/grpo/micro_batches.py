"""Station 5, micro_batches: a generation in random order, in as many micro-batches as it is trained on; groups that share a
prompt stay together, and the steps of episodes come in parts that fit the device, without those that have no gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl.trainer.utils import (
    shuffle_sequence_dict,
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from vlrl.models.prefix_sharing.image_rows import knows
from vlrl.training.grpo.batch import Batch, BatchPart, MicroBatch, Tensors, TrainerCalls
from vlrl.training.grpo.imitation import Imitation
from vlrl.training.grpo.mixed_modality import images_of_rows

WHOLE_BATCH = ("dapo", "cispo", "vespo")
"""Losses that TRL divides by all tokens of a generation."""


def cut(batch: Batch, n_parts: int, model: Any = None) -> list[MicroBatch]:
    """Micro-batches of a generation in random order: of groups where these share prompts, else of rows, as TRL does it.
    `model`: whose images they are."""
    found = _cut(batch, n_parts, model)
    if batch.of_policy == 1.0:
        return found
    return [MicroBatch(tuple(replace(part, of_policy=batch.of_policy) for part in one.parts)) for one in found]


def _cut(batch: Batch, n_parts: int, model: Any) -> list[MicroBatch]:
    plan, tensors = batch.plan, batch.made
    if plan is None and knows(tensors.images or {}):
        order = torch.randperm(len(tensors)).tolist()
        size = len(order) // n_parts
        chunks = [order[start : start + size] for start in range(0, size * n_parts, size)]
        return [
            MicroBatch((BatchPart(rows_of(tensors, own, model), sample_ids=tuple(batch.sample_ids[row] for row in own)),))
            for own in chunks
        ]
    if plan is None:
        held: Any = {**tensors.as_trl(), "sample_ids": list(batch.sample_ids)}
        by_row: Any = split_pixel_values_by_grid(held)
        shuffled: Any = shuffle_sequence_dict(by_row)
        parts: Any = split_tensor_dict(shuffled, n_parts)
        found = [dict[str, Any](unsplit_pixel_values_by_grid(part)) for part in parts]
        names = [tuple(part.pop("sample_ids")) for part in found]
        return [MicroBatch((BatchPart(Tensors.of(part), sample_ids=own),)) for part, own in zip(found, names, strict=True)]
    order = torch.randperm(len(plan.groups)).tolist()
    return [
        MicroBatch((BatchPart(tensors.of_rows(rows), own, tuple(batch.sample_ids[row] for row in rows)),))
        for rows, own in plan.parts(order, len(batch.rows) // n_parts)
    ]


def rows_of(tensors: Tensors, rows: Sequence[int], model: Any) -> Tensors:
    """These rows with their images, also where several rows' images are one field."""
    fields = tensors.images or {}
    if knows(fields):
        ids_BT = tensors.all_ids()[0]
        return replace(tensors.of_rows(rows), images=images_of_rows(model, ids_BT, fields, rows))
    split: Any = split_pixel_values_by_grid(dict(fields))
    one = replace(tensors, images=split).of_rows(rows)
    return replace(one, images=unsplit_pixel_values_by_grid(dict(one.images or {})))


class StepParts:
    """The steps of many episodes as micro-batches, each in parts that fit the device.

    `teaches_all`: whether rows without an advantage have a gradient too (KL, entropy, auxiliary losses). `loss_type`: TRL's,
    which says what it divides by.
    """

    def __init__(self, engine: TrainerCalls, imitation: Imitation, *, loss_type: str, teaches_all: bool, whole: bool) -> None:
        """`whole`: micro-batches may not come in parts (DeepSpeed)."""
        self.engine, self.imitation = engine, imitation
        self.loss_type, self.teaches_all, self.whole = loss_type, teaches_all, whole

    def __call__(self, batch: Batch, n_parts: int) -> list[MicroBatch]:
        """Steps in random order in equal micro-batches."""
        order = torch.randperm(len(batch.made)).numpy()
        return [MicroBatch(tuple(self.parts(batch, rows))) for rows in np.array_split(order, n_parts)]

    def parts(self, batch: Batch, rows: np.ndarray) -> list[BatchPart]:
        """These rows in parts, each with its shares of both terms and its draws of corrections.

        Rows without a gradient are left out, so that a part may hold draws alone; the last part holds rows. All processes
        have equally many parts with rows and equally many rows in each, since TRL gathers one number per row: a process with
        fewer rows to learn from adds rows of advantage 0.
        """
        made = batch.made
        at_once = len(rows) if self.whole else self.engine.args.per_device_train_batch_size
        teaching = self.teaching(made, rows)
        self.engine.note("episodes/taught_share", len(teaching) / len(rows))
        n_draws = self.imitation.n_draws(len(rows))
        wanted = (len(teaching), math.ceil(len(rows) / at_once) if n_draws else 0)
        n_rows, parts_for_draws = (max(numbers) for numbers in zip(*gather_object([wanted]), strict=True))
        n_rows = max(1, n_rows)
        n_with_rows = math.ceil(n_rows / at_once)
        n_parts = max(parts_for_draws, n_with_rows)
        if len(teaching) < n_rows:
            idle = [row for row in rows if row not in set(teaching)]
            teaching = np.array([*teaching, *idle[: n_rows - len(teaching)]])
        draws = [len(part) for part in np.array_split(np.arange(n_draws), n_parts)]
        parts = [BatchPart() for _ in range(n_parts - n_with_rows)]
        n_tokens = int(made.completion_mask_BT[rows].sum())
        for own in np.array_split(teaching, n_with_rows):
            one = rows_of(made, own.tolist(), self.engine.policy)
            of_rows = len(own) / len(rows) * batch.filled
            of_tokens = float(one.completion_mask_BT.sum()) / max(1, n_tokens)
            # Some losses divide by the whole generation's tokens, some by their own batch's tokens, the others by its rows.
            of_policy = 1.0 if self.loss_type in WHOLE_BATCH else of_tokens if self.loss_type == "bnpo" else of_rows
            parts.append(BatchPart(one, sample_ids=tuple(batch.sample_ids[row] for row in own), of_policy=of_policy))
        return [replace(part, n_draws=n, of_imitation=n / max(1, n_draws)) for part, n in zip(parts, draws, strict=True)]

    def teaching(self, made: Tensors, rows: np.ndarray) -> np.ndarray:
        """Which of these rows have a gradient: where the policy term is all there is, those with an advantage."""
        if not self.imitation.options.policy:
            return rows[:0]
        if self.teaches_all:
            return rows
        has_advantage: np.ndarray = (made.advantages_B[rows].reshape(len(rows), -1) != 0).any(dim=1).cpu().numpy()
        taught: np.ndarray = rows[has_advantage]
        return taught
