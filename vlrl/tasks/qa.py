"""Short questions: multiple choice, yes or no, numbers and maths, counting, several images or none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from vlrl.answers.text import qa_problem, qa_reward
from vlrl.data.synthetic.shapes import qa_sample
from vlrl.metrics.accuracy import qa_metrics
from vlrl.rewards import load_reward
from vlrl.schema import Reward, Sample, Task
from vlrl.tasks.answer_format import instruction, lay_out

ASKED = {
    "mcq": ("the letter of the right choice", "letter"),
    "yes_no": ("yes or no", "yes or no"),
    "math_equal": ("a number or formula", "number"),
}


def prompt(sample: Sample) -> str:
    listed = "".join(f"\n{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(sample.choices or ()))
    what, example = ASKED.get(qa_reward(sample), ("a short text", "answer"))
    return f"{sample.question}{listed}\n{instruction(sample, what, example)}"


def completion(sample: Sample, answer: Any) -> str:
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        answer = answer[0]
    return lay_out(sample.meta.get("thinking", f"it is {answer}"), str(answer), sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (careless answers) where a sample has one."""
    return completion(sample, sample.meta.get("loose_answer", sample.answer))


def reward_of(sample: Sample) -> Reward:
    """What decides whether an answer to this sample is right: its own first reward (`meta.rewards`), else its kind's."""
    named = sample.meta.get("rewards")
    return load_reward(named[0] if named else qa_reward(sample))


TASK = Task(
    name="qa",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=qa_problem,
    rewards=lambda sample: (qa_reward(sample), "think_answer_format"),
    metrics=partial(qa_metrics, reward_of=reward_of),
    headline="accuracy",
    synthetic=qa_sample,
)
