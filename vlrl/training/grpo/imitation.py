"""The imitation term: corrected thoughts are learned beside the policy term. Source: GTR (arXiv 2503.08525).

One of the losses of `losses.py`. Where corrections come from is in `corrections.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from trl.data_utils import prepare_multimodal_messages

from vlrl.data.special_tokens import without_special_tokens
from vlrl.gtr.correction_set import Record
from vlrl.gtr.loss import thought_cross_entropy
from vlrl.gtr.masks import IGNORED, imitation_labels
from vlrl.models.load import LoadedModel, special_token_pattern
from vlrl.models.prefix_sharing.facts import base_of
from vlrl.models.prefix_sharing.logprobs import before_head
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import BatchPart, TrainerCalls
from vlrl.training.grpo.corrections import Corrections
from vlrl.training.grpo.logprobs import Logprobs


class Imitation:
    """The cross-entropy of drawn corrections, weighed by the run's schedule. `temperature`: of sampling."""

    def __init__(
        self, engine: TrainerCalls, corrections: Corrections, logprobs: Logprobs, loaded: LoadedModel, temperature: float
    ) -> None:
        self.engine, self.corrections, self.logprobs = engine, corrections, logprobs
        self.thoughts, self.options, self.temperature = corrections.thoughts, corrections.guide.options, temperature
        self.tokenizer, self._special = loaded.tokenizer, special_token_pattern(loaded.processor)
        if corrections.set is not None and temperature != 1.0 and not _has_linear_head(engine.policy):
            raise RunStopped(
                f"--corrector at --temperature {temperature} with a model whose logits are shifted or capped: what is"
                " imitated would be distorted; use --temperature 1.0"
            )

    @property
    def is_on(self) -> bool:
        return self.corrections.set is not None

    @property
    def replaces_policy(self) -> bool:
        return not self.options.policy

    def __call__(self, model: Any, part: BatchPart) -> torch.Tensor | None:
        """The weighed term of a part, or None where nothing is drawn that has a target."""
        weight = self.options.weight_at(self.engine.state.global_step, self.engine.state.max_steps)
        n_draws = part.n_draws if part.n_draws is not None else self.n_draws(0 if part.tensors is None else len(part.tensors))
        term = self._term(model, n_draws)
        self.engine.note("gtr/coef", weight)
        if term is None or weight == 0:
            return None
        return weight * part.of_imitation * term / self.engine.current_gradient_accumulation_steps

    def n_draws(self, n_rows: int) -> int:
        """How many corrections are drawn for a micro-batch of so many rows."""
        return self.options.draws * n_rows if self.options.imitates and self.is_on else 0

    def _term(self, model: Any, n: int) -> torch.Tensor | None:
        """The mean over `n` draws, or None where no draw holds a target."""
        found = self.corrections.set
        assert found is not None
        if n == 0:
            return None
        active = [record for record in found.draw(n) if record.target is not None]
        self.engine.note("gtr/active_share", len(active) / n)
        self.engine.note("gtr/records", float(len(found)))
        self.engine.note("gtr/corrected_share", found.corrected_share)
        if not active:
            return None
        ids_BT, mask_BT, is_target_BR, fields = self.batch_of(active)
        # Not through DDP's wrapper, whose forward waits for all processes: some may have nothing to imitate. Its backward sums
        # the gradients of both terms all the same.
        model = self.engine.accelerator.unwrap_model(model)
        # TRL's head divides logits by the sampling temperature; what is imitated is the model as it is.
        with before_head(model, lambda hidden: hidden * self.temperature):
            logps_BR = self.logprobs.of_rows(model, ids_BT, mask_BT, is_target_BR.shape[1], fields)
        loss = thought_cross_entropy(logps_BR, is_target_BR)
        self.engine.note("gtr/imitation_loss", float(loss.detach()))
        self.engine.note("gtr/imitated_tokens", float(is_target_BR.sum()))
        return loss

    def batch_of(self, records: Sequence[Record]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Ids and mask (B, T) of prompts padded left and targets padded right, which target tokens are imitated (B, R), and
        the model's fields about images."""
        assert self.corrections.set is not None
        shown = [self.corrections.set.open_images(record) for record in records]
        prompts = [
            prepare_multimodal_messages([dict(turn) for turn in record.prompt], images=images)
            for record, images in zip(records, shown, strict=True)
        ]
        prompt_ids, _, fields = self.engine.tokenize(prompts)
        plain = [
            without_special_tokens(record.target or "", self._special) for record in records
        ]  # a corrector may write anything
        targets = [list(self.tokenizer(text, add_special_tokens=False).input_ids) for text in plain]
        kept = [self._imitated(record, ids) for record, ids in zip(records, targets, strict=True)]
        if self.options.clone == "full":
            targets = [[*ids, self.tokenizer.eos_token_id] for ids in targets]
            kept = [[True] * len(ids) for ids in targets]
        device, pad = self.engine.accelerator.device, self.tokenizer.pad_token_id
        before = pad_sequence([torch.tensor(ids) for ids in prompt_ids], True, pad, "left")
        after = pad_sequence([torch.tensor(ids) for ids in targets], True, pad)
        seen = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in prompt_ids], True, 0, "left")
        follows = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in targets], True, 0)
        is_target = pad_sequence([torch.tensor(row) for row in kept], True, False)
        ids_BT, mask_BT = torch.cat([before, after], 1).to(device), torch.cat([seen, follows], 1).to(device)
        given: dict[str, Any] = {name: self._fitted(name, value, after.shape) for name, value in fields.items()}
        if "pixel_values" in given:
            given["num_images"] = [len(images) for images in shown]
        return ids_BT, mask_BT, is_target.to(device), given

    def _imitated(self, record: Record, ids: Sequence[int]) -> list[bool]:
        labels = imitation_labels((), ids, self.thoughts.decode, self.thoughts.task(record.task).thought_format)
        return [label != IGNORED for label in labels]

    def _fitted(self, name: str, value: Any, after: torch.Size) -> torch.Tensor:
        """A processor's field as the model takes it beside prompts and targets: token types padded, the rest as it is."""
        device = self.engine.accelerator.device
        if name not in ("token_type_ids", "mm_token_type_ids"):
            return torch.as_tensor(value).to(device)
        types = pad_sequence([torch.as_tensor(row) for row in value], True, 0, "left")
        return torch.cat([types, types.new_zeros(after)], 1).to(device)


def _has_linear_head(policy: Any) -> bool:
    """Whether logits are proportional to the last hidden states."""
    model = base_of(policy)
    capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return capped is None and getattr(model.get_output_embeddings(), "bias", None) is None
