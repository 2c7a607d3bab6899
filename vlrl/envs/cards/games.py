"""The four games under one form, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vlrl.envs.cards.blackjack import BlackjackGame
from vlrl.envs.cards.briefs import Brief
from vlrl.envs.cards.deck import Outcome
from vlrl.envs.cards.numberline import NumberLineGame
from vlrl.envs.cards.points import EZPointsGame, PointsGame
from vlrl.envs.cards.solver import Formula


class Game(Protocol):
    """Rules as functions of a frozen state. Randomness comes in as a generator."""

    @property
    def name(self) -> str: ...
    @property
    def env_id(self) -> str: ...
    @property
    def tokens(self) -> tuple[str, ...]:
        """The actions, in the order of their indices."""
        ...

    @property
    def thought_keys(self) -> tuple[str, ...]:
        """The keys a reply needs beside `action`."""
        ...

    @property
    def success_reward(self) -> float: ...
    def deal(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> Any: ...
    def step(self, state: Any, token: str, rng: np.random.Generator) -> Outcome[Any]: ...
    def legal(self, state: Any) -> tuple[str, ...]: ...
    def good(self, state: Any) -> tuple[str, ...]: ...
    def right(self, state: Any, token: str) -> bool:
        """Whether a token is one of `good`."""
        ...

    def lost(self, state: Any) -> bool:
        """Whether no move is right any more; a game that is lost stays lost."""
        ...

    def best(self, state: Any) -> str: ...
    def shown(self, state: Any) -> dict[str, Any]: ...
    def recognised(self, fields: Mapping[str, Any], state: Any) -> bool: ...
    def info(self, state: Any) -> dict[str, Any]: ...
    def answer(self, state: Any) -> dict[str, Any]: ...

    # -- thoughts and what corrects them

    @property
    def brief(self) -> Brief:
        """What the prompt to a model that corrects thoughts says of the game."""
        ...

    def named_move(self, thought: str) -> str | None:
        """The move that a thought names last."""
        ...

    def problem(self, state: Any, fields: Mapping[str, Any]) -> str | None:
        """What is wrong with a thought about this state, in words; None where nothing is."""
        ...

    def move_towards(self, state: Any, formula: Formula) -> str:
        """A right move on the way to a right formula (in games without formulas: a best move)."""
        ...

    # -- formulas; games without them mix in `NoFormula`

    @property
    def follows_target(self) -> bool:
        """Whether an episode heads for a target formula, which corrector prompts state and training may cut an episode by."""
        ...

    def formula(self, state: Any) -> Formula | None:
        """The formula so far, blanks dropped; None in games without one."""
        ...

    def plan(self, state: Any) -> Formula | None:
        """The right formula to head for, or None where there is none."""
        ...

    def solvable(self, state: Any) -> bool | None:
        """Whether the deal has a solution in exact arithmetic; None in games where that is no question."""
        ...

    def solutions(self, ranks: Sequence[str]) -> list[str]:
        """All right formulas of cards with these ranks, shortest first: what the solver of `brief` answers."""
        ...

    def announced_formula(self, thought: str) -> Formula | None:
        """The formula that a thought says it is heading for."""
        ...

    def stated_formula(self, state: Any, fields: Mapping[str, Any]) -> Formula | None:
        """The formula of the cards that a thought heads for, whatever it equals; None where the thought states the image
        wrongly, or does not go on with its formula."""
        ...

    def target_formula(self, state: Any, wanted: Sequence[Formula | None]) -> Formula:
        """The first of `wanted` that is right from here, else the game's own plan; () in games without formulas."""
        ...

    def leaves_target(self, state: Any, target: str) -> bool:
        """Whether the formula so far is no beginning of `target`."""
        ...

    def random_formula(self, state: Any, rng: np.random.Generator) -> Formula:
        """The cards in any order with any operators between, sometimes with a bracket; () in games without formulas."""
        ...

    def random_completion(self, state: Any, rng: np.random.Generator) -> Formula:
        """A formula of all cards that goes on from the formula so far, whatever it equals; () in games without formulas."""
        ...


GAMES: dict[str, Game] = {
    "numberline": NumberLineGame(),
    "ezpoints": EZPointsGame(),
    "points24": PointsGame(),
    "blackjack": BlackjackGame(),
}


def game(name: str, **options: Any) -> Game:
    """A game by name or environment id, with its options (`exact`, `face_as_ten`, `max_position`). Raises ValueError."""
    found = GAMES.get(name) or next((known for known in GAMES.values() if known.env_id == name), None)
    if found is None:
        raise ValueError(f"unknown game {name!r}; known: {', '.join(GAMES)}")
    changed: Game = dataclasses.replace(found, **options)  # type: ignore[type-var]
    return changed
