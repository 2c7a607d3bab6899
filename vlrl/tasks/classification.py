"""Classification: the name of what is shown, from a list (`choices`) or without one."""

from __future__ import annotations

from vlrl.answers.read import read_span
from vlrl.answers.span import canon
from vlrl.answers.text import read_text
from vlrl.data.synthetic.shapes import classification_sample
from vlrl.metrics.accuracy import Label, classification_metrics, half_of
from vlrl.rewards.classification import cls_rl_accuracy
from vlrl.schema import Prediction, Result, Sample, Task
from vlrl.tasks.answer_format import instruction, lay_out


def prompt(sample: Sample) -> str:
    listed = f"\nOne of: {', '.join(sample.choices)}" if sample.choices else ""
    return f"{sample.question}{listed}\n{instruction(sample, 'the name', 'name')}"


def completion(sample: Sample, label: str) -> str:
    return lay_out(sample.facts.get("thinking", f"looks like {label}"), label, sample)


def oracle(sample: Sample) -> str:
    return completion(sample, sample.answer)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates: `meta.loose_answer` (noisy labels) where a sample has one."""
    return completion(sample, sample.facts.get("loose_answer", sample.answer))


def metric(sample: Sample, prediction: Prediction) -> Result:
    text = prediction.completion
    answer, _ = read_text(text, sample)
    right = cls_rl_accuracy(text, sample).value or 0.0
    lenient = float(answer is not None and "" != canon(sample.answer) in canon(answer))
    shown = read_span(text, sample).text
    return Result({"accuracy": (right, 1.0)}, shown, answer is not None, Label(lenient, half_of(sample)))


def check(sample: Sample) -> str | None:
    """What is wrong with a sample's label, or None."""
    if not isinstance(sample.answer, str) or not canon(sample.answer):
        return f"a classification answer is a label, got {sample.answer!r}"
    if sample.choices is not None and canon(sample.answer) not in {canon(choice) for choice in sample.choices}:
        shown = ", ".join(sample.choices[:10]) + (", ..." if len(sample.choices) > 10 else "")
        return f"the label {sample.answer!r} is not among the choices ({shown})"
    return None


TASK = Task(
    name="classification",
    prompt=prompt,
    oracle=oracle,
    sft_target=sft_target,
    check=check,
    rewards=lambda sample: ("cls_rl_accuracy", "think_answer_format"),
    metric=metric,
    headline="accuracy",
    aggregate=classification_metrics,
    synthetic=classification_sample,
)
