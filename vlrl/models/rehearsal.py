"""Rehearsal: what the shipped start answers already, as targets beside something new that it is taught.

    python vlrl/train.py --task vlrl/bench/autotrust/road_questions.py,vlrl/models/rehearsal.py --stage sft --sft_steps 250

A supervised stage on new questions alone makes a small model forget its old ones. Here the old ones are asked too, and the
target is a reply that the start itself draws (temperature 1), so that its whole distribution is kept, with its habits (as in
learning without forgetting, arXiv 1606.09282; differs: on drawn replies instead of probabilities). Right answers are not used.
"""

from __future__ import annotations

import functools

from vlrl.models.generate import complete
from vlrl.models.inputs import prepare_sample
from vlrl.models.load import LoadedModel, load_model
from vlrl.models.names import embedded_model
from vlrl.schema import Prediction, Result, Sample, Task
from vlrl.tasks import TASKS

REHEARSED = "tiny"
ASKED_TOGETHER = 80
"""Questions that are asked together: sixteen of each of the five tasks."""
MAX_REPLY_TOKENS = 64


@functools.lru_cache(maxsize=1)
def _start(changed_ns: int) -> LoadedModel:
    """The shipped start; `changed_ns`, when its weights were written, makes a stage rehearse the one before it."""
    return load_model(REHEARSED)


@functools.lru_cache(maxsize=8)
def _block(seed: int, split: str, number: int, changed_ns: int) -> tuple[tuple[str, Sample, str], ...]:
    """Prompt, sample and drawn reply of each question of a block."""
    start, names = _start(changed_ns), list(TASKS)
    first = number * ASKED_TOGETHER
    samples = [
        prepare_sample(TASKS[names[i % len(names)]].draw(seed, split, i // len(names)), start)
        for i in range(first, first + ASKED_TOGETHER)
    ]
    made = complete(start, TASKS, samples, MAX_REPLY_TOKENS, temperature=1.0, seed=seed)
    return tuple((TASKS[one.task].prompt(one), one, reply.completion) for one, reply in zip(samples, made, strict=True))


def rehearsed(seed: int, split: str, index: int) -> Sample:
    """Question `index`: the five tasks in turn, in their own words, with the start's own reply as its answer."""
    changed_ns = (embedded_model(REHEARSED).assets / "model.safetensors").stat().st_mtime_ns
    scenes = "coldstart" if split.startswith("coldstart") else split
    prompt, asked, reply = _block(seed, scenes, index // ASKED_TOGETHER, changed_ns)[index % ASKED_TOGETHER]
    meta = {"dataset": "synthetic", "split": split, "answer_format": "none", "task": asked.task}
    return Sample(f"synthetic-rehearsal-{split}-{seed}-{index}", "rehearsal", prompt, reply, asked.images, meta=meta)


def agreement(sample: Sample, prediction: Prediction) -> Result:
    """1 where the completion is the start's reply, word for word."""
    same = prediction.completion.strip() == str(sample.answer).strip()
    return Result({"agreement": (float(same), 1.0)}, prediction.completion, bool(prediction.completion.strip()))


TASK = Task(
    name="rehearsal",
    prompt=lambda sample: sample.question,
    oracle=lambda sample: str(sample.answer),
    rewards=("exact_match",),
    metric=agreement,
    synthetic=rehearsed,
)
