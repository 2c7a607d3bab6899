"""One row a sample: what its completion adds to the numbers, whether it is right, and how that reads.

The rows are what `bench diff` resamples, what its report shows, and what a training run leaves of its held-out samples. Each
task's headline is the ratio of its rows' sums, which a test holds together with the task's own metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrl.answers.geometry import iou
from vlrl.answers.read import read_box, read_span, true_boxes
from vlrl.answers.text import read_text
from vlrl.envs.cards import read_action
from vlrl.envs.cards.deals import deal_of
from vlrl.envs.cards.transcripts import read_transcript, replay
from vlrl.metrics.accuracy import picture
from vlrl.metrics.calibration import stated_confidence
from vlrl.metrics.cards import episode_row
from vlrl.metrics.coco import f1_parts
from vlrl.metrics.planning import said_by
from vlrl.rewards.cards import card_move, card_recognition
from vlrl.rewards.classification import cls_rl_accuracy
from vlrl.rewards.scoring import score_rows
from vlrl.schema import CARD_TASKS, Prediction, Sample, Task
from vlrl.tasks import KNOWN
from vlrl.tasks.detection import detection_row
from vlrl.tasks.evaluate import Row
from vlrl.tasks.qa import reward_of


def rows_of(task: Task, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Row]:
    """A row for each sample that has a value, in order."""
    measured = _MEASURED.get(task.name) if KNOWN.get(task.name) is task else None
    values = measured(samples, predictions) if measured else _by_task(task, samples, predictions)
    rows = []
    for sample, prediction, value in zip(samples, predictions, values, strict=True):
        if value is None:
            continue
        parts, is_read = value
        worth = _worth(parts)
        outcome = "unparsed" if not is_read else "right" if worth >= 1 else "wrong" if worth <= 0 else "partly"
        said = _moves(sample, prediction) if sample.task in CARD_TASKS else read_span(prediction.completion, sample).text
        rows.append(
            Row(
                id=sample.id,
                picture="|".join(map(str, key)) if isinstance(key := picture(sample), tuple) else str(key),
                parts=parts,
                outcome=outcome,
                gold=_plain(sample.answer),
                answer="" if said is None else said,
                confidence=None if task.is_episode(sample) else stated_confidence(prediction.completion),
                completion=prediction.completion,
            )
        )
    return rows


def before_and_after(
    tasks: Mapping[str, Task], samples: Sequence[Sample], before: Sequence[Prediction], after: Sequence[Prediction]
) -> list[dict[str, Any]]:
    """A record a sample, in order: what it was asked, what is right, and of both models the answer, its outcome and what it is
    worth (`value`, the sample's share of the headline). `change` is the difference of the values, None where one has none: in a
    task the package does not know, whose samples may take long to measure one by one, and where a judge over a network would be
    asked once more."""
    records = []
    for i, sample in enumerate(samples):
        record: dict[str, Any] = {"id": sample.id, "task": sample.task, "question": sample.question}
        for side, made in (("before", before), ("after", after)):
            record[side] = {"value": None, "outcome": None, "answer": made[i].completion}
        records.append(record | {"gold": _plain(sample.answer), "change": None})
    for name, task in tasks.items():
        chosen = [i for i, sample in enumerate(samples) if sample.task == name]
        if KNOWN.get(name) is not task or not chosen or _asks_a_judge(task, [samples[i] for i in chosen]):
            continue
        place = {samples[i].id: i for i in chosen}
        for side, made in (("before", before), ("after", after)):
            for row in rows_of(task, [samples[i] for i in chosen], [made[i] for i in chosen]):
                records[place[row.id]][side] = {"value": _worth(row.parts), "outcome": row.outcome, "answer": row.answer}
    for record in records:
        values = [record[side]["value"] for side in ("before", "after")]
        if None not in values:
            record["change"] = values[1] - values[0]
    return records


def _asks_a_judge(task: Task, samples: Sequence[Sample]) -> bool:
    return task is KNOWN["qa"] and any("network" in reward_of(sample).needs for sample in samples)


def _worth(parts: Mapping[str, tuple[float, float]]) -> float:
    """The sample's share of the headline; 1 where it adds nothing (an empty truth answered by none)."""
    top, bottom = next(iter(parts.values()))
    return top / bottom if bottom else 1.0


Measured = list[tuple[dict[str, tuple[float, float]], bool] | None]


def _detection(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    rows = [detection_row(sample, prediction) for sample, prediction in zip(samples, predictions, strict=True)]
    return [({"f1@0.5": f1_parts(row)}, row.predicted is not None) for row in rows]


def _grounding(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    values: Measured = []
    for sample, prediction in zip(samples, predictions, strict=True):
        box, _ = read_box(prediction.completion, sample)
        overlap = 0.0 if box is None else iou(box.xyxy, true_boxes(sample)[0].xyxy)
        parts = {"acc@0.5": (float(overlap > 0.5), 1.0), "acc@0.75": (float(overlap > 0.75), 1.0), "mean_iou": (overlap, 1.0)}
        values.append((parts, box is not None))
    return values


def _classification(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    values: Measured = []
    for sample, prediction in zip(samples, predictions, strict=True):
        answer, _ = read_text(prediction.completion, sample)
        right = cls_rl_accuracy(prediction.completion, sample).value or 0.0
        values.append(({"accuracy": (right, 1.0)}, answer is not None))
    return values


def _planning(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    values: Measured = []
    for sample, prediction in zip(samples, predictions, strict=True):
        speed, path = said_by(sample, prediction)
        right = (speed == sample.answer["speed"], path == sample.answer["path"])
        parts = {"plan_accuracy": (float(all(right)), 1.0), "speed_accuracy": (float(right[0]), 1.0)}
        values.append(({**parts, "path_accuracy": (float(right[1]), 1.0)}, None not in (speed, path)))
    return values


def _qa(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    values: Measured = [None] * len(samples)
    rows_by: dict[Any, list[int]] = {}
    for i, sample in enumerate(samples):
        rows_by.setdefault(reward_of(sample), []).append(i)
    for reward, rows in rows_by.items():
        texts, n_tokens = [predictions[i].completion for i in rows], [predictions[i].n_tokens for i in rows]
        for i, score in zip(rows, score_rows(reward, texts, [samples[i] for i in rows], None, n_tokens), strict=True):
            if score.value is not None:
                values[i] = {"accuracy": (score.value, 1.0)}, score.answer is not None
    return values


def _cards(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    values: Measured = []
    for sample, prediction in zip(samples, predictions, strict=True):
        text, deal = prediction.completion, deal_of(sample)
        if deal.is_episode:
            turns = read_transcript(text)
            row = episode_row(deal.state(), deal.game, replay(deal.game, deal.seed, turns or []))
            parts = {"success": (float(row.won), 1.0), "return": (row.total, 1.0), "legal": (row.n_legal, row.n_steps)}
            parts |= {"right_moves": (row.n_right, row.n_open)} if row.n_open else {}
            values.append((parts, turns is not None))
        else:
            move, stated = card_move(text, sample), card_recognition(text, sample).value or 0.0
            parts = {"single_step": (move.value or 0.0, 1.0), "single_step_recognised": (stated, 1.0)}
            values.append((parts, move.answer is not None))
    return values


def _moves(sample: Sample, prediction: Prediction) -> str | None:
    """The tokens that were played in an episode, or the one of a single state."""
    deal = deal_of(sample)
    if not deal.is_episode:
        return read_action(prediction.completion, deal.game)
    turns = read_transcript(prediction.completion)
    return None if turns is None else " ".join(turn.token for turn in replay(deal.game, deal.seed, turns))


def _by_task(task: Task, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> Measured:
    """Of a task the package does not know: its headline on each sample alone, as a mean."""
    values: Measured = []
    for sample, prediction in zip(samples, predictions, strict=True):
        metrics, n_unparsed = task.metrics([sample], [prediction])
        metric = metrics[task.headline]
        values.append(None if metric.value is None else ({task.headline: (metric.value, 1.0)}, not n_unparsed))
    return values


_MEASURED: dict[str, Callable[[Sequence[Sample], Sequence[Prediction]], Measured]] = {
    "detection": _detection,
    "grounding": _grounding,
    "classification": _classification,
    "planning": _planning,
    "qa": _qa,
    **dict.fromkeys(CARD_TASKS, _cards),
}


def _plain(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return ", ".join(f"{key} {_plain(value)}" for key, value in answer.items())
    if isinstance(answer, list | tuple):
        return "; ".join(map(_plain, answer)) if any(isinstance(v, Mapping) for v in answer) else ", ".join(map(str, answer))
    return str(answer)
