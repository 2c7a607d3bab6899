"""What a run says before it trains: what it is, one prompt with its reference answer, its steps and the memory it needs."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

import torch

from vlrl.models.load import LoadedModel, ModelInputs
from vlrl.schema import Sample, Task
from vlrl.training.config import Config
from vlrl.training.weights import checkpoint_bytes

WIDTH, INDENT = 120, 10
EMBEDDED_WIDTH = 256
"""A language model that is wider than this is no demo model."""


def banner_line(name: str, text: str) -> str:
    """`name` in the margin, `text` beside it, wrapped."""
    lines = [
        textwrap.fill(part, WIDTH - INDENT, drop_whitespace=True, break_on_hyphens=False) for part in text.splitlines() or [""]
    ]
    return f"{name:<{INDENT}}" + "\n".join(lines).replace("\n", "\n" + " " * INDENT)


def run_line(task: str, seed: int, n_processes: int, sources: Sequence[str]) -> str:
    processes = f"{n_processes} process" + ("" if n_processes == 1 else "es")
    return banner_line("task", f"{task}, seed {seed}, {processes}; defaults of {', '.join(sources) or 'TRL'}")


def model_line(loaded: LoadedModel, boxes: bool = True) -> str:
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    text = f"{loaded.name}, {loaded.model.num_parameters() / 1e6:.2f} M parameters, {dtype}"
    return banner_line(
        "model", text + (f"; boxes as {loaded.coords} (from {loaded.coords_reason})" if boxes and loaded.stated_coords else "")
    )


def drawn_data_note(config: Config, inputs: ModelInputs) -> list[str]:
    """A warning where a real model would be trained on the drawn samples of the demo model."""
    if config.run.data is not None or inputs.config.get_text_config().hidden_size <= EMBEDDED_WIDTH:
        return []
    return [
        f"WARNING: no --data: {inputs.name} will be trained on drawn samples ({', '.join(config.tasks)}), which are there for"
        " the demo model; name your own (--data train.jsonl)"
    ]


def example_lines(sample: Sample, task: Task) -> str:
    """One prompt as the model gets it, beside its images, with the completion that would be right."""
    n_images = len(sample.images)
    images = f"[{n_images} image{'' if n_images == 1 else 's'}] " if n_images else ""
    answer = f"the task has no oracle; ground truth {sample.answer!r}" if task.oracle is None else task.reference(sample)
    return "\n".join([banner_line("prompt", images + task.prompt(sample)), banner_line("answer", answer)])


def steps_line(config: Config, n_processes: int, length: str = "") -> str:
    """How long GRPO trains, on what batches. Without `length` (not known before a model is loaded) all but that."""
    grpo = config.grpo
    completions = grpo.per_device_train_batch_size * n_processes * grpo.gradient_accumulation_steps
    steps = f"{grpo.max_steps}" if grpo.max_steps > 0 else f"those of {grpo.num_train_epochs:g} epochs"
    text = f"{steps}, each of {completions} completions ({completions / config.group_size:g} prompts x {config.group_size})"
    how = f"temperature {grpo.temperature:g}, beta {grpo.beta:g}, loss {grpo.loss_type}"
    return banner_line("steps", "; ".join([text, *([length] if length else []), how]))


def memory_line(loaded: LoadedModel, use_peft: bool) -> str:
    """What weights, gradients and Adam's two moments take on a device, and what it has; activations come on top."""
    weights, trained = checkpoint_bytes(loaded, use_peft)
    needed = _size(weights + trained * 3) if not use_peft else f"{_size(weights)} and the adapters"
    device = loaded.model.device
    if device.type == "cuda":
        free, name = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device), torch.cuda.get_device_name(device)
    else:
        free, name = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), device.type.upper()
    return banner_line(
        "memory", f"{needed} for weights, gradients and optimizer, besides activations; {_size(free)} free ({name})"
    )


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
