"""Batches in which some rows have images, some videos and others neither, which TRL's trainer does not expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.data.images import Video
from vlrl.models.prefix_sharing.facts import base_of, unwrapped
from vlrl.models.prefix_sharing.groups import ABOUT_IMAGES_AND_VIDEOS, COUNTED
from vlrl.models.prefix_sharing.image_rows import (
    PER_TOKEN,
    by_row,
    knows,
    n_tiles,
    rows_joined,
    told_image_counts,
    told_videos,
)
from vlrl.models.prefix_sharing.step import VIDEO_PIXELS
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import LogpsAndMore, TrainingRow


def all_see_images(rows: Sequence[TrainingRow], is_sharded: bool) -> bool:
    """Whether every process has a row with an image, which must be known before some of them see images and others do not.

    TRL gathers images for its log only where there are some: a process without would never answer. Where weights are
    sharded, the vision encoder itself is such a question, so that such batches are refused, raising RunStopped.
    """
    kinds = gather_object([[row_kind(row) for row in rows]])
    seeing = [[bool(kind) for kind in rank] for rank in kinds]
    every = [row for rank in seeing for row in rank]
    if is_sharded and len(found := {kind for rank in kinds for kind in rank if kind}) > 1:
        raise RunStopped(
            f"some completions of a batch show {' and others '.join(sorted(found))}, which the vision encoder sees in passes of"
            " their own; that hangs where weights are sharded (FSDP, ZeRO-3). Use DDP or ZeRO-2, train on them apart, or show"
            " videos as images: --video_as frames"
        )
    if is_sharded and any(every) and not all(every):
        raise RunStopped(
            f"{sum(every)} of {len(every)} completions of a batch have images and the others have none, which hangs where"
            " weights are sharded (FSDP, ZeRO-3); use DDP or ZeRO-2, or train on them apart"
        )
    return all(map(any, seeing))


def row_kind(row: TrainingRow) -> str:
    """What a row shows: "images", "videos", or "" for text alone."""
    if any(isinstance(one, Video) for one in row["images"]):
        return "videos"
    return "images" if row["images"] else ""


def logps_of_mixed_rows(
    plain: Callable[..., LogpsAndMore],
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    n_keep: int,
    batch_size: int | None = None,
    **fields: Any,
) -> LogpsAndMore:
    """`plain`, TRL's own, which hands the model an empty tensor where a part of a batch has no image: such rows go apart.
    Images without grids are split here, since TRL guesses whose they are; and rows with videos, of which it knows nothing."""
    if fields.get("num_videos") is not None:
        return _logps_with_videos(plain, model, ids_BT, mask_BT, n_keep, batch_size or len(ids_BT), fields)
    if knows(fields):
        return _logps_in_parts(plain, model, ids_BT, mask_BT, n_keep, batch_size or len(ids_BT), fields)
    n, num_images = len(ids_BT), list[int](fields.get("num_images") or ())
    size = batch_size or n
    pixels = fields.get("pixel_values")
    split = num_images and pixels is not None and pixels.ndim < 5  # 5: padded to equally many images a row
    if not split or all(any(num_images[i : i + size]) for i in range(0, n, size)):
        return plain(model, ids_BT, mask_BT, n_keep, batch_size, **fields)
    seeing = [i for i in range(n) if num_images[i]]
    blind = [i for i in range(n) if not num_images[i]]
    parts = []
    for rows in filter(None, (seeing, blind)):
        own = {name: fields[name][rows] for name in PER_TOKEN if fields.get(name) is not None} | asked_for(fields)
        if rows is seeing:
            counts = {name: [fields[name][i] for i in rows] for name in ("num_images", "num_tiles") if fields.get(name)}
            own = {**fields, **own, **counts}
        parts.append((rows, plain(model, ids_BT[rows], mask_BT[rows], n_keep, batch_size, **own)))
    return in_row_order(parts)


def _logps_in_parts(
    plain: Callable[..., LogpsAndMore],
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    n_keep: int,
    batch_size: int,
    fields: Mapping[str, Any],
) -> LogpsAndMore:
    """So many rows at a time, each part whole: of a whole batch TRL takes all entries."""
    parts = []
    for start in range(0, len(ids_BT), batch_size):
        rows = list(range(start, min(start + batch_size, len(ids_BT))))
        own = asked_for(fields) | images_of_rows(model, ids_BT, fields, rows)
        with told_image_counts(model, own.get("num_images")):
            own.pop("batch_num_images", None)
            parts.append((rows, plain(model, ids_BT[rows], mask_BT[rows], n_keep, None, **own)))
    return in_row_order(parts)


def _logps_with_videos(
    plain: Callable[..., LogpsAndMore],
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    n_keep: int,
    batch_size: int,
    fields: Mapping[str, Any],
) -> LogpsAndMore:
    """So many rows at a time, each part whole; the model is told of its videos past TRL."""
    shown, parts = fields_of_rows(fields), []
    for start in range(0, len(ids_BT), batch_size):
        rows = list(range(start, min(start + batch_size, len(ids_BT))))
        own = asked_for(fields) | {name: fields[name][rows] for name in PER_TOKEN if fields.get(name) is not None}
        about = {name: [shown[row][name] for row in rows if name in shown[row]] for name in ABOUT_IMAGES_AND_VIDEOS}
        joined = {name: torch.cat(values) for name, values in about.items() if values}
        if "pixel_values" in joined:
            own |= {name: joined.pop(name) for name in ("pixel_values", "image_grid_thw")}
            own["num_images"] = [int(fields["num_images"][row]) for row in rows]
        with told_videos(model, joined):
            parts.append((rows, plain(model, ids_BT[rows], mask_BT[rows], n_keep, None, **own)))
    return in_row_order(parts)


def fields_of_rows(fields: Mapping[str, Any]) -> list[dict[str, torch.Tensor]]:
    """The fields about images and videos of each row of a batch with videos."""
    n = len(fields["num_videos"])
    rows: list[dict[str, torch.Tensor]] = [{} for _ in range(n)]
    for count, grid in COUNTED.items():
        if (grids := fields.get(grid)) is None:
            continue
        counts = [int(one) for one in fields[count]]
        pixels, more = ("pixel_values", ()) if count == "num_images" else (VIDEO_PIXELS, ("second_per_grid_ts",))
        patches = torch.split(grids.prod(dim=-1), counts)
        split = {grid: torch.split(grids, counts), pixels: torch.split(fields[pixels], [int(one.sum()) for one in patches])}
        split |= {name: torch.split(fields[name], counts) for name in more if fields.get(name) is not None}
        for name, values in split.items():
            for row, value in zip(rows, values, strict=True):
                if len(value):
                    row[name] = value
    return rows


def images_of_rows(model: Any, ids_BT: torch.Tensor, fields: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """TRL's fields about images of some rows of a batch, in this order; {} where these have none. `fields` are those that
    `vlrl.models.prefix_sharing.image_rows` knows."""
    tokens = (ids_BT == base_of(unwrapped(model)).config.image_token_id).sum(dim=1).tolist()
    all_rows = by_row(fields, tokens)
    own = [all_rows[row] for row in rows]
    if not any(own):
        return {}
    counts = [int(fields["num_images"][row]) for row in rows]
    found: dict[str, Any] = {**rows_joined(own), "num_images": counts}
    found |= {name: fields[name][list(rows)] for name in PER_TOKEN if fields.get(name) is not None}
    if tiles := n_tiles(own, counts):
        found["num_tiles"] = tiles
    return found


def asked_for(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What TRL asks for besides log-probabilities."""
    return {name: fields[name] for name in ("compute_entropy", "compute_aux_loss") if name in fields}


def in_row_order(parts: Sequence[tuple[Sequence[int], LogpsAndMore]]) -> LogpsAndMore:
    """The results of parts of a batch, each with the rows that it holds, as those of the batch."""
    logps_BT, entropies_BT, aux = zip(*(found for _, found in parts), strict=True)
    order = torch.tensor([row for rows, _ in parts for row in rows], device=logps_BT[0].device).argsort()
    return (
        torch.cat(logps_BT)[order],
        None if entropies_BT[0] is None else torch.cat(entropies_BT)[order],
        None if aux[0] is None else torch.stack(aux).mean(),
    )
