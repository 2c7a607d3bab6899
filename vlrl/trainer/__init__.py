"""GRPO through TRL's `GRPOTrainer`: see `vlrl.trainer.grpo`."""

from vlrl.trainer.episodes import Curriculum
from vlrl.trainer.grpo import Trainer
from vlrl.trainer.guided import Guide

__all__ = ["Curriculum", "Guide", "Trainer"]
