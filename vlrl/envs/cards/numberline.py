"""NumberLine: walk to the target, one position a move. Source of rules and rewards: RL4VLM (arXiv 2405.10292)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlrl.envs.cards.briefs import NUMBERLINE, Brief
from vlrl.envs.cards.claims import NOT_STATED, direction, move_problem
from vlrl.envs.cards.deck import Outcome
from vlrl.envs.cards.no_formula import NoFormula

MAX_STEPS = 10


@dataclass(frozen=True, slots=True)
class NumberLineState:
    current: int
    target: int
    step: int = 0


@dataclass(frozen=True)
class NumberLineGame(NoFormula):
    name: str = "numberline"
    env_id: str = "vlrl/NumberLine-v0"
    max_position: int = 5
    thought_keys: tuple[str, ...] = ("current number", "target number", "thoughts")
    success_reward: float = 1.0
    tokens: tuple[str, ...] = ("-", "+")

    def deal(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> NumberLineState:
        """Start and target from the generator, or of `options["start"]` and `options["target"]`. Raises ValueError."""
        start, target = (int(n) for n in rng.integers(self.max_position + 1, size=2))
        if start == target:
            target = (target + 1) % self.max_position
        forced = options or {}
        if "start" in forced or "target" in forced:
            start, target = int(forced["start"]), int(forced["target"])
            if start == target or not (0 <= start <= self.max_position and 0 <= target <= self.max_position):
                raise ValueError(f"start={start}, target={target}: give two different positions of 0..{self.max_position}")
        return NumberLineState(start, target)

    def step(self, state: NumberLineState, token: str, rng: np.random.Generator) -> Outcome[NumberLineState]:
        """One move, clamped to the ends: 1 at the target, -1 where the distance did not shrink, else 0."""
        moved = min(max(state.current + (1 if token == "+" else -1), 0), self.max_position)
        after = NumberLineState(moved, state.target, state.step + 1)
        if moved == state.target:
            return Outcome(after, 1.0, terminated=True)
        nearer = abs(moved - state.target) < abs(state.current - state.target)
        return Outcome(after, 0.0 if nearer else -1.0, truncated=after.step >= MAX_STEPS)

    def legal(self, state: NumberLineState) -> tuple[str, ...]:
        return self.tokens

    def good(self, state: NumberLineState) -> tuple[str, ...]:
        return ("+",) if state.target > state.current else ("-",) if state.target < state.current else ()

    def right(self, state: NumberLineState, token: str) -> bool:
        return token in self.good(state)

    def lost(self, state: NumberLineState) -> bool:
        return False

    def best(self, state: NumberLineState) -> str:
        return "+" if state.target > state.current else "-"

    def shown(self, state: NumberLineState) -> dict[str, Any]:
        """What a true thought states of the image."""
        return {"current number": state.current, "target number": state.target}

    def recognised(self, fields: Mapping[str, Any], state: NumberLineState) -> bool:
        """Whether both numbers of the thought are those of the state, as numbers or as their text."""
        return all(str(fields.get(key)).strip() == str(value) for key, value in self.shown(state).items())

    @property
    def brief(self) -> Brief:
        return NUMBERLINE

    def named_move(self, thought: str) -> str | None:
        return direction(thought)

    def problem(self, state: NumberLineState, fields: Mapping[str, Any]) -> str | None:
        if not self.recognised(fields, state):
            return NOT_STATED
        return move_problem(self.named_move(str(fields["thoughts"])), self.good(state))

    def move_towards(self, state: NumberLineState, formula: Sequence[str]) -> str:
        return self.best(state)

    def info(self, state: NumberLineState) -> dict[str, Any]:
        """Privileged facts under the published names."""
        return {"Target": state.target, "Current": state.current}

    def answer(self, state: NumberLineState) -> dict[str, Any]:
        """The state as the answer of a single-turn sample."""
        return {
            "current": state.current,
            "target": state.target,
            "max_position": self.max_position,
            "good": list(self.good(state)),
        }
