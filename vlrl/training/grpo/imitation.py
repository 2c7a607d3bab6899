"""Guided thoughts: a corrector judges thoughts, corrected ones are imitated beside the policy term, thought tokens may weigh
less in it, and how alike thoughts become is watched in every run that has them.

Source: GTR (arXiv 2503.08525); differences are listed in `vlrl.gtr`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from trl.data_utils import prepare_multimodal_messages

from vlrl.data.special_tokens import without_special_tokens
from vlrl.gtr.correction_set import CorrectionSet, Record
from vlrl.gtr.corrector import Correction, Corrector, Request, SampleRequest
from vlrl.gtr.diagnostics import StepNote, Window
from vlrl.gtr.loss import thought_cross_entropy
from vlrl.gtr.masks import IGNORED, completion_mask, imitation_labels, thought_span, token_weights
from vlrl.gtr.named_moves import with_named_action
from vlrl.gtr.options import NOT_GUIDED, GuideOptions
from vlrl.gtr.remote import RemoteCorrector
from vlrl.models.load import special_token_pattern
from vlrl.models.prefix_sharing.groups import base_of
from vlrl.models.prefix_sharing.logprobs import before_head
from vlrl.rewards.budget import as_numbers, summed_counts
from vlrl.schema import Reward, Sample, Task
from vlrl.tasks import load_task
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.dynamic_sampling import FreshGroups
from vlrl.training.grpo.shared_logprobs import SharedGroups
from vlrl.training.progress import shown_text

CORRECTIONS = "corrections"
"""The folder of the correction set: its images in the run folder, its records in each checkpoint."""
N_PROBES = 6
"""How often in a run sensitivity is measured, the first and last logged step among them."""
RIGHT_SHARE = 0.999
"""The share of a reward's highest value from which an answer counts as right."""


@dataclass(frozen=True)
class Guide:
    """What guides a run's thoughts. `corrector=None`: nothing is corrected; thoughts are watched all the same. `probe`: the
    unwrapped model -> how much its thoughts follow the image (`vlrl.gtr.diagnostics.state_sensitivity`)."""

    options: GuideOptions = NOT_GUIDED
    corrector: Corrector | None = None
    probe: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class ScoredRows:
    """This process' completions of a generation batch. `values`: the first reward of each (NaN: it does not apply)."""

    rows: list[dict[str, Any]]
    texts: list[str]
    ids: list[list[int]]
    values: list[float]


