"""Station 1, rollout: one completion for each row; every prompt and image runs once a group where that can be.

Not here: episodes, whose completions answer each other (`episodes.py`), and how a group is run (`vlrl.models.prefix_sharing`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.grpo_config import GRPOConfig

from vlrl.models.prefix_sharing.facts import facts_of
from vlrl.models.prefix_sharing.groups import NotShared, PromptBatch, token_types
from vlrl.models.prefix_sharing.image_rows import ROW_COUNTS
from vlrl.models.prefix_sharing.rollout import rollout_problem
from vlrl.models.prefix_sharing.step import BatchPlan, Prompt, Sharing, prefilled_once, split_prompts
from vlrl.models.videos import contents, with_contents
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import Batch, Completion, TrainerCalls, TrainingRow
from vlrl.training.grpo.mixed_modality import row_kind

Sampled = tuple[list[list[int]], Any]
"""Completions of rows, and what the sampler says of their log-probabilities."""
SLOWER = "a batch is computed TRL's way, which is slower"


class GroupSharing:
    """How a run shares prompts and images, and what it says where it cannot. `must`: then it ends, raising RunStopped.
    `by_row`: the rows of a batch need not be groups of one prompt, so that plans are made for each pass."""

    def __init__(self, engine: TrainerCalls, sharing: Sharing, *, must: bool, by_row: bool) -> None:
        self.engine, self.how, self.must, self.by_row = engine, sharing, must, by_row
        self._said: set[str] = set()
        engine.say(sharing.line(by_row))

    @property
    def plans_groups(self) -> bool:
        """Whether a generation is planned as a whole."""
        return self.how.off is None and not self.by_row and self.engine.is_training

    @property
    def image_token_id(self) -> int:
        return int(self.engine.policy.config.image_token_id)

    @property
    def video_token_id(self) -> int | None:
        found = getattr(self.engine.policy.config, "video_token_id", None)
        return None if found is None else int(found)

    def fall_back(self, why: str, what: str = SLOWER) -> None:
        """Said once for each reason; an error where sharing was demanded."""
        if self.must:
            raise RunStopped(f"--group_shared on: {why}")
        if why not in self._said:
            self._said.add(why)
            self.engine.say(f"warning: {what}: {why}")

    def plain_fields(self, plan: BatchPlan, ids_BT: torch.Tensor) -> dict[str, Any]:
        """TRL's arguments about the images of these rows, and what it has none for, about their videos."""
        return plan.plain_fields(ids_BT, self.image_token_id, self.video_token_id)


def with_images(row: TrainingRow, *, videos: bool = True) -> Any:
    """The prompt of a row, its images and (unless they are left out) videos in it."""
    if row_kind(row) != "videos":
        return prepare_multimodal_messages(row["prompt"], images=row["images"])
    return with_contents(row["prompt"], row["images"]) if videos else row["prompt"]


