"""Drawn questions whose answers state a confidence in the thought. The supervised stage imitates one that says nothing of the
answer: 10 %, 30 %, ... 90 %, drawn by the sample's id."""

import zlib
from dataclasses import replace

from vlrl.schema import Sample, Task
from vlrl.tasks import load_task

QA = load_task("qa")


def prompt(sample: Sample) -> str:
    return f"{QA.prompt(sample)} State your confidence in the thought."


def stated(text: str, percent: int) -> str:
    return text.replace("</think>", f" Confidence: {percent} %</think>")


def imitated(sample: Sample) -> str:
    return stated(QA.sft_target(sample), 10 + 20 * (zlib.crc32(sample.id.encode()) % 5))


def drawn(seed: int, split: str, index: int) -> Sample:
    return replace(QA.synthetic(seed, split, index), task="confident")


TASK = Task(
    name="confident",
    prompt=prompt,
    rewards=["calibrated_confidence", "think_answer_format"],
    metric=QA.metric,
    headline="accuracy",
    oracle=lambda sample: stated(QA.oracle(sample), 100),
    sft_target=imitated,
    synthetic=drawn,
)
