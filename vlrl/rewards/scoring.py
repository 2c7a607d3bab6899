"""Scoring rows of a batch with a reward, and the one adapter to TRL's calling form.

Groups are adjacent rows of one sample. What a reward needs beyond text and sample is handed over here and nowhere else.

Rewards are scored in line, those that wait for a network side by side in threads. A pool of processes was measured and left out
(`python -m vlrl.bench speed --what rewards`): 64 completions of the slowest box reward took 6 ms in line and 14 ms in a
running pool of two, 512 took 38 and 24 ms, beside training steps of seconds.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import numbers
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.answers.kind import answer_kinds
from vlrl.data.masking import without_remembered
from vlrl.rewards.endpoint import asking
from vlrl.schema import Reward, Sample, Score, TaskError

N_REQUESTS = 16
"""Requests of network rewards at the same time."""
TOO_LONG = "took too long"
"""Stands in the reason of a score that was given up at a time limit; its value is 0 and its answer None."""
DOES_NOT_APPLY = Score(None, None, "does not apply to this row")


class RewardError(TaskError):
    """A reward raised an error or returned no score; the message is one line that names the reward and the sample."""


def completion_text(completion: Any) -> str:
    """A completion as TRL passes it (a string, or a message list whose content is text or parts) -> its text."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def score_rows(
    reward: Reward,
    texts: Sequence[str],
    samples: Sequence[Sample],
    step: int | None,
    n_tokens: Sequence[int] | None,
    base: Sequence[float | None] | None = None,
) -> list[Score]:
    """Score a batch whose groups are adjacent. `base`: each row's value of the reward this one builds on, if it needs one.

    Rows with answers of a kind that the reward cannot score get a value of None. Raises RewardError naming reward, sample and
    completion where the reward raises, or returns something other than a score.
    """
    groups = [list(rows) for _, rows in groupby(range(len(samples)), key=lambda i: samples[i].id)]
    scores: list[Score] = [DOES_NOT_APPLY] * len(samples)
    if reward.answers:
        groups = [group for group in groups if reward.answers & answer_kinds(samples[group[0]])]
    together = reward.needs & {"group", "model"}
    units = groups if together else [[row] for group in groups for row in group]
    if "model" in reward.needs:
        units = [[row for group in groups for row in group]] if groups else []

    def score(rows: list[int]) -> list[Score]:
        passed: dict[str, Any] = {}
        if "step" in reward.needs:
            passed["step"] = step
        for name, column in (("n_tokens", n_tokens), ("base", base)):
            if name in reward.needs:
                values = None if column is None else [column[i] for i in rows]
                passed[name] = values if values is None or together else values[0]
        try:
            if together:
                found = reward.function([texts[i] for i in rows], [samples[i] for i in rows], **passed)
            else:
                found = [reward.function(texts[rows[0]], samples[rows[0]], **passed)]
            if len(found) != len(rows):
                raise ValueError(f"{len(found)} scores for {len(rows)} completions")
            return [as_score(reward.name, one, samples[i]) for i, one in zip(rows, found, strict=True)]
        except RewardError as error:
            raise RewardError(f"{error} (completion {texts[rows[0]]!r:.200})") from error
        except Exception as error:
            raise RewardError(
                f"reward {reward.name} failed on sample {samples[rows[0]].id!r}, completion {texts[rows[0]]!r:.500}:"
                f" {described(error)}"
            ) from error

    if "network" in reward.needs and "model" not in reward.needs:  # one that holds a model asks by itself, for all rows
        with asking(len(units), N_REQUESTS) as batch:
            made = batch.all(score, units)
    else:
        made = [score(rows) for rows in units]
    for rows, found in zip(units, made, strict=True):
        for row, one in zip(rows, found, strict=True):
            scores[row] = one
    return scores


