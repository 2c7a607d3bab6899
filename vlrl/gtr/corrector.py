"""Requests to correctors and their verdicts. The correctors are in `oracle`, `remote` and `checkpoint`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from vlrl.envs.cards import Game, read_action
from vlrl.schema import Sample, Task

STATUSES = ("ok", "corrected", "unsolvable", "invalid", "failed")
"""The thought is right; it was rewritten; nothing can be won from here; it did not pass the validity gate; no verdict."""


@dataclass(frozen=True)
class StepRequest:
    """One step of a game. `ended`: the completion ended by itself, not at the token limit. `target`: the formula that the
    episode is heading for, None while undetermined. `seed` decides between equal wordings and targets. `sample`: the same as
    a row, for correctors that write to its prompt."""

    game: Game
    state: Any
    completion: str
    ended: bool = True
    image: Image.Image | None = None
    target: str | None = None
    seed: int = 0
    sample: Sample | None = None

    @property
    def action(self) -> str | None:
        return read_action(self.completion, self.game)


@dataclass(frozen=True)
class SampleRequest:
    """One completion of a single-turn sample. `is_right`: whether the reward finds its answer right (correctors may use
    it only to know a right thought from a wrong one; no prompt contains it)."""

    task: Task
    sample: Sample
    completion: str
    is_right: bool
    ended: bool = True
    images: tuple[Image.Image, ...] = ()
    seed: int = 0


Request = StepRequest | SampleRequest


@dataclass(frozen=True, slots=True)
class Correction:
    """A verdict. `text` is the whole corrected completion with the policy's own action or answer kept (None unless
    corrected); which of its tokens may be imitated is in `vlrl.gtr.masks`. `target`: the formula to carry to the next step.
    `privileged`: the corrector saw more than the image."""

    status: str
    text: str | None = None
    target: str | None = None
    why: str = ""
    tier: str = ""
    privileged: bool = False
    n_attempts: int = 0
    seconds: float = 0.0
    cached: bool = False

    def __post_init__(self) -> None:
        if self.status not in STATUSES or (self.text is not None) != (self.status == "corrected"):
            raise ValueError(f"a correction of status {self.status!r} with text {self.text!r}; known: {', '.join(STATUSES)}")


class Corrector(Protocol):
    """Judges thoughts, and rewrites wrong ones. Never raises for what a policy wrote or an endpoint did."""

    @property
    def tier(self) -> str: ...
    @property
    def privileged(self) -> bool: ...
    def correct(self, request: Request) -> Correction: ...
    def correct_many(self, requests: Sequence[Request]) -> list[Correction]:
        """Corrections in the order of the requests."""
        ...
