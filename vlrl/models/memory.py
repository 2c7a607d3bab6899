"""Peak memory of GRPO on one device, by arithmetic: weights, gradients, optimizer, activations of the update, cache of the
rollout.

A `Job` on a model of given `ModelSizes` has parts that stay (weights, optimizer, reference) and parts of a phase. The peak is
the largest phase: the rollout (cache), the update at the end of its forward passes (activations) or of its backward passes
(gradients). Counted is what the allocator hands out; a GPU's context and unused remains of blocks come on top
(`OVERHEAD_BYTES`).

Activations are the tensors that autograd keeps for the backward passes, read from the source of transformers 5.24, peft 0.21
and TRL 1.16 and compared with measured peaks (`vlrl bench speed --what memory`). Sharding follows the ZeRO paper (arXiv
1910.02054, section 3). No torch. Not here: how large a model is (`vlrl.models.sizes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

GIB = 2**30
OVERHEAD_BYTES = 1.0 * GIB
"""What a CUDA context and its kernels take, and what the allocator cannot use: a guess, not a measurement."""
ShardingEngine = Literal["ddp", "zero2", "zero3", "fsdp2"]
ENGINES: tuple[ShardingEngine, ...] = ("ddp", "zero2", "zero3", "fsdp2")
TUNINGS = ("full", "lora", "qlora")
HEAD_TILE = (4096, 32768)
"""Tokens and words of the vocabulary that TRL's fused head projects at once (trl/kernels/chunked_logprob.py)."""
ZERO_BUCKET = 200_000_000
"""Numbers in a bucket of configs/engines/zero2.json."""
ZERO3_LIVE = 1_000_000_000
"""`stage3_max_live_parameters` by default: so many gathered weights at most (DeepSpeed's configuration reference)."""
VISION_WINDOW = 64
"""Patches in a window of Qwen2.5-VL's vision encoder (112 pixels of patches of 14)."""
LIVE_LAYERS = 2
"""Layers that FSDP2 holds whole at once: the one that runs and the one that is fetched ahead."""
NF4_BYTES = 0.5 + 4 / 64
"""A weight in 4 bits, with a 32-bit scale for each 64 (QLoRA, arXiv 2305.14314, section 3)."""
NF4_NESTED_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with scales quantised once more (`--use_bnb_nested_quant`)."""


@dataclass(frozen=True)
class Layers:
    """A stack of transformer layers, in values per token. `query`, `key`: heads x width of a head; `inner`: the MLP, of all
    experts that a token passes; `gated`: three matrices in the MLP instead of two; `rms`: RMSNorm (in float32) instead of
    LayerNorm; `input_values`: numbers of an input (pixels of a patch); `windows`: layers whose attention stays within
    `VISION_WINDOW` tokens."""

    n: int
    hidden: int
    query: int
    key: int
    inner: int
    gated: bool = True
    rms: bool = True
    qk_norm: bool = False
    fused_qkv: bool = False
    windows: int = 0
    input_values: int = 0

    @property
    def n_weights(self) -> int:
        """Weights of the matrices of one layer."""
        return self.hidden * (2 * self.query + 2 * self.key) + (3 if self.gated else 2) * self.hidden * self.inner

    def kept_bytes(self, job: Job, *, dense_keys: float = 0.0) -> float:
        """What one layer keeps of one token for its backward pass. `dense_keys`: columns of a dense attention mask."""
        c, mixed, trains = job.compute_bytes, job.is_mixed, job.tuning == "full"
        readers = 1 if self.fused_qkv else 3
        readers_mlp = 2 if self.gated else 1
        kept = 0.0
        for n_readers in (readers, readers_mlp):
            if self.rms:  # its input in float32, the normalised values, what the next matrices read
                kept += 4 * self.hidden
                kept += (4 if mixed or c == 4 else c) * self.hidden if trains else 0
            else:
                kept += (4 if mixed else c) * self.hidden
            if trains:  # the casts of mixed precision are made for each matrix anew
                kept += c * self.hidden * (n_readers if mixed else 1)
        if self.qk_norm:
            kept += (4 + (c if trains else 0)) * (self.query + self.key)
        grouped = 2 * self.query + 2 * self.key
        kept += c * (4 * self.query if dense_keys else grouped) + c * dense_keys
        kept += c * self.inner * (3 if self.gated else 1)
        if trains:
            kept += c * self.inner
        else:  # every adapter keeps its own input, and which values it dropped
            inputs = readers * self.hidden + self.query + readers_mlp * self.hidden + self.inner
            kept += (c + (1 if job.dropout else 0)) * inputs
        return kept

    def edge_bytes(self, job: Job) -> float:
        """What is kept of one token before the first layer and behind the last: pixels, the last norm, an encoder's
        projector."""
        norm = (12 if job.compute_bytes == 4 else 8) * self.hidden
        if job.tuning != "full":
            return norm / 2
        return norm + job.compute_bytes * (self.input_values + (3 * self.hidden if self.input_values else 0))

    def working_bytes(self, job: Job) -> float:
        """What one layer takes of one token while it runs backward, beside what was kept: gradients of the MLP's values."""
        return job.compute_bytes * 3 * self.inner


