"""Playing cards and the record of one move: what all games share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

SUITS = "HSDC"
RANKS = "A23456789TJQK"
FACES = "JQK"

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Card:
    """One card. `rank` is one of `A 2 .. 9 T J Q K`, `suit` one of `H S D C`."""

    suit: str
    rank: str

    @property
    def code(self) -> str:
        """Suit letter, then rank: `HT` is the ten of hearts."""
        return self.suit + self.rank

    @property
    def number(self) -> int:
        """1 (ace) to 13 (king)."""
        return RANKS.index(self.rank) + 1

    @property
    def value(self) -> int:
        """1 (ace) to 10; jack, queen and king count 10."""
        return min(self.number, 10)

    @property
    def face(self) -> str:
        """What is written on the card: as the rank, but `10` for the ten."""
        return "10" if self.rank == "T" else self.rank


@dataclass(frozen=True, slots=True)
class Outcome(Generic[State]):
    """What one move did. `terminated`: the game is over; `truncated`: it was cut by a limit."""

    state: State
    reward: float
    terminated: bool = False
    truncated: bool = False

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


def rank_of(written: object) -> str:
    """The rank of a forced card, given as 1..13 or as `A 2 .. 10 T J Q K`. Raises ValueError."""
    text = str(written).strip().upper()
    if text == "10":
        return "T"
    if len(text) == 1 and text in RANKS:
        return text
    if text in ("1", "11", "12", "13"):
        return RANKS[int(text) - 1]
    raise ValueError(f"{written!r} is no card; give 1 to 13 or one of A 2 .. 10 J Q K")


def random_suit(rng: np.random.Generator) -> str:
    return SUITS[int(rng.integers(len(SUITS)))]


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def own_rng(*numbers: int, purpose: int) -> np.random.Generator:
    """A generator for one purpose at a step of a deal, apart from the deal's own. `purpose` is not 0 and comes last, since
    numpy drops the zeros at the end of a seed: `[seed, 0, 0]` would draw what `seed` dealt."""
    return np.random.default_rng([*numbers, purpose])


def stated_ranks_match(stated: Sequence[object], cards: Sequence[Card]) -> bool:
    """Whether the cards a thought names are these cards, in any order. A card may be named by its rank or by its value
    (`10` is any card that counts ten)."""
    names = [str(name).strip().upper() for name in stated]
    if len(names) != len(cards):
        return False
    unnamed = [card.face for card in cards]
    any_ten = 0
    for name in names:
        if name in ("10", "T"):
            any_ten += 1
            continue
        try:
            rank = rank_of(name)
        except ValueError:
            return False
        if rank not in unnamed:
            return False
        unnamed.remove(rank)
    return len(unnamed) == any_ten and all(face in ("10", *FACES) for face in unnamed)
