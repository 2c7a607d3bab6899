"""Dynamic sampling (DAPO, arXiv 2503.14476): zero-variance groups (equal rewards, no gradient) are replaced."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages

from vlrl.schema import Score
from vlrl.training.grpo.dynamic_sampling_rules import fresh_indices, n_fresh, totals, without_spread
from vlrl.training.grpo.shared_logprobs import SharedGroups


@dataclass(frozen=True)
class GeneratedRow:
    """One generated completion. `logprobs`: the sampler's own, from backends that report them."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float] | None


class FreshGroups(SharedGroups):
    """`SharedGroups` that replaces groups of equal rewards, for at most `_max_rounds` more rounds of generation a batch.

    `_verdicts`: the scores of rewards that wait for a network, shared by all processes while `_shares_verdicts` is true.
    """

    _max_rounds = 0
    _verdicts: dict[str, Score | list[Score]]
    _shares_verdicts = False

    def _start_sampling(self, max_rounds: int) -> None:
        self._max_rounds = max_rounds
        self._draws = (-1, 0)
        self._handed: list[tuple[dict[str, Any], GeneratedRow]] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own, on a batch in which groups without spread have been replaced."""
        if self._max_rounds and self.model.training:
            inputs = self._with_spread(list(inputs))
        return super()._generate_and_score_completions(inputs)

    def _with_spread(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Generate and score `inputs` (this process' rows), then replace groups of equal rewards by groups of fresh
        samples that have a spread, for at most `dynamic_sampling` rounds. Returns the rows to train on.

        Every process decides alike from the rewards of all, and generates equally many rows a round. What was generated
        is handed to TRL's own method, which pads, scores and logs it as it would without: its metrics and the completions
        log describe what is trained on, `dynamic_sampling/drawn_reward` what was drawn first.
        """
        group, rank = self.num_generations, self.accelerator.process_index
        self._verdicts.clear()
        rows, rewards_BR = self._draw(inputs)
        empty = self._groups_without_spread(rewards_BR)
        n_empty, n_rounds, open_row = len(empty), 0, cache(self.train_dataset.__getitem__)
        used = set(gather_object([row["index"] for row in inputs])) if empty else set()
        n_draws = self._draws[1] + 1 if self._draws[0] == self.state.global_step else 0
        self._draws = (self.state.global_step, n_draws)
        earned = totals(rewards_BR, self.reward_weights.numpy())
        self._log_drawn("drawn_reward", math.nan if np.isnan(earned).all() else float(np.nanmean(earned)))
        while empty and n_rounds < self._max_rounds:
            n_rounds += 1
            n = n_fresh(len(empty), group, len(inputs), self.accelerator.num_processes)
            fresh = fresh_indices(len(self.train_dataset), used, n, self.args.seed, *self._draws, n_rounds)
            used.update(fresh)
            n_mine = n * group // self.accelerator.num_processes
            mine = [fresh[i // group] for i in range(rank * n_mine, (rank + 1) * n_mine)]
            drawn, rewards_BR = self._draw([open_row(i) for i in mine])
            everyone = gather_object(drawn)
            dull = set(self._groups_without_spread(rewards_BR))
            good = [i for i in range(n) if i not in dull][: len(empty)]
            for place, source in zip(empty, good, strict=False):
                for k in range(group):
                    row = place * group + k - rank * len(inputs)
                    if 0 <= row < len(inputs):
                        inputs[row], rows[row] = open_row(fresh[source]), everyone[source * group + k]
            empty = empty[len(good) :]
        for name, value in (("rounds", n_rounds), ("replaced", n_empty - len(empty)), ("left", len(empty))):
            self._log_drawn(name, value)
        self._handed = list(zip(inputs, rows, strict=True))
        return inputs

    def _draw(self, inputs: list[dict[str, Any]]) -> tuple[list[GeneratedRow], np.ndarray]:
        """One completion for each row, and the rewards of all processes' rows; leaves no trace in metrics and logs."""
        self._agree_on_images(inputs)
        self._rows = inputs
        prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in inputs]
        n_tokens, metrics = self.state.num_input_tokens_seen, self._metrics
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        prompt_ids, ids, _, completions, logprobs, *_ = self._generate(prompts)
        rewards_BR = self._calculate_rewards(inputs, prompts, completions, ids)
        self.state.num_input_tokens_seen, self._metrics = n_tokens, metrics
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        if self._shares_verdicts:
            for verdicts in gather_object([dict(self._verdicts)]):
                self._verdicts.update(verdicts)
        rows = zip(prompt_ids, ids, logprobs or [None] * len(ids), strict=True)
        return [GeneratedRow(*row) for row in rows], rewards_BR.cpu().double().numpy()

    def _groups_without_spread(self, rewards_BR: np.ndarray) -> list[int]:
        each = self.multi_objective_aggregation == "normalize_then_sum"
        return without_spread(rewards_BR, self.reward_weights.numpy(), self.num_generations, each)

    def _log_drawn(self, name: str, value: float) -> None:
        self._metrics["train"][f"dynamic_sampling/{name}"].append(value)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        if self._handed is None or self._may_share():
            return super()._tokenize_prompts(prompts)
        images = [row["images"] or None for row, _ in self._handed]
        return [row.prompt_ids for _, row in self._handed], images if any(images) else None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        if self._handed is None:
            return super()._generate_single_turn(*args, **kwargs)
        rows = [row for _, row in self._handed]
        self._handed = None
        return [row.ids for row in rows], None if rows[0].logprobs is None else [row.logprobs for row in rows]
