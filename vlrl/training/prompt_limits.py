"""How long the prompts of a run may be."""

from __future__ import annotations

from vlrl.models.load import ModelInputs
from vlrl.models.prompt_lengths import context_length
from vlrl.training.config import Config
from vlrl.training.options import ConfigError


def prompt_limit(config: Config, loaded: ModelInputs) -> tuple[int | None, str]:
    """The most tokens of a prompt, and why: `--max_prompt_length`, or what the model's context leaves beside a completion; None
    where neither is known. Raises ConfigError where a prompt and a completion of these lengths exceed the context."""
    context, most, asked = context_length(loaded.config), config.max_tokens, config.prompts.max_prompt_length
    if context is not None and most + (asked or 1) > context:
        also = f" and --max_prompt_length {asked:,}" if asked else ""
        raise ConfigError(
            f"--max_completion_length {most:,}{also}: the context of {loaded.name} is {context:,} tokens, prompt and completion"
            " together; lower them"
        )
    if asked is not None:
        return asked, "--max_prompt_length"
    if context is None:
        return None, ""
    return context - most, f"the model's context of {context:,} tokens less --max_completion_length {most:,}"
