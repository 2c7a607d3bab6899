"""The one door to TRL: `GRPOTrainer` answers what the stations of this folder ask, and turns its own calls into a `Batch`.

The only file that overrides or reads what is private in TRL; `tests/test_trl_surface.py` lists it. What TRL is left to do:
padding, scoring by its `reward_funcs`, advantages within a group, the losses and their logs. It is handed completions by its
public `rollout_func`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from vlrl.models.videos import contents, pictures, tokenized
from vlrl.training.grpo.advantages import held_back, with_credits, with_thoughts_weighed
from vlrl.training.grpo.batch import Batch, BatchPart, LogpsAndMore, MicroBatch, Tensors
from vlrl.training.grpo.losses import loss_of_part, loss_of_parts
from vlrl.training.grpo.micro_batches import cut
from vlrl.training.grpo.mixed_modality import all_see_images
from vlrl.training.grpo.regularisers import with_terms
from vlrl.training.grpo.resume import Generation
from vlrl.training.grpo.rollout import with_images
from vlrl.training.unused_weights import with_vision_zeros

if TYPE_CHECKING:
    from transformers import Trainer
    from trl.trainer.grpo_config import GRPOConfig

    from vlrl.models.prefix_sharing.step import BatchPlan
    from vlrl.training.grpo.corrections import Corrections
    from vlrl.training.grpo.costs import Costs
    from vlrl.training.grpo.endpoint_failures import EndpointFailures
    from vlrl.training.grpo.episodes import Episodes
    from vlrl.training.grpo.filtering import KeptCompletions
    from vlrl.training.grpo.logprobs import Logprobs
    from vlrl.training.grpo.losses import Loss
    from vlrl.training.grpo.micro_batches import StepParts
    from vlrl.training.grpo.regularisers import LogprobLoss
    from vlrl.training.grpo.resample import Resample
    from vlrl.training.grpo.rollout import GroupSharing, Rollout
    from vlrl.training.grpo.rollout_lag import RolloutsAhead, SentWeights
    from vlrl.training.grpo.sampler_check import SamplerCheck
    from vlrl.training.grpo.scores import RewardFunctions
    from vlrl.training.grpo.step_credits import StepCredits
    from vlrl.training.grpo.vllm_prompts import ColocatedPrompts

    class Arguments(GRPOConfig):
        """What is set once a trainer is made."""

        output_dir: str
        steps_per_generation: int
        max_completion_length: int
        generation_kwargs: dict[str, Any] | None

    class TRLTrainer(Trainer):
        """TRL's `GRPOTrainer` with types, as far as it is used: its own are partial."""

        args: Arguments
        model: Any
        model_wrapped: Any
        ref_model: Any
        train_dataset: Any
        generation_config: Any
        rollout_func: Any
        num_generations: int
        num_generations_eval: int
        num_iterations: int
        current_gradient_accumulation_steps: int
        temperature: float
        beta: float
        loss_type: str
        top_entropy_quantile: float
        aux_loss_enabled: bool
        multi_objective_aggregation: str
        reward_weights: torch.Tensor
        reward_func_names: list[str]
        eos_token_ids: list[int]
        use_vllm: bool
        vllm_generation: Any
        use_transformers_continuous_batching: bool
        log_completions: bool
        log_multimodal: bool
        _tokenizer: Any
        _entropy_bonus_enabled: bool
        _step: int
        _last_loaded_step: int
        _buffered_inputs: Any
        _metrics: dict[str, defaultdict[str, list[float]]]
        _logs: dict[str, Any]
        _pending_metrics: Any
        _pending_extra_logs: Any

        def __init__(
            self,
            model: Any,
            reward_funcs: Sequence[Any],
            args: GRPOConfig,
            train_dataset: Any,
            processing_class: Any,
            peft_config: Any = None,
            eval_dataset: Any = None,
        ) -> None: ...
        def _generate_and_score_completions(self, inputs: Any) -> Any: ...
        def _generate(self, prompts: list[Any]) -> tuple[Any, ...]: ...
        def _generate_single_turn(
            self, prompt_ids: Any, images: Any, fields: Any, num_generations: int
        ) -> tuple[list[list[int]], Any]: ...
        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]: ...
        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor: ...
        def _get_per_token_logps_and_entropies(
            self, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, batch_size: int | None = None, **fields: Any
        ) -> LogpsAndMore: ...
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any: ...
        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]: ...

