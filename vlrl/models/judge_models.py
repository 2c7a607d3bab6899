"""A generative model that judges completions: loaded once, frozen, its replies batched over a generation and kept.

Not here: what it is asked, and what a reply means (`vlrl.rewards.judge_model`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from vlrl.models.generate import complete
from vlrl.models.inputs import prepare_sample
from vlrl.models.load import LoadedModel, load_model
from vlrl.models.names import ModelError
from vlrl.models.value_models import N_KEPT, ValueModels
from vlrl.rewards.judge_model import JudgeQuestion, Reply
from vlrl.rewards.model_reward import ShownSolution
from vlrl.schema import Sample, Task


class JudgeModels:
    """The judge of `folder` on `device`, and the `meta` model that weighs its votes, where one is named. `seconds`, `n_asked`,
    `n_known`: spent, asked, and found among the replies remembered, since the start. Raises ModelError for a folder that cannot
    be loaded."""

    def __init__(self, folder: str, meta: str, device: torch.device | str, batch_size: int = 16) -> None:
        self.batch_size, self.own_seconds, self.n_asked, self.n_known = batch_size, 0.0, 0, 0
        self._held = _frozen(folder, torch.device(device))
        self._meta = ValueModels([meta], device) if meta else None
        self._kept: OrderedDict[tuple[JudgeQuestion, int], Reply] = OrderedDict()

    @property
    def seconds(self) -> float:
        return self.own_seconds + (0.0 if self._meta is None else self._meta.seconds)

    def __call__(self, folder: str, solutions: Sequence[ShownSolution]) -> list[list[float]]:
        """The meta model's values."""
        assert self._meta is not None, "loaded where one is named"
        return self._meta(folder, solutions)

    def write(self, questions: Sequence[JudgeQuestion], max_new_tokens: int) -> list[Reply]:
        """A reply to each question, in order; equal ones are asked once. Raises ImageError."""
        started = time.monotonic()
        new = [one for one in dict.fromkeys(questions) if (one, max_new_tokens) not in self._kept]
        fresh: dict[JudgeQuestion, Reply] = {}
        for some in _batches(new, self.batch_size):
            fresh |= zip(some, self._replies(some, max_new_tokens), strict=True)
        found = [fresh[one] if one in fresh else self._kept[one, max_new_tokens] for one in questions]
        for one, reply in zip(questions, found, strict=True):
            self._kept[one, max_new_tokens] = reply
            self._kept.move_to_end((one, max_new_tokens))
        while len(self._kept) > N_KEPT:
            self._kept.popitem(last=False)
        self.n_asked += len(new)
        self.n_known += len(questions) - len(new)
        self.own_seconds += time.monotonic() - started
        return found

    def _replies(self, questions: Sequence[JudgeQuestion], max_new_tokens: int) -> list[Reply]:
        """One batch, all of one instruction. Special tokens that a question spells out, as an answer may, are shown as text."""
        task = Task(
            "judge", lambda sample: sample.question, (), lambda sample, prediction: None, system=questions[0].instruction
        )
        samples = [
            prepare_sample(Sample(str(i), task.name, _encodable(one.text), "", images=one.images), self._held)
            for i, one in enumerate(questions)
        ]
        keys = (
            None
            if questions[0].vote is None
            else [_encodable(f"{one.vote}\n{one.instruction}\n{one.text}") for one in questions]
        )
        made = complete(self._held, {task.name: task}, samples, max_new_tokens, row_keys=keys)
        return [Reply(one.completion, not one.truncated) for one in made]


def _batches(questions: Sequence[JudgeQuestion], size: int) -> Iterator[list[JudgeQuestion]]:
    """Questions of one instruction and one way to reply in each, of like length, so that little is padding."""

    def kind(one: JudgeQuestion) -> tuple[str, bool]:
        return one.instruction, one.vote is None

    def order(one: JudgeQuestion) -> tuple[str, bool, int, int]:
        return (*kind(one), len(one.images), len(one.text))

    for _, group in groupby(sorted(questions, key=order), key=kind):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _encodable(text: str) -> str:
    """The text, half characters (surrogates) as question marks: a tokenizer takes none."""
    return text.encode(errors="replace").decode()


def _frozen(folder: str, device: torch.device) -> LoadedModel:
    """A model that is only asked. Loading draws no random numbers that anything else would have drawn."""
    try:
        with torch.random.fork_rng(devices=[]):
            loaded = load_model(folder, coords="px")
    except ModelError as error:
        raise ModelError(f"reward judge: {str(error).removeprefix('--model_name_or_path ')}") from error
    loaded.model.to(device).requires_grad_(False)  # type: ignore[arg-type]  # transformers narrows `to` to no overload of torch
    loaded.model.eval()  # type: ignore[no-untyped-call]
    return loaded
