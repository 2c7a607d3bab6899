"""Station 3, resample: dynamic sampling (DAPO, arXiv 2503.14476). Zero-variance groups (equal rewards, no gradient) are
replaced by groups of fresh samples. The rules are in `dynamic_sampling_rules.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from accelerate.utils import gather_object

from vlrl.training.grpo.batch import Batch, Completion, TrainerCalls, TrainingRow
from vlrl.training.grpo.dynamic_sampling_rules import fresh_indices, n_fresh, totals, without_spread
from vlrl.training.grpo.scores import Verdicts


class Resample:
    """Replaces groups of equal rewards, for at most `max_rounds` more rounds of generation a batch.

    `write`: a batch of rows -> with completions; `plan`: the same for its plan alone. `open_row`: a row of the training set of
    `n_samples`. `weights_R`, `each`: how rewards count, and whether each must be equal by itself. `verdicts`: of rewards that
    wait for a network; all processes share theirs.
    """

    def __init__(
        self,
        engine: TrainerCalls,
        max_rounds: int,
        *,
        write: Callable[[Batch], Batch],
        plan: Callable[[Batch], Batch],
        open_row: Callable[[int], TrainingRow],
        n_samples: int,
        weights_R: np.ndarray,
        each: bool,
        verdicts: Verdicts | None,
    ) -> None:
        self.engine, self.max_rounds = engine, max_rounds
        self.write, self.plan, self.open_row, self.n_samples = write, plan, open_row, n_samples
        self.weights_R, self.each, self.verdicts = weights_R, each, verdicts
        self._draws = (-1, 0)

    def __call__(self, batch: Batch) -> Batch:
        """Generate and score the rows, then replace groups without spread. The completions to train on.

        Every process decides alike from the rewards of all, and generates equally many rows a round. What TRL logs describes
        what is trained on, `dynamic_sampling/drawn_reward` what was drawn first.
        """
        group, rank, n_local = self.engine.num_generations, self.engine.accelerator.process_index, len(batch.rows)
        if self.verdicts is not None:
            self.verdicts.clear()
        batch, rewards_BR = self._draw(batch)
        rows, made = list(batch.rows), list(batch.completions)
        empty = self._groups_without_spread(rewards_BR)
        n_empty, n_rounds, open_row = len(empty), 0, cache(self.open_row)
        used = set(gather_object([row["index"] for row in rows])) if empty else set()
        key = self._key()
        earned = totals(rewards_BR, self.weights_R)
        self.engine.note("dynamic_sampling/drawn_reward", math.nan if np.isnan(earned).all() else float(np.nanmean(earned)))
        n_processes = self.engine.accelerator.num_processes
        while empty and n_rounds < self.max_rounds:
            n_rounds += 1
            n = n_fresh(len(empty), group, n_local, n_processes)
            fresh = fresh_indices(self.n_samples, used, n, *key, n_rounds)
            used.update(fresh)
            n_mine = n * group // n_processes
            mine = [fresh[i // group] for i in range(rank * n_mine, (rank + 1) * n_mine)]
            drawn, rewards_BR = self._draw(Batch(tuple(open_row(i) for i in mine)))
            everyone: Sequence[Completion] = gather_object(list(drawn.completions))
            dull = set(self._groups_without_spread(rewards_BR))
            good = [i for i in range(n) if i not in dull][: len(empty)]
            for place, source in zip(empty, good, strict=False):
                for k in range(group):
                    row = place * group + k - rank * n_local
                    if 0 <= row < n_local:
                        rows[row], made[row] = open_row(fresh[source]), everyone[source * group + k]
            empty = empty[len(good) :]
        for name, value in (("rounds", n_rounds), ("replaced", n_empty - len(empty)), ("left", len(empty))):
            self.engine.note(f"dynamic_sampling/{name}", value)
        if len(empty) == n_empty:
            return batch
        return self.plan(replace(batch, rows=tuple(rows), completions=tuple(made)))

    def _key(self) -> tuple[int, int, int]:
        """What fresh samples are drawn with: seed, step, and the how manieth generation of the step this is."""
        step = int(self.engine.state.global_step)
        self._draws = (step, self._draws[1] + 1 if self._draws[0] == step else 0)
        return (int(self.engine.args.seed), *self._draws)

    def _draw(self, batch: Batch) -> tuple[Batch, np.ndarray]:
        """One completion for each row, and the rewards of all processes' rows."""
        batch = self.write(batch)
        rewards_BR = self.engine.score(batch)
        if self.verdicts is not None:
            for verdicts in gather_object([dict(self.verdicts)]):
                self.verdicts.update(verdicts)
        return batch, rewards_BR.cpu().double().numpy()

    def _groups_without_spread(self, rewards_BR: np.ndarray) -> list[int]:
        return without_spread(rewards_BR, self.weights_R, self.engine.num_generations, self.each)
