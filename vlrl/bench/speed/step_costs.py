"""Seconds of the parts of a training step, from the sizes of a model and the rates of a machine.

Matrices cost 2 FLOP a weight and token, attention 4 a pair of tokens and width; a backward pass costs two forward ones, half of
that where only adapters are trained, and one more where layers are computed again. Not here: who waits for whom
(`vlrl.bench.speed.simulator`). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from vlrl.bench.speed.hardware import Hardware, all_gather_s, all_reduce_s
from vlrl.models.memory import VISION_WINDOW, Job, Layers, ModelSizes


@dataclass(frozen=True)
class Work:
    """What one pass computes: tokens and attended pairs of the language model, images (each of `patches`), and tokens that
    reach the head."""

    tokens: float
    pairs: float
    images: float
    patches: float
    head_tokens: float


def group_work(model: ModelSizes, job: Job, lengths: Sequence[int]) -> Work:
    """Completions of these lengths on one prompt, with what the prompt costs once (`shared`) or each time."""
    p, total = job.prompt_length, float(sum(lengths))
    squares = sum(r * r / 2 for r in lengths)
    copies = 1 if job.shared else len(lengths)
    pairs = copies * p * p / 2 + p * total + squares
    return Work(copies * p + total, pairs, copies, job.image_tokens * model.patches_per_token, total)


def stack_flops(layers: Layers, tokens: float, pairs: float) -> float:
    """Of the layers of one stack, forward."""
    return layers.n * 2 * layers.n_weights * tokens + 4 * layers.query * pairs * layers.n


def vision_flops(model: ModelSizes, patches: float) -> float:
    """Of one image through the vision encoder, forward; its projector is left out (below 1 %)."""
    if model.vision is None:
        return 0.0
    seen = model.vision
    full = (seen.n - seen.windows) / seen.n
    return stack_flops(seen, patches, patches * (patches * full + min(VISION_WINDOW, patches) * (1 - full)))


def forward_parts(model: ModelSizes, work: Work) -> tuple[float, float]:
    """FLOP of one forward pass: language model with head, and vision encoder."""
    text = stack_flops(model.text, work.tokens, work.pairs) + 2 * model.text.hidden * model.vocab * work.head_tokens
    return text, work.images * vision_flops(model, work.patches)


def update_flops(model: ModelSizes, job: Job, work: Work) -> float:
    """FLOP of forward and backward passes."""
    text, vision = forward_parts(model, work)
    again = 1 if job.checkpointing else 0
    passes = (3 if job.tuning == "full" else 2) + again
    return text * passes + vision * (1 if job.freeze_vision else passes)


def host_s(model: ModelSizes, job: Job, n_micro: int, machine: Hardware) -> float:
    """What starting the kernels of so many micro-batches takes, forward and backward: it does not shrink with the work."""
    layers = model.text.n + (0 if model.vision is None else model.vision.n)
    return n_micro * layers * machine.layer_pass_s * (4 / 3 if job.checkpointing else 1)


def update_s(model: ModelSizes, job: Job, groups: Sequence[Sequence[int]], n_micro: int, machine: Hardware) -> float:
    """Forward and backward passes of one process over groups of completions of these lengths, without the network."""
    flops = sum(update_flops(model, job, group_work(model, job, lengths)) for lengths in groups)
    return host_s(model, job, n_micro, machine) + flops / machine.update_rate


def network_s(model: ModelSizes, job: Job, n_micro: int, compute_s: float, machine: Hardware) -> float:
    """What the update waits for the network, beside its computing: DDP sums gradients during the last backward pass, ZeRO-2 in
    every one and gathers weights after the step, ZeRO-3 and FSDP2 gather weights twice and scatter gradients in every one."""
    n = job.processes
    trained = model.n_adapter if job.tuning != "full" else model.n_weights
    grad = trained * (4 if job.engine in ("ddp", "fsdp2") else 2)
    weights = 2.0 * model.n_weights
    backward = compute_s / n_micro * 2 / 3
    if job.engine == "ddp":
        return max(0.0, all_reduce_s(grad, n, machine) - backward)
    if job.engine == "zero2":
        each = max(0.0, all_gather_s(grad, n, machine) - backward)
        return n_micro * each + all_gather_s(2.0 * trained, n, machine)
    moved = 2 * all_gather_s(weights, n, machine) + all_gather_s(grad, n, machine)
    return n_micro * max(0.0, moved - compute_s / n_micro)


def optimizer_s(model: ModelSizes, job: Job, machine: Hardware) -> float:
    """Reading and writing weights, gradients and moments once."""
    trained = model.n_adapter if job.tuning != "full" else model.n_weights
    share = job.processes if job.engine != "ddp" else 1
    return 28 * trained / share / (machine.memory_rate * machine.memory_share)


def decode_s(
    model: ModelSizes, job: Job, lengths: Sequence[int], parallel: int, machine: Hardware, *, drops: bool, step_s: float
) -> float:
    """Writing completions of these lengths, all at once, on one engine over `parallel` GPUs. `drops`: finished ones leave the
    batch; else all are carried on until the longest is done."""
    rate = machine.memory_rate * machine.memory_share * parallel
    weights = 2.0 * (model.n_text + model.n_embedding + model.n_head)
    kv = 4.0 * model.text.key * model.text.n
    extra = model.text.n * machine.tensor_parallel_s if parallel > 1 else 0.0
    flops = 2.0 * (model.n_text + model.vocab * model.text.hidden)
    ends = np.sort(np.asarray(lengths, dtype=float))
    starts = np.concatenate(([0.0], ends[:-1]))
    alive = np.arange(len(ends), 0, -1) if drops else np.full(len(ends), len(ends))
    moved = (weights + alive * (job.prompt_length + (starts + ends) / 2) * kv) / rate
    computed = alive * flops / (machine.peak_flops * machine.prefill_share * parallel)
    return float(np.sum((ends - starts) * (np.maximum(moved, computed) + extra + step_s)))


def prefill_s(model: ModelSizes, job: Job, n_prompts: float, parallel: int, machine: Hardware) -> float:
    """Reading prompts and their images."""
    work = Work(job.prompt_length, job.prompt_length**2 / 2, 1, job.image_tokens * model.patches_per_token, 1)
    text, vision = forward_parts(model, work)
    return n_prompts * (text + vision) / (machine.peak_flops * machine.prefill_share * parallel)


def sync_s(model: ModelSizes, job: Job, mode: str, n_training: int, machine: Hardware) -> float:
    """Bringing the trained weights to where completions are written. In the training processes: gathered where they are
    sharded, then written once into the engine. To servers: over one network card, tensor by tensor."""
    weights = 2.0 * model.n_weights
    sharded = job.engine in ("zero3", "fsdp2")
    gather = all_gather_s(weights, n_training, machine) if sharded else 0.0
    if mode == "own":
        return gather
    if mode == "colocate":
        return gather + 2 * weights / (machine.memory_rate * machine.memory_share)
    n_tensors = 12 * (model.text.n + (0 if model.vision is None else model.vision.n))
    return gather + weights / (machine.nic_rate * machine.network_share) + n_tensors * machine.sync_tensor_s


def micro_batches_of(n_rows: int, rows: int) -> int:
    """Micro-batches that so many completions are trained in."""
    return max(1, ceil(n_rows / rows))
