"""A task of your own: count the discs of one colour. Its rows (own_task.jsonl) carry the name, `"task": "counting"`.

vlrl train --task examples/own_task.py --data examples/own_task.jsonl --max_steps 2
vlrl bench run --task examples/own_task.py --data examples/own_task.jsonl --output_path results/own
"""

from vlrl.answers.text import number, read_text
from vlrl.schema import Prediction, Sample, Task


def read_count(text: str, sample: Sample) -> float | None:
    """The number in the answer tags (or the bare text), or None."""
    answer, _ = read_text(text, sample)
    value = None if answer is None else number(answer)
    return None if value is None else float(value)


def prompt(sample: Sample) -> str:
    return f"{sample.question} Think, then answer with a number.\n<think>reasoning</think><answer>number</answer>"


def closeness(text: str, sample: Sample) -> float:
    """The reward: 1 for the right count, less the farther the answer is from it, 0 for none."""
    count = read_count(text, sample)
    return 0.0 if count is None else 1 / (1 + abs(count - sample.answer))


def exact(sample: Sample, prediction: Prediction) -> bool:
    """The metric: whether the count is right."""
    return read_count(prediction.completion, sample) == sample.answer


def oracle(sample: Sample) -> str:
    """Optional: an answer that is right. `vlrl bench check` scores it, the supervised stage imitates it."""
    return f"<think>I count them</think><answer>{sample.answer}</answer>"


TASK = Task(name="counting", prompt=prompt, rewards=[closeness, "think_answer_format"], metric=exact, oracle=oracle)
