"""One prompt, one image, G completions: encode once, prefill once, score all completions of a group in one packed forward.

Exact, not approximate: the states of a prompt do not depend on what follows, and a completion that sees the prompt and
itself, at the positions it would have had alone, computes the same numbers. Gradients of all completions add up in the shared
prompt and image.

Here is what rows share, and how groups stay whole through shuffling. Not here: log-probabilities of groups
(`vlrl.models.prefix_sharing.logprobs`), the rollout (`vlrl.models.prefix_sharing.rollout`), the trainer's hooks
(`vlrl.training.grpo`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vlrl.models.prefix_sharing.attention import FAMILIES, TEXT_ATTENTION


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
class ImageBatch:
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


def encode(model: Any, image_batch: ImageBatch) -> ImageBatch:
    """The images with their features, encoded once (for a frozen vision encoder, or where no gradient is needed)."""
    if image_batch.grid_thw is None:
        return image_batch
    with torch.no_grad():
        features = base_of(model).get_image_features(image_batch.pixel_values, image_batch.grid_thw, return_dict=True)
    return replace(image_batch, features=features)


@dataclass(frozen=True)
class Group:
    """Rows of a batch that answer one prompt. `images`: indices into the batch's `ImageBatch`. `positions_AP`: rotary positions
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
    """BatchPlan a batch of U prompts with G rows each: prompt u holds the next `n_images[u]` images of the batch."""
    inner, groups, image = base_of(model).model, [], 0
    counted: dict[Any, Tensor] = {}
    grids = None if grid_thw is None else grid_thw.cpu()
    config = inner.config
    for u, ids in enumerate(prompt_ids):
        if len(ids) < 2 or ids[-1] in (config.image_token_id, config.video_token_id):
            raise NotShared(f"prompt {u} ends in an image or is shorter than two tokens")
        positions = torch.arange(len(ids)).expand(3, -1)
        if n_images[u] and grids is not None:
            token_ids, grid = torch.tensor(ids)[None], grids[image : image + n_images[u]]
            types = (token_ids == config.image_token_id).int()
            shape = (tuple(types[0].tolist()), tuple(grid.flatten().tolist()))  # positions follow from where images lie
            if shape not in counted:
                counted[shape] = inner.get_rope_index(token_ids, mm_token_type_ids=types, image_grid_thw=grid)[0][:, 0]
            positions = counted[shape]
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
