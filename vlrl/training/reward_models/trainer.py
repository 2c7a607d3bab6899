"""Training on preferences: Bradley-Terry with margins, ties and rated attributes, on the trainer of step values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from vlrl.data.preferences import PreferenceRecord
from vlrl.models.value_head import Encoder
from vlrl.training.prm.trainer import PrmTrainer
from vlrl.training.unused_weights import has_pixels, with_vision_zeros


def preference_loss(
    gaps_B: torch.Tensor, margins_B: torch.Tensor, ties_B: torch.Tensor, pair_margin: str = "none"
) -> torch.Tensor:
    """The loss of each pair [B], of gaps d = r_chosen - r_rejected. Margins are NaN where a row has none.

    -log sigmoid(d) (Bradley-Terry); "shift": -log sigmoid(d - m) (Llama 2, arXiv 2307.09288, equation 2); "scale":
    -m log sigmoid(d) (HelpSteer2-Preference, arXiv 2410.01257, scaled Bradley-Terry); a row without a margin has 0 and 1 for
    it. A tie: (-log sigmoid(d) - log sigmoid(-d)) / 2, least at d = 0, whatever its margin."""
    shift_B = margins_B.nan_to_num(0.0) if pair_margin == "shift" else torch.zeros_like(gaps_B)
    scale_B = margins_B.nan_to_num(1.0) if pair_margin == "scale" else torch.ones_like(gaps_B)
    wins_B = -scale_B * nn.functional.logsigmoid(gaps_B - shift_B)
    draws_B = -(nn.functional.logsigmoid(gaps_B) + nn.functional.logsigmoid(-gaps_B)) / 2
    return torch.where(ties_B, draws_B, wins_B)


def rating_loss(ratings_NK: torch.Tensor, wanted_NK: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the ratings that are known (not NaN); 0 where none is. Source: HelpSteer2 (arXiv 2406.08673)."""
    known_NK = ~wanted_NK.isnan()
    if not bool(known_NK.any()):
        return ratings_NK.sum() * 0
    return (ratings_NK[known_NK] - wanted_NK[known_NK]).square().mean()


class Pairs(Dataset[dict[str, Any]]):
    """Pairs by index, encoded when asked for."""

    def __init__(self, records: Sequence[PreferenceRecord], encoder: Encoder, attributes: Sequence[str]) -> None:
        self.records, self.encoder, self.attributes = list(records), encoder, list(attributes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        encoded = [self.encoder.encode(record.images, record.question, [text]) for text in (record.chosen, record.rejected)]
        return {"encoded": encoded, "record": record}

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The chosen answers, then the rejected ones; what is known of each pair."""
        batch = self.encoder.collate([row["encoded"][side] for side in (0, 1) for row in rows])
        records: list[PreferenceRecord] = [row["record"] for row in rows]
        wanted = [[one.ratings[side].get(name, math.nan) for name in self.attributes] for side in (0, 1) for one in records]
        return {
            **batch,
            "margins_B": torch.tensor([math.nan if one.margin is None else one.margin for one in records]),
            "ties_B": torch.tensor([one.is_tie for one in records]),
            "wanted_NK": torch.tensor(wanted).view(2 * len(records), len(self.attributes)),
        }


class PreferenceTrainer(PrmTrainer):
    """`Trainer` of a head of preferences. The loss is the mean over pairs, and `attribute_weight` times that of the ratings."""

    stage = "rm"

    def __init__(
        self, *args: Any, pair_margin: str, attribute_weight: float, head_facts: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(*args, loss_kind="", pairwise_weight=0.0, head_facts=head_facts, **options)
        self.pair_margin, self.attribute_weight = pair_margin, attribute_weight

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        margins_B, ties_B, wanted_NK = (inputs.pop(key) for key in ("margins_B", "ties_B", "wanted_NK"))
        ratings_NK, logits_N = model(**inputs, with_ratings=True)
        chosen_B, rejected_B = logits_N.chunk(2)
        loss = preference_loss(chosen_B - rejected_B, margins_B, ties_B, self.pair_margin).mean()
        if wanted_NK.shape[1]:
            loss = loss + self.attribute_weight * rating_loss(ratings_NK, wanted_NK)
        loss = with_vision_zeros(loss, model, self.args, has_pixels(inputs))
        return (loss, {"logits": logits_N}) if return_outputs else loss


def head_of(records: Sequence[PreferenceRecord], attributes: Sequence[str]) -> int:
    """How many outputs a head has. Raises ValueError for an attribute that no row rates."""
    rated = {name for record in records for side in record.ratings for name in side}
    missing = [name for name in attributes if name not in rated]
    if missing:
        known = ", ".join(sorted(rated)) or "none"
        raise ValueError(f"--attributes {missing[0]}: no row rates it (rated: {known})")
    return max(1, len(attributes))
