"""A run stops at the first number that is not finite, before it reaches a weight or a file.

Every optimizer step looks at the losses and the norm of the gradient before the weights are changed, and at the weights
afterwards: one scalar of the device each, and where there are several processes one more, so that all stop together. What is
looked for on a failure (which samples, which weights, which checkpoint is sound) costs nothing before.

With fp16 the gradient scaler skips steps whose gradient overflows, which is how it finds its scale: such steps are let pass,
`MAX_SKIPPED` in a row are not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainingArguments

from vlrl.training.checkpoints import RunStopped, how_to_go_on, last_checkpoint
from vlrl.training.events import Event, EventLog

LARGEST = 1e18
"""Numbers beyond this count as not finite: their squares, which Adam and standard deviations take, overflow 32 bits."""
MAX_SKIPPED = 20
"""Steps in a row that fp16's gradient scaler may skip. It starts at 2^16 and halves: beyond, gradients overflow unscaled."""
SKIPPED_SAID = 10
"""Steps in a row that it skips before the flight recorder says so."""


def largest_weight(weights: Iterable[torch.Tensor]) -> float:
    """The largest magnitude among tensors, those of other processes' shards excepted; NaN where one is NaN. One fused pass."""
    local = [part for part in map(_local, weights) if part.is_floating_point() and part.numel() and not part.is_meta]
    return float(get_total_norm(local, math.inf)) if local else 0.0


