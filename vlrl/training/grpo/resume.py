"""Checkpoints that hold what is left of a generation: a resumed run takes the very steps that an uninterrupted one would.

A generation's rows are trained on in several optimizer steps. TRL forgets them when a run stops, and generates anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.models.prefix_sharing.groups import Group, ImageBatch
from vlrl.models.prefix_sharing.step import BatchPlan, Sharing
from vlrl.training.grpo.trl_surface import TRLTrainer

GENERATION = "generation"
"""The folder, in a checkpoint, of what is left of a generation."""
_HELD: list[Any] = [BatchPlan, Group, ImageBatch]
"""Classes beside tensors and plain values that rows may hold; features of a frozen vision encoder are made again."""


class KeptGenerations(TRLTrainer):
    """`GRPOTrainer` whose checkpoints may fall inside a generation."""

    _sharing: Sharing

    @property
    def _n_micro_steps(self) -> int:
        """How many micro-steps a generation is trained on for."""
        return int(self.args.steps_per_generation * self.num_iterations)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        done = self._step % self._n_micro_steps
        over = self.state.global_step >= self.state.max_steps
        if not done or self._buffered_inputs is None or over or self.args.save_only_model:
            return
        n_parts = self.args.steps_per_generation
        left = {step % n_parts for step in range(done, self._n_micro_steps)}
        rows = [part if i in left else None for i, part in enumerate(self._buffered_inputs)]
        rows = [_alone(part) for part in _with_images(rows, lambda images: replace(images, features=None))]
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}" / GENERATION
        folder.mkdir(parents=True, exist_ok=True)
        kept = {"rows": rows, "done": done, "of": self._n_micro_steps, "processes": self.accelerator.num_processes}
        torch.save(kept, folder / f"rank-{self.accelerator.process_index}.pt")

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """TRL's own; a resumed run goes on with the generation of its checkpoint."""
        if isinstance(resume_from_checkpoint, str):
            self._take_up(Path(resume_from_checkpoint) / GENERATION)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _take_up(self, folder: Path) -> None:
        """What a checkpoint holds of a generation, if every process can go on with its part."""
        kept, why = None, None
        path = folder / f"rank-{self.accelerator.process_index}.pt"
        device = self.accelerator.device
        if device.type == "cpu":
            device = torch.device("cpu")  # that of one process of several is "cpu:0", which loading does not know
        if path.is_file():
            try:
                with torch.serialization.safe_globals(_HELD):
                    kept = torch.load(path, map_location=device, weights_only=True)
            except (OSError, RuntimeError, ValueError, LookupError, AttributeError, UnpicklingError) as error:
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
        if kept is not None and (kept["of"], kept["processes"]) != (self._n_micro_steps, self.accelerator.num_processes):
            kept, why = None, "the batch is another one now"
        found = gather_object([kept is not None])
        reasons = [reason for reason in gather_object([why]) if reason]
        if all(found) and kept is not None:
            model = self.accelerator.unwrap_model(self.model)
            rows = _with_images(kept["rows"], lambda images: self._sharing.encoded(model, images))
            self._step, self._buffered_inputs = kept["done"], rows
        elif (any(found) or reasons) and self.accelerator.is_main_process:
            why = (*reasons, "a part of it is missing")[0]
            print(f"note      the rest of a generation cannot be taken up and is sampled anew: {why}", flush=True)


def _with_images(rows: Sequence[Any], change: Callable[[ImageBatch], ImageBatch]) -> list[Any]:
    """The same micro-batches, with other images in their plans; those that several share are changed once."""
    changed: dict[int, ImageBatch] = {}
    found = []
    for part in rows:
        plan = None if part is None else part.get("plan")
        if plan is not None:
            if id(plan.image_batch) not in changed:
                changed[id(plan.image_batch)] = change(plan.image_batch)
            part = {**part, "plan": replace(plan, image_batch=changed[id(plan.image_batch)])}
        found.append(part)
    return found


def _alone(value: Any) -> Any:
    """The same with tensors of their own: one that shows a part of another would be saved with all of it."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _alone(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_alone(one) for one in value)
    return value