@dataclass(frozen=True)
class ModelSizes:
    """How large a model is, in numbers of weights. `n_head`: of an output matrix of its own, 0 where it is the embedding;
    `n_linear`: weights that 4 bits may hold; `n_adapter`: of the adapters that a job adds; `patches_per_token`: of the vision
    encoder, for an image token."""

    name: str
    text: Layers
    vision: Layers | None
    vocab: int
    n_text: int
    n_vision: int
    n_embedding: int
    n_head: int
    n_linear: int
    n_adapter: int = 0
    patches_per_token: float = 4.0

    @property
    def n_weights(self) -> int:
        return self.n_text + self.n_vision + self.n_embedding + self.n_head


@dataclass(frozen=True)
class Job:
    """What is done with a model on each of `processes` devices.

    `weight_bytes`, `compute_bytes`: a number as it is loaded (`--dtype`), and in the forward passes (2 with `--bf16`). `rows`:
    completions of a micro-batch; `n_micro`: micro-batches of a step; `rows_generated`: completions written at once.
    `prompt_tokens` are those beside the image's. `shared`: a group's prompt and images are computed once. `dense_mask`:
    attention by a dense mask, as on a CPU. `moment_bytes`: of both of Adam's moments for a trained number (None: as the number
    itself). `dropout`: of adapters. `linear_bytes`: a weight of a quantised matrix. `vllm_bytes`: what an engine in the
    training processes takes. `gathers`: sharded weights are whole in the rollout.
    """

    tuning: Literal["full", "lora", "qlora"] = "full"
    engine: ShardingEngine = "ddp"
    processes: int = 1
    weight_bytes: int = 2
    compute_bytes: int = 2
    group: int = 8
    rows: int = 8
    n_micro: int = 1
    rows_generated: int = 8
    prompt_tokens: int = 100
    image_tokens: int = 1024
    completion_tokens: int = 256
    shared: bool = True
    dense_mask: bool = False
    checkpointing: bool = True
    freeze_vision: bool = False
    reference: bool = False
    dropout: bool = False
    linear_bytes: float = NF4_BYTES
    moment_bytes: float | None = None
    vllm_bytes: float = 0.0
    gathers: bool = True

    @property
    def is_mixed(self) -> bool:
        """Whether autocast casts weights that are kept in 32 bits (the sharding engines cast them themselves)."""
        return self.compute_bytes < self.weight_bytes and self.engine == "ddp"

    @property
    def prompts(self) -> int:
        """Prompts that a micro-batch runs: distinct ones where groups share them."""
        return ceil(self.rows / self.group) if self.shared else self.rows

    @property
    def prompt_length(self) -> int:
        return self.prompt_tokens + self.image_tokens

    @property
    def text_tokens(self) -> int:
        """Tokens of a micro-batch in the language model."""
        return self.prompts * self.prompt_length + self.rows * self.completion_tokens

    @property
    def adapter_bytes(self) -> int:
        """A number of an adapter: peft keeps them in 32 bits, TRL casts those of quantised models to 16."""
        return 2 if self.tuning == "qlora" else 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, part by part. `gathered`: whole copies of sharded weights, or those in the forward pass' format;
    `activations`: of one micro-batch, the head's working space with them; `cache`: keys and values, or vLLM's share."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    gathered: float
    activations: float
    cache: float
    rollout: float
    update: float

    @property
    def peak(self) -> float:
        return max(self.rollout, self.update)

    @property
    def phase(self) -> str:
        """The phase with the peak."""
        return "rollout" if self.rollout > self.update else "update"

    @property
    def with_overhead(self) -> float:
        """What a GPU needs to have."""
        return self.peak + OVERHEAD_BYTES


