"""Log-probabilities of groups in one packed forward: a prompt once, all its completions behind it.

Serves old, reference and policy log-probabilities, and rows that are no groups (each its own). Not here: what rows share
(`vlrl.models.prefix_sharing.groups`), the attention kernels (`vlrl.models.prefix_sharing.attention`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlrl.models.prefix_sharing.attention import GroupSpan, dense_mask, dense_masks, layout
from vlrl.models.prefix_sharing.facts import Facts, base_of, facts_of, unwrapped
from vlrl.models.prefix_sharing.groups import Group, ImageBatch

MASK_ELEMENTS = 2**26
"""So many entries of dense masks at most go through the model at once (64 MiB as bools), where it is free to choose."""


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
    spans: tuple[tuple[GroupSpan, ...], ...]
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
    spans: tuple[GroupSpan, ...]
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
        spans.append(GroupSpan(at, group.n_prompt, tuple(n_completion[row] for row in piece.rows)))
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


def stream_inputs(
    packed: Packed, image_batch: ImageBatch, kernel: str, facts: Facts | None = None, image_token_id: int = -1
) -> dict[str, Any]:
    """The forward's arguments. Kernels other than `mask` take the layout of their one stream as a keyword and a mask that no
    layer reads. `facts`: of the model, left out where it is plainly causal with three axes of positions."""
    device, facts = packed.input_ids_ST.device, facts or Facts()
    more: dict[str, Any] = {}
    if kernel == "mask":
        mask: Any = (
            dense_mask(packed.spans, device)
            if facts.is_causal
            else dense_masks(packed.spans, packed.input_ids_ST, facts, image_token_id)
        )
    else:
        (spans,) = packed.spans
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        more = {"packed_stream": layout(spans, kernel, device)}
    return {
        "input_ids": packed.input_ids_ST,
        "attention_mask": mask,
        "position_ids": packed.positions_AST if facts.axes > 1 else packed.positions_AST[0],
        **image_batch.inputs(packed.images),
        **more,
    }


def group_logps(
    model: Any,
    ids_BT: Tensor,
    mask_BT: Tensor,
    n_keep: int,
    groups: Sequence[Group],
    image_batch: ImageBatch,
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
    config, facts = base_of(unwrapped(model)).config, facts_of(model)
    n_completion = mask_BT[:, -n_keep:].sum(dim=1).tolist()
    dense = kernel == "mask"
    if dense and max_tokens is None:
        max_tokens = mask_budget(config, groups, n_completion)
    streams = plan_streams(groups, n_completion, None if one_pass and not dense else max_tokens, alone=dense)
    results: dict[str, list[Tensor]] = {"log_probs": [], "entropy": []}
    targets = []
    for batch in _passes(streams, groups, n_completion, dense, one_pass):
        packed = pack(batch, groups, n_completion, ids_BT, n_keep)
        inputs = stream_inputs(packed, image_batch, kernel, facts, config.image_token_id)
        labels_1N = packed.labels_ST.reshape(1, -1)[:, packed.sources]
        # TRL's head projects every position unless Triton is there: only those with a label reach it.
        with autocast(), before_head(model, partial(_at, packed.sources)):
            out = model(**inputs, shift_labels=labels_1N, fused_lm_head=True)
        targets.append(packed.targets)
        for name, values in results.items():
            if name == "log_probs" or entropy:
                values.append(out[name].reshape(-1))
    where = torch.cat(targets)
    n_values = ids_BT.shape[0] * n_keep

    def unpacked(values: list[Tensor]) -> Tensor:
        flat = torch.cat(values)
        return flat.new_zeros(n_values).index_copy(0, where, flat).view(-1, n_keep)

    return unpacked(results["log_probs"]), unpacked(results["entropy"]) if entropy else None


def _at(places: Tensor, hidden_STD: Tensor) -> Tensor:
    return hidden_STD.reshape(1, -1, hidden_STD.shape[-1])[:, places]


@contextmanager
def before_head(model: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, TRL's fused head sees `change(last hidden states)`. The model may be wrapped: its forward stays the way in."""

    def changed(_module: Any, _args: Any, output: Any) -> Any:
        output.last_hidden_state = change(output.last_hidden_state)
        return output

    handle = base_of(unwrapped(model)).base_model.register_forward_hook(changed)
    try:
        yield
    finally:
        handle.remove()


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
