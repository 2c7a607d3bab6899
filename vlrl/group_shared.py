"""One prompt, one image, G completions: encode once, prefill once, score all completions of a group in one packed forward.

Exact, not approximate: the states of a prompt do not depend on what follows, and a completion that sees the prompt and
itself, at the positions it would have had alone, computes the same numbers. Gradients of all completions add up in the shared
prompt and image.

    groups    plan_groups, micro_batches                 what rows share; groups stay whole through shuffling
    scoring   plan_streams, pack, score                  old, reference and policy log-probabilities

Not here: the attention kernels (`vlrl.packed_attention`), the rollout (`vlrl.shared_rollout`), the trainer's hooks
(`vlrl.trainer`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlrl.packed_attention import FAMILIES, TEXT_ATTENTION, Span, dense_mask, layout

MASK_ELEMENTS = 2**26
"""So many entries of dense masks at most go through the model at once (64 MiB as bools), where it is free to choose."""


class NotShared(ValueError):
    """This batch or model cannot use the shared path; the message says why and what would work."""


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def unwrapped(model: Any) -> Any:
    """A model without what DDP and its like put around it."""
    while hasattr(model, "module"):
        model = model.module
    return model


def why_not(model: Any) -> str | None:
    """Why this (unwrapped) model cannot use the packed stream, or None if it can."""
    config = base_of(model).config
    text = config.get_text_config()
    if config.model_type not in FAMILIES:
        return f"model_type {config.model_type!r} was not compared with the plain pass (known: {', '.join(FAMILIES)})"
    if set(getattr(text, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "the language model has layers other than full attention"
    if getattr(text, "attention_dropout", 0.0) or getattr(text, "output_router_logits", False):
        return "attention dropout and auxiliary router losses are computed on the plain layout only"
    if text._attn_implementation not in ("sdpa", TEXT_ATTENTION):
        return f"attention {text._attn_implementation!r} takes no mask of groups; leave --attn_implementation out, or say sdpa"
    peft = getattr(model, "peft_config", {})
    if any(getattr(adapter, "is_prompt_learning", False) for adapter in peft.values()):
        return "prompt-learning adapters put tokens of their own before the prompt"
    return None


def takes_features(model: Any) -> bool:
    """Whether ready image features may be passed. Asked of the signature: older releases ignore the keyword silently."""
    return "mm_encoder_outputs" in inspect.signature(type(base_of(model)).forward).parameters


# -- groups ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """The distinct images of a batch: patches of all, (height, width) grids, and their features where they exist already.

    `pixel_values` (patches, values), `grid_thw` (images, 3), `features`: the output of `get_image_features`, one tensor an
    image.
    """

    pixel_values: Tensor | None = None
    grid_thw: Tensor | None = None
    features: Any = None

    def inputs(self, images: Sequence[int]) -> dict[str, Any]:
        """Forward arguments for these images, in this order."""
        if not images or self.grid_thw is None:
            return {}
        whole = list(images) == list(range(len(self.grid_thw)))
        if self.features is not None:
            return {"mm_encoder_outputs": {"image": self.features if whole else _picked(self.features, images)}}
        assert self.pixel_values is not None
        if whole:
            return {"pixel_values": self.pixel_values, "image_grid_thw": self.grid_thw}
        patches = torch.split(self.pixel_values, self.grid_thw.prod(dim=-1).tolist())
        return {
            "pixel_values": torch.cat([patches[image] for image in images]),
            "image_grid_thw": self.grid_thw[list(images)],
        }


def _picked(features: Any, images: Sequence[int]) -> Any:
    """The features of some images; deep-stack levels (Qwen3-VL) are picked alike."""
    picked = copy.copy(features)
    picked.last_hidden_state = None
    picked.pooler_output = [features.pooler_output[image] for image in images]
    if getattr(features, "deepstack_features", None) is not None:
        picked.deepstack_features = [[level[image] for image in images] for level in features.deepstack_features]
    return picked


def encode(model: Any, pictures: Pictures) -> Pictures:
    """The pictures with their features, encoded once (for a frozen tower, or where no gradient is needed)."""
    if pictures.grid_thw is None:
        return pictures
    with torch.no_grad():
        features = base_of(model).get_image_features(pictures.pixel_values, pictures.grid_thw, return_dict=True)
    return replace(pictures, features=features)


@dataclass(frozen=True)
class Group:
    """Rows of a batch that answer one prompt. `images`: indices into the batch's `Pictures`. `positions_AP`: rotary positions
    of the unpadded prompt on three axes (CPU), counted once and used by every pass."""

    rows: tuple[int, ...]
    images: tuple[int, ...]
    positions_AP: Tensor

    @property
    def n_prompt(self) -> int:
        return self.positions_AP.shape[1]

    @property
    def position_delta(self) -> int:
        """What the model calls rope_deltas: the next position less the number of tokens so far."""
        return int(self.positions_AP.max()) + 1 - self.n_prompt


def sharing_problem(per_device: int, steps_per_generation: int, n_generations: int) -> str | None:
    """Why these batch sizes tear groups apart, with the nearest that do not, or None."""
    g, n = n_generations, per_device
    if n % g == 0 or (g % n == 0 and (n * steps_per_generation) % g == 0):
        return None
    fits = [m for m in range(1, n + g) if m % g == 0 or (g % m == 0 and (m * steps_per_generation) % g == 0)]
    low, high = max((m for m in fits if m < n), default=None), min((m for m in fits if m > n), default=None)
    near = " or ".join(str(m) for m in (low, high) if m)
    return (
        f"per_device_train_batch_size={n} with steps_per_generation={steps_per_generation} tears groups of"
        f" num_generations={g} apart; use {near}"
    )


def plan_groups(
    model: Any, prompt_ids: Sequence[Sequence[int]], n_images: Sequence[int], grid_thw: Tensor | None, n_generations: int
) -> list[Group]:
    """Plan a batch of U prompts with G rows each: prompt u holds the next `n_images[u]` images of the batch."""
    inner, groups, image = base_of(model).model, [], 0
    grids = None if grid_thw is None else grid_thw.cpu()
    config = inner.config
    for u, ids in enumerate(prompt_ids):
        if len(ids) < 2 or ids[-1] in (config.image_token_id, config.video_token_id):
            raise NotShared(f"prompt {u} ends in an image or is shorter than two tokens")
        token_ids = torch.tensor(ids)[None]
        positions = torch.arange(len(ids)).expand(3, -1)
        if n_images[u] and grids is not None:
            types = (token_ids == config.image_token_id).int()
            grid = grids[image : image + n_images[u]]
            positions = inner.get_rope_index(token_ids, mm_token_type_ids=types, image_grid_thw=grid)[0][:, 0]
        rows = tuple(range(u * n_generations, (u + 1) * n_generations))
        groups.append(Group(rows, tuple(range(image, image + n_images[u])), positions))
        image += n_images[u]
    return groups


def micro_batches(groups: Sequence[Group], order: Sequence[int], per_batch: int) -> list[tuple[list[int], list[Group]]]:
    """Cut a generation batch into micro-batches of `per_batch` rows, groups in the given order and adjacent.

    Returns for each the rows of the generation batch it holds and its groups, their `rows` counted within the micro-batch. A
    group larger than a micro-batch is spread over several and shared within each.
    """
    flat = [(row, g) for g in order for row in groups[g].rows]
    batches = []
    for start in range(0, len(flat), per_batch):
        part = flat[start : start + per_batch]
        own: dict[int, list[int]] = {}
        for at, (_, g) in enumerate(part):
            own.setdefault(g, []).append(at)
        batches.append(([row for row, _ in part], [replace(groups[g], rows=tuple(rows)) for g, rows in own.items()]))
    return batches


# -- scoring --------------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A group's prompt with some of its completions, as one stretch of a stream."""

    group: int
    rows: tuple[int, ...]


