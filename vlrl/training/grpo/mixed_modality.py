"""Batches in which some rows have images and others do not, which TRL's trainer does not expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.trl_surface import TRLTrainer
from vlrl.training.unused_weights import has_pixels, with_vision_zeros

LogpsAndMore = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Log-probabilities (B, T), entropies (B, T) and an auxiliary loss, the last two where they were asked for."""
ROW_FIELDS = ("token_type_ids", "mm_token_type_ids")
"""What a processor returns per token; everything else that it adds to ids and mask is about images."""


class MixedBatches(TRLTrainer):
    """`GRPOTrainer` for text and images in one batch."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's own. Where DDP expects a gradient of every weight, a batch without images gives the vision encoder zeros."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return with_vision_zeros(loss, model, self.args, _has_images(inputs))

    @property
    def _is_sharded(self) -> bool:
        """Whether every process holds but a part of the weights, so that all must run equally many passes."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return bool(self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._agree_on_images(inputs)
        return dict(super()._generate_and_score_completions(inputs))

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's own, whose None for a row without images is no input for a processor: it takes an empty list."""
        *made, images, tool_images = super()._generate(prompts)
        return (*made, None if images is None else [row or [] for row in images], tool_images)

    def _agree_on_images(self, inputs: list[dict[str, Any]]) -> None:
        """What must be known of all processes before some of them see images and others do not.

        TRL gathers images for its log only where there are some: a process without would never answer. Where weights are
        sharded, the vision encoder itself is such a question, so that such batches are refused.
        """
        seeing = gather_object([[bool(row["images"]) for row in inputs]])
        self.log_multimodal = self.args.log_multimodal and all(map(any, seeing))
        if not self.log_multimodal:
            self._logs["images"].clear()
        rows = [row for rank in seeing for row in rank]
        if self._is_sharded and any(rows) and not all(rows):
            raise RunStopped(
                f"{sum(rows)} of {len(rows)} completions of a batch have images and the others have none, which hangs where"
                " weights are sharded (FSDP, ZeRO-3); use DDP or ZeRO-2, or train on them apart"
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **fields: Any,
    ) -> LogpsAndMore:
        """TRL's own, which hands the model an empty tensor where a part of a batch has no image: such rows go apart."""
        n, num_images = len(input_ids), list[int](fields.get("num_images") or ())
        size = batch_size or n
        pixels = fields.get("pixel_values")
        split = num_images and pixels is not None and pixels.ndim < 5  # 5: padded to equally many images a row
        if not split or all(any(num_images[i : i + size]) for i in range(0, n, size)):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **fields
            )
        seeing = [i for i in range(n) if num_images[i]]
        blind = [i for i in range(n) if not num_images[i]]
        parts = []
        for rows in filter(None, (seeing, blind)):
            own = {name: fields[name][rows] for name in ROW_FIELDS if fields.get(name) is not None} | asked_for(fields)
            if rows is seeing:
                counts = {name: [fields[name][i] for i in rows] for name in ("num_images", "num_tiles") if fields.get(name)}
                own = {**fields, **own, **counts}
            found = super()._get_per_token_logps_and_entropies(
                model, input_ids[rows], attention_mask[rows], logits_to_keep, batch_size, **own
            )
            parts.append((rows, found))
        return in_row_order(parts)


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


def _has_images(inputs: Mapping[str, Any]) -> bool:
    """Whether any row of a micro-batch has an image."""
    plan = inputs.get("plan")
    return has_pixels(inputs) if plan is None else any(group.images for group in plan.groups)