def estimate(model: ModelSizes, job: Job) -> Memory:
    """The memory of a job on one device, from its second step on (Adam's moments exist)."""
    weights, gradients, optimizer, reference = _held(model, job)
    held = weights + optimizer + reference + job.vllm_bytes
    gathered_rollout, gathered_update = _gathered(model, job)
    act_text, act_vision, head = _activations(model, job)
    keeps_gradients = job.n_micro > 1 or job.engine != "ddp"
    buckets = _buckets(model, job, gradients)
    parts = gradients * _trained_share(model, job)
    # At the end of the forward passes, then of the language model's backward, then of all: gradients grow as activations go.
    forward_end = act_text + act_vision + head + (gradients if keeps_gradients else 0)
    text_end = act_vision + (gradients if keeps_gradients else parts)
    update = held + gathered_update + buckets + max(forward_end, text_end, gradients)
    cache = job.vllm_bytes or _cache_bytes(model, job)
    working = 0.0 if job.vllm_bytes else _rollout_working(model, job)
    rollout = held + gathered_rollout + buckets + (0.0 if job.vllm_bytes else cache) + working
    return Memory(
        weights=weights,
        gradients=gradients + buckets,
        optimizer=optimizer,
        reference=reference,
        gathered=max(gathered_rollout, gathered_update),
        activations=act_text + act_vision + head,
        cache=cache,
        rollout=rollout,
        update=update,
    )


def _held(model: ModelSizes, job: Job) -> tuple[float, float, float, float]:
    """Weights, gradients, optimizer and reference model of one device."""
    n, w = model.n_weights, float(job.weight_bytes)
    share = 1 / job.processes
    sharded = share if job.engine in ("zero3", "fsdp2") else 1.0
    if job.tuning != "full":
        weights = n * w if job.tuning == "lora" else model.n_linear * job.linear_bytes + (n - model.n_linear) * w
        adapters, states = model.n_adapter * job.adapter_bytes, job.moment_bytes
        kept = share if job.engine != "ddp" else 1.0
        moments = model.n_adapter * (2 * job.adapter_bytes if states is None else states)
        return weights * sharded + adapters, adapters * kept, moments * kept, 0.0
    trained = n - (model.n_vision if job.freeze_vision else 0)
    reference = n * w * sharded if job.reference else 0.0
    if job.engine in ("zero2", "zero3") and job.compute_bytes == 2:  # 16-bit weights and gradients, a 32-bit copy beside Adam's
        state = 4 + (8.0 if job.moment_bytes is None else job.moment_bytes)
        weights = n * 2 * sharded
        reference = n * 2 * sharded if job.reference else 0.0
        return weights, trained * 2 * share, trained * state * share, reference
    if job.engine == "fsdp2" and job.compute_bytes == 2:  # accelerate keeps what is trained in 32 bits
        w = 4.0
    states = 2 * w if job.moment_bytes is None else job.moment_bytes
    kept = share if job.engine != "ddp" else 1.0
    return n * w * sharded, trained * w * kept, trained * states * kept, reference


def _trained_share(model: ModelSizes, job: Job) -> float:
    """The share of the gradients that exists once the language model's backward pass is done."""
    if job.freeze_vision or not model.n_vision:
        return 1.0
    return 1 - model.n_vision / model.n_weights


