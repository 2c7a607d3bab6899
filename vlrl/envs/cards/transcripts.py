"""A whole episode as one text: the replies in order. With the deal's seed it can be played again, so that a logged episode is
scored like any other completion, without a model and without images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlrl.answers.literals import strict_json
from vlrl.envs.cards.games import Game
from vlrl.envs.cards.replies import random_action, read_action, thought_fields

MAX_TURNS = 300
"""The environments' own limit of steps."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply. `ended`: by itself, not at the token limit."""

    reply: str
    ended: bool = True


@dataclass(frozen=True, slots=True)
class PlayedTurn:
    """A turn and what came of it. `action=None`: the reply played nothing and `token` stood for it. `recognised=None`: the
    reply was not valid."""

    state: Any
    turn: Turn
    action: str | None
    token: str
    valid: bool
    recognised: bool | None
    reward: float
    done: bool


def write_transcript(turns: Iterable[Turn]) -> str:
    """The completion of an episode: a JSON list of `{"reply": text, "ended": true or false}`."""
    return json.dumps([{"reply": turn.reply, "ended": turn.ended} for turn in turns], ensure_ascii=False)


def read_transcript(text: str) -> list[Turn] | None:
    """The turns of a transcript, or None for any other text. Never raises."""
    try:
        rows = strict_json(text)
    except ValueError:
        return None
    if not isinstance(rows, list) or len(rows) > MAX_TURNS:
        return None
    turns = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("reply"), str) or not isinstance(row.get("ended"), bool):
            return None
        turns.append(Turn(row["reply"], row["ended"]))
    return turns


class Playthrough:
    """An episode under way by the plain rules: nothing is cut short, and an unreadable action becomes the random one that the
    same step always gets (`number`: which episode of the deal)."""

    def __init__(self, game: Game, seed: int, number: int = 0, parser: str = "strict") -> None:
        self.game, self.seed, self.number, self.parser = game, seed, number, parser
        self._rng = np.random.default_rng(seed)
        self.state = game.deal(self._rng)
        self.played: list[PlayedTurn] = []

    @property
    def done(self) -> bool:
        return len(self.played) >= MAX_TURNS or (bool(self.played) and self.played[-1].done)

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(turn.token for turn in self.played)

    def step(self, turn: Turn) -> PlayedTurn:
        """Plays a reply. Raises RuntimeError once the episode is over."""
        if self.done:
            raise RuntimeError(f"{self.game.name}, seed {self.seed}: over after {len(self.played)} steps")
        fields = thought_fields(turn.reply, self.game, turn.ended)
        action = read_action(turn.reply, self.game, parser=self.parser)
        token = action or random_action(self.game, self.seed, self.number, len(self.played))
        outcome = self.game.step(self.state, token, self._rng)
        recognised = None if fields is None else self.game.recognised(fields, self.state)
        one = PlayedTurn(self.state, turn, action, token, fields is not None, recognised, outcome.reward, outcome.done)
        self.played.append(one)
        self.state = outcome.state
        return one


def replay(game: Game, seed: int, turns: Sequence[Turn], number: int = 0, parser: str = "strict") -> list[PlayedTurn]:
    """Plays the turns from the deal of `seed` (see `Playthrough`). Turns after the end are not played."""
    under_way = Playthrough(game, seed, number, parser)
    for turn in turns:
        if under_way.done:
            break
        under_way.step(turn)
    return under_way.played


def state_after(game: Game, seed: int, tokens: Sequence[str], *, may_end: bool = False) -> Any:
    """The state that the deal of `seed` is in after these tokens. Raises ValueError where the game ends before the last of
    them, or with it unless it `may_end`."""
    rng = np.random.default_rng(seed)
    state = game.deal(rng)
    for t, token in enumerate(tokens):
        outcome = game.step(state, token, rng)
        if outcome.done and not (may_end and t == len(tokens) - 1):
            raise ValueError(f"{game.name}, seed {seed}: over after {t + 1} of {len(tokens)} moves")
        state = outcome.state
    return state


def write_moves(game: Game, tokens: Sequence[str]) -> str:
    """Moves as indices of tokens with dots between them, "-" for none: fit for the address of an image."""
    return ".".join(str(game.tokens.index(token)) for token in tokens) or "-"


def read_moves(game: Game, text: str) -> tuple[str, ...]:
    """What `write_moves` wrote. Raises ValueError."""
    numbers = [] if text == "-" else [int(part) for part in text.split(".")]
    if any(not 0 <= number < len(game.tokens) for number in numbers):
        raise ValueError(f"{text!r} is no list of moves of {game.name}, which has {len(game.tokens)} tokens")
    return tuple(game.tokens[number] for number in numbers)
