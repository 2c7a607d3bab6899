"""Scoring rows of a batch with a reward, and the one adapter to TRL's calling form.

Groups are adjacent rows of one sample. What a reward needs beyond text and sample is handed over here and nowhere else.

Rewards are scored in line, those that ask a network side by side in threads. A pool of processes was measured and left out
(`python -m vlrl.bench speed --what rewards`): 64 completions of the slowest box reward took 6 ms in line and 14 ms in a
running pool of two, 512 took 38 and 24 ms, beside training steps of seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

from vlrl.schema import Reward, Sample, Score

N_REQUESTS = 16
"""Network rewards asked at the same time."""
DOES_NOT_APPLY = Score(None, None, "does not apply to this row")


def text_of(completion: Any) -> str:
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

    Rows of tasks that the reward cannot score get a value of None. Raises RuntimeError naming sample and completion if a
    grader fails.
    """
    groups = [list(rows) for _, rows in groupby(range(len(samples)), key=lambda i: samples[i].id)]
    scores: list[Score] = [DOES_NOT_APPLY] * len(samples)
    if reward.tasks:
        groups = [group for group in groups if samples[group[0]].task in reward.tasks]
    units = groups if "group" in reward.needs else [[row] for group in groups for row in group]

    def score(rows: list[int]) -> list[Score]:
        passed: dict[str, Any] = {}
        if "step" in reward.needs:
            passed["step"] = step
        for name, column in (("n_tokens", n_tokens), ("base", base)):
            if name in reward.needs:
                values = None if column is None else [column[i] for i in rows]
                passed[name] = values if values is None or "group" in reward.needs else values[0]
        try:
            if "group" not in reward.needs:
                return [_checked(reward.function(texts[rows[0]], samples[rows[0]], **passed))]
            found = reward.function([texts[i] for i in rows], [samples[i] for i in rows], **passed)
            if len(found) != len(rows):
                raise ValueError(f"{len(found)} scores for {len(rows)} completions")
            return [_checked(one) for one in found]
        except Exception as error:
            raise RuntimeError(
                f"reward {reward.name} failed on sample {samples[rows[0]].id!r}, completion {texts[rows[0]]!r}: {error!r}"
            ) from error

    if "network" in reward.needs:
        with ThreadPoolExecutor(N_REQUESTS) as pool:
            made = list(pool.map(score, units))
    else:
        made = [score(rows) for rows in units]
    for rows, found in zip(units, made, strict=True):
        for row, one in zip(rows, found, strict=True):
            scores[row] = one
    return scores


def _checked(score: Score) -> Score:
    if score.value is not None and not math.isfinite(score.value):
        raise ValueError(f"the value is {score.value}; return None where a reward does not apply")
    return score


def as_trl(
    reward: Reward, base: Reward | None = None, applies: Callable[[Sample], bool] | None = None
) -> Callable[..., list[float | None]]:
    """A reward function as TRL's `GRPOTrainer` calls it. The rows' `sample` column holds `Sample`s.

    `base`: the reward whose value this one needs (`"base" in reward.needs`). `applies`: which samples it pays; the others
    get None, which TRL leaves out of the sum. Each score's parsed answer and reason go to the completions log; the share of
    completions that could not be read is the metric `rewards/<name>/unparsed`, of those it did not apply to
    `rewards/<name>/none_ratio`.
    """

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
        texts, samples = [text_of(completions[i]) for i in rows], [sample[i] for i in rows]
        n_tokens = None if completion_ids is None else [len(completion_ids[i]) for i in rows]
        step = None if trainer_state is None else int(trainer_state.global_step)
        built_on = None
        if base is not None:
            built_on = [score.value for score in score_rows(base, texts, samples, step, n_tokens)]
        scores = [DOES_NOT_APPLY] * len(sample)
        for row, score in zip(rows, score_rows(reward, texts, samples, step, n_tokens, built_on), strict=True):
            scores[row] = score
        if log_extra is not None:
            log_extra(f"{reward.name}/answer", [json.dumps(score.answer, ensure_ascii=True) for score in scores])
            log_extra(f"{reward.name}/why", [score.why for score in scores])
        if log_metric is not None and scores:
            applied = [score for score in scores if score.value is not None]
            log_metric(f"rewards/{reward.name}/none_ratio", 1 - len(applied) / len(scores))
            if applied:
                unread = sum(score.answer is None for score in applied)
                log_metric(f"rewards/{reward.name}/unparsed", unread / len(applied))
        return [score.value for score in scores]

    function.__name__ = reward.name
    return function
