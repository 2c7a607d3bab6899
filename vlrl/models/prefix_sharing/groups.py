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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from vlrl.models.prefix_sharing.facts import base_of, facts_of
from vlrl.models.prefix_sharing.image_rows import rows_joined

ABOUT_IMAGES_AND_VIDEOS = (
    *("pixel_values", "image_grid_thw"),
    *("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
)
"""The arguments of models that take videos, as far as they are about pixels; all have their entries in the order of rows."""
COUNTED = {"num_images": "image_grid_thw", "num_videos": "video_grid_thw"}
"""What is stated of each row of a batch with videos, and the argument that has an entry for each."""


class NotShared(ValueError):
    """This batch or model cannot use the shared path; the message says why and what would work."""


# -- groups ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageBatch:
    """The distinct images of a batch: patches of all, (height, width) grids, and their features where they exist already.

    `pixel_values` (patches, values), `grid_thw` (images, 3), `features`: the output of `get_image_features`, one tensor an
    image. Of models without grids an item of the batch is not an image, but all images of a prompt: `pixel_values` and `more`
    are the model's arguments about them, `n_rows` how many entries of each an item has, `n_images` its images. `token_types`:
    the argument that marks image tokens, "" without one.
    """

    pixel_values: Tensor | None = None
    grid_thw: Tensor | None = None
    features: Any = None
    more: Mapping[str, Tensor] | None = None
    n_rows: Mapping[str, tuple[int, ...]] | None = None
    n_images: tuple[int, ...] | None = None
    token_types: str = "mm_token_type_ids"

    @classmethod
    def of_prompts(cls, prompts: Sequence[Mapping[str, Tensor]], n_images: Sequence[int], token_types: str) -> ImageBatch:
        """An item of each prompt, from the model's arguments about its images."""
        fields = rows_joined(prompts)
        n_rows = {name: tuple(len(prompt[name]) for prompt in prompts) for name in fields}
        pixels = fields.pop("pixel_values")
        return cls(pixels, None, None, fields, n_rows, tuple(n_images), token_types)

    def __len__(self) -> int:
        return len(self.n_images or ()) if self.grid_thw is None else len(self.grid_thw)

    def inputs(self, items: Sequence[int]) -> dict[str, Any]:
        """Forward arguments for these items, in this order."""
        if not items or not len(self):
            return {}
        if self.features is not None:
            return {"mm_encoder_outputs": {"image": self.features if self._is_all(items) else self._picked_features(items)}}
        return self.fields(items)

    def _is_all(self, items: Sequence[int]) -> bool:
        return list(items) == list(range(len(self)))

    def fields(self, items: Sequence[int]) -> dict[str, Tensor]:
        """The model's arguments about the pixels of these items, in this order."""
        assert self.pixel_values is not None
        if self.grid_thw is not None:
            if self._is_all(items):
                return {"pixel_values": self.pixel_values, "image_grid_thw": self.grid_thw}
            patches = torch.split(self.pixel_values, self.grid_thw.prod(dim=-1).tolist())
            return {"pixel_values": torch.cat([patches[item] for item in items]), "image_grid_thw": self.grid_thw[list(items)]}
        fields = {"pixel_values": self.pixel_values, **(self.more or {})}
        if self._is_all(items):
            return fields
        parts = {name: torch.split(value, list((self.n_rows or {})[name])) for name, value in fields.items()}
        return {name: torch.cat([own[item] for item in items]) for name, own in parts.items()}

    def _picked_features(self, items: Sequence[int]) -> Any:
        """The features of some items; deep-stack levels (Qwen3-VL) are picked alike."""
        counts = [1] * len(self) if self.n_rows is None else list(self.n_rows["pixel_values"])
        starts = [0, *accumulate(counts)]
        rows = [row for item in items for row in range(starts[item], starts[item + 1])]
        picked = copy.copy(self.features)
        picked.last_hidden_state = None
        found = self.features.pooler_output
        picked.pooler_output = found[rows] if isinstance(found, Tensor) else [found[row] for row in rows]
        if getattr(self.features, "deepstack_features", None) is not None:
            picked.deepstack_features = [[level[row] for row in rows] for level in self.features.deepstack_features]
        return picked


@dataclass(frozen=True)
class PromptBatch(ImageBatch):
    """Of a batch with videos: an item is all that one prompt shows. `prompts`: the model's arguments about each, as
    `ABOUT_IMAGES_AND_VIDEOS` names them; `features`: of each, by "image" and "video"."""

    prompts: tuple[Mapping[str, Tensor], ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def inputs(self, items: Sequence[int]) -> dict[str, Any]:
        if not items or self.features is None:
            return dict(self.fields(items))
        kinds = dict.fromkeys(kind for item in items for kind in self.features[item])
        own = {kind: [self.features[item][kind] for item in items if kind in self.features[item]] for kind in kinds}
        return {"mm_encoder_outputs": {kind: _joined(parts) for kind, parts in own.items()}}

    def fields(self, items: Sequence[int]) -> dict[str, Tensor]:
        own = [self.prompts[item] for item in items]
        names = [name for name in ABOUT_IMAGES_AND_VIDEOS if any(name in one for one in own)]
        return {name: torch.cat([one[name] for one in own if name in one]) for name in names}

    def counts(self, rows: Sequence[Sequence[int]]) -> dict[str, list[int]]:
        """How many images and videos rows have that show these items."""
        return {
            name: [sum(len(self.prompts[item].get(grid, ())) for item in items) for items in rows]
            for name, grid in COUNTED.items()
        }


def _joined(parts: Sequence[Any]) -> Any:
    """The features of several prompts, after each other."""
    whole = copy.copy(parts[0])
    whole.last_hidden_state = None
    whole.pooler_output = [one for part in parts for one in part.pooler_output]
    if getattr(whole, "deepstack_features", None) is not None:
        levels = zip(*(part.deepstack_features for part in parts), strict=True)
        whole.deepstack_features = [[one for part in level for one in part] for level in levels]
    return whole


def encode(model: Any, image_batch: ImageBatch) -> ImageBatch:
    """The images with their features, encoded once (for a frozen vision encoder, or where no gradient is needed)."""
    if not len(image_batch):
        return image_batch
    if isinstance(image_batch, PromptBatch):
        with torch.no_grad():
            return replace(image_batch, features=tuple(_features_of(base_of(model), one) for one in image_batch.prompts))
    fields = image_batch.fields(range(len(image_batch)))
    with torch.no_grad():
        features = base_of(model).get_image_features(**fields, return_dict=True)
    return replace(image_batch, features=features)


def _features_of(base: Any, fields: Mapping[str, Tensor]) -> dict[str, Any]:
    own = {name: fields.get(name) for name in ABOUT_IMAGES_AND_VIDEOS}
    found = {}
    if own["pixel_values"] is not None:
        found["image"] = base.get_image_features(own["pixel_values"], own["image_grid_thw"], return_dict=True)
    if own["pixel_values_videos"] is not None:
        found["video"] = base.get_video_features(own["pixel_values_videos"], own["video_grid_thw"], return_dict=True)
    return found


@dataclass(frozen=True)
class Group:
    """Rows of a batch that answer one prompt. `images`: items of the batch's `ImageBatch`. `positions_AP`: rotary positions of
    the unpadded prompt on one or three axes (CPU), counted once and used by every pass."""

    rows: tuple[int, ...]
    images: tuple[int, ...]
    positions_AP: Tensor

    @property
    def n_prompt(self) -> int:
        return self.positions_AP.shape[1]

    @property
    def position_delta(self) -> int:
        """What the model calls rope_deltas: the position after the last one less the number of tokens so far. The last is the
        largest, but where a long video of Qwen2-VL or Qwen2.5-VL, which counts time, reaches past the text behind it."""
        return int(self.positions_AP[:, -1].max()) + 1 - self.n_prompt


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
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    n_items: Sequence[int],
    grid_thw: Tensor | None,
    n_generations: int,
    shown: Sequence[Mapping[str, Tensor]] = (),
) -> list[Group]:
    """The groups of a batch of U prompts with G rows each: prompt u holds the next `n_items[u]` items of the `ImageBatch`.
    `shown`: the items of a `PromptBatch`."""
    inner, groups, item = base_of(model).model, [], 0
    facts = facts_of(model)
    counted: dict[Any, Tensor] = {}
    grids = None if grid_thw is None else grid_thw.cpu()
    image_id, video_id = int(inner.config.image_token_id), getattr(inner.config, "video_token_id", None)
    for u, ids in enumerate(prompt_ids):
        if len(ids) < 2 or ids[-1] in (image_id, video_id):
            raise NotShared(f"prompt {u} ends in an image or is shorter than two tokens")
        positions = torch.arange(len(ids)).expand(facts.axes, -1)
        if shown and n_items[u]:
            positions = positions_with_videos(inner, ids, shown[item])
        elif facts.axes == 3 and n_items[u] and grids is not None:
            token_ids, grid = torch.tensor(ids)[None], grids[item : item + n_items[u]]
            types = torch.eq(token_ids, image_id).int()
            shape = (tuple(types[0].tolist()), tuple(grid.flatten().tolist()))  # positions follow from where images lie
            if shape not in counted:
                counted[shape] = inner.get_rope_index(token_ids, mm_token_type_ids=types, image_grid_thw=grid)[0][:, 0]
            positions = counted[shape]
        rows = tuple(range(u * n_generations, (u + 1) * n_generations))
        groups.append(Group(rows, tuple(range(item, item + n_items[u])), positions))
        item += n_items[u]
    return groups


def token_types(ids: Tensor, image_token_id: int, video_token_id: int | None) -> Tensor:
    """1 at tokens of images, 2 at those of videos, else 0, as processors and models have it."""
    types = torch.eq(ids, image_token_id).int()
    return types if video_token_id is None else types + 2 * torch.eq(ids, video_token_id).int()


def positions_with_videos(inner: Any, ids: Sequence[int], fields: Mapping[str, Tensor]) -> Tensor:
    """Rotary positions (3, P) of a prompt with videos, on the CPU; of Qwen2.5-VL in steps of their time."""
    token_ids = torch.tensor(ids)[None]
    types = token_types(token_ids, int(inner.config.image_token_id), int(inner.config.video_token_id))
    own = {name: fields[name].cpu() for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if name in fields}
    found: Tensor = inner.get_rope_index(token_ids, mm_token_type_ids=types, **own)[0][:, 0]
    return found


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
