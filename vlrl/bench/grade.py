"""`grade`: text from a file scored by one reward, without a model."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.bench.held_models import with_models_here
from vlrl.data.files import read_json_lines, write_whole
from vlrl.data.name_values import nearest
from vlrl.rewards import load_reward, reward_name
from vlrl.rewards.grading import CASE_KEYS, grade_case, options_in
from vlrl.rewards.options import options_of
from vlrl.schema import Reward, SampleError, Score


def grade_file(args: argparse.Namespace) -> int:
    """Write a line of scores for each case of `--cases`. Raises ValueError for a reward or a case that cannot be used, and for
    an output that would replace the cases."""
    partial = args.out.with_suffix(args.out.suffix + ".partial")
    for file in (args.out, partial):
        if _is_same(file, args.cases):
            raise ValueError(f"--out {args.out} would replace the cases of --cases {args.cases}; name another file")
    reward = load_reward(args.reward)
    lines = []
    chosen_by: dict[str, Reward] = {}
    for where, case in read_json_lines(args.cases, unique_keys=True):
        _check(case, where, reward, args.reward)
        extra = options_in(case)
        spec = args.reward
        if extra:
            spec += ("," if spec.count(":") > spec.count(".py:") else ":") + extra
        try:
            if spec not in chosen_by:
                (chosen_by[spec],) = with_models_here([load_reward(spec)])
        except ValueError as error:
            raise SampleError(f"{where}: {error}") from error
        scores = grade_case(chosen_by[spec], case, where, args.cases.parent)
        lines.append(json.dumps(_as_json(scores, "completions" in case), ensure_ascii=True, default=str))
    if not lines:
        raise SampleError(f"{args.cases}: holds no cases")
    write_whole(args.out, "".join(line + "\n" for line in lines))
    print(f"{len(lines)} case{'s' * (len(lines) != 1)}")
    print(args.out)
    return 0


def _is_same(a: Path, b: Path) -> bool:
    """Whether two paths are one file, also by a link."""
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _check(case: Mapping[str, Any], where: str, reward: Reward, spec: str) -> None:
    """Raises SampleError for a key that is neither a case's nor an option of the reward, a value of the wrong type, and a case
    that names another reward."""
    options = options_of(reward)
    for key in case:
        if key not in CASE_KEYS and key not in options:
            known = f"keys of a case: {', '.join(sorted(CASE_KEYS))}; options: {', '.join(options) or 'none'}"
            close = nearest(key, [*sorted(CASE_KEYS), *options])
            raise SampleError(f"{where}: unknown key {key!r}{close}; reward {reward.name} has no option {key!r} ({known})")
    own = case.get("reward")
    if own is not None and own not in (spec, reward_name(spec)):
        raise SampleError(f"{where}: the case is one of reward {own!r}, but --reward is {spec}")
    for key, what, is_right in (
        ("step", "a whole number, 0 or more", _is_count),
        ("n_tokens", "a whole number, 0 or more", _is_count),
        ("base", "a number", _is_finite),
    ):
        value = case.get(key)
        values = value if isinstance(value, list) and key != "step" else [value]
        if not all(one is None or is_right(one) for one in values):
            raise SampleError(f"{where}: {key} must be {what}, got {value!r:.80}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_json(scores: Sequence[Score], group: bool) -> dict[str, Any]:
    if group:
        answers = [score.answer for score in scores]
        return {"values": [score.value for score in scores], "answers": answers, "why": [score.why for score in scores]}
    score = scores[0]
    return {"value": score.value, "answer": score.answer, "why": score.why}
