"""The rollout of group-shared GRPO: every image encoded once, every prompt prefilled once, all rows decoded together.

Decoding stays with transformers' `generate`, so logits processors, sampling and stopping are its own. On a CUDA device the
decode step is captured as a graph, which takes the Python and launch time out of it; elsewhere finished rows can be dropped
along the way. Not here: what a group is (`vlrl.models.prefix_sharing.groups`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, StaticCache

from vlrl.models.prefix_sharing.facts import base_of, facts_of
from vlrl.models.prefix_sharing.groups import Group, ImageBatch, NotShared
from vlrl.models.replaced_method import replaced_method

CACHE_MULTIPLE = 64
"""Static caches are rounded up to this many tokens: attention kernels want aligned masks."""
CACHE = "cache" if "cache" in signature(GenerationMixin.prepare_inputs_for_generation).parameters else "past_key_values"
"""How transformers calls the argument: `cache` from 5.24 on."""
COUNTED_FROM_THE_PROMPT = (
    "min_new_tokens",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""Generation settings that count from the prompt's end, which moves when decoding goes on in a second call."""


def rollout_problem(config: GenerationConfig) -> str | None:
    """Why these generation settings need the model's plain path, or None."""
    if config.cache_implementation is not None:
        return f"cache_implementation={config.cache_implementation!r} makes generate build a cache of its own"
    if (config.num_beams or 1) > 1 or getattr(config, "prompt_lookup_num_tokens", None) or config.assistant_early_exit:
        return "beam search and assisted decoding manage the cache themselves"
    return None


@torch.no_grad()
def rollout(
    model: Any,
    prompt_ids_UL: Tensor,
    prompt_mask_UL: Tensor,
    groups: Sequence[Group],
    image_batch: ImageBatch,
    n_generations: int,
    config: GenerationConfig,
    *,
    graphs: bool = False,
    drop_every: int = 0,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """Prompt and completion ids of U·G rows, as `generate` returns them on the prompts repeated G times.

    `prompt_*_UL`: U left-padded prompts; `groups`: their plan, one a prompt, images in order. `graphs`: decode by CUDA graph
    (not for sharded weights). `drop_every`: every so many tokens finished rows leave the batch; the tokens of greedy decoding
    do not change, sampled ones come from another stretch of the random stream. Call it where `generate` would be called:
    model unwrapped, gradient checkpointing off. Raises NotShared for settings it cannot serve.
    """
    if problem := rollout_problem(config):
        raise NotShared(problem)
    base = base_of(model)
    with autocast():
        cache = prefill(model, prompt_ids_UL, prompt_mask_UL, groups, image_batch)
        if facts_of(model).axes > 1:
            deltas = torch.tensor([[group.position_delta] for group in groups], device=prompt_ids_UL.device)
            base.model.rope_deltas = deltas.repeat_interleave(n_generations, dim=0)
        ids, mask = (x.repeat_interleave(n_generations, dim=0) for x in (prompt_ids_UL, prompt_mask_UL))
        if graphs:
            n_tokens = prompt_ids_UL.shape[1] + _n_new(config)
            static = static_cache(cache, base.config, n_generations, n_tokens)
            del cache
            with graph_decoding(base):
                made: Tensor = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **{CACHE: static})
                return made
        cache.batch_repeat_interleave(n_generations)
        if not drop_every or any(getattr(config, name, None) for name in COUNTED_FROM_THE_PROMPT):
            drop_every = _n_new(config)
        return _decode_in_blocks(model, ids, mask, cache, config, drop_every)


def _n_new(config: GenerationConfig) -> int:
    if config.max_new_tokens is None:
        raise NotShared("the generation config names no max_new_tokens")
    return int(config.max_new_tokens)


def prefill(model: Any, ids_UL: Tensor, mask_UL: Tensor, groups: Sequence[Group], image_batch: ImageBatch) -> DynamicCache:
    """Keys and values of all prompt tokens but the last, which `generate` needs uncached for its first logits."""
    n_columns, facts = ids_UL.shape[1], facts_of(model)
    positions_AUL = torch.zeros(facts.axes, len(groups), n_columns, dtype=torch.long)
    for u, group in enumerate(groups):
        positions_AUL[:, u, n_columns - group.n_prompt :] = group.positions_AP
    positions_AUL = positions_AUL[..., :-1].to(ids_UL.device)
    images = [image for group in groups for image in group.images]
    more = image_batch.inputs(images)
    if facts.blocks and images:
        more["token_type_ids"] = (ids_UL[:, :-1] == base_of(model).config.image_token_id).long()
    cache = DynamicCache(config=base_of(model).config.get_text_config())
    model(
        input_ids=ids_UL[:, :-1],
        attention_mask=mask_UL[:, :-1],
        position_ids=positions_AUL if facts.axes > 1 else positions_AUL[0],
        use_cache=True,
        logits_to_keep=1,
        **{CACHE: cache},
        **more,
    )
    return cache


