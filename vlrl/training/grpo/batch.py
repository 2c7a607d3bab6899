"""One generation on its way from prompts to a loss: what a station of the trainer takes and returns.

    rollout → scores → resample → advantages → micro_batches → logprobs → losses

Each station is a file of this folder. Tensors end in axes: B completions of this process, P prompt tokens, T completion tokens,
R rewards. `adapter.py` turns TRL's calls into these records and back. Not here: what a station does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from vlrl.models.prefix_sharing.step import BatchPlan
from vlrl.schema import Sample


class TrainingRow(TypedDict):
    """A row of the training set, as TRL hands it over once a completion."""

    prompt: list[Any]
    images: list[Any]
    sample: Sample
    index: int


@dataclass(frozen=True)
class Completion:
    """One generated completion. `logprobs`: the sampler's own, from backends that report them."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float] | None = None


@dataclass(frozen=True)
class Tensors:
    """What TRL makes of a generation: ids padded, masks, log-probabilities, advantages. `advantages_B`: one a completion, or
    (B, T) where tokens weigh differently. `n_tokens`: of the completions of all processes. `pair_sums_B2`: see
    `regularisers.py`. `kept_BT`: 0 on tokens that take no part in the loss (`filtering.py`). `images`: the model's
    fields about images, by their names there."""

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    completion_ids_BT: Tensor
    completion_mask_BT: Tensor
    advantages_B: Tensor
    n_tokens: Tensor
    old_logps_BT: Tensor | None = None
    ref_logps_BT: Tensor | None = None
    sampler_logps_BT: Tensor | None = None
    sampler_ratios_BT: Tensor | None = None
    pair_sums_B2: Tensor | None = None
    kept_BT: Tensor | None = None
    images: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.completion_ids_BT)

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Tensors:
        """From TRL's batch. What it names and we do not is about images."""
        known = {name: made.get(theirs) for name, theirs in TRL_NAMES.items()}
        others = {name: value for name, value in made.items() if name not in TRL_NAMES.values()}
        return cls(**known, images=others)  # type: ignore[arg-type]  # TRL always has the six that are not optional

    def as_trl(self) -> dict[str, Any]:
        """As TRL's loss takes it."""
        known = {theirs: getattr(self, name) for name, theirs in TRL_NAMES.items()}
        return {name: value for name, value in known.items() if value is not None} | dict(self.images or {})

    def of_rows(self, rows: Sequence[int]) -> Tensors:
        """These rows. Fields about images are taken where they have an entry a row."""
        order, n = [int(row) for row in rows], len(self)

        def taken(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and len(value) == n:
                return value[order]
            if isinstance(value, list) and len(value) == n:
                return [value[row] for row in order]
            return value

        own = {one.name: taken(getattr(self, one.name)) for one in fields(self) if one.name != "images"}
        return Tensors(**own, images={name: taken(value) for name, value in (self.images or {}).items()})

    def all_ids(self) -> tuple[Tensor, Tensor]:
        """Ids and mask of prompts and completions together, (B, P + T)."""
        return (
            torch.cat([self.prompt_ids_BP, self.completion_ids_BT], 1),
            torch.cat([self.prompt_mask_BP, self.completion_mask_BT], 1),
        )


TRL_NAMES = {
    "prompt_ids_BP": "prompt_ids",
    "prompt_mask_BP": "prompt_mask",
    "completion_ids_BT": "completion_ids",
    "completion_mask_BT": "completion_mask",
    "advantages_B": "advantages",
    "n_tokens": "num_items_in_batch",
    "old_logps_BT": "old_per_token_logps",
    "ref_logps_BT": "ref_per_token_logps",
    "sampler_logps_BT": "sampling_per_token_logps",
    "sampler_ratios_BT": "importance_sampling_ratio",
    "pair_sums_B2": "pair_sums",  # ours alone: it goes with the others when rows are shuffled, and TRL does not look at it
    "kept_BT": "tool_mask",  # TRL's mask of tokens that a tool wrote, which its loss leaves out; here there are none
}


@dataclass(frozen=True)
class Batch:
    """The B completions of a generation on this process, as far as the stations have come.

    `rows`, `completions`, `texts` and `scores_BR` (NaN: a reward does not apply) go row by row. `plan`: which rows share a
    prompt, None where nothing is shared. `credits_B`: advantages that are given, of steps of episodes; None where TRL computes
    them. `filled`: rows of all processes for each that counts, where some only fill up. `of_policy`: what the policy term is
    multiplied by, where not all rows count. `tensors`: from `advantages` on.
    """

    rows: tuple[TrainingRow, ...]
    completions: tuple[Completion, ...] = ()
    plan: BatchPlan | None = None
    texts: tuple[str, ...] = ()
    scores_BR: Tensor | None = None
    credits_B: tuple[float, ...] | None = None
    filled: float = 1.0
    of_policy: float = 1.0
    tensors: Tensors | None = None

    @property
    def made(self) -> Tensors:
        """The tensors of a batch that has passed TRL."""
        assert self.tensors is not None, "the batch has not passed TRL yet"
        return self.tensors

    def with_advantages(self, advantages: Tensor) -> Batch:
        return replace(self, tensors=replace(self.made, advantages_B=advantages))

    @property
    def sample_ids(self) -> tuple[str, ...]:
        return tuple(row["sample"].id for row in self.rows)


@dataclass(frozen=True)
class BatchPart:
    """Rows that pass through the model together, and their shares of a micro-batch's loss.

    `tensors=None`: only imitated thoughts. `n_draws`: how many of these are drawn (None: as many as the rows ask for).
    `of_policy` and `of_imitation`: the shares of both terms.
    """

    tensors: Tensors | None = None
    plan: BatchPlan | None = None
    sample_ids: tuple[str, ...] = ()
    n_draws: int | None = None
    of_policy: float = 1.0
    of_imitation: float = 1.0

    @property
    def has_images(self) -> bool:
        if self.plan is not None:
            return any(group.images for group in self.plan.groups)
        pixels = None if self.tensors is None else (self.tensors.images or {}).get("pixel_values")
        return pixels is not None and pixels.numel() > 0


@dataclass(frozen=True)
class MicroBatch:
    """What one call of the loss is computed on. All parts but the last are differentiated at once, so that one part's
    activations are held; the last has rows."""

    parts: tuple[BatchPart, ...]

    @property
    def sample_ids(self) -> list[str]:
        return [name for part in self.parts for name in part.sample_ids]


LogpsAndMore = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probabilities (B, T), entropies (B, T) and an auxiliary loss, the last two where they were asked for."""


class TrainerCalls(Protocol):
    """What stations ask of the trainer that they serve; `adapter.py` answers with TRL's own methods."""

    args: Any
    state: Any
    accelerator: Any
    model: Any
    num_generations: int
    current_gradient_accumulation_steps: int

    @property
    def metrics(self) -> dict[str, list[float]]:
        """What is logged of the steps since the last log, as means."""

    @property
    def completions_log(self) -> dict[str, Any]:
        """What is logged of the completions of the latest generation, row by row, of all processes."""

    @property
    def is_training(self) -> bool: ...
    @property
    def is_sharded(self) -> bool: ...
    @property
    def policy(self) -> Any:
        """The model without its wrapper."""

    @property
    def generator(self) -> Any:
        """The model that `sample` generates with."""

    def note(self, name: str, value: float) -> None:
        """One more value of a metric; the log has their mean."""

    def say(self, line: str) -> None:
        """A line on the console, of the first process."""

    def tokenize(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """Ids, images and fields about images of prompts that hold their images."""

    def sample(self, ids: list[list[int]], images: Any, fields: dict[str, Any], n: int) -> tuple[list[list[int]], Any]:
        """A completion of each prompt, and what the sampler says of its log-probabilities. `n`: so many in a row are alike."""

    def score(self, batch: Batch) -> Tensor:
        """The rewards of a batch, those of all processes, (B of all, R); no trace in metrics and logs."""

    def plain_logps(
        self, model: Any, ids_BT: Tensor, mask_BT: Tensor, n_keep: int, batch_size: int | None = None, **fields: Any
    ) -> LogpsAndMore:
        """By TRL's own pass."""
