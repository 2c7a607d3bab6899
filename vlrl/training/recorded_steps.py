"""Trainers with a flight recorder: logged steps become events, and an event that `--stop_on` names ends the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from vlrl.training.checkpoints import RunStopped, WholeCheckpoints, how_to_go_on, last_checkpoint
from vlrl.training.events import EventLog
from vlrl.training.finite import FiniteSteps
from vlrl.training.flight_recorder import FlightRecorder, LastBatch, RunFacts
from vlrl.training.progress import StepLog


class RecordedSteps(FiniteSteps):
    """`FiniteSteps` whose logged steps are looked at. Without `record_to` nothing is."""

    steps: StepLog
    _recorder: FlightRecorder | None = None
    _ended_by = ""
    """The event that ends the run, once all processes know of it."""

    name_of_row: Callable[[int], str] | None = None
    """The sample of a row, for trainers that take rows in their order."""

    def samples_of_step(self) -> list[str]:
        """Those of the first pass; later ones begin where the batches of the first have ended."""
        args = self.args
        n = args.per_device_train_batch_size * self.accelerator.num_processes * args.gradient_accumulation_steps
        start = self.state.global_step * n
        if self.name_of_row is None or start + n > len(self.train_dataset):  # type: ignore[arg-type]
            return []
        return [self.name_of_row(i) for i in range(start, start + n)]

    def record_to(self, events: EventLog | None, facts: RunFacts) -> None:
        """Where events go, and what a recorder must know of the run."""
        self.events = events
        if events is not None:
            events.say = self.steps.say
            self._recorder = FlightRecorder(facts, events.said)

    def take_up_history(self, rows: list[dict[str, Any]]) -> None:
        """The steps that an earlier process has logged: known, and not said again."""
        for row in rows:
            if self._recorder is not None:
                self._recorder.see(row)

    def record(self, row: Mapping[str, Any], batch: LastBatch = LastBatch()) -> None:  # noqa: B008 (frozen)
        """Look at a logged step; called on the first process."""
        if self._recorder is not None and self.events is not None:
            for event in self._recorder.see(row, batch):
                self.events.add(event)

    def end_if_asked(self) -> None:
        """Save a checkpoint and end the run once an event has asked for that; called on every process alike."""
        if self.events is None or not self.events.stop_on or self._ended_by:
            return
        named = ["" if self.events.stopping is None else self.events.stopping.event]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(named)
        if named[0]:
            self._ended_by = named[0]
            self.control.should_save = isinstance(self, WholeCheckpoints)
            self.control.should_training_stop = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own. Raises RunStopped after an event that ends the run; its checkpoint is written by then."""
        found = super().train(*args, **kwargs)
        if self._ended_by:
            folder = Path(str(self.args.output_dir))
            safe = last_checkpoint(folder)
            how = f"Go on from {Path(safe).name} with: {how_to_go_on(folder)}" if safe else "No checkpoint"
            raise RunStopped(f"event {self._ended_by} ended the run in step {self.state.global_step} (--stop_on). {how}")
        return found
