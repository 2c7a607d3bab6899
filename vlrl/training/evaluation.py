"""Held-out samples measured while a run trains (`--eval_strategy`): which numbers, by which the best checkpoint is chosen.

What is measured is what is measured before and after training too: greedy completions, by the tasks' own metrics. When it
happens, which checkpoint is the best and when to stop early is decided by transformers' `Trainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import EarlyStoppingCallback

from vlrl.data.name_values import nearest
from vlrl.models.inputs import Samples
from vlrl.schema import Prediction, Sample, Task
from vlrl.tasks.evaluate import Evaluation, evaluate
from vlrl.training.checkpoints import RunStopped
from vlrl.training.evaluation_flags import PREFIX
from vlrl.training.options import ConfigError

_COUNTS = ("n_unparsed", "n_truncated")


@dataclass(frozen=True)
class HeldOut:
    """The samples that a trainer measures itself on. `measure(step, model)`: their metrics by name, `model` being unwrapped."""

    samples: Samples
    measure: Callable[[int, Any], Mapping[str, float]]


def step_metrics(evaluation: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation that have a value, and how many completions could not be read or were cut off."""
    found = {name: float(metric.value) for name, metric in evaluation.metrics.items() if metric.value is not None}
    return found | {name: float(getattr(evaluation, name)) for name in _COUNTS}


class EarlyStopping(EarlyStoppingCallback):
    """transformers' own, without its warning about which weights are kept: the run says that at its end."""

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing: what it asserts there has been checked with the flags."""


def check_best_metric(
    metric: str | None, tasks: Mapping[str, Task], held_out: Sequence[Sample], others: Sequence[str] = ()
) -> None:
    """`--metric_for_best_model` is a metric of these samples, or one of the `others` that are measured. Raises ConfigError,
    before anything is trained."""
    if metric is None or metric.removeprefix(PREFIX) in others:
        return
    if any(tasks[sample.task].parallel(sample) for sample in held_out):
        return  # metrics that ask an endpoint are not tried out
    blank = [Prediction(sample.id, "", 0, truncated=False) for sample in held_out]
    known = [*evaluate(tasks, held_out, blank).metrics, *_COUNTS]
    if metric.removeprefix(PREFIX) not in known:
        hint = nearest(metric.removeprefix(PREFIX), known)
        raise ConfigError(f"--metric_for_best_model {metric}: no metric of these held-out samples{hint} ({', '.join(known)})")


def best_metric(name: str | None, metrics: Mapping[str, float]) -> str:
    """The metric that checkpoints are compared by, of an evaluation. Raises RunStopped where it has no value."""
    name = str(name or next(iter(metrics))).removeprefix(PREFIX)
    if name not in metrics:
        raise RunStopped(
            f"--metric_for_best_model {name} has no value on these held-out samples (measured: {', '.join(metrics)})"
        )
    return name


def evaluation_line(step: int, metrics: Mapping[str, float], n: int, seconds: float, first: str) -> str:
    """One line for people: the metric that the run is judged by, and the others."""
    others = [name for name in metrics if name != first and name not in _COUNTS and "[" not in name]
    values = {name: metrics[name] for name in [first, *others] if name in metrics}
    shown = ", ".join(f"{name} {value:.1f}" if abs(value) >= 10 else f"{name} {value:.3f}" for name, value in values.items())
    return f"held out  step {step}: {shown} ({n} samples, {seconds:.0f} s)"
