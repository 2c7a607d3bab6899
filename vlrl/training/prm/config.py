"""A resolved run of `--task prm` or `--task rm`: our options, transformers' `TrainingArguments` and TRL's `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig  # type: ignore[attr-defined]

from vlrl.training.command_line import read_prm_words
from vlrl.training.config import parse_words, refuse_unsupported, with_values, without_token
from vlrl.training.flags import with_underscores
from vlrl.training.options import RunConfig
from vlrl.training.prm.options import PrmOptions
from vlrl.training.reward_models.options import RmOptions

FULL_LEARNING_RATE, ADAPTER_LEARNING_RATE = 1e-5, 1e-4


@dataclass(frozen=True)
class PrmRun:
    """One resolved run; `training` stands where other tasks have GRPO's arguments."""

    run: RunConfig
    prm: PrmOptions
    rm: RmOptions
    training: TrainingArguments
    model: ModelConfig
    sources: tuple[str, ...]
    values: dict[str, Any]
    """Everything that was set, by a file or on the command line; as YAML it gives the same run again."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the run sets in the environment of its process; it may hold a token."""

    def with_arguments(self, **values: Any) -> PrmRun:
        """The same run with other values of transformers' options; this one stays as it is."""
        return replace(self, training=with_values(self.training, **values))


def parse_prm(argv: Sequence[str]) -> PrmRun:
    """Resolve a command line. Raises ConfigError."""
    words = with_underscores(argv)
    parsed = parse_words(words, read_prm_words(words), (RunConfig, PrmOptions, RmOptions, TrainingArguments, ModelConfig))
    run, prm, rm, training, model = parsed.parts
    refuse_unsupported(training)
    training, token = without_token(training)
    if "learning_rate" not in parsed.values:
        training = with_values(training, learning_rate=ADAPTER_LEARNING_RATE if model.use_peft else FULL_LEARNING_RATE)
    environment = {**parsed.files.environment, **token}
    return PrmRun(run, prm, rm, training, model, parsed.files.sources, parsed.values, environment)
