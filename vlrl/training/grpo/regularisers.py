"""Terms of the loss on log-probabilities that TRL has computed already: the χ² divergence to the reference, and the policy term
of P3O in the place of TRL's. Each is a pure function of small tensors and a class that calls it in a run.

Sources: Laidlaw et al., Correlated Proxies, ICLR 2025 (arXiv 2403.03185) and its released code for language models
(`use_sqrt_chi2`, `regularize_in_loss`); Wu et al., Pairwise Proximal Policy Optimization (arXiv 2310.00212).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch

from vlrl.training.grpo.batch import BatchPart, TrainerCalls

LOG_RATIO_CLIP = 10.0
"""Beyond it ratios go on as straight lines, as in the released code."""
LEAST_CHI2 = 1e-4
"""The estimate under the root is at least this: at 0 a root has no gradient. As in the released code."""


class LogprobLoss(Protocol):
    """A term on the log-probabilities (B, T) of a part, which has just passed through the model; it adds no pass of its own."""

    replaces_policy: bool
    """Whether TRL's policy term counts for nothing beside it; TRL's KL and entropy bonus do."""

    def __call__(self, logps_BT: torch.Tensor, part: BatchPart) -> torch.Tensor:
        """The term, weighed and divided as TRL's loss is."""


def expm1_clipped(log_ratio_B: torch.Tensor, clip: float = LOG_RATIO_CLIP) -> torch.Tensor:
    """exp(x) - 1 up to `clip`, its tangent beyond."""
    beyond_B = math.exp(clip) * (1 + log_ratio_B - clip) - 1
    return torch.where(log_ratio_B >= clip, beyond_B, torch.expm1(log_ratio_B.clamp(max=clip)))


def chi2_terms(logps_BT: torch.Tensor, ref_logps_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Of each completion (B,): r - 1 + 1/r - 1 with r = π(y|x) / π_ref(y|x) of the whole completion; 0 where both agree, else
    above 0.

    For y drawn from π its mean is χ²(π‖π_ref) = E_π[r] - 1: the second half, whose expectation is 0, takes the spread away.
    Differentiated as it stands, as in the released code: a gradient of half that of χ² and that of KL(π_ref‖π).
    """
    log_ratio_B = ((logps_BT - ref_logps_BT) * mask_BT).sum(1)
    return expm1_clipped(log_ratio_B) + expm1_clipped(-log_ratio_B)


def sqrt_chi2(terms_B: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """√χ² with the gradient of this process' share: `terms_B` are its own, `mean` that of all processes' (no gradient). The
    paper's objective J(π) - λ √χ² has the root, so that the coefficient has the unit of a reward."""
    root = mean.clamp(min=LEAST_CHI2).sqrt()
    own = terms_B.mean()
    moves = (mean > LEAST_CHI2).to(own.dtype)  # the clamp of the released code has no gradient below
    return root + moves * (own - own.detach()) / (2 * root)


class Chi2:
    """`--chi2_coef`: the coefficient times √χ² of each micro-batch of all processes."""

    replaces_policy = False

    def __init__(self, engine: TrainerCalls, coef: float) -> None:
        self.engine, self.coef = engine, coef

    def __call__(self, logps_BT: torch.Tensor, part: BatchPart) -> torch.Tensor:
        assert part.tensors is not None, "only called for parts with rows"
        assert part.tensors.ref_logps_BT is not None, "the adapter asks TRL for them"
        terms_B = chi2_terms(logps_BT, part.tensors.ref_logps_BT, part.tensors.completion_mask_BT)
        mean = self.engine.accelerator.reduce(terms_B.detach().mean(), reduction="mean")
        self.engine.note("chi2", float(mean))
        return self.coef * sqrt_chi2(terms_B, mean) / self.engine.current_gradient_accumulation_steps


def pair_sums(advantages_B: torch.Tensor, group: int) -> torch.Tensor:
    """Of each completion the sums of its positive and its negative differences to the others of its group, over G - 1: (B, 2).

    `advantages_B`: of whole adjacent groups. A difference of two advantages of a group is that of their rewards, over the
    group's spread with `--scale_rewards group`.
    """
    groups_NG = advantages_B.view(-1, group)
    gaps_NGG = groups_NG[:, :, None] - groups_NG[:, None, :]
    sums = [gaps_NGG.clamp(min=0).sum(2), gaps_NGG.clamp(max=0).sum(2)]
    return torch.stack([one.flatten() for one in sums], 1) / max(1, group - 1)


def p3o_loss(
    logps_BT: torch.Tensor,
    old_logps_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    sums_B2: torch.Tensor,
    low: float,
    high: float,
) -> torch.Tensor:
    """P3O with separate clipping, the mean over completions i of the mean over the others j of their group of
    -min(ρ_i (r_i - r_j), clip(ρ_i, 1 - low, 1 + high) (r_i - r_j)), ρ_i = π(y_i|x) / π_old(y_i|x) of the whole completion.

    At ρ = 1 its gradient is that of the pairwise policy gradient, -½ (r_i - r_j) ∇(log π(y_i|x) - log π(y_j|x)) over all pairs.
    A reward that is shifted by a function of the prompt gives the same loss. `sums_B2`: of `pair_sums`; as the clipping looks
    at one completion at a time, it is enough to know how much a completion gains and loses against all others.
    """
    log_ratio_B = ((logps_BT - old_logps_BT) * mask_BT).sum(1)
    ratio_B = log_ratio_B.exp()
    clipped_B = ratio_B.clamp(1 - low, 1 + high)
    gains_B, losses_B = sums_B2.unbind(1)
    return -(torch.min(ratio_B, clipped_B) * gains_B + torch.max(ratio_B, clipped_B) * losses_B).mean()


class Pairwise:
    """`--pairwise`: P3O's term, of whole completions, in the place of TRL's policy term. `clip`: `--epsilon` and
    `--epsilon_high`."""

    replaces_policy = True

    def __init__(self, engine: TrainerCalls, clip: tuple[float, float]) -> None:
        self.engine, self.clip = engine, clip

    def __call__(self, logps_BT: torch.Tensor, part: BatchPart) -> torch.Tensor:
        assert part.tensors is not None, "only called for parts with rows"
        tensors = part.tensors
        assert tensors.pair_sums_B2 is not None, "set where advantages are"
        old_BT = logps_BT.detach() if tensors.old_logps_BT is None else tensors.old_logps_BT
        loss = p3o_loss(logps_BT, old_BT, tensors.completion_mask_BT, tensors.pair_sums_B2, *self.clip)
        return loss / self.engine.current_gradient_accumulation_steps


def without_policy(part: BatchPart) -> dict[str, Any]:
    """A part as TRL takes it, with advantages of 0: its KL, entropy bonus and logs remain, its policy term is 0."""
    assert part.tensors is not None
    return replace(part.tensors, advantages_B=torch.zeros_like(part.tensors.advantages_B)).as_trl()


def with_terms(
    part: BatchPart, terms: tuple[LogprobLoss, ...], trls: Callable[[dict[str, Any]], tuple[torch.Tensor, torch.Tensor | None]]
) -> torch.Tensor:
    """TRL's loss of a part and the terms beside it. `trls`: TRL's loss, and the log-probabilities that it was computed from."""
    assert part.tensors is not None
    replaced = any(term.replaces_policy for term in terms)
    loss, logps_BT = trls(without_policy(part) if replaced else part.tensors.as_trl())
    for term in terms:
        assert logps_BT is not None, "TRL computes them in each loss"
        loss = loss + term(logps_BT, part)
    return loss
