"""Short questions: multiple choice, yes or no, numbers and maths, counting, several images or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vlrl.answers.read import read_span
from vlrl.answers.span import ANSWER, END_ANSWER, canon
from vlrl.answers.text import is_number, read_text, reference_answers, reference_texts
from vlrl.data.synthetic.shapes import qa_sample
from vlrl.metrics.accuracy import QuestionRow, qa_metrics
from vlrl.metrics.answer_grading import read_number, stated_answer
from vlrl.rewards import REWARDS, load_reward, reward_name
from vlrl.rewards.confidence import text_grader
from vlrl.rewards.scoring import score_rows
from vlrl.rewards.visual_arft import END_SEARCH, SEARCH
from vlrl.schema import Prediction, Result, Reward, Sample, Score, Task
from vlrl.tasks.answer_format import instruction, lay_out

ASKED = {
    "mcq": ("the letter of the right choice", "letter"),
    "yes_no": ("yes or no", "yes or no"),
    "math_equal": ("a number or formula", "number"),
}

MOST_COUNTED = 10**9
"""A larger number is no count; one of hundreds of digits would be all of a mean."""


def prompt(sample: Sample) -> str:
    listed = "".join(f"\n{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(sample.choices or ()))
    what, example = ASKED.get(qa_reward(sample), ("a short text", "answer"))
    return f"{sample.question}{listed}\n{instruction(sample, what, example)}"


def completion(sample: Sample, answer: Any) -> str:
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        answer = answer[0]
    text = lay_out(sample.facts.get("thinking", f"it is {answer}"), str(answer), sample)
    if sample.facts.get("step") == "search":  # a search agent's next action is a query
        text = text.replace(f"{ANSWER}{answer}{END_ANSWER}", f"{SEARCH}{answer}{END_SEARCH}")
    return text


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (noisy answers) where a sample has one."""
    return completion(sample, sample.facts.get("loose_answer", sample.answer))


def qa_reward(sample: Sample) -> str:
    """The reward that a question's answer asks for, see `vlrl.rewards.confidence.text_grader`."""
    return text_grader(sample)


def check(sample: Sample) -> str | None:
    """What is wrong with a question's answer for the reward that grades it (its own, `meta.rewards`, or its kind's)."""
    given = reference_answers(sample)
    if not given:
        return "the list of right answers is empty"
    for answer in given:
        if not isinstance(answer, str) and not is_number(answer):
            return f"a qa answer is a string, a number or a list of strings, got {sample.answer!r}"
        if isinstance(answer, float) and not math.isfinite(answer):
            return f"the answer {answer} is not a finite number"
        if isinstance(answer, str) and not canon(answer):
            return "an empty answer matches nothing"
    named = sample.facts.get("rewards")
    if named is not None and not (isinstance(named, list | tuple) and all(isinstance(one, str) for one in named)):
        return f"meta.rewards must be a list of reward names, got {named!r}"
    rewards = [REWARDS.get(reward_name(spec)) for spec in named or (qa_reward(sample),)]
    problems = (reward.problem(sample) for reward in rewards if reward is not None and reward.problem is not None)
    return next(filter(None, problems), None)


def reward_of(sample: Sample) -> Reward:
    """What decides whether an answer to this sample is right: its own first reward (`meta.rewards`), else its kind's."""
    named = sample.facts.get("rewards")
    return load_reward(named[0] if named else qa_reward(sample))


def metric(sample: Sample, prediction: Prediction) -> Result | None:
    """The value of the sample's own reward; None where it does not apply, or its judge did not reply."""
    reward, text = reward_of(sample), prediction.completion
    n_tokens = None if prediction.n_tokens is None else [prediction.n_tokens]
    score = score_rows(reward, [text], [sample], None, n_tokens)[0]
    if score.value is None:
        return None
    shown = read_span(text, sample).text
    facts, is_count = sample.facts, sample.facts.get("kind") == "count"
    of = (_stated(facts.get("source")), _stated(sample.meta.get("task")))
    question = QuestionRow(reward.name, *of, is_count, _count_error(text, sample, score) if is_count else None)
    return Result({"accuracy": (score.value, 1.0)}, shown, score.answer is not None, question)


def _stated(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count_error(text: str, sample: Sample, score: Score) -> float | None:
    """How far a count is from the true one (the nearest of several); None where no number was read."""
    true = [value for one in reference_texts(sample) if (value := read_number(one)) is not None]
    if not true or score.answer is None:
        return None
    if (score.value or 0.0) >= 1:
        return 0.0
    answer, _ = read_text(text, sample)
    found = None if answer is None else read_number(stated_answer(answer) or answer)
    if found is None or abs(found) > MOST_COUNTED:
        return None
    return float(min(abs(found - value) for value in true))


TASK = Task(
    name="qa",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: (qa_reward(sample), "think_answer_format"),
    metric=metric,
    headline="accuracy",
    aggregate=qa_metrics,
    parallel=lambda sample: "network" in reward_of(sample).needs,
    synthetic=qa_sample,
)
