"""Classification: the name of what is shown, from a list (`choices`) or without one."""

from __future__ import annotations

from vlrl.answers.text import classification_problem
from vlrl.data.synthetic.shapes import classification_sample
from vlrl.metrics.accuracy import classification_metrics
from vlrl.schema import Sample, Task
from vlrl.tasks.answer_format import instruction, lay_out


def prompt(sample: Sample) -> str:
    listed = f"\nOne of: {', '.join(sample.choices)}" if sample.choices else ""
    return f"{sample.question}{listed}\n{instruction(sample, 'the name', 'name')}"


def completion(sample: Sample, label: str) -> str:
    return lay_out(sample.meta.get("thinking", f"looks like {label}"), label, sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (careless labels) where a sample has one."""
    return completion(sample, sample.meta.get("loose_answer", sample.answer))


TASK = Task(
    name="classification",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=classification_problem,
    rewards=lambda sample: ("cls_rl_accuracy", "think_answer_format"),
    metrics=classification_metrics,
    headline="accuracy",
    synthetic=classification_sample,
)
