"""Thoughts in completions: which tokens they are, what they weigh in the policy term, and how alike they become."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from vlrl.gtr.corrector import Correction
from vlrl.gtr.diagnostics import StepNote, Window
from vlrl.gtr.masks import completion_mask, thought_span
from vlrl.gtr.options import GuideOptions
from vlrl.schema import Sample, Task
from vlrl.tasks import load_task


class Thoughts:
    """Reads the thoughts of a run's tasks. `window`: what was noted of the latest. `ends`: the tokens that end a completion."""

    def __init__(
        self, tasks: Mapping[str, Task], options: GuideOptions, tokenizer: Any, ends: Callable[[], Collection[int]]
    ) -> None:
        self.tasks, self.options, self.window = dict(tasks), options, Window()
        self.tokenizer, self._ends = tokenizer, ends
        self._pieces: dict[int, str] = {}

    def task(self, name: str) -> Task:
        """A task of the run, or a built-in one: a resumed run may hold corrections of a curriculum that it no longer has."""
        return self.tasks.get(name) or load_task(name)

    def mask(self, sample: Sample, ids: Sequence[int]) -> list[bool]:
        """Which tokens of a completion are its thought."""
        return completion_mask(ids, self.decode, self.task(sample.task).thought_format)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens kept and nothing cleaned up; single tokens are remembered."""
        ids = list(ids)
        if len(ids) == 1 and ids[0] in self._pieces:
            return self._pieces[ids[0]]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if len(ids) == 1:
            self._pieces[ids[0]] = text
        return text

    def has_ended(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[-1] in self._ends()

    def weight(self, sample: Sample) -> float:
        """What the thought tokens of a completion weigh in the policy term."""
        chosen = self.options.thought_weight
        return chosen if chosen is not None else 0.5 if self.task(sample.task).thought_format == "json" else 1.0

    def note(self, text: str, ids: Sequence[int], mask: Sequence[bool], verdict: Correction | None) -> None:
        """Note the thought of a single answer."""
        span = thought_span(text, "tags") if self.has_ended(ids) else None
        if span is None and verdict is None and "<think>" not in text:
            return  # a run whose completions hold no thoughts
        thought = None if span is None else text[slice(*span)].removeprefix("<think>").removesuffix("</think>")
        self.window.add(StepNote(thought, sum(mask), len(ids), "" if verdict is None else verdict.status))