def static_cache(cache: DynamicCache, config: Any, n_generations: int, n_tokens: int) -> StaticCache:
    """The prefilled prompts, each for G rows, with room for `n_tokens` in all."""
    room = -(-n_tokens // CACHE_MULTIPLE) * CACHE_MULTIPLE
    static = StaticCache(config=config.get_text_config(), max_cache_len=room)
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        keys, values = (x.repeat_interleave(n_generations, dim=0) for x in (layer.keys, layer.values))
        static.update(keys, values, index)
        layer.keys = layer.values = None
    return static


def _decode_in_blocks(model: Any, ids: Tensor, mask: Tensor, cache: Cache, config: GenerationConfig, block: int) -> Tensor:
    """`generate`, in calls of `block` tokens between which finished rows leave ids, mask, cache and rotary offsets."""
    base, n_prompt, n_left = base_of(model), ids.shape[1], _n_new(config)
    ends = config.eos_token_id if config.eos_token_id is not None else base.generation_config.eos_token_id
    end_ids = torch.tensor(ends if isinstance(ends, list) else [-1 if ends is None else ends], device=ids.device)
    pad = config.pad_token_id if config.pad_token_id is not None else int(end_ids[0])
    result = torch.cat([ids, ids.new_full((ids.shape[0], n_left), pad)], dim=1)
    alive, longest = torch.arange(ids.shape[0], device=ids.device), n_prompt
    while n_left:
        now = copy.deepcopy(config)
        now.max_new_tokens = min(block, n_left)
        before = ids.shape[1]
        ids = model.generate(input_ids=ids, attention_mask=mask, generation_config=now, **{CACHE: cache})
        result[alive, before : ids.shape[1]] = ids[:, before:]
        longest, n_left = ids.shape[1], n_left - (ids.shape[1] - before)
        keep = (~torch.isin(ids[:, n_prompt:], end_ids).any(dim=1)).nonzero()[:, 0]
        if not n_left or not keep.numel():
            break
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], ids.shape[1] - before)], dim=1)
        if keep.numel() < ids.shape[0]:
            cache.batch_select_indices(keep)
            if getattr(base.model, "rope_deltas", None) is not None:
                base.model.rope_deltas = base.model.rope_deltas[keep]
            alive, ids, mask = alive[keep], ids[keep], mask[keep]
    return result[:, :longest]


# -- decode steps as a CUDA graph -----------------------------------------------------------------------------------------


class GraphedForward:
    """A model's decode step, run plainly once, captured on the second call and replayed from then on.

    All steps must have inputs of equal shapes and write to one static cache, as `generate` with a `StaticCache` does.
    `capture` runs a function while recording it and returns (its result, a function that repeats it).
    """

    def __init__(
        self, forward: Callable[..., Any], capture: Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
    ) -> None:
        self.forward, self.capture = forward, capture
        self.warm = False
        self.inputs: dict[str, Any] = {}
        self.replay: Callable[[], None] | None = None
        self.outputs: Any = None

    def __call__(self, **inputs: Any) -> Any:
        if not self.warm:
            self.warm = True
            return self.forward(**inputs)
        if self.replay is None:
            self.inputs = _cloned(inputs)
            # Recording launches nothing, so the cache has not moved when the step is replayed below.
            self.outputs, self.replay = self.capture(lambda: self.forward(**self.inputs))
        _refill(self.inputs, inputs)
        self.replay()
        return self.outputs


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return {key: _cloned(item) for key, item in value.items()} if isinstance(value, dict) else value


def _refill(held: Any, new: Any) -> None:
    for key, value in new.items():
        if isinstance(value, Tensor):
            if held[key].shape != value.shape:
                raise RuntimeError(
                    f"decode input {key!r} changed its shape from {tuple(held[key].shape)} to {tuple(value.shape)}"
                )
            held[key].copy_(value)
        elif isinstance(value, dict):
            _refill(held[key], value)


def cuda_capture(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record a function's kernels as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return result, graph.replay


@contextmanager
def graph_decoding(base: Any) -> Iterator[None]:
    """Within, `generate` runs its decode steps through `GraphedForward` where it would have compiled them."""
    graphed = GraphedForward(base.__call__, cuda_capture)
    with replaced_method(base, "get_compiled_call", lambda compile_config: graphed):
        yield