def plan_streams(
    groups: Sequence[Group], n_completion: Sequence[int], max_tokens: int | None, *, alone: bool = False
) -> list[list[Piece]]:
    """Lay groups into streams of at most `max_tokens` tokens (None: no limit).

    Small groups share a stream, unless each is to be `alone`; one that alone is longer is cut between completions and its
    prompt repeated. Completions of no tokens (masked out) are left out; a group of none keeps its prompt, so that every rank
    runs a forward and a backward.
    """
    streams: list[list[Piece]] = [[]]
    filled = 0
    for number, group in enumerate(groups):
        pieces: list[tuple[Piece, int]] = []
        rows: list[int] = []
        length = group.n_prompt
        for row in (row for row in group.rows if n_completion[row]):
            if rows and max_tokens is not None and length + n_completion[row] > max_tokens:
                pieces.append((Piece(number, tuple(rows)), length))
                rows, length = [], group.n_prompt
            rows.append(row)
            length += n_completion[row]
        pieces.append((Piece(number, tuple(rows)), length))
        for piece, length in pieces:
            if streams[-1] and (alone or (max_tokens is not None and filled + length > max_tokens)):
                streams.append([])
                filled = 0
            streams[-1].append(piece)
            filled += length
    return streams


def mask_budget(config: Any, groups: Sequence[Group], n_completion: Sequence[int]) -> int:
    """The stream length at which dense masks cost least: each cut repeats a prompt, each token pair costs attention."""
    text = config.get_text_config()
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    wide, narrow = text.num_attention_heads * dim, text.num_key_value_heads * dim
    weights = text.hidden_size * (2 * wide + 2 * narrow) + 3 * text.hidden_size * text.intermediate_size
    per_token, per_pair = 2 * weights * text.num_hidden_layers, 4 * wide * text.num_hidden_layers
    best = 0
    for group in groups:
        g, completion = len(group.rows), max(1, *(n_completion[row] for row in group.rows))
        cost = {}
        for k in range(1, g + 1):
            n = group.n_prompt + k * completion
            cost[n] = -(-g // k) * (per_token * n + per_pair * n * n)
        best = max(best, min(cost, key=lambda n: cost[n]))
    return best


@dataclass(frozen=True)
class Packed:
    """S streams, ready for a forward: T tokens each, the shorter ones padded on the right. `targets` and `sources`: where in
    the flat (B, R) result the value at an index of the flat (S, T) streams belongs."""

    input_ids_ST: Tensor
    labels_ST: Tensor
    positions_AST: Tensor
    spans: tuple[tuple[Span, ...], ...]
    images: tuple[int, ...]
    sources: Tensor
    targets: Tensor


def pack(
    streams: Sequence[Sequence[Piece]], groups: Sequence[Group], n_completion: Sequence[int], ids_BT: Tensor, n_keep: int
) -> Packed:
    """Gather streams from the padded layout: prompts left-padded, completions in the last `n_keep` columns.

    A completion is laid out as the prompt's last token and all its own but the last, each labelled with the token after it,
    so every log-probability has one place and no label is shifted.
    """
    laid = [_lay(stream, groups, n_completion, ids_BT.shape[1], n_keep) for stream in streams]
    device, longest = ids_BT.device, max(len(one.tokens) for one in laid)
    flat = ids_BT.reshape(-1)
    text = int(laid[0].tokens[groups[streams[0][0].group].n_prompt - 1])  # a prompt ends in text, which padding may repeat
    tokens, labels = (
        pad_sequence([getattr(one, name) for one in laid], batch_first=True, padding_value=fill).to(device)
        for name, fill in (("tokens", text), ("labels", -1))
    )
    positions = pad_sequence([one.positions_AT.T for one in laid], batch_first=True).permute(2, 0, 1).to(device)
    return Packed(
        input_ids_ST=flat[tokens],
        labels_ST=torch.where(labels >= 0, flat[labels.clamp(min=0)], -100),
        positions_AST=positions,
        spans=tuple(one.spans for one in laid),
        images=tuple(image for one in laid for image in one.images),
        sources=torch.cat([one.sources + index * longest for index, one in enumerate(laid)]).to(device),
        targets=torch.cat([one.targets for one in laid]).to(device),
    )


class _Laid(NamedTuple):
    """One stream by indices into the flat padded layout (`tokens`, `labels`: -1 for none); the rest as in `Packed`."""

    tokens: Tensor
    labels: Tensor
    positions_AT: Tensor
    spans: tuple[Span, ...]
    images: list[int]
    sources: Tensor
    targets: Tensor


def _lay(stream: Sequence[Piece], groups: Sequence[Group], n_completion: Sequence[int], n_columns: int, n_keep: int) -> _Laid:
    first_column = n_columns - n_keep
    tokens, labels, positions, images, spans = [], [], [], [], []
    sources, targets = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
    at = 0
    for piece in stream:
        group = groups[piece.group]
        columns = torch.arange(first_column - group.n_prompt, first_column)
        tokens.append(columns + group.rows[0] * n_columns)
        labels.append(torch.full((group.n_prompt,), -1))
        positions.append(group.positions_AP)
        spans.append(Span(at, group.n_prompt, tuple(n_completion[row] for row in piece.rows)))
        at += group.n_prompt
        for row in piece.rows:
            n = n_completion[row]
            start = row * n_columns + first_column
            tokens.append(torch.arange(start - 1, start + n - 1))
            labels.append(torch.arange(start, start + n))
            positions.append(group.positions_AP[:, -1:] + torch.arange(n))
            sources.append(torch.arange(at, at + n))
            targets.append(torch.arange(row * n_keep, row * n_keep + n))
            at += n
        images += list(group.images)
    parts = (torch.cat(tokens), torch.cat(labels), torch.cat(positions, dim=1))
    return _Laid(*parts, tuple(spans), images, torch.cat(sources), torch.cat(targets))


def stream_inputs(packed: Packed, pictures: Pictures, kernel: str, mask_form: str) -> dict[str, Any]:
    """The forward's arguments. Kernels other than `mask` take the layout of their one stream as a keyword and a mask that no
    layer reads."""
    device = packed.input_ids_ST.device
    if kernel == "mask":
        mask, more = dense_mask(packed.spans, device), {}
    else:
        (spans,) = packed.spans
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        more = {"packed_stream": layout(spans, kernel, device)}
    return {
        "input_ids": packed.input_ids_ST,
        "attention_mask": {"full_attention": mask} if mask_form == "dict" else mask,
        "position_ids": packed.positions_AST,
        **pictures.inputs(packed.images),
        **more,
    }


def score(
    model: Any,
    ids_BT: Tensor,
    mask_BT: Tensor,
    n_keep: int,
    groups: Sequence[Group],
    pictures: Pictures,
    *,
    kernel: str = "mask",
    max_tokens: int | None = None,
    one_pass: bool = False,
    entropy: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, Tensor | None]:
    """Per-token log-probabilities (and entropies) of completions, both (B, n_keep), zero where the mask is.

    `model` carries TRL's fused head (`add_fused_lm_head`) and may be wrapped. `ids_BT`, `mask_BT`: the padded layout, prompts
    padded on the left, completions in the last `n_keep` columns. A completion's mask is ones, then zeros. Set the model's
    attention with `packed_attention.use_attention` before any kernel but `mask`. `one_pass`: a single forward whatever its
    size, for sharded weights, whose forwards must be equally many in every process.
    """
    config = base_of(unwrapped(model)).config
    n_completion = mask_BT[:, -n_keep:].sum(dim=1).tolist()
    dense = kernel == "mask"
    if dense and max_tokens is None:
        max_tokens = mask_budget(config, groups, n_completion)
    streams = plan_streams(groups, n_completion, None if one_pass and not dense else max_tokens, alone=dense)
    results: dict[str, list[Tensor]] = {"log_probs": [], "entropy": []}
    targets = []
    for batch in _passes(streams, groups, n_completion, dense, one_pass):
        packed = pack(batch, groups, n_completion, ids_BT, n_keep)
        inputs = stream_inputs(packed, pictures, kernel, FAMILIES[config.model_type])
        with autocast():
            out = model(**inputs, shift_labels=packed.labels_ST, fused_lm_head=True)
        targets.append(packed.targets)
        for name, values in results.items():
            if name == "log_probs" or entropy:
                values.append(out[name].reshape(-1)[packed.sources])
    where = torch.cat(targets)
    n_values = ids_BT.shape[0] * n_keep

    def unpacked(values: list[Tensor]) -> Tensor:
        flat = torch.cat(values)
        return flat.new_zeros(n_values).index_copy(0, where, flat).view(-1, n_keep)

    return unpacked(results["log_probs"]), unpacked(results["entropy"]) if entropy else None


def _passes(
    streams: list[list[Piece]], groups: Sequence[Group], n_completion: Sequence[int], dense: bool, one_pass: bool
) -> list[list[list[Piece]]]:
    """Streams that go through the model together: one for flash kernels; for dense masks as many as `MASK_ELEMENTS` allow,
    those of like length together, so that little is padded."""
    if not dense:
        return [[stream] for stream in streams]
    length = [sum(groups[p.group].n_prompt + sum(n_completion[row] for row in p.rows) for p in stream) for stream in streams]
    order = range(len(streams)) if one_pass else sorted(range(len(streams)), key=lambda i: length[i])
    passes: list[list[list[Piece]]] = [[]]
    for i in order:
        if passes[-1] and not one_pass and (len(passes[-1]) + 1) * length[i] ** 2 > MASK_ELEMENTS:
            passes.append([])
        passes[-1].append(streams[i])
    return passes
