"""TRL's hooks for a step in the shared layout: every prompt and image run once a group (`vlrl.models.prefix_sharing.step`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.models.prefix_sharing.rollout import rollout_problem
from vlrl.models.prefix_sharing.step import (
    BatchPlan,
    Disagreement,
    OnceProcessed,
    Prompt,
    plan_rows,
    prefilled_once,
    split_prompts,
    start_sharing,
)
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.mixed_modality import LogpsAndMore, MixedBatches, asked_for, in_row_order
from vlrl.training.grpo.trl_surface import (
    shuffle_sequence_dict,
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)


class SharedGroups(MixedBatches):
    """`MixedBatches` whose passes run prompts and images once a group where that can be."""

    _plan: BatchPlan | None = None
    """Of the rows in hand: a generation batch from its tokenization on, a micro-batch in its loss."""
    _by_row = False
    """Whether the rows in hand come without a plan and get one of their own: rows with equal prompts and images are a group."""

    def _start_sharing(self, mode: str, *, by_row: bool = False) -> None:
        """Decide and say how the run shares; models and sizes that cannot go TRL's own way. `by_row`: rows of a batch need not
        be groups of one prompt."""
        args = self.args
        sizes = (args.per_device_train_batch_size, args.steps_per_generation, self.num_generations)
        self._by_row = by_row
        self._sharing = start_sharing(
            self.accelerator.unwrap_model(self.model),
            self.ref_model and self.accelerator.unwrap_model(self.ref_model),
            mode=mode,
            device=self.accelerator.device,
            compute_dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
            sharded=self._is_sharded,
            n_processes=self.accelerator.num_processes,
            batch=(1, 1, 1) if by_row else sizes,
            autocast=self.accelerator.autocast,
        )
        self._must_share = mode == "on"
        self._rows: list[dict[str, Any]] = []
        self._prepared: dict[int, Prompt] = {}
        self._compared: set[tuple[int, bool]] = set()
        self._logged: set[str] = set()
        self._log_line(self._sharing.line(by_row))

    def _log_line(self, words: str) -> None:
        if self.accelerator.is_main_process:
            print(words, flush=True)

    def _fall_back(self, why: str, what: str = "a batch is computed TRL's way, which is slower") -> None:
        """Logged once for each reason; an error where sharing was demanded."""
        if self._must_share:
            raise RunStopped(f"--group_shared on: {why}")
        if why not in self._logged:
            self._logged.add(why)
            self._log_line(f"warning: {what}: {why}")

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own; the processor answers its second question, about all rows, with what one of each group gave."""
        self._rows, processor = inputs, self.processing_class
        self.processing_class = OnceProcessed(processor, lambda: self._plan)
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.processing_class, self._rows = processor, []
            self._prepared.clear()

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's own; a shared generation batch is permuted and cut by groups, so that what they share is never torn."""
        if not self.model.training or self._sharing.off is not None:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = self._cut(batch, steps)
            self._plan = None
        return self._buffered_inputs[self._step % steps]

    def _cut(self, batch: dict[str, Any], steps: int) -> list[dict[str, Any]]:
        """Micro-batches of a generation batch in random order."""
        plan = self._plan
        if plan is None:
            parts = split_tensor_dict(shuffle_sequence_dict(split_pixel_values_by_grid(batch)), steps)
            return [unsplit_pixel_values_by_grid(part) for part in parts]
        n, order = plan.n_rows, torch.randperm(len(plan.groups)).tolist()
        held = {key: value for key, value in batch.items() if key not in ("pixel_values", "image_grid_thw", "num_images")}
        by_row = {key for key, value in held.items() if isinstance(value, torch.Tensor) and value.ndim and len(value) == n}
        return [
            {**{key: value[rows] if key in by_row else value for key, value in held.items()}, "plan": own}
            for rows, own in plan.parts(order, n // steps)
        ]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._plan = inputs.get("plan")
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self._plan = None

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's own on one prompt a group, which is planned as well; its own on all rows where it cannot be."""
        self._plan = None
        if self._may_share():
            group = self.num_generations
            indices = [row["index"] for row in self._rows]
            unique = self._processed(indices[::group], prompts[::group])
            self._plan = self._agreed_plan(unique, indices)
            if self._plan is not None:
                shown = [one.images for one in unique for _ in range(group)]
                return [one.ids for one in unique for _ in range(group)], shown if any(shown) else None, {}
        return super()._tokenize_prompts(prompts)

    def _may_share(self) -> bool:
        return self._sharing.off is None and not self._by_row and self.model.training

    def _processed(self, indices: Sequence[int], prompts: Sequence[Any]) -> list[Prompt]:
        """These samples' prompts, each through the processor once a generation batch."""
        new = {index: prompt for index, prompt in zip(indices, prompts, strict=True) if index not in self._prepared}
        if new:
            self._prepared |= zip(new, split_prompts(*super()._tokenize_prompts(list(new.values()))), strict=True)
        return [self._prepared[index] for index in indices]

    def _agreed_plan(self, unique: list[Prompt], indices: list[int]) -> BatchPlan | None:
        """The plan of this process' rows, if every process has one."""
        group, plan, why = self.num_generations, None, None
        torn = [i for i, index in enumerate(indices) if index != indices[i - i % group]]
        if torn or len(indices) % group:
            why = "a group's rows are spread over processes"
        else:
            model = self.accelerator.unwrap_model(self.model)
            try:
                plan = self._sharing.plan(model, unique, group, self.accelerator.device)
            except NotShared as error:
                why = str(error)
        reasons = [reason for reason in gather_object([why]) if reason]
        self._metrics["train"]["shared"].append(float(not reasons))
        if reasons:
            self._fall_back(reasons[0])
        return None if reasons else plan

    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, num_generations: int, *args: Any) -> Any:
        whole = partial(super()._generate_single_turn, prompt_ids, images)
        if self._plan is None:
            return whole(fields, num_generations, *args)
        own_engine = self.use_vllm or self.use_transformers_continuous_batching
        if own_engine or rollout_problem(self.generation_config) or "prefill_once" in self._sharing.without:
            return whole({} if own_engine else self._fields_of(prompt_ids), num_generations, *args)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        with prefilled_once(model, self._sharing, self._plan, self.num_generations):
            return whole({}, num_generations, *args)

    def _fields_of(self, prompt_ids: list[list[int]]) -> dict[str, Any]:
        """The fields about images that TRL's tokenization of all rows would have returned."""
        fields = self._plain_fields(torch.empty(0))
        if fields:
            image = self._image_token_id
            fields["mm_token_type_ids"] = [[int(token == image) for token in ids] for ids in prompt_ids]
            del fields["num_images"]
        return fields

    @property
    def _image_token_id(self) -> int:
        return int(self.accelerator.unwrap_model(self.model).config.image_token_id)

    def _plain_fields(self, ids_BT: torch.Tensor, plan: BatchPlan | None = None) -> dict[str, Any]:
        plan = plan or self._plan
        assert plan is not None
        return plan.plain_fields(ids_BT, self._image_token_id)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **fields: Any,
    ) -> LogpsAndMore:
        """By the packed pass where these rows have a plan, after a comparison with TRL's own at a model's first."""
        plan, plain = self._plan, super()._get_per_token_logps_and_entropies
        if plan is None and self._by_row and self._sharing.off is None:
            plan = self._plan_of_rows(input_ids, attention_mask, logits_to_keep, fields)
        if plan is None:
            return plain(model, input_ids, attention_mask, logits_to_keep, batch_size, **fields)
        trains = (id(model), torch.is_grad_enabled())
        if trains not in self._compared:
            self._compared.add(trains)
            self._compare(model, input_ids, attention_mask, logits_to_keep, plan, plain)
        if self._sharing.off is not None or "packed" in self._sharing.without:
            own = asked_for(fields) | self._plain_fields(input_ids, plan)
            return plain(model, input_ids, attention_mask, logits_to_keep, batch_size, **own)
        entropy = bool(fields.get("compute_entropy"))
        made = [
            (rows, (*self._sharing.logps(model, input_ids[rows], attention_mask[rows], logits_to_keep, part, entropy), None))
            for rows, part in plan.parts(range(len(plan.groups)), batch_size or plan.n_rows)
        ]
        return in_row_order(made)

    def _logps_of_rows(
        self, model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_keep: int, fields: dict[str, Any]
    ) -> torch.Tensor:
        """Log-probabilities (B, n_keep) of rows that are no groups, packed where the run packs; without a collective."""
        plan = None if self._sharing.off is not None else self._plan_of_rows(ids_BT, mask_BT, n_keep, fields)
        if plan is None or "packed" in self._sharing.without:
            plain = super()._get_per_token_logps_and_entropies
            return plain(model, ids_BT, mask_BT, n_keep, **fields)[0]
        logps_BT: torch.Tensor = self._sharing.logps(model, ids_BT, mask_BT, n_keep, plan, False)[0]
        return logps_BT

    def _plan_of_rows(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_keep: int, fields: Any) -> BatchPlan | None:
        """A plan for rows as TRL lays them out, or None where there can be none."""
        try:
            return plan_rows(self.accelerator.unwrap_model(self.model), ids_BT, mask_BT, n_keep, fields)
        except NotShared as error:
            self._fall_back(str(error))
            return None

    def _compare(
        self,
        model: Any,
        ids_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        n_keep: int,
        plan: BatchPlan,
        plain: Callable[..., tuple[torch.Tensor, Any, Any]],
    ) -> None:
        """Compute one group both ways; all processes stop sharing where one of them sees more than rounding."""

        def plain_logps(model: Any, ids: torch.Tensor, mask: torch.Tensor, plan: BatchPlan, at_once: int) -> torch.Tensor:
            return plain(model, ids, mask, n_keep, at_once, **self._plain_fields(ids, plan))[0] * mask[:, -n_keep:]

        try:
            found = self._sharing.disagreement(model, ids_BT, mask_BT, n_keep, plan, plain_logps)
        except RuntimeError as error:  # a kernel this machine lacks; TRL's way meets what is wrong with the batch itself
            found = Disagreement(failure=f"{type(error).__name__}: {error}")
        worst = max(gather_object([found]), key=lambda one: one.excess)
        if worst.excess > 1:
            self._fall_back(str(worst), "from here on all batches are computed TRL's way, which is slower")
            self._sharing.off = str(worst)
