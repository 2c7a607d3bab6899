"""Every reward by name, and the one adapter to TRL's calling form.

A reward is a pure function of text and sample; what it needs besides is named in its `Reward.needs` and passed explicitly.
This package imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vlrl.rewards.detection import iou_f1
from vlrl.rewards.formats import json_format, think_answer_format
from vlrl.schema import Reward, Sample, Score

REWARDS: dict[str, Reward] = {
    "iou_f1": Reward("iou_f1", iou_f1, 0.0, 1.0),
    "json_format": Reward("json_format", json_format, 0.0, 1.0, frozenset({"tags"})),
    "think_answer_format": Reward("think_answer_format", think_answer_format, 0.0, 1.0),
}


def load_reward(spec: str) -> Reward:
    """A reward by name, or a user's function by `path/to/file.py:function` (`(text, sample) -> Score | float | None`).

    Raises ValueError naming the nearest known reward, or what is wrong with the file.
    """
    if spec in REWARDS:
        return REWARDS[spec]
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        close = difflib.get_close_matches(spec, REWARDS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown reward {spec!r}{hint} (known: {', '.join(REWARDS)}, or path/to/file.py:function)")
    if not Path(path).is_file():
        raise ValueError(f"reward {spec}: no such file {path}")
    module_spec = importlib.util.spec_from_file_location(f"vlrl_user_{Path(path).stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"reward {spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    module_spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward {spec}: {path} defines no function {name!r}")
    return Reward(name, _as_score(function), float("-inf"), float("inf"))


def _as_score(function: Callable[[str, Sample], Any]) -> Callable[[str, Sample], Score]:
    def scored(text: str, sample: Sample) -> Score:
        value = function(text, sample)
        # A bare number says nothing of reading: the value stands for the answer, so it does not count as unparsed.
        return value if isinstance(value, Score) else Score(None if value is None else float(value), value)

    return scored


def text_of(completion: Any) -> str:
    """A completion as TRL passes it (a string, or a message list whose content is text or parts) -> its text."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def score_rows(
    reward: Reward, texts: Sequence[str], samples: Sequence[Sample], step: int | None, n_tokens: Sequence[int] | None
) -> list[Score]:
    """Score a batch whose groups are adjacent. Raises RuntimeError naming sample and completion if a grader fails."""

    def needed(rows: list[int] | int) -> dict[str, Any]:
        passed: dict[str, Any] = {}
        if "step" in reward.needs:
            passed["step"] = step
        if "n_tokens" in reward.needs and n_tokens is not None:
            passed["n_tokens"] = n_tokens[rows] if isinstance(rows, int) else [n_tokens[i] for i in rows]
        elif "n_tokens" in reward.needs:
            passed["n_tokens"] = None
        return passed

    scores: list[Score] = []
    for _, members in groupby(range(len(samples)), key=lambda i: samples[i].id):
        group = list(members)
        try:
            if "group" in reward.needs:
                found = reward.function([texts[i] for i in group], [samples[i] for i in group], **needed(group))
                if len(found) != len(group):
                    raise ValueError(f"{len(found)} scores for {len(group)} completions")
                scores += [_checked(score) for score in found]
            else:
                for i in group:
                    scores.append(_checked(reward.function(texts[i], samples[i], **needed(i))))
        except Exception as error:
            text = texts[len(scores)]
            raise RuntimeError(
                f"reward {reward.name} failed on sample {samples[group[0]].id!r}, completion {text!r}: {error!r}"
            ) from error
    return scores


def _checked(score: Score) -> Score:
    if score.value is not None and not math.isfinite(score.value):
        raise ValueError(f"the value is {score.value}; return None where a reward does not apply")
    return score


def as_trl(reward: Reward) -> Callable[..., list[float | None]]:
    """A reward function as TRL's `GRPOTrainer` calls it. The rows' `sample` column holds `Sample`s.

    Each score's parsed answer and reason go to the completions log; the share of completions that could not be read is
    the metric `rewards/<name>/unparsed`, of those it did not apply to `rewards/<name>/none_ratio`.
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
        n_tokens = None if completion_ids is None else [len(ids) for ids in completion_ids]
        step = None if trainer_state is None else int(trainer_state.global_step)
        scores = score_rows(reward, [text_of(c) for c in completions], sample, step, n_tokens)
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
