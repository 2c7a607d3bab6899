"""Rewards that hold models, for the commands that score text: torch is imported where there is one, and not before."""

from __future__ import annotations

from collections.abc import Sequence

from vlrl.schema import Reward


def with_models_here(rewards: Sequence[Reward]) -> tuple[Reward, ...]:
    """The rewards with their models loaded, on the GPU where there is one. Raises ValueError in one line."""
    if not any("model" in reward.needs for reward in rewards):
        return tuple(rewards)
    import torch

    from vlrl.training.reward_models.door import holding

    return holding(rewards, "cuda" if torch.cuda.is_available() else "cpu")
