"""Attention in the windows of Qwen2.5-VL's vision encoder: one call for all windows of a length, instead of a loop over them.

Not here: the language model's attention (`vlrl.models.prefix_sharing.attention`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

VISION_ATTENTION = "flash_vlrl_window"
"""The name it is registered under with transformers. "flash" in it makes the encoder hand over all its windows at once."""


def _windows(cu_lengths: Tensor) -> list[tuple[int, Tensor | None]]:
    """Window lengths, each with the indices of the tokens in windows of that length (None: all tokens, in order).

    Cached on the tensor, which all layers of a pass share: the lengths leave the device once per pass, not once per layer.
    """
    found: list[tuple[int, Tensor | None]] | None = getattr(cu_lengths, "_vlrl_windows", None)
    if found is None:
        bounds = cu_lengths.tolist()
        by_length: dict[int, list[int]] = {}
        for start, stop in pairwise(bounds):
            by_length.setdefault(stop - start, []).append(start)
        if len(by_length) == 1:
            found = [(next(iter(by_length)), None)]
        else:
            found = [
                (n, (torch.tensor(starts)[:, None] + torch.arange(n)).flatten().to(cu_lengths.device))
                for n, starts in by_length.items()
                if n
            ]
        cu_lengths._vlrl_windows = found  # type: ignore[attr-defined]
    return found


def window_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within windows, one call for all of equal length: (1, heads, N, dim) -> (1, N, heads, dim).

    `cu_seq_lens_q`: cumulative window lengths; None: one sequence, transformers' own sdpa.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal=False)
    n_heads, n_tokens, dim = query.shape[1:]
    tokens = [x[0].transpose(0, 1) for x in (query, key, value)]
    out: Tensor | None = None
    for n, index in _windows(cu_seq_lens_q):
        picked = tokens if index is None else [x.index_select(0, index) for x in tokens]
        q, k, v = (x.reshape(-1, n, n_heads, dim).transpose(1, 2) for x in picked)
        made = torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        made = made.transpose(1, 2).reshape(-1, n_heads, dim)
        if index is None:
            return made[None], None
        out = made.new_zeros(n_tokens, n_heads, dim) if out is None else out
        out = out.index_copy(0, index, made)
    assert out is not None
    return out[None], None
