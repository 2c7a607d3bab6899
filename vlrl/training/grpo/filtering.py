"""Station 4, filtering: of each group only some completions are trained on (`--keep_completions`).

Source: PF-PPO (arXiv 2409.06957). Which are kept is in `vlrl.metrics.policy_filtering`. Advantages stay as they are, those over
the whole group: the completions that are left out still say what is usual for the prompt, as the critic does in the paper. They
take no part in the loss, KL included, which is the mean over those that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vlrl.data.synthetic import item_rng
from vlrl.metrics.policy_filtering import Filtering, kept_rows
from vlrl.training.grpo.batch import Batch, TrainerCalls
from vlrl.training.grpo.dynamic_sampling_rules import totals
from vlrl.training.grpo.endpoint_failures import filled_in, missing_scores

BY_ROWS = ("grpo", "sapo", "dr_grpo", "luspo")
"""Losses that TRL divides by rows; the others divide by tokens that count."""


class KeptCompletions:
    """Marks which completions of a batch count. `weights_R`: of the rewards; `lacking_R`: which of them may fail to come."""

    def __init__(
        self, engine: TrainerCalls, filtering: Filtering, weights_R: Sequence[float], lacking_R: Sequence[bool], loss_type: str
    ) -> None:
        self.engine, self.filtering, self.loss_type = engine, filtering, loss_type
        self.weights_R, self.lacking_R = np.asarray(weights_R, dtype=float), list(lacking_R)
        self._draws = (-1, 0)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `kept_BT`, 0 on each token of a completion that is left out, and its loss divided by what is kept.
        Every process calls this, and decides alike from the rewards of all."""
        assert batch.scores_BR is not None, "rewards were scored"
        made, gather = batch.made, self.engine.accelerator.gather
        rewards_BR = gather(batch.scores_BR.to(made.advantages_B.device).contiguous()).cpu()
        keep_B = self.of_rewards(rewards_BR)
        start = int(self.engine.accelerator.process_index) * len(batch.rows)
        own_B = keep_B[start : start + len(batch.rows)].to(made.completion_mask_BT.device)
        kept_BT = own_B[:, None].to(made.completion_mask_BT.dtype).expand_as(made.completion_mask_BT).contiguous()
        n_tokens = gather((made.completion_mask_BT * kept_BT).sum()).sum()
        self._note(keep_B)
        of_policy = len(keep_B) / max(1, int(keep_B.sum())) if self.loss_type in BY_ROWS else 1.0
        return replace(batch, of_policy=of_policy, tensors=replace(made, kept_BT=kept_BT, n_tokens=n_tokens))

    def of_rewards(self, rewards_BR: torch.Tensor) -> torch.Tensor:
        """Which of all completions (B of all processes, groups adjacent) are kept. A score that failed to come stands at its
        group's mean."""
        group = self.engine.num_generations
        filled_BR = filled_in(rewards_BR, missing_scores(rewards_BR, self.lacking_R, group), group)
        paid_B = totals(filled_BR.double().numpy(), self.weights_R)
        key = self._key()
        found: list[bool] = []
        for number in range(len(paid_B) // group):
            own = paid_B[number * group : (number + 1) * group].tolist()
            found += kept_rows(own, self.filtering, item_rng("kept completions", *key, number))
        return torch.tensor(found)

    def _key(self) -> tuple[int, int, int]:
        """What is drawn with: seed, step, and the how manieth generation of the step this is."""
        step = int(self.engine.state.global_step)
        self._draws = (step, self._draws[1] + 1 if self._draws[0] == step else 0)
        return (int(self.engine.args.seed), *self._draws)

    def _note(self, keep_B: torch.Tensor) -> None:
        """How many are kept and their mean advantage, and each of them in the completions log."""
        logs = self.engine.completions_log
        advantages = list(logs["advantages"])[-len(keep_B) :]
        chosen = [one for one, keep in zip(advantages, keep_B.tolist(), strict=True) if keep]
        self.engine.note("kept/share", len(chosen) / len(keep_B))
        if chosen:
            self.engine.note("kept/advantage", sum(chosen) / len(chosen))
        logs["extra"]["kept"] = keep_B.tolist()
