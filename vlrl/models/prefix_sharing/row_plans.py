"""Plans of rows that are no groups of one prompt (steps of episodes, imitated thoughts): which of them are alike.

Not here: plans of a generation (`vlrl.models.prefix_sharing.step.Sharing.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlrl.models.prefix_sharing.facts import base_of, facts_of, unwrapped
from vlrl.models.prefix_sharing.groups import ImageBatch, NotShared, plan_groups
from vlrl.models.prefix_sharing.image_rows import by_row, knows
from vlrl.models.prefix_sharing.step import BatchPlan


def plan_rows(model: Any, ids_BT: Tensor, mask_BT: Tensor, n_keep: int, fields: Mapping[str, Any]) -> BatchPlan:
    """The plan of rows in TRL's padded layout whose prompts need not be alike: rows with equal prompts and images are a group.
    `fields`: TRL's arguments about images. Raises NotShared."""
    facts = facts_of(model)
    items, n_items = _items_of_rows(model, ids_BT, fields)
    sums = [sum(float(value.double().sum()) for value in item.values()) for item in items]
    seen, kept_ids = mask_BT[:, :-n_keep].bool().cpu(), ids_BT[:, :-n_keep].cpu()
    found: dict[Any, list[tuple[list[int], list[int]]]] = {}  # by ids and sums of the images: rows, items of the first
    at = 0
    for row, n in enumerate(n_items):
        own = list(range(at, at + n))
        at += n
        alike = found.setdefault((tuple(kept_ids[row][seen[row]].tolist()), *(sums[i] for i in own)), [])
        same = (rows for rows, others in alike if all(_equal(items[a], items[b]) for a, b in zip(others, own, strict=True)))
        rows = next(same, None)
        if rows is None:
            alike.append(([row], own))
        else:
            rows.append(row)
    distinct = [(list(key[0]), rows, own) for key, alike in found.items() for rows, own in alike]
    shown = [i for _, _, own in distinct for i in own]
    image_batch = ImageBatch(token_types=facts.token_types)
    if shown and facts.grids:
        pixels, grids = (torch.cat([items[i][name] for i in shown]) for name in ("pixel_values", "image_grid_thw"))
        image_batch = ImageBatch(pixels, grids)
    elif shown:
        n_images = [int(fields["num_images"][rows[0]]) for _, rows, own in distinct if own]
        image_batch = ImageBatch.of_prompts([items[i] for i in shown], n_images, facts.token_types)
    prompts, counts = [ids for ids, _, _ in distinct], [len(own) for _, _, own in distinct]
    groups = plan_groups(model, prompts, counts, image_batch.grid_thw, 1)
    own_rows = [tuple(rows) for _, rows, _ in distinct]
    return BatchPlan(tuple(replace(one, rows=rows) for one, rows in zip(groups, own_rows, strict=True)), image_batch)


def _items_of_rows(model: Any, ids_BT: Tensor, fields: Mapping[str, Any]) -> tuple[list[Mapping[str, Tensor]], list[int]]:
    """The items of an `ImageBatch` that rows in TRL's layout hold, and how many each row has. Raises NotShared."""
    if fields.get("pixel_values_videos") is not None:
        raise NotShared("rows with videos that come without a plan")
    grid_thw, pixels = fields.get("image_grid_thw"), fields.get("pixel_values")
    n_images = [int(n) for n in fields.get("num_images") or [0] * len(ids_BT)]
    if pixels is None:
        return [], [0] * len(ids_BT)
    if grid_thw is not None:
        patches = torch.split(pixels, grid_thw.prod(dim=-1).tolist())
        return [{"pixel_values": own, "image_grid_thw": grid_thw[i : i + 1]} for i, own in enumerate(patches)], n_images
    about = {name: value for name, value in fields.items() if value is not None}
    if not knows(about):
        raise NotShared(f"fields about images that cannot be told apart by rows: {', '.join(about)}")
    tokens = (ids_BT == base_of(unwrapped(model)).config.image_token_id).sum(dim=1).tolist()
    try:
        rows = by_row(about, tokens)
    except ValueError as error:
        raise NotShared(str(error)) from error
    return [row for row in rows if row], [int(bool(row)) for row in rows]


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
