"""How good a process reward model is: its step values, and best-of-N selection where there are solutions to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from vlrl.data.step_values import StepRecord
from vlrl.metrics.best_of_n import Pool
from vlrl.metrics.bootstrap import bootstrap_mean, paired_test
from vlrl.metrics.selection import baselines
from vlrl.metrics.step_values import calibration_table, step_value_metrics
from vlrl.models.value_head import Encoder, StepValueModel, score_solutions
from vlrl.schema import Metric
from vlrl.tasks.evaluate import Evaluation

Solution = tuple[str | Sequence[str] | None, str, Sequence[str]]


@dataclass(frozen=True)
class Measured:
    """`values`: of every step of every held-out solution; `p_values`: of the paired differences."""

    evaluation: Evaluation
    values: list[list[float]]
    calibration: list[dict[str, Any]]
    p_values: dict[str, float | None]


def score_shared(model: StepValueModel, encoder: Encoder, solutions: Sequence[Solution], batch_size: int) -> list[list[float]]:
    """`score_solutions` over all processes; every one of them gets all values."""
    state = PartialState()
    mine = list(range(state.process_index, len(solutions), state.num_processes))
    made = list(zip(mine, score_solutions(model, encoder, [solutions[i] for i in mine], batch_size), strict=True))
    if state.num_processes > 1:
        made = gather_object(made)
    return [values for _, values in sorted(made)]


def measure_values(
    model: StepValueModel,
    encoder: Encoder,
    records: Sequence[StepRecord],
    pools: Sequence[Pool],
    mean: float,
    batch_size: int,
) -> Measured:
    """Step values of the held-out `records`; the first solutions among them are the candidates of `pools`, in order."""
    values = score_shared(model, encoder, [(r.image, r.question, r.steps) for r in records], batch_size)
    predicted: list[float] = []
    wanted: list[float] = []
    questions: list[str] = []
    for record, found in zip(records, values, strict=True):
        for value, right in zip(found, record.values, strict=True):
            if right is not None:
                predicted.append(value)
                wanted.append(right)
                questions.append(record.question_key)
    metrics = step_value_metrics(predicted, wanted, questions, mean)
    p_values: dict[str, float | None] = {}
    if pools:
        chosen, p_values = best_of(pools, values)
        metrics = {**chosen, **blind(model, encoder, records, pools, batch_size), **metrics}
    return Measured(Evaluation(metrics, len(records), 0, 0), values, calibration_table(predicted, wanted), p_values)


def blind(
    model: StepValueModel, encoder: Encoder, records: Sequence[StepRecord], pools: Sequence[Pool], batch_size: int
) -> dict[str, Metric]:
    """The same selection with each question shown the image of the next one: what can be won without looking."""
    n = len(pools[0].candidates)
    images = [pool.item.image for pool in pools]
    shown = [image for image in [*images[1:], images[0]] for _ in range(n)]
    some = records[: len(shown)]
    solutions = [(image, record.question, record.steps) for image, record in zip(shown, some, strict=True)]
    metrics, _ = best_of(pools, score_shared(model, encoder, solutions, batch_size))
    return {f"best_of_{n}/other_picture": metrics[f"best_of_{n}"]}


def best_of(pools: Sequence[Pool], values: Sequence[Sequence[float]]) -> tuple[dict[str, Metric], dict[str, float | None]]:
    """Accuracy of the best of N by the mean step value, of the rows it is compared with, and the paired differences."""
    candidates = [one for pool in pools for one in pool.candidates]
    scores = {one.key: found for one, found in zip(candidates, values, strict=True)}
    n = len(pools[0].candidates)
    columns: dict[str, dict[str, float]] = {}
    for pool in pools:
        texts = [one.response for one in pool.candidates]
        answers = [one.answer for one in pool.grades]
        n_steps = [len(one.steps.steps) for one in pool.candidates]
        rules = baselines(answers, pool.correct, [len(text) for text in texts], n_steps)
        ways = {f"best_of_{n}": "mean", f"best_of_{n}/min": "min", f"best_of_{n}/last": "last"}
        found = {name: pool.pick(pool.values(scores, how)).accuracy for name, how in ways.items()}
        for name, value in (found | {name: rules[name] for name in ("random", "majority", "oracle")}).items():
            columns.setdefault(name, {})[pool.item.id] = value
    metrics = {name: bootstrap_mean(list(column.values())) for name, column in columns.items()}
    p_values: dict[str, float | None] = {}
    for other in ("random", "majority"):
        name = f"best_of_{n} - {other}"
        metrics[name], p_values[name] = paired_test(columns[other], columns[f"best_of_{n}"])
    return metrics, p_values
