"""A run under way, as the chapters of the recipe (`vlrl.train`) hand it on: what was prepared, what has been measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from vlrl.gtr import Corrector
from vlrl.models.generate import generate
from vlrl.models.inputs import Samples
from vlrl.models.load import LoadedModel
from vlrl.models.sharded import whole_weights
from vlrl.schema import Prediction, TaskError
from vlrl.tasks.evaluate import Evaluation, evaluate
from vlrl.tasks.rubric import Rubric
from vlrl.training import benchmark_after as before_after
from vlrl.training import report, run_data, run_folder, weights
from vlrl.training.checkpoints import write_together
from vlrl.training.config import Config
from vlrl.training.evaluation import HeldOut, step_metrics
from vlrl.training.events import EventLog
from vlrl.training.first_process import of_first_process
from vlrl.training.monitor import Monitor
from vlrl.training.monitor_options import HACKING
from vlrl.training.tracker_samples import ShownSamples, shown_samples


@dataclass
class TrainingRun:
    """A run under way: what was prepared, and what has been measured so far."""

    config: Config
    say: Callable[..., None]
    opened: run_folder.RunFolder
    loaded: LoadedModel
    data: run_data.RunData
    rubric: Rubric
    around: before_after.Around | None = None
    corrector: Corrector | None = None
    events: EventLog | None = None
    monitor: Monitor | None = None
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"sft": 0.0, "grpo": 0.0})
    latest: tuple[int, list[Prediction]] | None = None
    """The step of the last evaluation on the way, and its predictions."""
    evaluated: dict[str, Evaluation] = field(default_factory=dict)
    """Of the first process: the evaluations of the predictions "before", once they were needed, and of the `latest`."""
    was_trained: bool = False
    """Whether a run that goes on had taken all its steps already."""

    @property
    def has_benchmarks(self) -> bool:
        """Whether this was done and written before, and nothing was trained since."""
        bench = (report.read_summary(self.folder) or {}).get("bench")
        return self.was_trained and bench is not None and not bench.get("failed")

    @property
    def folder(self) -> Path:
        return self.opened.path

    @property
    def finished_sft(self) -> Path:
        return self.folder / "sft" / "final"

    def answers(self, name: str) -> list[Prediction] | None:
        """The completions that a run which goes on has already, if they are of the same held-out samples.

        The first process looks and tells the others: one that looked later could find what the first has just written.
        """
        if not self.opened.resuming:
            return None
        found = of_first_process(lambda: run_folder.read_predictions(self.folder / f"predictions_{name}.jsonl"))
        return found if found is not None and [p.id for p in found] == [s.id for s in self.data.held_out] else None

    def measure(self, name: str, model: Any = None, step: int | None = None) -> None:
        """Greedy completions of the held-out samples, kept in the folder (and taken from there when a run is resumed). `step`:
        whose weights these are, if they may have been measured on the way."""
        path = self.folder / f"predictions_{name}.jsonl"
        done = self.answers(name)
        if done is None:
            is_known = self.latest is not None and self.latest[0] == step
            done = self.latest[1] if self.latest and is_known else self._complete(f"measuring {name}", model)
            made = done
            write_together(self.folder, path.name, lambda: run_folder.write_predictions(path, made))
        self.predictions[name] = done

    def _complete(self, label: str, model: Any) -> list[Prediction]:
        with whole_weights(self.loaded.model if model is None else model):
            return generate(
                self.loaded,
                self.config.tasks,
                self.data.held_out,
                max_new_tokens=self.config.max_tokens,
                batch_size=self.config.grpo.per_device_eval_batch_size,
                model=model,
                label=label,
            )

    @property
    def held_out(self) -> HeldOut:
        """The held-out samples for a trainer that measures itself on the way."""
        rows = self.data.held_out
        return HeldOut(Samples(len(rows), rows.__getitem__), self.evaluate_step)

    def evaluate_step(self, step: int, model: Any) -> dict[str, float]:
        """The tasks' own metrics on the held-out samples by a step's weights, the same on every process. Raises TaskError."""
        is_start = step == 0 and "before" in self.predictions
        predictions = self.predictions["before"] if is_start else self._complete(f"measuring step {step}", model)
        self.latest = (step, predictions)

        def measured() -> dict[str, float]:
            self.evaluated["latest"] = evaluate(self.config.tasks, self.data.held_out, predictions)
            found = step_metrics(self.evaluated["latest"])
            return found if self.monitor is None else self._watched(self.monitor, step, found)

        found = of_first_process(measured)
        if self.monitor is not None and found.get(HACKING):
            write_together(self.folder, "events.jsonl", self._say_hacking)
        return found

    def _say_hacking(self) -> None:
        """On the first process, which alone knows the event."""
        event = None if self.monitor is None else self.monitor.event
        if event is not None and self.events is not None:
            self.events.add_once(event)

    def _watched(self, monitor: Monitor, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """The numbers of an evaluation with those of its monitor. Raises TaskError where a task has named one of its own so."""
        if monitor.watched is None:
            monitor.begin(self.predictions["before"], self._before())
        assert self.latest is not None, "the evaluation has just been made"
        found = monitor.see(step, self.latest[1], self.evaluated["latest"])
        if both := metrics.keys() & found.keys():
            raise TaskError(f"--gold logs a number {min(both)!r}, which is a metric of this task too; rename that one")
        return metrics | found

    def _before(self) -> Evaluation:
        if "before" not in self.evaluated:
            self.evaluated["before"] = evaluate(self.config.tasks, self.data.held_out, self.predictions["before"])
        return self.evaluated["before"]

    def keep_start(self, trainer: Any, reference: str) -> None:
        """`final/` with the weights before training, which `--stop_on_hacking` found to be the best by the gold. What they
        answer is known."""
        self.say("the weights before training are kept: no later ones had a better gold")
        weights.save_start_as_final(trainer, self.loaded, self.folder, reference)
        self.latest = (0, self.predictions["before"])

    def shown_samples(self) -> ShownSamples | None:
        """The held-out samples of the last evaluation beside those before training, for trackers; None before the first."""
        if self.latest is None or "before" not in self.predictions:
            return None
        made = (self.predictions["before"], self.latest[1])
        measured = (self._before(), self.evaluated["latest"])
        return shown_samples(self.config.tasks, self.data.held_out, made, measured)

    def begin_events(self) -> None:
        """The GRPO stage begins, or goes on; what is known of its data is said. Raises RunStopped where the disk is full."""
        if self.events is not None:
            events, after = self.events, self.opened.last_step
            found = run_data.data_events_of(self.config, self.data, int(PartialState().num_processes))
            write_together(self.folder, "events.jsonl", lambda: events.begin("grpo", after=after), everyone=True)
            for event in found:
                write_together(self.folder, "events.jsonl", partial(events.add_once, event))