class Rollout:
    """Completions of single prompts. Each prompt goes through the processor once a generation (`forget` ends it)."""

    def __init__(self, engine: TrainerCalls, sharing: GroupSharing, generation_config: Any, *, own_engine: bool) -> None:
        """`own_engine`: completions come from vLLM or continuous batching, which run prompts their own way."""
        self.engine, self.sharing = engine, sharing
        self.generation_config, self.own_engine = generation_config, own_engine
        self._prepared: dict[int, Prompt] = {}

    def __call__(self, batch: Batch, n_generations: int, written: Sampled | None = None) -> Batch:
        """The batch with completions, and its plan where prompts are shared. `written`: completions that are there already.
        Raises RunStopped for rows that an engine of its own would not see."""
        self._refuse_unseen(batch.rows)
        prompts = [with_images(row) for row in batch.rows]
        batch = self.planned(batch, prompts)
        if batch.plan is None:
            prompt_ids, images, fields = self.engine.tokenize(prompts)
            ids, logprobs = written or self.engine.sample(prompt_ids, images, fields, n_generations)
        else:
            own = [self._prepared[row["index"]] for row in batch.rows]
            prompt_ids, shown = [one.ids for one in own], [one.images for one in own]
            ids, logprobs = written or self._sample_groups(batch.plan, prompt_ids, shown if any(shown) else None, n_generations)
        rows = zip(prompt_ids, ids, logprobs or [None] * len(ids), strict=True)
        return replace(batch, completions=tuple(Completion(*row) for row in rows))

    def _sample_groups(self, plan: BatchPlan, prompt_ids: list[list[int]], images: Any, n: int) -> tuple[list[list[int]], Any]:
        """Completions of prompts that run once a group, unless the settings of a run need TRL's own way."""
        how = self.sharing.how
        whole = not self.own_engine and (
            not plan.shares or rollout_problem(self.generation_config) or "prefill_once" in how.without
        )
        fields = self._fields(plan, prompt_ids) if whole else {}
        once = prefilled_once(self.engine.generator, how, plan, self.engine.num_generations)
        with nullcontext() if whole or self.own_engine else once:
            return self.engine.sample(prompt_ids, images, fields, n)

    def _fields(self, plan: BatchPlan, prompt_ids: list[list[int]]) -> dict[str, Any]:
        """The fields about images that TRL's tokenization of all rows would have returned."""
        fields = self.sharing.plain_fields(plan, torch.empty(0))
        if fields:
            image, video = self.sharing.image_token_id, self.sharing.video_token_id
            video = video if isinstance(plan.image_batch, PromptBatch) else None
            if types := plan.image_batch.token_types:
                fields[types] = [token_types(torch.tensor(ids), image, video).tolist() for ids in prompt_ids]
        return {name: value for name, value in fields.items() if name not in ROW_COUNTS}

    def _refuse_unseen(self, rows: Sequence[TrainingRow]) -> None:
        if self.own_engine and any(row_kind(row) == "videos" for row in rows):
            raise RunStopped(
                "a row shows a video, but completions come from an engine that is handed images alone, so that they would be"
                " written blind; show videos as images: --video_as frames"
            )

    def planned(self, batch: Batch, prompts: Sequence[Any] | None = None) -> Batch:
        """The batch with the plan of its rows, if every process has one for its own. Rows with videos have a plan also where
        none share a prompt, since TRL has no way for videos."""
        if not self.sharing.plans_groups:
            return replace(batch, plan=self._of_single_rows(batch))
        group, rows = self.engine.num_generations, batch.rows
        firsts = rows[::group]
        shown = [with_images(row) for row in firsts] if prompts is None else list(prompts[::group])
        plan, why = None, None
        if len(rows) % group or any(row["index"] != rows[i - i % group]["index"] for i, row in enumerate(rows)):
            why = "a group's rows are spread over processes"
        else:
            try:
                unique = self._processed([row["index"] for row in firsts], shown)
                plan = self.sharing.how.plan(self.engine.policy, unique, group, self.engine.accelerator.device)
            except NotShared as error:
                why = str(error)
        reasons = [reason for reason in gather_object([why]) if reason]
        if reasons:
            self.sharing.fall_back(reasons[0])
        return replace(batch, plan=self._of_single_rows(batch) if reasons else plan)

    def _of_single_rows(self, batch: Batch) -> BatchPlan | None:
        """A plan that says of each row by itself what it shows, where a process has a row with a video. Raises RunStopped."""
        if self.own_engine or not any(gather_object([any(row_kind(row) == "videos" for row in batch.rows)])):
            return None
        distinct = {row["index"]: row for row in batch.rows}
        places = {index: place for place, index in enumerate(distinct)}
        try:
            unique = self._processed(list(distinct), [with_images(row) for row in distinct.values()])
            plan = self.sharing.how.plan(self.engine.policy, unique, 1, self.engine.accelerator.device)
        except NotShared as error:
            raise RunStopped(f"a batch with videos cannot be laid out: {error}") from error
        return plan.of_single_rows([places[row["index"]] for row in batch.rows])

    def _processed(self, indices: Sequence[int], prompts: Sequence[Any]) -> list[Prompt]:
        """These samples' prompts, each through the processor once a generation."""
        new = {index: prompt for index, prompt in zip(indices, prompts, strict=True) if index not in self._prepared}
        if new and facts_of(self.engine.policy).grids and not any(contents(prompt, "video") for prompt in new.values()):
            self._prepared |= zip(new, split_prompts(*self.engine.tokenize(list(new.values()))), strict=True)
        elif new:
            self._prepared |= {index: split_prompts(*self.engine.tokenize([prompt]))[0] for index, prompt in new.items()}
        return [self._prepared[index] for index in indices]

    def read(self, rows: Sequence[TrainingRow]) -> tuple[list[list[int]], Any]:
        """Prompts of a later batch, and their images, a row each; where prompts are shared they are prepared for its turn."""
        self._refuse_unseen(rows)
        indices = [row["index"] for row in rows]
        firsts: dict[int, Any] = {}
        for row in rows:
            if row["index"] not in firsts:
                firsts[row["index"]] = with_images(row)
        if self.sharing.plans_groups:
            prepared = self._processed(list(firsts), list(firsts.values()))
            found = {index: (one.ids, one.images) for index, one in zip(firsts, prepared, strict=True)}
        else:
            ids, images, _ = self.engine.tokenize(list(firsts.values()))
            found = dict(zip(firsts, zip(ids, images or [None] * len(ids), strict=True), strict=True))
        shown = [found[index][1] for index in indices]
        return [found[index][0] for index in indices], shown if any(shown) else None

    def forget(self, keep: Collection[int] = ()) -> None:
        """What was prepared for a generation, but for these samples."""
        self._prepared = {index: prompt for index, prompt in self._prepared.items() if index in keep}


def without_tokens(args: GRPOConfig, banned: Sequence[int]) -> GRPOConfig:
    """The arguments for a trainer that never samples these tokens; the run's own stay as they are."""
    kwargs: dict[str, Any] = dict(args.generation_kwargs or {})  # type: ignore[arg-type]  # a str only before it is parsed
    if args.use_vllm:
        kwargs.setdefault("logit_bias", dict.fromkeys(banned, -100.0))
    else:
        kwargs.setdefault("suppress_tokens", banned)
    args = copy.copy(args)
    args.generation_kwargs = kwargs
    return args
