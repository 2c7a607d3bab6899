"""`--rollout_lag k`: completions of weights that are at most k updates old, so that less waits for the engine that samples.

Two things come of it. Weights are sent only as often as k asks for. And a server that reads weights from files writes the next
batch while the trainer learns from this one, which makes its completions as old as a batch has updates; the rest of k is left
for weights that are sent less often. The sampler's log-probabilities come with the completions, and TRL's importance correction
weighs each by what the trainer's weights of its turn make of it.

Not here: vLLM itself (`served_generation.py`), evaluation, which always measures the weights in training.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object

from vlrl.training.grpo.batch import TrainerCalls, TrainingRow
from vlrl.training.grpo.rollout import Rollout
from vlrl.training.grpo.served_generation import ServedGeneration

LAG, WAIT_S = "sampling/lag", "sampling/wait_s"


class SentWeights:
    """Which weights the sampler has. `most`: `--rollout_lag`, in updates."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.step: int | None = None
        """How many updates the weights have had that were sent last."""

    def are_due(self, step: int) -> bool:
        """Whether completions that are first learnt from after `step` updates need newer weights."""
        return self.step is None or step - self.step > self.most

    def note(self, engine: TrainerCalls, step: int) -> None:
        """How old the weights are that write what is learnt from after `step` updates."""
        if engine.is_training:
            engine.note(LAG, float(step - (self.step or 0)))


@dataclass(frozen=True)
class _Ahead:
    """Rows that are being written before their turn. `step`: the updates of the weights that write them."""

    indices: list[int]
    step: int


class LookAhead:
    """The rows of the next generation. The trainer is handed a generation's rows once for each of its `n_micro_steps`."""

    def __init__(self, n_micro_steps: int) -> None:
        self.n_micro_steps = n_micro_steps
        self._waiting: deque[Sequence[TrainingRow]] = deque()
        self._source: Iterator[Any] | None = None
        self._n_out = 0
        """How many of them are handed out, their turn still to come."""

    def pull(self, source: Iterator[Any], n: int) -> list[Sequence[TrainingRow]]:
        """The next `n` batches of an epoch, fewer at its end; one generation more is looked at."""
        if source is not self._source:
            self._waiting.clear()
            self._source, self._n_out = source, 0
        wanted = self._n_out + n + self.n_micro_steps
        while len(self._waiting) < wanted:
            try:
                rows = next(source)
            except StopIteration:
                break
            last = self._waiting[-1] if self._waiting else ()
            # The same rows again are held once, with their images.
            self._waiting.append(last if _indices(last) == _indices(rows) else rows)
        found = [self._waiting[i] for i in range(self._n_out, min(self._n_out + n, len(self._waiting)))]
        self._n_out += len(found)
        return found

    def turn(self, rows: Sequence[TrainingRow]) -> None:
        """These rows' micro-step has come."""
        if self._n_out and self._waiting[0] is rows:
            self._waiting.popleft()
            self._n_out -= 1

    @property
    def next_rows(self) -> Sequence[TrainingRow] | None:
        """Asked in the first micro-step of a generation, past its `turn`: the rows of the next one, None at the end of an
        epoch."""
        return self._waiting[self.n_micro_steps - 1] if len(self._waiting) >= self.n_micro_steps else None


def _indices(rows: Sequence[TrainingRow]) -> list[int]:
    return [row["index"] for row in rows]


class RolloutsAhead:
    """The next batch, written by a server while this one is learnt from.

    `n`: how many updates a generation takes. A batch is written ahead where it begins no epoch; one whose weights are older
    than they may be by its turn is written again.
    """

    def __init__(
        self, engine: TrainerCalls, rollout: Rollout, generation: ServedGeneration, sent: SentWeights, rows: LookAhead, n: int
    ) -> None:
        self.engine, self.rollout, self.generation = engine, rollout, generation
        self.sent, self.rows, self.updates = sent, rows, n
        self._ahead: _Ahead | None = None

    @property
    def indices(self) -> set[int]:
        """The samples that are being written."""
        return set() if self._ahead is None else set(self._ahead.indices)

    def take(self, indices: list[int]) -> tuple[list[list[int]], list[list[float]]] | None:
        """The completions of these rows with their log-probabilities, if they were written ahead; waits for them."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or not self.generation.is_under_way:
            return None
        step = int(self.engine.state.global_step)
        fits = ahead.indices == indices and step - ahead.step <= self.sent.most
        if not all(gather_object([fits])):
            self.generation.finish()
            return None
        started = time.monotonic()
        ids, logprobs = self.generation.finish()
        self.engine.note(WAIT_S, time.monotonic() - started)
        self.engine.note(LAG, float(step - ahead.step))
        return ids, [[one[0] for one in own] for own in logprobs]

    def begin(self) -> None:
        """Let the server write the next batch, with weights as new as it may need."""
        state, rows = self.engine.state, self.rows.next_rows
        step = int(state.global_step)
        if rows is None or step + self.updates >= state.max_steps:
            return
        ids, images = self.rollout.read(rows)
        if self.sent.are_due(step + self.updates):
            self.generation.sync_weights()
            self.sent.step = step
        assert self.sent.step is not None
        self.generation.begin(ids, images)
        self._ahead = _Ahead(_indices(rows), self.sent.step)