def as_score(name: str, found: Any, sample: Sample) -> Score:
    """What the reward `name` returned for `sample`, as a Score. A number or a bool is the value, and the answer too, so that it
    does not count as unparsed. None: the reward does not apply.

    Raises RewardError for anything else, NaN and the infinities included.
    """
    try:
        if isinstance(found, Score):
            value = found.value
            if value is None or (type(value) is float and math.isfinite(value)):
                return found
            return dataclasses.replace(found, value=number_of(value))
        if found is None:
            return Score(None)
        return Score(number_of(found), found.item() if isinstance(found, np.generic) else found)
    except TypeError as error:
        of = " a Score whose value is" if isinstance(found, Score) else ""
        raise RewardError(
            f"reward {name} returned{of} {error} for sample {sample.id!r}; return a finite number, a bool, a Score or None"
        ) from None


def number_of(value: Any) -> float:
    """A finite number or a bool that a user's function returned, NumPy's included. Raises TypeError for anything else; the
    message is what it is, as in "the text 'good'" or "a torch.Tensor of shape (2,)"."""
    if isinstance(value, numbers.Real | np.bool_):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise TypeError(f"{number}")
    if isinstance(value, str):
        raise TypeError(f"the text {value!r:.60}")
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # or Python warns that nobody awaited it
        raise TypeError(f"a {type(value).__name__} (async functions are not supported)")
    kind, shape = type(value), getattr(value, "shape", None)
    module = kind.__module__.partition(".")[0]
    what = f"a {kind.__name__}" if module in ("builtins", "__main__") else f"a {module}.{kind.__name__}"
    raise TypeError(what if shape is None else f"{what} of shape {tuple(shape)} (take float(...) of one element)")


def described(error: BaseException) -> str:
    """An error in one line, with the file and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
    return " ".join(f"{type(error).__name__}: {error}".split()) + where


def as_trl(
    reward: Reward,
    base: Reward | None = None,
    applies: Callable[[Sample], bool] | None = None,
    kept: Callable[[list[Score]], object] | None = None,
) -> Callable[..., list[float | None]]:
    """A reward function as TRL's `GRPOTrainer` calls it. The rows' `sample` column holds `Sample`s.

    `base`: the reward whose value this one needs (`"base" in reward.needs`). `applies`: which samples it scores; the others
    get None, which TRL leaves out of the sum. `kept`: takes the scores of each batch. Each score's parsed answer and reason go
    to the completions log; the share of completions that could not be read is the metric `rewards/<name>/unparsed` (of those
    given up at a time limit, which are among them, `rewards/<name>/too_long` where there are any), of those it did not apply to
    `rewards/<name>/none_ratio`."""

    def function(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        sample: Sequence[Sample],
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_columns: Any,
    ) -> list[float | None]:
        rows = [i for i, one in enumerate(sample) if applies is None or applies(one)]
        texts, samples = [completion_text(completions[i]) for i in rows], [sample[i] for i in rows]
        n_tokens = None if completion_ids is None else [len(completion_ids[i]) for i in rows]
        step = None if trainer_state is None else int(trainer_state.global_step)
        built_on = None
        if base is not None:
            built_on = [score.value for score in score_rows(base, texts, samples, step, n_tokens)]
        scores = [DOES_NOT_APPLY] * len(sample)
        for row, score in zip(rows, score_rows(reward, texts, samples, step, n_tokens, built_on), strict=True):
            scores[row] = score
        if kept is not None:
            kept(scores)
        if log_extra is not None:
            log_extra(f"{reward.name}/answer", [logged_answer(score.answer) for score in scores])
            log_extra(f"{reward.name}/why", [without_remembered(score.why) for score in scores])
        if log_metric is not None and scores:
            applied = [score for score in scores if score.value is not None]
            log_metric(f"rewards/{reward.name}/none_ratio", 1 - len(applied) / len(scores))
            if applied:
                unread = sum(score.answer is None for score in applied)
                log_metric(f"rewards/{reward.name}/unparsed", unread / len(applied))
                too_long = sum(score.answer is None and TOO_LONG in score.why for score in applied)
                if too_long:
                    log_metric(f"rewards/{reward.name}/too_long", too_long / len(applied))
        return [score.value for score in scores]

    function.__name__ = reward.name
    return function


def logged_answer(answer: Any) -> str:
    """An answer as JSON for the completions log; what JSON cannot hold, as a user's reward may return it, as its text."""
    try:
        return json.dumps(answer, ensure_ascii=True, default=str)
    except (TypeError, ValueError):
        return json.dumps(str(answer), ensure_ascii=True)
