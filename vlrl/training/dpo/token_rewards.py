"""T-REG: rewards of tokens beside the preference of whole completions (`--treg_alpha`).

Source: Zhou et al. 2024 (arXiv 2412.02685): L = L_DPO + alpha w (L_reg(y_w) + L_reg(y_l)), with
L_reg(y) = -sum_t beta r_t log pi(y_t | x, y_<t), r_t in -0.5..0.5, and w = sigmoid(r(y_l) - r(y_w)), the weight that a pair has
in DPO's gradient, itself not differentiated; r(y) = beta log(pi(y|x) / pi_ref(y|x)).

differs: the paper's r_t is sigmoid(log pi(y_t | x_better) - log pi(y_t | x_worse)) - 0.5 of the start, asked by two opposite
prompts. Here it is the value of the token's step, as the rows state it, less 0.5; 0 where a row states none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlrl.data.changed_spans import TextSpan
from vlrl.data.preference_pairs import StepEnds

NO_OPINION = 0.5
"""The value of a step that speaks neither for nor against its tokens."""


def rewards_of_tokens(offsets: Sequence[TextSpan], shift: int, steps: StepEnds) -> list[float]:
    """r_t of each token: of the step that its first character is in; 0 behind the last step and outside of the completion.
    `offsets`: characters of each token in the templated text; `shift`: where the completion begins in it."""
    found, k = [], 0
    for start, _ in offsets:
        while k < len(steps) and start - shift >= steps[k][0]:
            k += 1
        value = steps[k][1] if k < len(steps) and start >= shift else None
        found.append(0.0 if value is None else value - NO_OPINION)
    return found


def treg_terms(logps_2BT: Tensor, ref_logps_2BT: Tensor, rewards_2BT: Tensor, beta: float) -> Tensor:
    """w (L_reg(y_w) + L_reg(y_l)) of each pair [B]; chosen completions first, log-probabilities 0 outside of completions."""
    chosen_B, rejected_B = (beta * (logps_2BT.detach() - ref_logps_2BT.detach())).sum(1).chunk(2)
    regular_2B = -(beta * rewards_2BT * logps_2BT).sum(1)
    first_B, second_B = regular_2B.chunk(2)
    return torch.sigmoid(rejected_B - chosen_B) * (first_B + second_B)


class SeenLogps:
    """What the policy and the reference gave while TRL computed a loss; the policy's have a gradient."""

    def __init__(self, *models: torch.nn.Module | None) -> None:
        self.policy: Tensor | None = None
        self.reference: Tensor | None = None
        self.is_on = False
        for model in models:
            if model is not None:
                model.register_forward_hook(self._see)

    def begin(self) -> None:
        self.policy = self.reference = None
        self.is_on = True

    def take(self) -> tuple[Tensor, Tensor]:
        """Both, for the latest loss."""
        assert self.policy is not None, "TRL asks the policy"
        assert self.reference is not None, "TRL asks the reference"
        found = self.policy, self.reference
        self.policy, self.reference, self.is_on = None, None, False
        return found

    def _see(self, _module: torch.nn.Module, _inputs: object, output: object) -> None:
        logps = getattr(output, "log_probs", None) if self.is_on else None
        if logps is None:
            return
        if logps.requires_grad:
            self.policy = logps
        else:
            self.reference = logps
