"""Points24 and EZPoints: make 24 of four cards, or 12 of two, one token at a time.

Source of rules and rewards: RL4VLM (arXiv 2405.10292), as its code has them. differs: `exact=True` reads tokens by a grammar
and computes with fractions; there, Python evaluates the joined text (`exact=False`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vlrl.envs.cards.briefs import EZPOINTS, Brief, points24_brief
from vlrl.envs.cards.claims import announced_formula, next_token
from vlrl.envs.cards.deck import RANKS, Card, Outcome, pick, random_suit, rank_of, stated_ranks_match
from vlrl.envs.cards.formula import BLANK, equals
from vlrl.envs.cards.solver import Formula, completions, formulas, solvable

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

    follows_target: ClassVar[bool] = True
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
        found, entries = self.plan(state), self.formula(state)
        return "=" if found is None or found == entries else found[len(entries)]

    def formula(self, state: PointsState) -> Formula:
        """The entries of the formula so far, blanks dropped."""
        return tuple(entry for entry in state.formula if entry != BLANK)

    def shown(self, state: PointsState) -> dict[str, Any]:
        """What a true thought states of the image: ranks as written on the cards, and the formula."""
        return {"cards": [card.face for card in state.cards], "formula": written(state.formula)}

    def recognised(self, fields: Mapping[str, Any], state: PointsState) -> bool:
        """Whether the thought's `cards` are those of the state, in any order."""
        cards = fields.get("cards")
        return isinstance(cards, list) and stated_ranks_match(cards, state.cards)

    @property
    def brief(self) -> Brief:
        return points24_brief("10" if self.face_as_ten else "11, 12 and 13")

    def named_move(self, thought: str) -> str | None:
        return next_token(thought)

    def announced_formula(self, thought: str) -> Formula | None:
        return announced_formula(thought, self.n_cards)

    def problem(self, state: PointsState, fields: Mapping[str, Any]) -> str | None:
        thought, entries = str(fields["thoughts"]), self.formula(state)
        if not self.recognised(fields, state):
            return f"the cards are {[card.face for card in state.cards]}, not {fields.get('cards')!r:.60}"
        if not _is_written(fields, entries):
            return f"the formula is {written(state.formula)!r}, not {fields['formula']!r:.60}"
        announced = self.announced_formula(thought)
        if announced is not None and not self._leads_on(state, announced):
            return f"the formula it is heading for, {' '.join(announced)!r:.80}, is not right"
        named = self.named_move(thought)
        if named is None:
            return "no next token is named"
        if not self.right(state, named):
            return f"the next token is not {named!r}"
        if announced is not None and (*entries, named) != announced[: len(entries) + 1] and named != "=":
            return f"{named!r} is not how {' '.join(announced)!r:.80} goes on"
        return None

    def _leads_on(self, state: PointsState, formula: Formula) -> bool:
        """Whether a whole formula uses the cards, equals the goal and goes on from the state's."""
        numbers = sorted(int(token) for token in formula if token.isdecimal())
        entries = self.formula(state)
        fits = len(formula) - len(entries) <= self.max_entries - len(state.formula)
        return numbers == sorted(state.numbers) and formula[: len(entries)] == entries and fits and self.reaches(formula)

    def target_formula(self, state: PointsState, wanted: Sequence[Formula | None]) -> Formula:
        """The first of `wanted` that leads on from the state, else `plan`; the formula so far where that is complete, and right
        only by Python's reading."""
        fitting = (formula for formula in wanted if formula is not None and self._leads_on(state, formula))
        return next(fitting, None) or self.plan(state) or self.formula(state)

    def move_towards(self, state: PointsState, formula: Formula) -> str:
        return "=" if self.right(state, "=") else formula[len(self.formula(state))]

    def leaves_target(self, state: PointsState, target: str) -> bool:
        return not "".join(target.split()).startswith("".join(self.formula(state)))

    def solutions(self, ranks: Sequence[str]) -> list[str]:
        numbers = [RANKS.index(rank_of(rank)) + 1 for rank in ranks]
        values = tuple(sorted(min(number, 10) if self.face_as_ten else number for number in numbers))
        return ["".join(formula) for formula in formulas(values, self.target, self.operators, self.exact)]

    def stated_formula(self, state: PointsState, fields: Mapping[str, Any]) -> Formula | None:
        thought, entries = str(fields["thoughts"]), self.formula(state)
        announced = self.announced_formula(thought)
        if announced is None or not (self.recognised(fields, state) and _is_written(fields, entries)):
            return None
        if sorted(token for token in announced if token.isdecimal()) != sorted(map(str, state.numbers)):
            return None
        further = (*announced, "=")
        goes_on = further[: len(entries)] == entries and self.named_move(thought) == further[len(entries)]
        return announced if goes_on else None

    def random_formula(self, state: PointsState, rng: np.random.Generator) -> Formula:
        numbers = [str(state.numbers[i]) for i in rng.permutation(len(state.numbers))]
        tokens = [numbers[0]]
        for number in numbers[1:]:
            tokens += [pick(rng, self.operators), number]
        if self.brackets and rng.random() < 0.3:
            start = 2 * int(rng.integers(len(numbers) - 1))
            tokens[start : start + 3] = ["(", *tokens[start : start + 3], ")"]
        return tuple(tokens)

    def random_completion(self, state: PointsState, rng: np.random.Generator) -> Formula:
        formula = list(self.formula(state))
        for number in rng.permutation(list(state.left.elements())):
            if formula and (formula[-1].isdecimal() or formula[-1] == ")"):
                formula.append(pick(rng, self.operators))
            formula.append(str(number))
        return (*formula, *[")"] * max(0, formula.count("(") - formula.count(")")))

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

    follows_target: ClassVar[bool] = False
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

    @property
    def brief(self) -> Brief:
        return EZPOINTS

    def _random_ranks(self, rng: np.random.Generator) -> list[str]:
        first = Card("H", RANKS[int(rng.integers(1, 13))])
        times = first.value in (2, 3, 4, 6) and rng.random() < 0.5
        second = 12 // first.value if times else 12 - first.value
        ranks = [first.rank, RANKS[second - 1]]
        return ranks[::-1] if rng.random() < 0.5 else ranks


def written(formula: tuple[str, ...]) -> str:
    """A formula as prompts and thoughts write it: entries joined by single spaces, blanks dropped."""
    return " ".join(entry for entry in formula if entry != BLANK)


def _is_written(fields: Mapping[str, Any], entries: Formula) -> bool:
    """Whether the `formula` of a thought is these entries, whatever the spaces."""
    return "".join(str(fields["formula"]).split()) == "".join(entries)
