"""A resolved run of `--stage dpo`: our options beside TRL's `DPOConfig` and `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trl import DPOConfig, ModelConfig  # type: ignore[attr-defined]

from vlrl.training.command_line import read_dpo_words
from vlrl.training.config import parse_words, refuse_unsupported, with_values, without_token
from vlrl.training.dpo.options import DpoOptions
from vlrl.training.flags import with_underscores
from vlrl.training.options import RunConfig

FULL_DPO_RATE, ADAPTER_DPO_RATE = 5e-7, 5e-6


@dataclass(frozen=True)
class DpoRun:
    """One resolved run; `training` stands where other stages have GRPO's arguments."""

    run: RunConfig
    dpo: DpoOptions
    training: DPOConfig
    model: ModelConfig
    sources: tuple[str, ...]
    values: dict[str, Any]
    """Everything that was set, by a file or on the command line; as YAML it gives the same run again."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the run sets in the environment of its process; it may hold a token."""

    def with_arguments(self, **values: Any) -> DpoRun:
        """The same run with other values of TRL's options; this one stays as it is."""
        return replace(self, training=with_values(self.training, **values))


def parse_dpo(argv: Sequence[str]) -> DpoRun:
    """Resolve a command line. Raises ConfigError."""
    words = with_underscores(argv)
    parsed = parse_words(words, read_dpo_words(words), (RunConfig, DpoOptions, DPOConfig, ModelConfig))
    run, dpo, training, model = parsed.parts
    refuse_unsupported(training)
    training, token = without_token(training)
    if "learning_rate" not in parsed.values:
        training = with_values(training, learning_rate=ADAPTER_DPO_RATE if model.use_peft else FULL_DPO_RATE)
    environment = {**parsed.files.environment, **token}
    return DpoRun(run, dpo, training, model, parsed.files.sources, parsed.values, environment)
