"""GRPO through TRL's `GRPOTrainer`: see `vlrl.trainer.grpo`."""

from vlrl.trainer.grpo import Trainer

__all__ = ["Trainer"]