def _buckets(model: ModelSizes, job: Job, gradients: float) -> float:
    """What gradients are summed in: DDP's buckets are a second copy of them (PyTorch, `gradient_as_bucket_view`)."""
    if job.processes == 1:
        return 0.0
    if job.engine == "ddp":
        return gradients
    if job.engine == "zero2":
        return 3 * 2 * min(ZERO_BUCKET, model.n_weights)  # two to reduce by turns, one to gather
    return 0.0


def _gathered(model: ModelSizes, job: Job) -> tuple[float, float]:
    """Copies of weights in the rollout and in the update: whole ones of sharded weights, 16-bit ones of autocast."""
    c, n = job.compute_bytes, model.n_weights
    if job.engine == "fsdp2" and job.processes > 1:
        layer = model.n_text / max(model.text.n, 1)
        root = model.n_embedding + model.n_head
        live = c * (LIVE_LAYERS * layer + root)
        return (c * n if job.gathers and not job.vllm_bytes else live), live + 4 * layer
    if job.engine == "zero3" and job.processes > 1:
        live = c * min(n, ZERO3_LIVE)
        return (c * n if job.gathers and not job.vllm_bytes else live), live
    if not job.is_mixed or job.tuning == "qlora":
        return 0.0, 0.0
    copied = n - model.n_embedding if job.tuning == "full" else 0
    if job.tuning == "full" and job.freeze_vision:
        copied -= model.n_vision
    return (0.0 if job.vllm_bytes else c * copied), float(c * copied)


def _activations(model: ModelSizes, job: Job) -> tuple[float, float, float]:
    """What a micro-batch keeps in the language model and in the vision encoder, and what the head takes beside it."""
    in_row = min(job.rows, job.group) if job.shared else 1
    per_prompt = job.prompt_length + in_row * job.completion_tokens
    text = _stack(model.text, job, job.text_tokens, dense_keys=float(per_prompt) if job.dense_mask else 0.0)
    vision = 0.0
    if model.vision is not None and not job.freeze_vision:
        patches = job.prompts * job.image_tokens * model.patches_per_token
        vision = _stack(model.vision, job, patches)
    n = job.rows * job.completion_tokens
    tile = min(n, HEAD_TILE[0]) * min(HEAD_TILE[1], model.vocab) * job.compute_bytes
    trains_head = job.tuning == "full"
    head = n * model.text.hidden * (job.compute_bytes + 4) + tile
    head += 4 * model.vocab * model.text.hidden if trains_head else 0
    return text, vision, head


def _stack(layers: Layers, job: Job, tokens: float, dense_keys: float = 0.0) -> float:
    kept = tokens * layers.kept_bytes(job, dense_keys=dense_keys)
    working = tokens * layers.working_bytes(job)
    working += tokens * layers.edge_bytes(job)
    if not job.checkpointing:
        return layers.n * kept + working
    stream = 4 if job.is_mixed and job.tuning == "full" else job.compute_bytes
    return layers.n * tokens * layers.hidden * stream + kept + working


def _cache_bytes(model: ModelSizes, job: Job) -> float:
    """Keys and values of all completions that are written at once."""
    tokens = job.rows_generated * (job.prompt_length + job.completion_tokens)
    return float(tokens * 2 * model.text.key * model.text.n * job.compute_bytes)


def _rollout_working(model: ModelSizes, job: Job) -> float:
    """What sampling takes beside the cache: the layer that reads all prompts, or the logits in 32 bits with three copies."""
    rows, c = job.rows_generated, job.compute_bytes
    prompts = ceil(rows / job.group) if job.shared else rows
    text = prompts * job.prompt_length * c * (3 * model.text.inner + 4 * model.text.hidden)
    vision = 0.0
    if model.vision is not None:
        patches = prompts * job.image_tokens * model.patches_per_token
        vision = patches * c * (3 * model.vision.inner + 4 * model.vision.hidden)
    return max(text, vision, rows * model.vocab * 4 * 4)
