"""Station 2, scores: rewards as functions that TRL calls, which remember what they gave.

Not here: what a reward is (`vlrl.rewards`), and which of them score which rows (`vlrl.tasks.rubric`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from vlrl.models.load import LoadedModel
from vlrl.rewards import as_trl
from vlrl.schema import Reward, Sample, Score
from vlrl.training.checkpoints import RunStopped
from vlrl.training.finite import LARGEST
from vlrl.training.grpo.dynamic_sampling_rules import remembering
from vlrl.training.progress import shown_text
from vlrl.training.reward_models.door import model_seconds

Verdicts = dict[str, Score | list[Score]]


class RewardFunctions:
    """`functions` for TRL's `reward_funcs`, one a reward. Completions that hold a banned token end the run (RunStopped).

    `verdicts`: earlier scores of rewards that wait for a network, which are then not asked again; None: ask each time. Rows
    that bring their scores along (a column `scores`: of each row one number a reward) are not scored.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        loaded: LoadedModel,
        banned: Collection[int],
        *,
        ends: Callable[[], Collection[int]],
        base: Reward | None = None,
        applies: Callable[[Reward, Sample], bool] | None = None,
        verdicts: Verdicts | None = None,
    ) -> None:
        self.rewards, self.verdicts = list(rewards), verdicts
        self.tokenizer, self.banned, self._ends = loaded.tokenizer, frozenset(banned), ends
        self._texts: tuple[str, ...] = ()
        self._columns: list[list[float | None]] = []
        self._scores: list[list[Score]] = []
        self.functions = [self._column(i, reward, base, applies) for i, reward in enumerate(self.rewards)]

    def _column(
        self, index: int, reward: Reward, base: Reward | None, applies: Callable[[Reward, Sample], bool] | None
    ) -> Callable[..., list[float | None]]:
        remembers = self.verdicts is not None and "network" in reward.needs
        scoring = remembering(reward, self.verdicts) if remembers and self.verdicts is not None else reward
        on, where = base if "base" in reward.needs else None, None if applies is None else partial(applies, reward)
        own = as_trl(scoring, on, where, lambda scores: self._scores.append(scores))

        def function(*, scores: Sequence[Sequence[float]] | None = None, **columns: Any) -> list[float | None]:
            if index == 0:
                self._begin(columns)
            started = model_seconds(reward)
            found: list[float | None] = own(**columns) if scores is None else [row[index] for row in scores]
            if "model" in reward.needs:
                columns["log_metric"](f"rewards/{reward.name}/seconds", model_seconds(reward) - started)
            self._columns.append(found)
            return found

        function.__name__ = reward.name
        return function

    def _begin(self, columns: Mapping[str, Any]) -> None:
        """Before the first reward: look at the completions, and note what the completions log says of each."""
        samples, ids = columns["sample"], columns["completion_ids"]
        for sample, own in zip(samples, ids, strict=True):
            if sampled := self.banned.intersection(own):
                words = self.tokenizer.convert_ids_to_tokens(sorted(sampled))
                raise RunStopped(
                    f"a completion of sample {sample.id!r} holds vision tokens {words}; they are banned from"
                    " sampling, so the generation backend ignored the ban"
                )
        self._texts, self._columns = tuple(shown_text(one) for one in columns["completions"]), []
        self._scores = []
        log, ends = columns["log_extra"], self._ends()
        log("id", [sample.id for sample in samples])
        log("truncated", [not own or own[-1] not in ends for own in ids])
        log("n_tokens", [len(own) for own in ids])

    def take_scores(self) -> list[list[Score | None]]:
        """What `take` gives as numbers, with reasons and credits: row by row, one a reward; [] where rows brought theirs."""
        found, self._scores = self._scores, []
        return [list(row) for row in zip(*found, strict=True)]

    def take(self) -> tuple[tuple[str, ...], torch.Tensor]:
        """The texts that were scored last, and their rewards (B, R), NaN where one does not apply."""
        texts, columns = self._texts, self._columns
        self._texts, self._columns = (), []
        rows = [[float("nan") if value is None else value for value in column] for column in columns]
        return texts, torch.tensor(rows, dtype=torch.float32).T.contiguous()


def too_large(scores_BR: torch.Tensor, weights_R: torch.Tensor) -> list[tuple[int, int]]:
    """Row and reward of those that are infinite in 32 bits or whose square would be. NaN stands for "does not apply"."""
    found_BR = (scores_BR * weights_R.to(scores_BR.device)).abs() > LARGEST
    return [(int(row), int(column)) for row, column in found_BR.nonzero().tolist()] if bool(found_BR.any()) else []
