"""GRPO fine-tuning of vision-language models on answers that can be verified."""

__version__ = "0.1.0"
