"""For `check --model_name_or_path`: whether a model can be trained on the rows, asked as training asks. Its weights stay where
they are. Not here: what no model is needed for (`vlrl.bench.check`)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

from vlrl.bench.video_flags import reading_of
from vlrl.models.inputs import check_samples, messages, n_shown
from vlrl.models.load import ModelInputs, load_inputs
from vlrl.models.prompt_lengths import PromptLengths, context_length
from vlrl.schema import Sample, SampleError, Task

MAX_COMPLETION_LENGTH = 256
"""TRL's default: what a prompt must leave of the context where `--max_prompt_length` is not given."""


@dataclass
class ModelCheck:
    """The rows that a model has been asked about. `where`: the file, as messages name it."""

    inputs: ModelInputs
    tasks: Mapping[str, Task]
    where: str
    limit: int | None
    lengths: PromptLengths
    ready: list[Sample] = field(default_factory=list)

    def problem(self, sample: Sample) -> str | None:
        """Why this model cannot be trained on a row, in training's words with file and id, or None."""
        try:
            self.ready += check_samples([sample], self.tasks, self.inputs, self.where, lengths=self.lengths)
        except SampleError as error:
            return str(error)
        return None

    def overlong(self) -> list[str]:
        """The rows whose prompts are too long, in the order of the file."""
        if self.limit is None:
            return []
        found = self.lengths.longer_than(self.limit, lambda i: messages(self.ready[i], self.tasks, n_shown(self.ready[i])))
        return [
            f"{self.where} (id {self.ready[i].id!r}): its prompt has {n:,} tokens, the most are {self.limit:,}"
            for i, n in found.items()
        ]


def model_check(args: argparse.Namespace, tasks: Mapping[str, Task]) -> ModelCheck:
    """The check by the model that flags name. Raises ModelError."""
    limits = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    inputs = load_inputs(args.model_name_or_path, videos=reading_of(args), **limits)
    context = context_length(inputs.config)
    limit = args.max_prompt_length or (None if context is None else context - MAX_COMPLETION_LENGTH)
    return ModelCheck(inputs, tasks, str(args.data), limit, PromptLengths(inputs.processor))
