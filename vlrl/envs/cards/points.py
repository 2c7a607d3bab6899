"""Points24 and EZPoints: make 24 of four cards, or 12 of two, one token at a time.

Source of rules and rewards: RL4VLM (arXiv 2405.10292), as its code has them. differs: `exact=True` reads tokens by a grammar
and computes with fractions; there, Python evaluates the joined text (`exact=False`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlrl.envs.cards.deck import RANKS, Card, Outcome, random_suit, rank_of, stated_ranks_match
from vlrl.envs.cards.formula import BLANK, equals
from vlrl.envs.cards.solver import Formula, completions, solvable

SUCCESS, FAILURE = 10.0, -1.0


@dataclass(frozen=True, slots=True)
class PointsState:
    """`numbers` are the cards' values, `formula` the entries so far (`BLANK` for a number that could not be played)."""

    cards: tuple[Card, ...]
    numbers: tuple[int, ...]
    formula: tuple[str, ...] = ()
    step: int = 0

    @property
    def left(self) -> Counter[str]:
        """Numbers not played yet."""
        played = Counter(entry for entry in self.formula if entry.isdecimal())
        return Counter(map(str, self.numbers)) - played


@dataclass(frozen=True)
class PointsGame:
    """`max_entries`: a formula with more cuts the episode. `face_as_ten=False`: values 1 to 13, number tokens 1 to 13."""

    name: str = "points24"
    env_id: str = "vlrl/Points24-v0"
    target: int = 24
    n_cards: int = 4
    operators: str = "+-*/"
    brackets: bool = True
    max_entries: int = 20
    exact: bool = True
    face_as_ten: bool = True
    thought_keys: tuple[str, ...] = ("cards", "formula", "thoughts")
    success_reward: float = SUCCESS

    @property
    def tokens(self) -> tuple[str, ...]:
        numbers = map(str, range(1, 11 if self.face_as_ten else 14))
        return (*numbers, *self.operators, *("()" if self.brackets else ""), "=")

    def deal(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> PointsState:
        """A deal from the generator, or of `options["numbers"]` (values or ranks). Raises ValueError."""
        forced = (options or {}).get("numbers")
        ranks = self._forced_ranks(forced) if forced is not None else self._random_ranks(rng)
        cards = tuple(Card(random_suit(rng), rank) for rank in ranks)
        return PointsState(cards, tuple(card.value if self.face_as_ten else card.number for card in cards))

    def _forced_ranks(self, forced: Any) -> list[str]:
        if len(forced) != self.n_cards:
            raise ValueError(f"numbers={forced!r}: {self.name} is dealt {self.n_cards} cards")
        return [rank_of(number) for number in forced]

    def _random_ranks(self, rng: np.random.Generator) -> list[str]:
        return [RANKS[int(n)] for n in rng.integers(13, size=self.n_cards)]

    def step(self, state: PointsState, token: str, rng: np.random.Generator) -> Outcome[PointsState]:
        """One token. Operators and brackets are judged only at `=`; the reward is 10, -1 or 0."""
        grown = state.formula
        if len(grown) > self.max_entries:
            return Outcome(self._moved(state, grown), FAILURE, truncated=True)
        if token == "=":
            won = not state.left and equals(grown, self.target, self.exact)
            return Outcome(self._moved(state, grown), SUCCESS if won else FAILURE, terminated=True)
        if token.isdecimal() and not state.left[token]:
            return Outcome(self._moved(state, (*grown, BLANK)), FAILURE)
        return Outcome(self._moved(state, (*grown, token)), 0.0)

    def _moved(self, state: PointsState, formula: tuple[str, ...]) -> PointsState:
        return PointsState(state.cards, state.numbers, formula, state.step + 1)

    def legal(self, state: PointsState) -> tuple[str, ...]:
        """Tokens that can be played: all but numbers that were used up or never dealt."""
        return tuple(token for token in self.tokens if not token.isdecimal() or state.left[token])

    def solvable(self, state: PointsState) -> bool:
        """Whether the deal has a solution in exact arithmetic."""
        return solvable(tuple(sorted(state.numbers)), self.target, self.operators)

    def completions(self, state: PointsState, token: str | None = None) -> tuple[Formula, ...]:
        """The right formulas that go on from the state's (and then `token`), blanks dropped; see `vlrl.envs.cards.solver`."""
        return completions(
            state.numbers,
            (*state.formula, token) if token else state.formula,
            self.target,
            operators=self.operators,
            brackets=self.brackets,
            max_entries=self.max_entries,
            exact=self.exact,
        )

    def reaches(self, formula: tuple[str, ...]) -> bool:
        """Whether a whole formula equals the goal, by the game's arithmetic."""
        return equals(formula, self.target, self.exact)

    def right(self, state: PointsState, token: str) -> bool:
        """Whether this token is right now: it keeps a right formula possible, or is `=` exactly when one is complete."""
        if token == "=" or not state.left:
            finished = not state.left and len(state.formula) <= self.max_entries and self.reaches(state.formula)
            return finished if token == "=" else not finished and bool(self.completions(state, token))
        return token in self.legal(state) and bool(self.completions(state, token))

    def good(self, state: PointsState) -> tuple[str, ...]:
        """All right tokens. Empty: the deal is lost."""
        return tuple(token for token in self.tokens if self.right(state, token))

    def lost(self, state: PointsState) -> bool:
        """Whether no token is right. Found without trying each of them."""
        return not self.right(state, "=") and not self.completions(state)

    def plan(self, state: PointsState) -> Formula | None:
        """The right formula to head for: of the shortest that go on from the state's the first in order of their tokens, so
        that it does not depend on how the cards lie. None: the deal is lost."""
        return min(self.completions(state), key=lambda formula: (len(formula), formula), default=None)

    def best(self, state: PointsState) -> str:
        """A best move: along `plan`, or `=` at once where there is none (it costs least)."""
        entries = tuple(entry for entry in state.formula if entry != BLANK)
        found = self.plan(state)
        return "=" if found is None or found == entries else found[len(entries)]

    def shown(self, state: PointsState) -> dict[str, Any]:
        """What a true thought states of the picture: ranks as written on the cards, and the formula."""
        return {"cards": [card.face for card in state.cards], "formula": written(state.formula)}

    def recognised(self, fields: Mapping[str, Any], state: PointsState) -> bool:
        """Whether the thought's `cards` are those of the state, in any order."""
        cards = fields.get("cards")
        return isinstance(cards, list) and stated_ranks_match(cards, state.cards)

    def info(self, state: PointsState) -> dict[str, Any]:
        """Privileged facts under the published names. Only the formula may enter a prompt."""
        info: dict[str, Any] = {
            "Cards": [card.code for card in state.cards],
            "Numbers": list(state.numbers),
            "Formula": list(state.formula),
        }
        return {**info, "solvable": self.solvable(state)} if self.target == 24 else info

    def answer(self, state: PointsState) -> dict[str, Any]:
        """The state as the answer of a single-turn sample."""
        return {
            "numbers": list(state.numbers),
            "cards": [card.code for card in state.cards],
            "formula": list(state.formula),
            "target": self.target,
            "good": list(self.good(state)),
        }


@dataclass(frozen=True)
class EZPointsGame(PointsGame):
    """Two cards, 12, `+` and `*` alone; every deal can be won."""

    name: str = "ezpoints"
    env_id: str = "vlrl/EZPoints-v0"
    target: int = 12
    n_cards: int = 2
    operators: str = "+*"
    brackets: bool = False
    max_entries: int = 5

    def __post_init__(self) -> None:
        if not self.face_as_ten:
            raise ValueError("ezpoints has no deals with face_as_ten=False; its cards count at most ten")

    def _random_ranks(self, rng: np.random.Generator) -> list[str]:
        first = Card("H", RANKS[int(rng.integers(1, 13))])
        times = first.value in (2, 3, 4, 6) and rng.random() < 0.5
        second = 12 // first.value if times else 12 - first.value
        ranks = [first.rank, RANKS[second - 1]]
        return ranks[::-1] if rng.random() < 0.5 else ranks


def written(formula: tuple[str, ...]) -> str:
    """A formula as prompts and thoughts write it: entries joined by single spaces, blanks dropped."""
    return " ".join(entry for entry in formula if entry != BLANK)
