"""Training of step values on transformers' `Trainer`: losses, one readable line a logged step, checkpoints that are whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback

from vlrl.data.step_values import StepRecord, weights
from vlrl.models.value_head import Encoded, Encoder, StepValueModel, load_backbone, load_head, save_head
from vlrl.models.whole_files import one_line
from vlrl.training.checkpoints import write_together
from vlrl.training.guarded_trainer import GuardedTrainer
from vlrl.training.metrics_log import append_row
from vlrl.training.progress import VALUE_COLUMNS, StepLog
from vlrl.training.unused_weights import has_pixels, with_vision_zeros

MIN_PREFERENCE_GAP = 0.25
"""The least difference in value of two steps of one question that counts as a preference."""


def value_loss(logits_N: torch.Tensor, values_N: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss of each scored step [N]: squared error of the sigmoid, or cross-entropy with the value as soft target."""
    if kind == "mse":
        return (torch.sigmoid(logits_N) - values_N).square()
    return nn.functional.binary_cross_entropy_with_logits(logits_N, values_N, reduction="none")


def pairwise_loss(logits_N: torch.Tensor, values_N: torch.Tensor, questions_N: torch.Tensor) -> torch.Tensor:
    """Logistic loss over the pairs of steps of one question whose values differ by at least `MIN_PREFERENCE_GAP`; else 0."""
    better_NN = (values_N[:, None] - values_N[None] >= MIN_PREFERENCE_GAP) & (questions_N[:, None] == questions_N[None])
    if not better_NN.any():
        return logits_N.sum() * 0
    gaps_NN = logits_N[:, None] - logits_N[None]
    return -nn.functional.logsigmoid(gaps_NN[better_NN]).mean()


class Records(Dataset[dict[str, Any]]):
    """Records by index, encoded when asked for; `weight` makes questions count equally."""

    def __init__(self, records: Sequence[StepRecord], encoder: Encoder) -> None:
        self.records, self.encoder = records, encoder
        self.weights = weights(records)
        self.numbers = {key: i for i, key in enumerate(dict.fromkeys(record.question_key for record in records))}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        encoded = self.encoder.encode(record.image, record.question, record.steps)
        return {
            "encoded": encoded,
            "values": record.values,
            "weight": self.weights[index],
            "question": self.numbers[record.question_key],
        }

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        encoded: list[Encoded] = [row["encoded"] for row in rows]
        batch = self.encoder.collate(encoded)
        values_BS = torch.full(batch["ends_BS"].shape, math.nan)
        for i, row in enumerate(rows):
            values_BS[i, : len(row["values"])] = torch.tensor([math.nan if v is None else v for v in row["values"]])
        return {
            **batch,
            "values_BS": values_BS,
            "weights_B": torch.tensor([row["weight"] for row in rows]),
            "questions_B": torch.tensor([row["question"] for row in rows]),
        }


class PrmTrainer(GuardedTrainer):
    """`Trainer` of a `StepValueModel`. The loss is the mean over solutions of their weighted steps' losses."""

    stage = "prm"

    def __init__(
        self, *args: Any, loss_kind: str, pairwise_weight: float, head_facts: Mapping[str, Any], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        records = getattr(self.train_dataset, "records", None)
        self.name_of_row = None if records is None else lambda row: str(records[row].id)
        self.loss_kind, self.pairwise_weight, self.head_facts = loss_kind, pairwise_weight, dict(head_facts)
        self.model_accepts_loss_kwargs = False
        self.steps = StepLog(self.stage, VALUE_COLUMNS)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        values_BS, weights_B, questions_B = (inputs.pop(key) for key in ("values_BS", "weights_B", "questions_B"))
        logits_BS = model(**inputs)
        scored_BS = ~values_BS.isnan()
        logits_N, values_N = logits_BS[scored_BS], values_BS[scored_BS]
        weights_N = weights_B[:, None].expand_as(values_BS)[scored_BS]
        loss = (weights_N * value_loss(logits_N, values_N, self.loss_kind)).sum() / len(values_BS)
        if self.pairwise_weight:
            questions_N = questions_B[:, None].expand_as(values_BS)[scored_BS]
            loss = loss + self.pairwise_weight * pairwise_loss(logits_N, values_N, questions_N)
        loss = with_vision_zeros(loss, model, self.args, has_pixels(inputs))
        return (loss, {"logits": logits_BS}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" in logs:
            row = {"stage": self.stage, "step": self.state.global_step, **logs}
            folder = Path(str(self.args.output_dir))
            write_together(folder, "metrics.jsonl", lambda: self._write_step(folder, row))
        self.end_if_asked()

    def _write_step(self, folder: Path, row: Mapping[str, Any]) -> None:
        append_row(folder / "metrics.jsonl", row)
        self.steps.show(row, self.state.max_steps)
        self.record(row)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Backbone (of adapters: these alone), head and processor."""
        if not self.args.should_save:
            return
        folder = Path(str(output_dir or self.args.output_dir))
        model: StepValueModel = self.accelerator.unwrap_model(self.model)
        model.backbone.save_pretrained(folder)
        save_head(model, folder, self.head_facts)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def load_weights_of(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load backbone or adapters, and the head, every weight of them."""
        folder = Path(resume_from_checkpoint)
        target: StepValueModel = self.accelerator.unwrap_model(self.model if model is None else model)
        backbone: Any = target.backbone
        with one_line(resume_from_checkpoint, "its weights do not fit this run's model"):
            if hasattr(backbone, "peft_config"):
                from peft import load_peft_weights, set_peft_model_state_dict

                set_peft_model_state_dict(backbone, load_peft_weights(str(folder), device="cpu"))
            else:
                saved = load_backbone(folder, next(backbone.parameters()).dtype)
                backbone.load_state_dict(saved.state_dict(), strict=True)
            load_head(target, folder)
