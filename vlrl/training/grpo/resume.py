"""Checkpoints that hold what is left of a generation: a resumed run takes the very steps that an uninterrupted one would.

A generation's rows are trained on in several optimizer steps. TRL forgets them when a run stops, and generates anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object

from vlrl.models.prefix_sharing.groups import Group, ImageBatch, PromptBatch
from vlrl.models.prefix_sharing.step import BatchPlan
from vlrl.training.grpo.batch import BatchPart, MicroBatch, Tensors, TrainerCalls
from vlrl.training.grpo.rollout import GroupSharing

GENERATION = "generation"
"""The folder, in a checkpoint, of what is left of a generation."""
_HELD: list[Any] = [MicroBatch, BatchPart, Tensors, BatchPlan, Group, ImageBatch, PromptBatch]
"""Classes beside tensors and plain values that rows may hold; features of a frozen vision encoder are made again."""


@dataclass(frozen=True)
class Generation:
    """A generation in training: its micro-batches, and how many of its `of` micro-steps are done."""

    micro_batches: Sequence[MicroBatch | None]
    done: int
    of: int


class Trained(TrainerCalls, Protocol):
    """The trainer, as far as a generation is concerned."""

    @property
    def generation(self) -> Generation | None:
        """The generation that is trained on, None before the first and once one is done."""

    @property
    def n_micro_steps(self) -> int:
        """How many micro-steps a generation is trained on for."""

    def go_on_with(self, generation: Generation) -> None: ...


class KeptGeneration:
    """A part of each checkpoint that falls inside a generation."""

    def __init__(self, engine: Trained, sharing: GroupSharing) -> None:
        self.engine, self.sharing = engine, sharing

    @property
    def _own(self) -> Path:
        return Path(GENERATION) / f"rank-{self.engine.accelerator.process_index}.pt"

    def save(self, checkpoint: Path) -> None:
        state, generation = self.engine.state, self.engine.generation
        if generation is None or state.global_step >= state.max_steps or self.engine.args.save_only_model:
            return
        n_parts = len(generation.micro_batches)
        left = {step % n_parts for step in range(generation.done, generation.of)}
        rows = [part if i in left else None for i, part in enumerate(generation.micro_batches)]
        rows = [_alone(part) for part in _with_images(rows, lambda images: replace(images, features=None))]
        path = checkpoint / self._own
        path.parent.mkdir(parents=True, exist_ok=True)
        n_processes = self.engine.accelerator.num_processes
        torch.save({"rows": rows, "done": generation.done, "of": generation.of, "processes": n_processes}, path)

    def restore(self, checkpoint: Path) -> None:
        """Go on with what a checkpoint holds of a generation, if every process can go on with its part."""
        accelerator = self.engine.accelerator
        kept, why = None, None
        device = accelerator.device
        if device.type == "cpu":
            device = torch.device("cpu")  # that of one process of several is "cpu:0", which loading does not know
        path = checkpoint / self._own
        if path.is_file():
            try:
                with torch.serialization.safe_globals(_HELD):
                    kept = torch.load(path, map_location=device, weights_only=True)
            except (OSError, RuntimeError, ValueError, LookupError, AttributeError, UnpicklingError) as error:
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
        if kept is not None and (kept["of"], kept["processes"]) != (self.engine.n_micro_steps, accelerator.num_processes):
            kept, why = None, "the batch is another one now"
        if kept is not None and not all(part is None or isinstance(part, MicroBatch) for part in kept["rows"]):
            kept, why = None, "an earlier version has saved it"
        found = gather_object([kept is not None])
        reasons = [reason for reason in gather_object([why]) if reason]
        if all(found) and kept is not None:
            rows = _with_images(kept["rows"], lambda images: self.sharing.how.encoded(self.engine.policy, images))
            self.engine.go_on_with(Generation(rows, kept["done"], kept["of"]))
        elif any(found) or reasons:
            why = (*reasons, "a part of it is missing")[0]
            self.engine.say(f"note      the rest of a generation cannot be taken up and is sampled anew: {why}")


def _with_images(rows: Sequence[MicroBatch | None], change: Callable[[ImageBatch], ImageBatch]) -> list[MicroBatch | None]:
    """The same micro-batches, with other images in their plans; those that several share are changed once."""
    changed: dict[int, ImageBatch] = {}

    def changed_part(part: BatchPart) -> BatchPart:
        if part.plan is None:
            return part
        if id(part.plan.image_batch) not in changed:
            changed[id(part.plan.image_batch)] = change(part.plan.image_batch)
        return replace(part, plan=replace(part.plan, image_batch=changed[id(part.plan.image_batch)]))

    return [row and MicroBatch(tuple(changed_part(part) for part in row.parts)) for row in rows]


def _alone(value: Any) -> Any:
    """The same with tensors of their own: one that shows a part of another would be saved with all of it."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _alone(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_alone(one) for one in value)
    if isinstance(value, MicroBatch | BatchPart | Tensors) and is_dataclass(value):
        return replace(value, **{one.name: _alone(getattr(value, one.name)) for one in fields(value)})
    return value
