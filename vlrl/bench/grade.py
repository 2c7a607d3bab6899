"""`grade`: text from a file scored by one reward, without a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from vlrl.data.files import read_json_lines
from vlrl.rewards import load_reward
from vlrl.rewards.grading import grade_case, options_in
from vlrl.schema import SampleError, Score


def grade_file(args: argparse.Namespace) -> int:
    """Write a line of scores for each case of `--cases`. Raises ValueError for a reward or a case that cannot be used."""
    load_reward(args.reward)
    lines = []
    for where, case in read_json_lines(args.cases):
        extra = options_in(case)
        spec = args.reward
        if extra:
            spec += ("," if spec.count(":") > spec.count(".py:") else ":") + extra
        scores = grade_case(load_reward(spec), case, where, args.cases.parent)
        lines.append(json.dumps(_as_json(scores, "completions" in case), ensure_ascii=True, default=str))
    if not lines:
        raise SampleError(f"{args.cases}: holds no cases")
    partial = args.out.with_suffix(args.out.suffix + ".partial")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    partial.replace(args.out)
    print(f"{len(lines)} cases")
    print(args.out)
    return 0


def _as_json(scores: Sequence[Score], group: bool) -> dict[str, Any]:
    if group:
        answers = [score.answer for score in scores]
        return {"values": [score.value for score in scores], "answers": answers, "why": [score.why for score in scores]}
    score = scores[0]
    return {"value": score.value, "answer": score.answer, "why": score.why}
