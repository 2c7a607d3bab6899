"""The options about prompts that are too long. No torch. Not here: measuring them (`vlrl.models.prompt_lengths`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vlrl.training.options import ConfigError


@dataclass(frozen=True)
class PromptConfig:
    """The options of a run about the length of its prompts."""

    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a prompt, those of its images included. Default: what the model's context leaves beside"
            " max_completion_length."
        },
    )
    overlong_prompts: Literal["refuse", "skip"] = field(
        default="refuse", metadata={"help": "Longer prompts: refuse names the first of them and stops, skip leaves them out."}
    )


def check_prompts(options: PromptConfig) -> None:
    """Raises ConfigError."""
    if options.max_prompt_length is not None and options.max_prompt_length < 1:
        raise ConfigError(f"--max_prompt_length {options.max_prompt_length}: must be at least 1")
    if options.overlong_prompts not in ("refuse", "skip"):
        raise ConfigError(f"--overlong_prompts {options.overlong_prompts}: must be one of refuse, skip")
