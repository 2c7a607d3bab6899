"""Station 6, logprobs: log-probabilities of completions, by the packed pass where rows share prompts, else by TRL's own.

TRL asks for them three times: before the first update, of the reference model, and in the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.models.prefix_sharing.row_plans import plan_rows
from vlrl.models.prefix_sharing.step import BatchPlan, Disagreement
from vlrl.training.grpo.batch import LogpsAndMore, TrainerCalls
from vlrl.training.grpo.mixed_modality import asked_for, in_row_order, logps_of_mixed_rows
from vlrl.training.grpo.rollout import GroupSharing


class Logprobs:
    """Compares both ways once for each model, and stops sharing where they differ by more than rounding."""

    def __init__(self, engine: TrainerCalls, sharing: GroupSharing) -> None:
        self.engine, self.sharing = engine, sharing
        self._compared: set[tuple[int, bool]] = set()

    def __call__(
        self,
        plan: BatchPlan | None,
        model: Any,
        ids_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        n_keep: int,
        batch_size: int | None = None,
        **fields: Any,
    ) -> LogpsAndMore:
        """Of the last `n_keep` columns, `batch_size` rows at a time. `fields`: TRL's about images, and what else it asks for;
        those about images are empty where there is a plan."""
        how = self.sharing.how
        if plan is None and self.sharing.by_row and how.off is None:
            plan = self._plan_of_rows(ids_BT, mask_BT, n_keep, fields)
        if plan is None:
            return self.plain(model, ids_BT, mask_BT, n_keep, batch_size, **fields)
        whole_rows = bool(fields.get("compute_aux_loss"))
        trains = (id(model), torch.is_grad_enabled())
        if how.off is None and not whole_rows and trains not in self._compared:
            self._compared.add(trains)
            self._compare(model, ids_BT, mask_BT, n_keep, plan)
        if whole_rows or how.off is not None or "packed" in how.without:
            own = asked_for(fields) | self.sharing.plain_fields(plan, ids_BT)
            return self.plain(model, ids_BT, mask_BT, n_keep, batch_size, **own)
        entropy = bool(fields.get("compute_entropy"))
        made = [
            (rows, (*how.logps(model, ids_BT[rows], mask_BT[rows], n_keep, part, entropy), None))
            for rows, part in plan.parts(range(len(plan.groups)), batch_size or plan.n_rows)
        ]
        return in_row_order(made)

    def plain(self, *args: Any, **fields: Any) -> LogpsAndMore:
        """TRL's own, for text and images in one batch."""
        return logps_of_mixed_rows(self.engine.plain_logps, *args, **fields)

    def of_rows(
        self, model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_keep: int, fields: dict[str, Any]
    ) -> torch.Tensor:
        """Log-probabilities (B, n_keep) of rows that are no groups, packed where the run packs; without a collective."""
        how = self.sharing.how
        plan = None if how.off is not None else self._plan_of_rows(ids_BT, mask_BT, n_keep, fields)
        if plan is None or "packed" in how.without:
            return self.plain(model, ids_BT, mask_BT, n_keep, **fields)[0]
        logps_BT: torch.Tensor = how.logps(model, ids_BT, mask_BT, n_keep, plan, False)[0]
        return logps_BT

    def _plan_of_rows(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_keep: int, fields: Any) -> BatchPlan | None:
        """A plan for rows as TRL lays them out, or None where there can be none."""
        try:
            return plan_rows(self.engine.policy, ids_BT, mask_BT, n_keep, fields)
        except NotShared as error:
            self.sharing.fall_back(str(error))
            return None

    def _compare(self, model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, n_keep: int, plan: BatchPlan) -> None:
        """Compute one group both ways; all processes stop sharing where one of them sees more than rounding."""

        def plain_logps(model: Any, ids: torch.Tensor, mask: torch.Tensor, plan: BatchPlan, at_once: int) -> torch.Tensor:
            return self.plain(model, ids, mask, n_keep, at_once, **self.sharing.plain_fields(plan, ids))[0] * mask[:, -n_keep:]

        try:
            found = self.sharing.how.disagreement(model, ids_BT, mask_BT, n_keep, plan, plain_logps)
        except RuntimeError as error:  # a kernel this machine lacks; TRL's way meets what is wrong with the batch itself
            found = Disagreement(failure=f"{type(error).__name__}: {error}")
        worst = max(gather_object([found]), key=lambda one: one.excess)
        if worst.excess > 1:
            self.sharing.fall_back(str(worst), "from here on all batches are computed TRL's way, which is slower")
            self.sharing.how.off = str(worst)
