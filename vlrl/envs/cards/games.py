"""The four games under one form, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from vlrl.envs.cards.blackjack import BlackjackGame
from vlrl.envs.cards.deck import Outcome
from vlrl.envs.cards.numberline import NumberLineGame
from vlrl.envs.cards.points import EZPointsGame, PointsGame


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
