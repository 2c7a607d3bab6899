"""Sets of samples that are too large to be checked as a whole before training: some rows are, the others when they are used."""

from __future__ import annotations

from collections.abc import Callable

from vlrl.data.sample_sets import SampleSet
from vlrl.models.inputs import check_samples, measured, messages, n_shown
from vlrl.models.load import ModelInputs
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.schema import Sample, SampleError
from vlrl.tasks.rubric import Rubric
from vlrl.training.config import Config

N_LOOKED_AT = 2_000
"""How many rows of a large set are looked at before training."""


def some_of(rows: SampleSet, seed: int) -> SampleSet:
    """The samples of a set that are looked at before training: all, or some of a large set, drawn by seed."""
    return rows.drawn(N_LOOKED_AT, seed) if rows.is_large else rows


def checked_when_used(
    config: Config, rows: SampleSet, loaded: ModelInputs, rubric: Rubric | None, most: tuple[int | None, str]
) -> Callable[[int], Sample]:
    """Rows of a large set by number, each checked as those of a small one are before training. `most`: the most tokens of a
    prompt, and why. The function raises SampleError."""
    layout, box_format = config.layout
    limit, why = most
    lengths, where = PromptLengths(loaded.processor), str(config.run.data)

    def get(i: int) -> Sample:
        sample = rows[i]
        (sample,) = check_samples([sample], config.tasks, loaded, where, answer_format=layout, box_format=box_format)
        if rubric is not None and not any(rubric.applies(reward, sample) for reward in rubric.rewards):
            raise SampleError(f"{where} (id {sample.id!r}): no reward of this run applies to it")
        if limit is not None:
            n = lengths.tokens_over(limit, messages(sample, config.tasks, n_shown(sample)), measured(sample))
            if n is not None:
                raise SampleError(f"{where} (id {sample.id!r}): its prompt has {n:,} tokens, more than {limit:,} ({why})")
        return sample

    return get
