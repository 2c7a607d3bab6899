"""What happens at the end of every step: a request to stop is agreed on by all processes and ends training with a checkpoint.

Through transformers' own hooks: `on_step_end` asks the trainer to save and to stop. Also `--save_minutes` and `--max_hours`.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState

from vlrl.training.stopping import EXIT_TIME_UP, EndRequest, StopRequests, request_of

MARGIN = 1.5
"""The longest step so far times this is kept free before `--max_hours` is over."""


class StopAtStepEnd(TrainerCallback):
    """Ends training with a checkpoint where `stop` holds a request on any process. `save_minutes`: at most so much training
    lies between two checkpoints (None: transformers' own options decide alone)."""

    def __init__(self, stop: StopRequests, save_minutes: float | None = None) -> None:
        self.stop = stop
        self._save_s = float("inf") if save_minutes is None else 60 * save_minutes
        self._saved_at = self._began_at = self._ended_at = time.monotonic()
        self._longest_step_s = self._longest_save_s = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._began_at = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        self._longest_step_s = max(self._longest_step_s, now - self._began_at)
        self._ended_at = now
        must_save, code = self._agreed(now - self._saved_at >= self._save_s, self._wanted())
        if code and self.stop.request is None:  # another process was asked
            self.stop.request = self.stop.time_up() if code == EXIT_TIME_UP else request_of(code - 128)
        if state.global_step >= state.max_steps:
            return  # this was the last one: what follows is the end of the run anyway
        if code:
            control.should_log = control.should_save = control.should_training_stop = True
        elif must_save:
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()
        self._longest_save_s = max(self._longest_save_s, self._saved_at - self._ended_at)

    def _wanted(self) -> EndRequest | None:
        needed_s = MARGIN * (self._longest_step_s + self._longest_save_s)
        if self.stop.request is None and self.stop.seconds_left <= needed_s:
            self.stop.request = self.stop.time_up()
        return self.stop.request

    def _agreed(self, must_save: bool, request: EndRequest | None) -> tuple[bool, int]:
        """Whether to save and the exit code to end with (0: go on), the same on all processes."""
        found = (int(must_save), 0 if request is None else request.code)
        state = PartialState()
        if state.num_processes == 1:
            return must_save, found[1]
        shared = torch.tensor(found, device=state.device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        agreed, code = shared.tolist()
        return bool(agreed), int(code)