def _local(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight: all of it, or its shard (FSDP, ZeRO-3)."""
    shard = getattr(weight, "ds_tensor", weight)
    return shard.to_local() if isinstance(shard, DTensor) else shard.detach()


def are_sound(weights: Iterable[torch.Tensor]) -> bool:
    """Whether no weight is NaN, infinite or beyond `LARGEST`."""
    return largest_weight(weights) <= LARGEST


def unsound_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """The names of the weights that are not sound."""
    return [name for name, weight in weights if not are_sound([weight])]


def check_weights(model: torch.nn.Module, what: str, todo: str) -> None:
    """Raises RunStopped where a weight of `model` is not finite. The message is `what`, which they are, and `todo`."""
    if not are_sound(model.parameters()):
        raise RunStopped(f"{what} {weights_line(unsound_weights(model.named_parameters()))}; {todo}")


def weights_line(names: Sequence[str]) -> str:
    """`has weights that are not finite: lm_head.weight and 2 more`."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"has weights that are not finite: {names[0] if names else 'unknown'}{more}"


def sound_checkpoint(folder: Path, before: int | None = None) -> Path | None:
    """The newest checkpoint of a run whose weights are finite, from `before` a step if one is named; None without one."""
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    steps = {path: int(match[1]) for path, match in found.items() if match and (before is None or int(match[1]) < before)}
    newest_first = sorted(steps, key=lambda path: -steps[path])
    return next((path for path in newest_first if not _bad_in_files(path)), None)


def _bad_in_files(checkpoint: Path) -> bool:
    """Whether a file of weights holds numbers that are not finite, or cannot be read."""
    for path in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(str(path), framework="pt") as file:
                if not all(are_sound([file.get_tensor(name)]) for name in file.keys()):  # noqa: SIM118
                    return True
        except (OSError, SafetensorError, ValueError):
            return True
    return False


class Watched(Protocol):
    """What is asked of the trainer whose numbers are looked at."""

    args: Any
    state: Any
    accelerator: Any
    model_wrapped: Any
    events: EventLog | None
    rate_flag: str

    def samples_of_step(self) -> list[str]: ...
    def safe(self) -> str: ...


class FiniteSteps:
    """Stops a trainer at numbers that are not finite, on all processes together."""

    def __init__(self, trainer: Watched) -> None:
        self.trainer = trainer
        self._losses: list[tuple[torch.Tensor, Sequence[str]]] = []
        self._n_skipped = 0

    def saw(self, loss: torch.Tensor, samples: Sequence[str]) -> None:
        """Keep the loss of a micro-batch until the step is complete."""
        self._losses.append((loss.detach(), samples))

    def check_gradient(self, norm: Any) -> None:
        """Raises RunStopped on every process where a loss or the gradient of any is not finite."""
        losses, self._losses = self._losses, []
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        device = self.trainer.accelerator.device
        numbers = [loss.float().reshape(()).to(device) for loss, _ in losses]
        if norm is not None:  # DeepSpeed has none before its first step
            numbers.append(torch.as_tensor(norm, dtype=torch.float32, device=device).reshape(()))
        if not numbers or not self._anywhere(~(torch.stack(numbers).abs() <= LARGEST).all()):
            self._n_skipped = 0
            return
        if self.trainer.accelerator.mixed_precision == "fp16" and self._n_skipped < MAX_SKIPPED:
            self._n_skipped += 1
            if self._n_skipped == SKIPPED_SAID:
                self._say_skipped()
            return
        bad = [(float(loss), ids) for loss, ids in losses if not abs(float(loss)) <= LARGEST]
        shown = [(value, ids) for rank in gather_object([bad]) for value, ids in rank]
        samples = list(dict.fromkeys(one for _, ids in shown for one in ids))
        whole = list(dict.fromkeys(one for rank in gather_object([[one for _, ids in losses for one in ids]]) for one in rank))
        values: dict[str, float | str] = {"grad_norm": "unknown" if norm is None else float(norm)}
        if shown:
            values["loss"] = shown[0][0]
        quantity = f"the loss is {shown[0][0]:g}" if shown else f"the norm of the gradient is {float(norm):g}"
        if self._n_skipped:
            quantity += f", as in the {self._n_skipped} steps before (fp16 skipped them)"
        self.stop_at(self.trainer.state.global_step + 1, quantity, samples or whole or self.trainer.samples_of_step(), values)

    def _anywhere(self, flag: torch.Tensor) -> bool:
        """Whether a flag is set on any process."""
        if self.trainer.accelerator.num_processes > 1:
            flag = self.trainer.accelerator.gather(flag.reshape(1)).any()
        return bool(flag)

    def check_weights(self) -> None:
        """Raises RunStopped on every process where a weight that is trained is not finite on any."""
        model = self.trainer.model_wrapped
        sound = are_sound(p for p in model.parameters() if p.requires_grad)
        if not self._anywhere(torch.tensor(not sound, device=self.trainer.accelerator.device)):
            return
        names = [name for rank in gather_object([unsound_weights(model.named_parameters())]) for name in rank]
        names = list(dict.fromkeys(names))
        quantity = f"the model {weights_line(names)}"
        self.stop_at(self.trainer.state.global_step, quantity, [], {"n_weights": len(names)})

    def check_loaded(self, checkpoint: str, model: Any = None) -> None:
        """Raises RunStopped on every process where a weight that was loaded is not finite."""
        loaded = self.trainer.model_wrapped if model is None else model
        sound = are_sound(loaded.parameters())
        if not self._anywhere(torch.tensor(not sound, device=self.trainer.accelerator.device)):
            return
        names = unsound_weights(loaded.named_parameters())
        path = Path(checkpoint)
        step = int(match[1]) if (match := re.search(r"-(\d+)$", path.name)) else None
        earlier = sound_checkpoint(path.parent, before=step) if self.trainer.accelerator.is_main_process else None
        instead = f"--resume_from_checkpoint {earlier}" if earlier else "another --output_dir, from the start"
        raise RunStopped(f"checkpoint {path} {weights_line(names)}, and cannot be resumed from; go on with {instead}")

    def _say_skipped(self) -> None:
        if self.trainer.events is not None:
            message = f"fp16 skipped the last {self._n_skipped} steps, since their gradients overflowed"
            step = self.trainer.state.global_step + 1
            self.trainer.events.add_once(Event(step, "skipped_steps", message, values={"n": self._n_skipped}))

    def stop_at(
        self, step: int, quantity: str, samples: Sequence[str], values: Mapping[str, Any], try_this: str | None = None
    ) -> NoReturn:
        """Leave the event and raise RunStopped. `try_this`: what to do, where it is not the usual."""
        message = f"{quantity} in step {step}"
        if self.trainer.events is not None:
            self.trainer.events.add(Event(step, "non_finite", message, tuple(samples), values), on_console=False)
        todo = try_this or remedies(self.trainer.args, self.trainer.rate_flag)
        raise RunStopped(f"{message}{_of_samples(samples)}. {self.trainer.safe()}. Before that, {todo}")


def what_is_safe(folder: Path, is_first: bool) -> str:
    """What was saved of a run, and how to go on from there; looked for on the first process of a machine."""
    sound = sound_checkpoint(folder) if is_first else None
    if sound is None:
        return "Nothing of it was saved, and there is no checkpoint yet; start again with another --output_dir"
    is_last = str(sound) == last_checkpoint(folder)
    how = how_to_go_on(folder) if is_last else f"the same command and --resume_from_checkpoint {sound}"
    return f"Nothing of it was saved; go on from {sound.name} with: {how}"


N_NAMED = 4
"""Samples that the message names."""


def _of_samples(samples: Sequence[str]) -> str:
    """` (samples a, b and 3 more)`."""
    if not samples:
        return ""
    left = len(samples) - N_NAMED
    return f" (samples {', '.join(samples[:N_NAMED])}" + (f" and {left} more)" if left > 0 else ")")


def remedies(args: TrainingArguments, rate_flag: str = "learning_rate") -> str:
    """What to try, with this run's values. `rate_flag`: the option that sets this stage's learning rate."""
    tries = ["--bf16 true in place of --fp16 true"] if args.fp16 else []
    tries.append(f"a lower --{rate_flag} (now {args.learning_rate:g})")
    if not 0 < args.max_grad_norm <= 1:
        tries.append(f"--max_grad_norm 1 (now {args.max_grad_norm:g})")
    return f"try {' or '.join(tries)}"
