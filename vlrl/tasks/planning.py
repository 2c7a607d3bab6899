"""Planning: a driving meta-action for the next seconds, one word for the speed and one for the path."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vlrl.answers.plans import PATHS, SPEEDS, read_plan, true_plans
from vlrl.answers.read import read_span
from vlrl.answers.text import is_number
from vlrl.data.synthetic.driving import planning_sample
from vlrl.metrics.planning import PlanPair, confusions, planning_metrics
from vlrl.schema import Prediction, Result, Sample, Task
from vlrl.tasks.answer_format import instruction, lay_out

VOCABULARY = (
    "Choose KEEP, ACCELERATE, DECELERATE or STOP for the speed."
    " Choose STRAIGHT, RIGHT_CHANGE, LEFT_CHANGE, RIGHT_TURN or LEFT_TURN for the path."
)


def prompt(sample: Sample) -> str:
    navigation = sample.facts.get("navigation")
    if isinstance(navigation, Mapping):
        navigation = ", ".join(f"{place}: {command}" for place, command in navigation.items())
    state = [f"Speed: {sample.meta['speed_mps']} m/s"] if "speed_mps" in sample.meta else []
    state += [f"Navigation: {navigation}"] if navigation else []
    asked = f"As an expert driver, {sample.question.rstrip('.')}."
    how = instruction(sample, "one speed word and one path word", "KEEP, STRAIGHT")
    return "\n".join([asked, *state, VOCABULARY, how])


def completion(sample: Sample, plan: Mapping[str, str]) -> str:
    words = f"{plan['speed']}, {plan['path']}"
    return lay_out(sample.facts.get("thinking", words.lower().replace("_", " ")), words, sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (noisy logs) where a sample has one."""
    return completion(sample, sample.facts.get("loose_answer", sample.answer))


def metric(sample: Sample, prediction: Prediction) -> Result:
    text = prediction.completion
    plan, _ = read_plan(text, sample)
    speed, path = (None, None) if plan is None else (plan.speed, plan.path)
    # of several right plans the one that the answer agrees with most
    true = max(true_plans(sample), key=lambda one: (speed == one[0]) + (path == one[1]))
    right = (speed == true[0], path == true[1])
    parts = {
        "plan_accuracy": (float(all(right)), 1.0),
        "speed_accuracy": (float(right[0]), 1.0),
        "path_accuracy": (float(right[1]), 1.0),
    }
    pair = PlanPair((speed, path), true)
    return Result(parts, read_span(text, sample).text, None not in (speed, path), pair)


def check(sample: Sample) -> str | None:
    """What is wrong with a sample's plan, speed or navigation, or None."""
    plan = sample.answer
    if not isinstance(plan, Mapping) or set(plan) != {"speed", "path"}:
        return f'a planning answer is {{"speed": "KEEP", "path": "STRAIGHT"}}, got {plan!r}'
    for key, vocabulary in (("speed", SPEEDS), ("path", PATHS)):
        if plan[key] not in vocabulary:
            return f"{key} {plan[key]!r} is not one of {', '.join(vocabulary)}"
    others = sample.facts.get("other_plans", [])
    if not isinstance(others, list) or not all(isinstance(one, Mapping) and set(one) == {"speed", "path"} for one in others):
        return f'meta.other_plans is a list of {{"speed": "KEEP", "path": "STRAIGHT"}}, got {others!r:.80}'
    for key, vocabulary in (("speed", SPEEDS), ("path", PATHS)):
        for one in others:
            if one[key] not in vocabulary:
                return f"meta.other_plans: {key} {one[key]!r} is not one of {', '.join(vocabulary)}"
    speed = sample.facts.get("speed_mps")
    if speed is not None and not (is_number(speed) and math.isfinite(speed)):
        return f"meta.speed_mps must be a number of metres a second, got {speed!r}"
    navigation = sample.facts.get("navigation")
    if navigation is not None and not isinstance(navigation, str | Mapping):
        return f"meta.navigation must be text or an object, got {navigation!r}"
    return None


TASK = Task(
    name="planning",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: ("alphadrive_speed", "alphadrive_path", "alphadrive_format"),
    metric=metric,
    headline="plan_accuracy",
    aggregate=planning_metrics,
    extra=lambda rows: {"confusion": confusions(rows)},
    synthetic=planning_sample,
)