class GuidedThoughts(FreshGroups):
    """`FreshGroups` whose thoughts are watched, and corrected and imitated where a `Guide` says so."""

    _guide = Guide()
    _set: CorrectionSet | None = None
    _scored: ScoredRows | None = None
    _next_probe = 0

    def _start_guiding(self, guide: Guide, tasks: Mapping[str, Task], rewards: Sequence[Reward]) -> None:
        self._guide, self._tasks, self._rewards = guide, tasks, list(rewards)
        self._window = Window()
        options = guide.options
        if guide.corrector is not None and options.corrects:
            if self._is_sharded:
                raise RunStopped(
                    "--corrector where weights are sharded (FSDP, ZeRO-3): processes imitate unequal numbers of thoughts, which"
                    " would hang; use DDP or ZeRO-2"
                )
            if self.temperature != 1.0 and not self._has_linear_head():
                raise RunStopped(
                    f"--corrector at --temperature {self.temperature} with a model whose logits are shifted or capped: what is"
                    " imitated would be distorted; use --temperature 1.0"
                )
            self._set = CorrectionSet(
                Path(self.args.output_dir) / CORRECTIONS / "images",
                seed=self.args.seed + 7919 * self.accelerator.process_index,
                cap=options.cap,
                gate=options.gate,
                aggregate=options.aggregate,
            )
            knows = ", knows the right answers (privileged)" if guide.corrector.privileged else ""
            does = f"imitates the {options.clone}, weight {options.coef:g}" if options.imitates else "imitates nothing"
            self._log_line(f"corrector {guide.corrector.tier}{knows}; {does}")

    def _task(self, name: str) -> Task:
        """A task of the run, or a built-in one: a resumed run may hold corrections of a curriculum that it no longer has."""
        return self._tasks.get(name) or load_task(name)

    def _has_linear_head(self) -> bool:
        """Whether logits are proportional to the last hidden states."""
        model = base_of(self.accelerator.unwrap_model(self.model))
        capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        return capped is None and getattr(model.get_output_embeddings(), "bias", None) is None

    # -- what was written ----------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        values: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        start = self.accelerator.process_index * len(prompts)
        own = values[start : start + len(prompts), 0].tolist()
        self._scored = ScoredRows(list(inputs), [shown_text(one) for one in completions], list(completion_ids_list), own)
        return values

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own; then thoughts are noted, some are corrected, and thought tokens get their weight."""
        batch = super()._generate_and_score_completions(inputs)
        scored, self._scored = self._scored, None
        if scored is None or not self.model.training:
            return batch
        masks = [self._thought_mask(row["sample"], ids) for row, ids in zip(scored.rows, scored.ids, strict=True)]
        verdicts = self._correct_samples(scored) if self._set is not None else {}
        for i, (row, text, ids) in enumerate(zip(scored.rows, scored.texts, scored.ids, strict=True)):
            self._note(row["sample"], text, ids, masks[i], verdicts.get(i))
        batch["advantages"] = self._weighed(batch["advantages"], scored, masks)
        return batch

    def _thought_mask(self, sample: Sample, ids: Sequence[int]) -> list[bool]:
        return completion_mask(ids, self._decode, self._task(sample.task).thought_format)

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {}

    def _decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens kept and nothing cleaned up; single tokens are remembered."""
        ids = list(ids)
        if len(ids) == 1 and ids[0] in self._pieces:
            return self._pieces[ids[0]]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if len(ids) == 1:
            self._pieces[ids[0]] = text
        return text

    def _has_ended(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[-1] in {*self.eos_token_ids, self._tokenizer.pad_token_id}

    def _note(self, sample: Sample, text: str, ids: Sequence[int], mask: Sequence[bool], verdict: Correction | None) -> None:
        span = thought_span(text, "tags") if self._has_ended(ids) else None
        if span is None and verdict is None and "<think>" not in text:
            return  # a run whose completions hold no thoughts
        thought = None if span is None else text[slice(*span)].removeprefix("<think>").removesuffix("</think>")
        self._window.add(StepNote(thought, sum(mask), len(ids), "" if verdict is None else verdict.status))

    def _thought_weight(self, sample: Sample) -> float:
        chosen = self._guide.options.thought_weight
        return chosen if chosen is not None else 0.5 if self._task(sample.task).thought_format == "json" else 1.0

    def _weighed(self, advantages_B: torch.Tensor, scored: ScoredRows, masks: Sequence[Sequence[bool]]) -> torch.Tensor:
        """Advantages a token, those of thought tokens times their weight; a row as it was where none weighs less."""
        weights = [self._thought_weight(row["sample"]) for row in scored.rows]
        if all(weight == 1.0 for weight in weights):
            return advantages_B
        rows = [
            torch.tensor(token_weights(mask, weight), device=advantages_B.device)
            for mask, weight in zip(masks, weights, strict=True)
        ]
        return advantages_B[:, None] * pad_sequence(rows, batch_first=True, padding_value=1.0)

    # -- corrections of single questions -------------------------------------------------------------------------------

    def _correct_samples(self, scored: ScoredRows) -> dict[int, Correction]:
        """Verdicts by row on `per_group` completions of each group, wrong answers first."""
        per_group = self._guide.options.per_group
        wanted, group = 1 if per_group is None else per_group, self.num_generations
        chosen: list[int] = []
        for start in range(0, len(scored.rows), group):
            rows = range(start, min(start + group, len(scored.rows)))
            rng = np.random.default_rng([self.args.seed, self.state.global_step, self.accelerator.process_index, start])
            right = {i: self._is_right(scored.values[i]) for i in rows}
            order = [int(i) for i in rng.permutation(list(rows))]
            chosen += sorted(order, key=lambda i: right[i])[:wanted]
        requests = [self._request(scored, i) for i in chosen]
        verdicts = dict(zip(chosen, self._corrections(requests), strict=True))
        for i, verdict in verdicts.items():
            row = scored.rows[i]
            self._store(f"{row['sample'].id}@{self.state.global_step}/{i}", row, verdict)
        return verdicts

    def _is_right(self, value: float) -> bool:
        return value >= RIGHT_SHARE * self._rewards[0].high

    def _request(self, scored: ScoredRows, i: int) -> SampleRequest:
        sample = scored.rows[i]["sample"]
        return SampleRequest(
            self._tasks[sample.task],
            sample,
            scored.texts[i],
            self._is_right(scored.values[i]),
            self._has_ended(scored.ids[i]),
            tuple(scored.rows[i]["images"]),
            seed=self.args.seed * 100_003 + self.state.global_step * 1009 + i,
        )

    def _corrections(self, requests: Sequence[Request]) -> list[Correction]:
        if not requests:
            return []
        assert self._guide.corrector is not None
        return self._guide.corrector.correct_many(requests)

    def _store(self, identity: str, row: Mapping[str, Any], verdict: Correction, **fields: Any) -> None:
        """Add the verdict on one row to the set, without a target where nothing may be imitated."""
        assert self._set is not None
        sample, target = row["sample"], verdict.text
        thought_format = self._task(sample.task).thought_format
        if target is not None and self._guide.options.clone == "full" and thought_format == "json":
            target = with_named_action(target, sample)
        span = None if target is None else thought_span(target, thought_format)
        corrector = self._guide.corrector
        record = Record(
            identity,
            sample.task,
            row["prompt"],
            verdict.status,
            target,
            span,
            update=self.state.global_step,
            corrector=verdict.tier,
            privileged=corrector is not None and corrector.privileged,
            **fields,
        )
        self._set.add(record, row["images"] if target is not None else ())

    # -- imitation -----------------------------------------------------------------------------------------------------

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's policy term, and the imitation term for `draws` records a row of the batch.

        Of a batch that comes in parts, `inputs` says what share of both terms one part is (`of_policy`, `of_imitation`) and how
        many records it draws (`draws`); one without rows has no policy term.
        """
        loss = torch.zeros((), device=self.accelerator.device)
        if "completion_ids" in inputs:
            loss = super().compute_loss(model, inputs, *args, **kwargs) * inputs.get("of_policy", 1.0)
        if self._set is None or not self.model.training:
            return loss
        if not self._guide.options.policy:
            loss = loss * 0.0
        weight = self._guide.options.weight_at(self.state.global_step, self.state.max_steps)
        n_draws = inputs["draws"] if "draws" in inputs else self._n_draws(len(inputs["completion_ids"]))
        imitation = self._imitation(model, n_draws)
        self._metrics["train"]["gtr/coef"].append(weight)
        if imitation is None or weight == 0:
            return loss
        return loss + weight * inputs.get("of_imitation", 1.0) * imitation / self.current_gradient_accumulation_steps

    def _n_draws(self, n_rows: int) -> int:
        return self._guide.options.draws * n_rows if self._guide.options.imitates else 0

    def _imitation(self, model: Any, n: int) -> torch.Tensor | None:
        """The imitation term over `n` draws, or None where no draw holds a target."""
        assert self._set is not None
        if n == 0:
            return None
        active = [record for record in self._set.draw(n) if record.target is not None]
        metrics = self._metrics["train"]
        metrics["gtr/active_share"].append(len(active) / n)
        metrics["gtr/records"].append(float(len(self._set)))
        metrics["gtr/corrected_share"].append(self._set.corrected_share)
        if not active:
            return None
        ids_BT, mask_BT, is_target_BR, fields = self._imitation_batch(active)
        # Not through DDP's wrapper, whose forward waits for all processes: some may have nothing to imitate. Its backward sums
        # the gradients of both terms all the same.
        model = self.accelerator.unwrap_model(model)
        # TRL's head divides logits by the sampling temperature; what is imitated is the model as it is.
        with before_head(model, lambda hidden: hidden * self.temperature):
            logps_BR = self._logps_of_rows(model, ids_BT, mask_BT, is_target_BR.shape[1], fields)
        loss = thought_cross_entropy(logps_BR, is_target_BR)
        metrics["gtr/imitation_loss"].append(float(loss.detach()))
        metrics["gtr/imitated_tokens"].append(float(is_target_BR.sum()))
        return loss

    def _imitation_batch(self, records: Sequence[Record]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Ids and mask (B, T) of prompts padded left and targets padded right, which target tokens are imitated (B, R), and
        the model's fields about images."""
        assert self._set is not None
        shown = [self._set.open_images(record) for record in records]
        prompts = [
            prepare_multimodal_messages([dict(turn) for turn in record.prompt], images=images)
            for record, images in zip(records, shown, strict=True)
        ]
        prompt_ids, _, fields = super(SharedGroups, self)._tokenize_prompts(prompts)
        special = special_token_pattern(self.processing_class)
        plain = [without_special_tokens(record.target or "", special) for record in records]  # a corrector may write anything
        targets = [list(self._tokenizer(text, add_special_tokens=False).input_ids) for text in plain]
        kept = [self._imitated(record, ids) for record, ids in zip(records, targets, strict=True)]
        if self._guide.options.clone == "full":
            targets = [[*ids, self._tokenizer.eos_token_id] for ids in targets]
            kept = [[True] * len(ids) for ids in targets]
        device, pad = self.accelerator.device, self._tokenizer.pad_token_id
        before = pad_sequence([torch.tensor(ids) for ids in prompt_ids], True, pad, "left")
        after = pad_sequence([torch.tensor(ids) for ids in targets], True, pad)
        seen = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in prompt_ids], True, 0, "left")
        follows = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in targets], True, 0)
        is_target = pad_sequence([torch.tensor(row) for row in kept], True, False)
        ids_BT, mask_BT = torch.cat([before, after], 1).to(device), torch.cat([seen, follows], 1).to(device)
        given: dict[str, Any] = {name: self._fitted(name, value, before.shape, after.shape) for name, value in fields.items()}
        if "pixel_values" in given:
            given["num_images"] = [len(images) for images in shown]
        return ids_BT, mask_BT, is_target.to(device), given

    def _imitated(self, record: Record, ids: Sequence[int]) -> list[bool]:
        labels = imitation_labels((), ids, self._decode, self._task(record.task).thought_format)
        return [label != IGNORED for label in labels]

    def _fitted(self, name: str, value: Any, before: torch.Size, after: torch.Size) -> torch.Tensor:
        """A processor's field as the model takes it beside prompts and targets: token types padded, the rest as it is."""
        device = self.accelerator.device
        if name not in ("token_type_ids", "mm_token_type_ids"):
            return torch.as_tensor(value).to(device)
        types = pad_sequence([torch.as_tensor(row) for row in value], True, 0, "left")
        return torch.cat([types, types.new_zeros(after)], 1).to(device)

    # -- logs and checkpoints ------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.model.training:
            logs |= {f"thoughts/{name}": value for name, value in self._window.report().items()}
            last = self.state.global_step >= self.state.max_steps - self.args.logging_steps
            if self._guide.probe is not None and (last or self.state.global_step >= self._next_probe):
                self._next_probe = self.state.global_step + max(1, self.state.max_steps // (N_PROBES - 1))
                logs["thoughts/sensitivity"] = self._guide.probe(self.accelerator.unwrap_model(self.model))
            if isinstance(self._guide.corrector, RemoteCorrector):
                own = torch.tensor([as_numbers(self._guide.corrector.counts)], device=self.accelerator.device)
                logs |= summed_counts("corrector", self.accelerator.gather(own).sum(0).tolist())
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}" / CORRECTIONS
        rank = self.accelerator.process_index
        if self._set is not None:
            self._set.save(folder / f"rank-{rank}")
        if self.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "thoughts.json").write_text(json.dumps(self._window.state()), encoding="utf-8")

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """TRL's own; a resumed run goes on with the corrections and thoughts of its checkpoint."""
        if isinstance(resume_from_checkpoint, str):
            folder = Path(resume_from_checkpoint) / CORRECTIONS
            own = folder / f"rank-{self.accelerator.process_index}"
            if self._set is not None:
                try:
                    self._set.restore(own)
                except FileNotFoundError as error:
                    raise RunStopped(
                        f"{own} is not there: the checkpoint was saved without --corrector, or by another number of processes;"
                        " go on with the same, or leave out --corrector"
                    ) from error
                except ValueError as error:
                    raise RunStopped(str(error)) from error
            if (folder / "thoughts.json").is_file():
                self._window.restore(json.loads((folder / "thoughts.json").read_text(encoding="utf-8")))
        return super().train(resume_from_checkpoint, *args, **kwargs)
