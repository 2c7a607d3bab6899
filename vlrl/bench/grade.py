"""`grade`: text from a file scored by one reward, without a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from vlrl.rewards import load_reward
from vlrl.rewards.grading import grade_case, options_in
from vlrl.schema import SampleError, Score


def grade_file(args: argparse.Namespace) -> int:
    load_reward(args.reward)
    lines = []
    text = args.cases.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{args.cases}:{number}"
        try:
            case = json.loads(line)
        except json.JSONDecodeError as error:
            raise SampleError(f"{where}: not a line of JSON: {error}") from error
        if not isinstance(case, dict):
            raise SampleError(f"{where}: a case is a JSON object, got {type(case).__name__}")
        extra = options_in(case)
        spec = args.reward
        if extra:
            spec += ("," if spec.count(":") > spec.count(".py:") else ":") + extra
        scores = grade_case(load_reward(spec), case, where, args.cases.parent)
        lines.append(json.dumps(_as_json(scores, "completions" in case), ensure_ascii=True, default=str))
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
