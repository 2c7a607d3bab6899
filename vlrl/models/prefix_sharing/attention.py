"""Attention kernels for a packed stream `[prompt | completion 0 | completion 1 | ...]`.

The rule, whatever computes it: a prompt token sees the prompt up to itself; a completion token sees the prompt but for its last
token (of which every completion carries a copy) and its own completion up to itself. Four kernels follow it:

    mask    one dense mask through torch's scaled-dot-product attention; any device and dtype; memory grows with length squared
    merge   two flash calls, own tokens and shared prompt, merged by their log-sum-exps; no mask, no copies of the prompt's keys
    gather  one variable-length flash call with the prompt's keys copied for each completion (flash-attn or torch's own)
    flex    FlexAttention with a block mask; compiled at first use

Not here: which tokens a stream holds (`vlrl.models.prefix_sharing.groups`), the windows of a vision encoder
(`vlrl.models.prefix_sharing.window_attention`).
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vlrl.models.prefix_sharing.facts import FULL, SLIDING, TEXT_ATTENTION, Facts, facts_of
from vlrl.models.prefix_sharing.window_attention import VISION_ATTENTION, window_attention

KERNELS = ("mask", "merge", "gather", "flex")


class GroupSpan(NamedTuple):
    """One prompt and its completions inside a stream: first index, prompt tokens, tokens of each completion."""

    start: int
    n_prompt: int
    n_completions: tuple[int, ...]

    @property
    def suffix(self) -> slice:
        return slice(self.start + self.n_prompt, self.start + self.n_prompt + sum(self.n_completions))

    @property
    def prefix(self) -> slice:
        return slice(self.start, self.start + self.n_prompt - 1)


class Layout(NamedTuple):
    """What a kernel needs to know of a stream; handed to every layer as the forward keyword `packed_stream`.

    `own`: cumulative lengths (int32) of prompts and completions in stream order. `suffix` and `prefix`: the same of each
    group's completions together and of the prompt they share. `keys`, `cu_keys`: gathered keys (kernel `gather`).
    """

    kernel: str
    spans: tuple[GroupSpan, ...]
    own: Tensor
    max_own: int
    suffix: Tensor
    max_suffix: int
    prefix: Tensor
    max_prefix: int
    keys: Tensor | None = None
    cu_keys: Tensor | None = None
    max_keys: int = 0
    block_mask: Any = None


def _cumulative(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def stream_ids(spans: Sequence[GroupSpan]) -> tuple[Tensor, Tensor, Tensor]:
    """Per token of the stream (CPU): its group, its completion (-1 on the prompt), and whether completions see it as prompt."""
    groups, completions, shared = [], [], []
    for number, span in enumerate(spans):
        n = span.n_prompt + sum(span.n_completions)
        groups.append(torch.full((n,), number))
        parts = [torch.full((span.n_prompt,), -1), *(torch.full((r,), i) for i, r in enumerate(span.n_completions))]
        completions.append(torch.cat(parts))
        shared.append(torch.arange(n) < span.n_prompt - 1)
    return torch.cat(groups), torch.cat(completions), torch.cat(shared)


def dense_mask(streams: Sequence[Sequence[GroupSpan]], device: torch.device) -> Tensor:
    """The rule as a bool mask of shape (streams, 1, T, T), True where query (row) may attend key (column).

    T is the longest stream's length. What pads a shorter one sees the padding before it, so that no row is empty.
    """
    ids_of = [stream_ids(spans) for spans in streams]
    group, completion, shared = (
        pad_sequence([ids[part] for ids in ids_of], batch_first=True, padding_value=fill).to(device)
        for part, fill in enumerate((-1, -1, 0))
    )
    index = torch.arange(group.shape[1], device=device)
    own = completion[:, :, None] == completion[:, None, :]
    seen = (index[None, :] <= index[:, None]) & (group[:, :, None] == group[:, None, :]) & (own | shared[:, None, :])
    return seen[:, None]


def dense_masks(
    streams: Sequence[Sequence[GroupSpan]], ids_ST: Tensor, facts: Facts, image_token_id: int
) -> Tensor | dict[str, Tensor]:
    """The masks of a model that is not plainly causal: one for all layers, or one for each kind where some see a window only.

    `facts.blocks`: tokens of an image see each other whatever their order. A window counts from where a completion would have
    stood alone: right behind its prompt.
    """
    seen = dense_mask(streams, ids_ST.device)
    places = [torch.cat([_places(span) for span in spans]) for spans in streams]
    prompts = [stream_ids(spans)[1] < 0 for spans in streams]
    place, prompt = (pad_sequence(one, batch_first=True).to(ids_ST.device) for one in (places, prompts))
    if facts.blocks:
        is_image = (ids_ST == image_token_id) & prompt
        starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
        block = torch.where(is_image, starts.long().cumsum(dim=1), 0)
        seen = seen | ((block[:, :, None] == block[:, None, :]) & is_image[:, :, None])[:, None]
    if facts.window is None:
        return seen
    near = place[:, :, None] - place[:, None, :] < facts.window
    return {FULL: seen, SLIDING: seen & near[:, None]}


def _places(span: GroupSpan) -> Tensor:
    """Where each token of a group would stand in a row of its own."""
    after = [torch.arange(span.n_prompt - 1, span.n_prompt - 1 + n) for n in span.n_completions]
    return torch.cat([torch.arange(span.n_prompt), *after])


def layout(spans: Sequence[GroupSpan], kernel: str, device: torch.device) -> Layout:
    """Prepare one of the kernels that need no dense mask (`merge`, `gather`, `flex`). Raises ValueError for others."""
    if kernel not in KERNELS[1:]:
        raise ValueError(f"no packed kernel {kernel!r}; known: {', '.join(KERNELS[1:])}")
    own = [n for span in spans for n in (span.n_prompt, *span.n_completions)]
    with_completions = [span for span in spans if span.n_completions]
    suffix = [sum(span.n_completions) for span in with_completions]
    prefix = [span.n_prompt - 1 for span in with_completions]
    made = Layout(
        kernel=kernel,
        spans=tuple(spans),
        own=_cumulative(own, device),
        max_own=max(own),
        suffix=_cumulative(suffix, device),
        max_suffix=max(suffix, default=0),
        prefix=_cumulative(prefix, device),
        max_prefix=max(prefix, default=0),
    )
    if kernel == "gather":
        keys = []
        for span in spans:
            keys.append(torch.arange(span.start, span.start + span.n_prompt))
            at = span.suffix.start
            for r in span.n_completions:
                keys += [torch.arange(span.prefix.start, span.prefix.stop), torch.arange(at, at + r)]
                at += r
        lengths = [n for s in spans for n in (s.n_prompt, *(s.n_prompt - 1 + r for r in s.n_completions))]
        made = made._replace(keys=torch.cat(keys).to(device), cu_keys=_cumulative(lengths, device), max_keys=max(lengths))
    if kernel == "flex":
        made = made._replace(block_mask=_block_mask(spans, device))
    return made


# -- merge: own tokens and shared prompt, two flash calls ----------------------------------------------------------------


def _take(x: Tensor, parts: list[slice]) -> Tensor:
    return x[parts[0]] if len(parts) == 1 else torch.cat([x[part] for part in parts])


def _add(x: Tensor, parts: list[slice], values: Tensor) -> None:
    at = 0
    for part in parts:
        n = part.stop - part.start
        x[part] += values[at : at + n]
        at += n


class FlashKernel:
    """torch's flash attention over variable lengths: (T, heads, dim) in, output and log-sum-exp (heads, T) out."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[Any, ...], causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        made = torch.ops.aten._flash_attention_forward(q, k, v, *lengths, 0.0, causal, False, scale=scale)
        return made[0], made[1]

    @staticmethod
    def backward(
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        lengths: tuple[Any, ...],
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Without dropout neither the random state nor the last argument is read.
        rng, unused = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
        made = torch.ops.aten._flash_attention_backward(
            d_out, q, k, v, out, lse, *lengths, 0.0, causal, rng, unused, scale=scale
        )
        return made[0], made[1], made[2]


class MergedAttention(torch.autograd.Function):
    """softmax over (shared prompt + own tokens) from two kernel calls.

    Kernels return the log-sum-exp without a gradient, so autograd through the merge would be wrong. Handing the MERGED output
    and log-sum-exp to both backward kernels is exact: each then forms its own part of one softmax.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, made: Layout, scale: float, kernel: Any) -> Tensor:
        own = (made.own, made.own, made.max_own, made.max_own)
        out: Tensor
        out, lse = kernel.forward(q, k, v, own, True, scale)
        ctx.made, ctx.scale, ctx.kernel = made, scale, kernel
        if made.max_suffix and made.max_prefix:
            suffix, prefix, lengths = _shared_call(made)
            over, over_lse = kernel.forward(_take(q, suffix), _take(k, prefix), _take(v, prefix), lengths, False, scale)
            own_out, own_lse = _take(out, suffix), torch.cat([lse[:, part] for part in suffix], dim=1)
            merged_lse = torch.logaddexp(own_lse, over_lse)
            weight = torch.exp(over_lse - merged_lse).transpose(0, 1)[..., None]
            merged = torch.lerp(own_out.to(weight.dtype), over.to(weight.dtype), weight).to(out.dtype)
            at = 0
            for part in suffix:
                n = part.stop - part.start
                out[part], lse[:, part] = merged[at : at + n], merged_lse[:, at : at + n]
                at += n
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        d_out, made, scale, kernel = d_outs[0].contiguous(), ctx.made, ctx.scale, ctx.kernel
        own = (made.own, made.own, made.max_own, made.max_own)
        dq, dk, dv = kernel.backward(d_out, q, k, v, out, lse, own, True, scale)
        if made.max_suffix and made.max_prefix:
            suffix, prefix, lengths = _shared_call(made)
            suffix_lse = torch.cat([lse[:, part] for part in suffix], dim=1).contiguous()
            parts = (_take(d_out, suffix), _take(q, suffix), _take(k, prefix), _take(v, prefix), _take(out, suffix))
            more = kernel.backward(*parts, suffix_lse, lengths, False, scale)
            for total, parts_of, value in zip((dq, dk, dv), (suffix, prefix, prefix), more, strict=True):
                _add(total, parts_of, value)
        return dq, dk, dv, None, None, None


def _shared_call(made: Layout) -> tuple[list[slice], list[slice], tuple[Any, ...]]:
    spans = [span for span in made.spans if span.n_completions]
    lengths = (made.suffix, made.prefix, made.max_suffix, made.max_prefix)
    return [span.suffix for span in spans], [span.prefix for span in spans], lengths


# -- gather and flex ------------------------------------------------------------------------------------------------------


@cache
def varlen_kernel() -> tuple[str, Callable[..., Tensor]] | None:
    """The best variable-length kernel installed, as (name, f(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale)), or None.

    All align a causal mask at the bottom right when there are more keys than queries, as the layout needs.
    """
    if importlib.util.find_spec("flash_attn") is not None and hasattr(importlib.import_module("flash_attn"), "__version__"):
        from flash_attn import flash_attn_varlen_func

        return "flash-attn", lambda q, k, v, cq, ck, mq, mk, causal, scale: flash_attn_varlen_func(
            q, k, v, cq, ck, mq, mk, softmax_scale=scale, causal=causal
        )
    if importlib.util.find_spec("torch.nn.attention.varlen") is None or not torch.cuda.is_available():
        return None
    from torch.nn.attention.varlen import varlen_attn

    parameters = inspect.signature(varlen_attn).parameters

    def call(q: Tensor, k: Tensor, v: Tensor, cq: Tensor, ck: Tensor, mq: int, mk: int, causal: bool, scale: float) -> Tensor:
        options: dict[str, Any] = {"scale": scale} if "scale" in parameters else {}
        if "window_size" in parameters:
            options["window_size"] = (-1, 0) if causal else (-1, -1)
        else:
            options["is_causal"] = causal
        if "enable_gqa" in parameters:
            options["enable_gqa"] = q.shape[1] != k.shape[1]
        elif q.shape[1] != k.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        made = varlen_attn(q, k, v, cq, ck, mq, mk, **options)
        assert isinstance(made, Tensor)
        return made

    return "torch varlen", call


@cache
def _flex() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return create_block_mask, torch.compile(flex_attention, dynamic=False)


def _block_mask(spans: Sequence[GroupSpan], device: torch.device) -> Any:
    group, completion, shared = (ids.to(device) for ids in stream_ids(spans))

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (group[i] == group[j]) & ((completion[i] == completion[j]) | shared[j])

    n = group.numel()
    return _flex()[0](seen, None, None, n, n, device=device)


def _packed(query: Tensor, key: Tensor, value: Tensor, made: Layout, scale: float) -> Tensor:
    """(1, heads, T, dim) -> (1, T, heads, dim)."""
    if made.kernel == "flex":
        grouped = query.shape[1] != key.shape[1]
        out = _flex()[1](query, key, value, block_mask=made.block_mask, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2)  # type: ignore[no-any-return]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if made.kernel == "merge":
        return MergedAttention.apply(q, k, v, made, scale, FlashKernel)[None]  # type: ignore[no-any-return]
    found = varlen_kernel()
    if found is None or made.keys is None or made.cu_keys is None:
        raise RuntimeError("kernel 'gather' needs flash-attn or torch's varlen_attn on a CUDA device; choose another kernel")
    k, v = k.index_select(0, made.keys), v.index_select(0, made.keys)
    return found[1](q, k, v, made.own, made.cu_keys, made.max_own, made.max_keys, True, scale)[None]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed_stream: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The language model's attention: a packed kernel where the pass brings a layout, transformers' sdpa elsewhere."""
    if packed_stream is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _packed(query, key, value, packed_stream, scale), None


# -- choice ---------------------------------------------------------------------------------------------------------------


def choose_kernel(device: torch.device, dtype: torch.dtype, named: str = "auto") -> tuple[str, str]:
    """The packed kernel for this device and compute dtype, and why: the one that is named, or of those that run the one that
    needs least (docs/speed.md says what was measured). Raises ValueError where the named one cannot run."""
    if named not in ("auto", *KERNELS):
        raise ValueError(f"no packed kernel {named!r}; known: auto, {', '.join(KERNELS)}")
    problem = _flash_problem(device, dtype)
    if named == "auto":
        return ("mask", problem) if problem else ("merge", "torch's own flash kernels, no build needed")
    if named == "flex" and device.type == "cpu":
        problem = "FlexAttention computes no gradient on a CPU"
    if named == "gather" and not problem and varlen_kernel() is None:
        problem = "neither flash-attn nor torch's varlen_attn is there; pip install 'vlrl[flash]'"
    if problem and named != "mask" and not (named == "flex" and device.type == "cuda"):
        raise ValueError(f"kernel {named}: {problem}")
    return named, "--group_shared_kernel"


def _flash_problem(device: torch.device, dtype: torch.dtype) -> str:
    """Why torch's flash kernels cannot run; "": they can."""
    if device.type != "cuda":
        return f"flash kernels need CUDA, this is {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"flash kernels need bfloat16 or float16, this is {str(dtype).removeprefix('torch.')}"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] < 8:
        return "torch's flash kernels need an NVIDIA GPU of compute capability 8 or more"
    return ""


def use_attention(model: Any, *, vision: bool = True, text: bool = True) -> dict[str, str]:
    """Route a loaded model's attention through this module where its language model is plainly causal; returns the names per
    sub-model. Load it with `sdpa` first: the top-level name stays, so that a reference model built from it loads anywhere."""
    AttentionInterface.register(TEXT_ATTENTION, packed_attention)
    AttentionMaskInterface.register(TEXT_ATTENTION, sdpa_mask)
    AttentionInterface.register(VISION_ATTENTION, window_attention)
    names = {}
    if text and getattr(model.config, "text_config", None) is not None and facts_of(model).is_causal:
        names["text_config"] = TEXT_ATTENTION
    # Only this family loops over windows; the vision encoders of the others run one sequence per image.
    if vision and getattr(model.config, "model_type", "") == "qwen2_5_vl":
        names["vision_config"] = VISION_ATTENTION
    if names:
        model.set_attn_implementation(names)
    return names
