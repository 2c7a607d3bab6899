"""TRL's DPOTrainer in a run folder, its log-probabilities weighted by span where a run asks for that.

The dense score of RLHF-V (Yu et al. 2024, equation 4): log pi(y|x) = 1/N (sum over shared tokens of log p + gamma x sum over
changed tokens of log p), N = |shared| + gamma |changed|. `--span_weight` is gamma, `--average_logps` the factor 1/N. With gamma
1 and without 1/N nothing is weighted: plain DPO, TRL's own loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from trl import DPOTrainer, apply_chat_template  # type: ignore[attr-defined]

from vlrl.data.changed_spans import TextSpan
from vlrl.data.images import open_image
from vlrl.data.preference_pairs import PreferencePair, StepEnds
from vlrl.data.preference_rows import PAIR_SIDES
from vlrl.data.special_tokens import ZERO_WIDTH, without_special_tokens
from vlrl.models.load import LoadedModel, special_token_pattern
from vlrl.training.checkpoints import RunStopped, write_together
from vlrl.training.dpo.token_rewards import SeenLogps, rewards_of_tokens, treg_terms
from vlrl.training.guarded_trainer import GuardedTrainer
from vlrl.training.metrics_log import append_row
from vlrl.training.progress import StepLog, metric_column
from vlrl.training.unused_weights import has_pixels, with_vision_zeros
from vlrl.training.weighted_logps import WeightedLogps

DPO_COLUMNS = (
    metric_column("loss", "loss", "loss", ".4f"),
    metric_column("accuracy", "accuracy", "rewards/accuracies"),
    metric_column("margin", "margin", "rewards/margins"),
    metric_column("log p chosen", "log p chosen", "logps/chosen", ".2f"),
)


class PairRows:
    """Indices -> TRL's rows: `prompt`, `chosen` and `rejected` as messages, `images`, and `changed`, the spans that differ."""

    def __init__(self, pairs: Sequence[PreferencePair], loaded: LoadedModel) -> None:
        self.pairs, self.special = pairs, special_token_pattern(loaded.processor)

    def __getstate__(self) -> dict[str, Any]:
        # `datasets` names a transform by a hash of all that it reaches.
        return {"n": len(self.pairs)}

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [self.row(self.pairs[i]) for i in batch["index"]]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def row(self, pair: PreferencePair) -> dict[str, Any]:
        """Raises ImageError."""

        def message(role: str, text: str, n_images: int = 0) -> dict[str, Any]:
            plain = without_special_tokens(text, self.special)
            return {"role": role, "content": [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": plain}]}

        system = [message("system", pair.system)] if pair.system else []
        texts = (pair.chosen, pair.rejected)
        plain = [without_special_tokens(text, self.special) for text in texts]
        spans = [moved_spans(*of_one) for of_one in zip(texts, plain, pair.spans, strict=True)]
        return {
            "prompt": [*system, message("user", pair.prompt, len(pair.images))],
            "images": [open_image(image) for image in pair.images],
            **{side: [message("assistant", text)] for side, text in zip(PAIR_SIDES, texts, strict=True)},
            "changed": spans,
            "values": [moved_ends(*of_one) for of_one in zip(texts, plain, pair.values, strict=True)],
        }


def moved_spans(text: str, plain: str, spans: Sequence[TextSpan]) -> tuple[TextSpan, ...]:
    """Spans of `text` as those of `plain`, which has invisible characters added to it."""
    if text == plain:
        return tuple(spans)
    places, at = [], 0
    for character in text:
        while plain[at] != character and plain[at] == ZERO_WIDTH:
            at += 1
        places.append(at)
        at += 1
    places.append(len(plain))
    return tuple((places[start], places[end]) for start, end in spans)


def moved_ends(text: str, plain: str, steps: StepEnds) -> StepEnds:
    """The same for the ends of steps."""
    ends = [end for _, end in moved_spans(text, plain, [(0, end) for end, _ in steps])]
    return tuple((end, value) for end, (_, value) in zip(ends, steps, strict=True))


def pair_dataset(pairs: Sequence[PreferencePair], loaded: LoadedModel) -> Dataset:
    """A lazily opened data set of TRL's rows."""
    return Dataset.from_dict({"index": np.arange(len(pairs))}).with_transform(PairRows(pairs, loaded))


def weights_of_tokens(offsets: Sequence[TextSpan], shift: int, spans: Sequence[TextSpan], gamma: float) -> list[float]:
    """A weight for each token of a completion: gamma where its characters overlap a changed span, else 1. `offsets`: characters
    of each token in the templated text; `shift`: where the completion begins in it."""
    moved = [(start + shift, end + shift) for start, end in spans]
    return [gamma if any(a < end and start < b for start, end in moved) else 1.0 for a, b in offsets]


class SpanCollator:
    """TRL's collator of pairs; adds `token_weights` [2B, T - 1] (of every token but the first, 0 outside of completions) where
    tokens do not all weigh the same, and `token_rewards` [2B, T - 1] where `rewards` asks for them."""

    def __init__(self, own: Any, processor: Any, gamma: float, average: bool, *, rewards: bool = False) -> None:
        self.own, self.processor, self.gamma, self.average, self.rewards = own, processor, gamma, average, rewards

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        bare = [{key: value for key, value in row.items() if key not in ("changed", "values")} for row in rows]
        batch = self.own([dict(row) for row in bare])
        if self.rewards:
            batch["token_rewards"] = self._rewards(rows, batch)
        if self.gamma == 1 and not self.average:
            return batch
        mask_BT = batch["completion_mask"]
        weights_BT = torch.zeros(mask_BT.shape)
        for place, side in enumerate(PAIR_SIDES):
            for i, row in enumerate(rows):
                at = place * len(rows) + i
                tokens = mask_BT[at].nonzero().flatten()
                weights = self._weights(row, place, side, batch["input_ids"][at, tokens].tolist())
                weights_BT[at, tokens] = torch.tensor(weights)
        if self.average:
            weights_BT /= weights_BT.sum(dim=1, keepdim=True).clamp(min=1e-9)
        batch["token_weights"] = weights_BT[:, 1:]
        return batch

    def _rewards(self, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> torch.Tensor:
        """Of every token but the first, by the values of its step; 0 outside of completions and where none is stated."""
        rewards_BT = torch.zeros(batch["completion_mask"].shape)
        for place, side in enumerate(PAIR_SIDES):
            for i, row in enumerate(rows):
                if not row["values"][place]:
                    continue
                at = place * len(rows) + i
                tokens = batch["completion_mask"][at].nonzero().flatten()
                ids = batch["input_ids"][at, tokens].tolist()
                offsets, shift = self._located(row, side, ids, "--treg_alpha")
                rewards_BT[at, tokens] = torch.tensor(rewards_of_tokens(offsets, shift, row["values"][place])[: len(ids)])
        return rewards_BT[:, 1:]

    def _weights(self, row: Mapping[str, Any], place: int, side: str, ids: Sequence[int]) -> list[float]:
        """Of the tokens that the collator made of a completion."""
        offsets, shift = self._located(row, side, ids, "--span_weight")
        return weights_of_tokens(offsets, shift, row["changed"][place], self.gamma)[: len(ids)]

    def _located(self, row: Mapping[str, Any], side: str, ids: Sequence[int], flag: str) -> tuple[list[TextSpan], int]:
        """The characters of a completion's tokens in the templated text, and where it begins there. Raises RunStopped where
        they cannot be found."""
        templated = apply_chat_template({key: row[key] for key in ("prompt", *PAIR_SIDES)}, self.processor)[side]
        text = row[side][0]["content"][0]["text"]
        tokenizer = self.processor.tokenizer
        made = tokenizer(templated, add_special_tokens=False, return_offsets_mapping=True)
        start = templated.find(text)
        cut = 0
        if start < 0:  # a template that strips white space
            cut = len(text) - len(text.lstrip())
            start = templated.find(text.strip())
        if start < 0 or made["input_ids"][: len(ids)] != list(ids):
            raise RunStopped(
                f"{flag}: this model's chat template changes the words of a completion, so its changed spans and steps cannot"
                f" be found in it ({text!r:.60}); train without --span_weight, --average_logps and --treg_alpha"
            )
        return made["offset_mapping"], start - cut


class PairTrainer(GuardedTrainer, DPOTrainer):
    """`DPOTrainer` with weighted tokens and one readable line a logged step."""

    def __init__(self, *args: Any, gamma: float = 1.0, average: bool = False, treg_alpha: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        rewards = treg_alpha > 0
        self.data_collator = SpanCollator(self.data_collator, self.processing_class, gamma, average, rewards=rewards)
        self.weighted = WeightedLogps(self.model, self.ref_model)
        self.treg_alpha, self.treg_terms = treg_alpha, list[float]()
        self.seen = SeenLogps(self.model, self.ref_model) if rewards else None
        self.steps = StepLog("dpo", DPO_COLUMNS)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's own, on weighted log-probabilities where the collator weighed; in training with the rewards of tokens beside
        it."""
        weights_BT, rewards_BT = inputs.pop("token_weights", None), inputs.pop("token_rewards", None)
        regular = self.seen if model.training and rewards_BT is not None else None
        if regular is not None:
            regular.begin()
        with self.weighted.by(weights_BT):
            found = super().compute_loss(model, inputs, *args, **kwargs)
        if regular is not None:
            policy_BT, reference_BT = (one[:, -rewards_BT.shape[1] :].float() for one in regular.take())
            term = treg_terms(policy_BT, reference_BT, rewards_BT.to(policy_BT), float(self.beta)).mean()
            self.treg_terms.append(float(term.detach()))
            found = (
                (found[0] + self.treg_alpha * term, *found[1:]) if isinstance(found, tuple) else found + self.treg_alpha * term
            )
        return found if isinstance(found, tuple) else with_vision_zeros(found, model, self.args, has_pixels(inputs))

    @torch.no_grad()
    def scores_of(self, rows: Sequence[Mapping[str, Any]], *, reference: bool) -> torch.Tensor:
        """log pi(y|x) [2, B] of the chosen and the rejected completions, by this stage's score; of the reference model or of
        the policy."""
        collator: Any = self.data_collator
        batch = dict(self._prepare_inputs(collator(rows)))
        weights_BT, mask_BT = batch.pop("token_weights", None), batch.pop("completion_mask")
        batch.pop("token_rewards", None)
        labels_BT = batch["input_ids"].masked_fill(mask_BT == 0, -100)
        policy = self.accelerator.unwrap_model(self.model)
        was_training = policy.training
        policy.eval()
        asked = {**batch, "use_cache": False, "labels": labels_BT, "fused_lm_head": True}
        with self.weighted.by(weights_BT), self.compute_loss_context_manager():
            if not reference:
                found = policy(**asked).log_probs
            elif self.ref_model is not None:
                found = self.ref_model(**asked).log_probs
            else:
                with policy.disable_adapter():
                    found = policy(**asked).log_probs
        policy.train(was_training)
        scores_2B: torch.Tensor = found[:, -(mask_BT.shape[1] - 1) :].float().sum(dim=1).view(2, -1).cpu()
        return scores_2B

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.treg_terms:
            logs["treg"] = sum(self.treg_terms) / len(self.treg_terms)
            self.treg_terms.clear()
        super().log(logs, start_time)
        if "loss" in logs:
            row = {"stage": "dpo", "step": self.state.global_step, **logs}
            folder = Path(str(self.args.output_dir))
            write_together(folder, "metrics.jsonl", lambda: self._write_step(folder, row))
        self.end_if_asked()

    def _write_step(self, folder: Path, row: Mapping[str, Any]) -> None:
        append_row(folder / "metrics.jsonl", row)
        self.steps.show(row, self.state.max_steps)
        self.record(row)
