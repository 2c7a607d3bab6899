"""GRPO through TRL's `GRPOTrainer`: see `vlrl.training.grpo.trainer`."""

from vlrl.training.grpo.corrections import Guide
from vlrl.training.grpo.episodes import Curriculum
from vlrl.training.grpo.trainer import Trainer

__all__ = ["Curriculum", "Guide", "Trainer"]