else:
    from trl import GRPOTrainer as TRLTrainer


class Adapter(TRLTrainer):
    """`GRPOTrainer` through our stations, which whoever makes the trainer sets."""

    sharing: GroupSharing
    rollout: Rollout
    scores: RewardFunctions
    failures: EndpointFailures
    resample: Resample | None = None
    episodes: Episodes | None = None
    corrections: Corrections
    step_parts: StepParts
    logprobs: Logprobs
    extra_losses: Sequence[Loss] = ()
    logprob_losses: tuple[LogprobLoss, ...] = ()
    costs: Costs | None = None
    keeping: KeptCompletions | None = None
    needs_reference: bool = False
    """Whether something beside TRL's KL asks for the reference's log-probabilities."""
    colocated: ColocatedPrompts | None = None
    sampler_check: SamplerCheck | None = None
    step_credits: StepCredits | None = None
    sent: SentWeights | None = None
    ahead: RolloutsAhead | None = None
    _plan: BatchPlan | None = None
    """Of the rows that TRL is computing on: it hands its own fields over alone."""
    _logps: torch.Tensor | None = None
    """Of the loss that TRL is computing, where a term of ours needs them."""

    # -- the engine that stations ask ----------------------------------------------------------------------------------

    @property
    def metrics(self) -> dict[str, list[float]]:
        return self._metrics["train" if self.model.training else "eval"]

    @property
    def completions_log(self) -> dict[str, Any]:
        return self._logs

    @property
    def is_training(self) -> bool:
        return bool(self.model.training)

    @property
    def is_sharded(self) -> bool:
        """Whether every process holds but a part of the weights, so that all must run equally many passes."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return bool(self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))

    @property
    def policy(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    @property
    def generator(self) -> Any:
        return self.accelerator.unwrap_model(self.model_wrapped)

    @property
    def ends(self) -> set[int]:
        """The tokens that end a completion."""
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    @property
    def teaches_without_advantage(self) -> bool:
        """Whether completions of advantage 0 have a gradient."""
        others = self.needs_reference or self._entropy_bonus_enabled or self.aux_loss_enabled
        return bool(self.beta or others or self.top_entropy_quantile < 1)

    def note(self, name: str, value: float) -> None:
        self.metrics[name].append(value)

    def say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(line, flush=True)

    def log_held_out(self, metrics: dict[str, float]) -> None:
        """Log an evaluation. The metrics of the steps under way, and the latest completions, are not shown for it."""
        was_training, shown = self.is_training, self.log_completions
        self.model.eval()
        self.log_completions = False
        try:
            self.log(metrics)
        finally:
            self.model.train(was_training)
            self.log_completions = shown

    def tokenize(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        template: Any = self.args.chat_template_kwargs or {}
        if any(contents(prompt, "video") for prompt in prompts):
            return tokenized(self.processing_class, prompts, template)
        return self._tokenize_prompts(prompts)

    def sample(self, ids: list[list[int]], images: Any, fields: dict[str, Any], n: int) -> tuple[list[list[int]], Any]:
        if self.sent is not None:
            step = int(self.state.global_step)
            if self._last_loaded_step == step or not self.sent.are_due(step):
                self._last_loaded_step = step  # the engine keeps its weights
            else:
                self.sent.step = step
            self.sent.note(self, step)
        with nullcontext() if self.colocated is None else self.colocated.in_place():
            return self._generate_single_turn(ids, images, fields, n)

    def plain_logps(
        self, model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_keep: int, batch_size: int | None = None, **fields: Any
    ) -> LogpsAndMore:
        return super()._get_per_token_logps_and_entropies(model, ids_BT, mask_BT, n_keep, batch_size, **fields)

    def score(self, batch: Batch) -> torch.Tensor:
        prompts = [with_images(row, videos=False) for row in batch.rows]
        n_tokens, metrics = self.state.num_input_tokens_seen, self._metrics
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        try:
            with self._handing_over(batch):
                _, ids, _, completions, *_ = self._generate(prompts)
            return self._calculate_rewards([{**row} for row in batch.rows], prompts, completions, ids)
        finally:
            self.state.num_input_tokens_seen, self._metrics = n_tokens, metrics
            self._pending_extra_logs.clear()
            self._pending_metrics.clear()

    # -- from prompts to a batch ---------------------------------------------------------------------------------------

    def batch_of(self, inputs: Sequence[Any]) -> Batch:
        """The stations up to the advantages: rollout, scores, resample, advantages."""
        batch = Batch(tuple(inputs))
        if not self.is_training:
            self._look_at_images(batch)
            batch = self.rollout(batch, self.num_generations_eval)
            self.rollout.forget(keep=() if self.ahead is None else self.ahead.indices)
            return self._through_trl(batch)
        if self.episodes is not None:
            played = self.episodes.play(batch)
            self._look_at_images(played.batch)
            with self._single_rows():
                batch = self._through_trl(played.batch)
            return self.episodes.finish(played, self._with_thoughts(with_credits(batch)))
        try:
            if self.resample is None:
                batch = self.write(batch)
            else:
                batch = self.resample(batch)
                self._look_at_images(batch)
        finally:
            self.rollout.forget(keep=() if self.ahead is None else self.ahead.indices)
        if self.sharing.plans_groups:
            self.note("shared", float(batch.plan is not None and batch.plan.shares))
        batch = held_back(self._through_trl(batch), self, self.costs, self.logprob_losses)
        return self._with_thoughts(batch if self.keeping is None else self.keeping(batch))

    def write(self, batch: Batch) -> Batch:
        """Completions of these rows. Whether some processes see no images must be known before."""
        self._look_at_images(batch)
        if self.ahead is None:
            return self.rollout(batch, self.num_generations)
        batch = self.rollout(batch, self.num_generations, self.ahead.take([row["index"] for row in batch.rows]))
        self.ahead.begin()
        self._last_loaded_step = int(self.state.global_step)  # `ahead` sees to the weights
        return batch

    def _look_at_images(self, batch: Batch) -> None:
        self.log_multimodal = all_see_images(batch.rows, self.is_sharded) and self.args.log_multimodal
        if not self.log_multimodal:
            self._logs["images"].clear()

    def _with_thoughts(self, batch: Batch) -> Batch:
        """Thoughts are noted, some are corrected, and thought tokens get their weight."""
        thoughts = self.corrections.thoughts
        pairs = zip(batch.rows, batch.completions, strict=True)
        masks = [thoughts.mask(row["sample"], made.ids) for row, made in pairs]
        if self.episodes is None:
            verdicts = {} if self.corrections.set is None else self.corrections.of_samples(batch)
            self.corrections.note(batch, masks, verdicts)
        return with_thoughts_weighed(batch, thoughts, masks)

    def _through_trl(self, batch: Batch) -> Batch:
        """TRL's part: completions are scored, their advantages and log-probabilities computed, all of it padded and logged.

        Of a batch with a plan TRL sees no images beside the prompts, which it would run through the processor once more, and no
        videos at all, of which it knows nothing; what is logged of them is added here.
        """
        rows: list[Any] = [{**row} for row in batch.rows]
        if batch.plan is not None:
            rows = [{"prompt": with_images(r, videos=False), "sample": r["sample"], "index": r["index"]} for r in batch.rows]
        self._plan, beta = batch.plan, self.beta
        self.beta = beta or float(self.needs_reference)  # TRL asks the reference where it has a weight
        try:
            with self._handing_over(batch):
                made = super()._generate_and_score_completions(rows)
        finally:
            self._plan, self.beta = None, beta
        if batch.plan is not None and self.log_multimodal:
            self._logs["images"].extend(gather_object([pictures(row["images"]) for row in batch.rows]))
        texts, scores_BR = self.scores.take()
        self.failures.show()
        batch = replace(batch, texts=texts, scores_BR=scores_BR, tensors=Tensors.of(made))
        if self.step_credits is not None and self.is_training:
            batch = self.step_credits(batch, self.scores.take_scores())
        if self.sampler_check is not None:
            self.sampler_check(batch)
        return batch

    @contextmanager
    def _handing_over(self, batch: Batch) -> Iterator[None]:
        """Within, TRL takes the completions of this batch in place of its own. `rollout_func` is public; as an argument of the
        trainer it would be warned of."""
        handed = {
            "prompt_ids": [one.prompt_ids for one in batch.completions],
            "completion_ids": [one.ids for one in batch.completions],
            "logprobs": None if batch.completions[0].logprobs is None else [one.logprobs for one in batch.completions],
        }
        if batch.credits_B is not None and batch.scores_BR is not None:
            handed["scores"] = batch.scores_BR.tolist()
        self.rollout_func = lambda _prompts, _trainer: dict(handed)
        try:
            yield
        finally:
            self.rollout_func = None

    @contextmanager
    def _single_rows(self) -> Iterator[None]:
        """Within, TRL takes rows for groups of one. Its advantages are those of groups of equal size, which the steps of
        episodes are not: these bring their own."""
        group, self.num_generations = self.num_generations, 1
        try:
            yield
        finally:
            self.num_generations = group

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
        """TRL's own, on all processes' completions; scores that an endpoint did not give are filled in, and looked at."""
        rewards_BR = self.failures.fill(super()._calculate_rewards(inputs, prompts, completions, ids))
        self.check_rewards(rewards_BR, [row["sample"].id for row in inputs])
        return rewards_BR

    def check_rewards(self, rewards_BR: torch.Tensor, own_ids: list[str]) -> None:
        """A hook for the run's trainer."""

    # -- from a batch to a loss ----------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The micro-batch of this micro-step; every so many a new generation."""
        if not self.is_training:
            return MicroBatch((BatchPart(self.batch_of(generation_batch).made),))
        if self.ahead is not None:
            self.ahead.rows.turn(generation_batch)
        n_parts = self.args.steps_per_generation
        if self._step % self.n_micro_steps == 0 or self._buffered_inputs is None:
            batch = self.batch_of(generation_batch)
            steps = self.episodes is not None
            self._buffered_inputs = self.step_parts(batch, n_parts) if steps else cut(batch, n_parts, self.policy)
        return self._buffered_inputs[self._step % n_parts]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """TRL's own; the rows of the next generation are looked at where they are written ahead."""
        if self.ahead is not None:
            epoch_iterator = iter(self.ahead.rows.pull(epoch_iterator, num_batches))
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    @property
    def n_micro_steps(self) -> int:
        return int(self.args.steps_per_generation * self.num_iterations)

    @property
    def generation(self) -> Generation | None:
        done = self._step % self.n_micro_steps
        return Generation(self._buffered_inputs, done, self.n_micro_steps) if done and self._buffered_inputs else None

    def go_on_with(self, generation: Generation) -> None:
        self._step, self._buffered_inputs = generation.done, list(generation.micro_batches)

    def _get_per_token_logps_and_entropies(self, *args: Any, **fields: Any) -> LogpsAndMore:
        found = self.logprobs(self._plan, *args, **fields)
        self._logps = found[0] if self.logprob_losses else None
        return found

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's policy term and the extra losses, over the parts of a `MicroBatch`."""
        trls = super().compute_loss

        def policy_term(part: BatchPart) -> torch.Tensor:
            assert part.tensors is not None
            self._plan = part.plan
            try:
                loss = with_terms(part, self.logprob_losses, lambda rows: (trls(model, rows, *args, **kwargs), self._logps))
            finally:
                self._plan = self._logps = None
            # Where DDP expects a gradient of every weight, a batch without images gives the vision encoder zeros.
            return with_vision_zeros(loss, model, self.args, part.has_images)

        return loss_of_parts(
            inputs,
            lambda part: loss_of_part(model, part, policy_term, self.extra_losses, self.accelerator.device),
            self.accelerator.backward,
            lambda: self.accelerator.no_sync(model),
        )
