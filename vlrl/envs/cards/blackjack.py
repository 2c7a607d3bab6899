"""Blackjack from an infinite deck, with its exact best play by dynamic programming.

Source of rules and rewards: RL4VLM (arXiv 2405.10292): no bonus for naturals, the dealer stands on every 17. Best play knows
the own hand and the dealer's open card, never the hole card.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from vlrl.envs.cards.briefs import BLACKJACK, Brief
from vlrl.envs.cards.claims import NOT_STATED, dealer_value, decision, move_problem
from vlrl.envs.cards.deck import FACES, Card, Outcome, random_suit, rank_of
from vlrl.envs.cards.no_formula import NoFormula

VALUES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
DEALER_STANDS = 17


@dataclass(frozen=True, slots=True)
class BlackjackState:
    """`dealer` is the open card and the hole card; `draws` are forced next cards, for tests."""

    player: tuple[Card, ...]
    dealer: tuple[Card, ...]
    draws: tuple[Card, ...] = ()
    step: int = 0

    @property
    def total(self) -> int:
        return total(card.value for card in self.player)

    @property
    def up_card(self) -> Card:
        return self.dealer[0]


def total(values: Iterable[int]) -> int:
    """The hand's points; an ace counts 11 where that does not exceed 21."""
    hard = list(values)
    return sum(hard) + (10 if 1 in hard and sum(hard) <= 11 else 0)


def _drawn(value: int, rng: np.random.Generator) -> Card:
    """A card of this value. Ten-valued cards are jacks, queens or kings."""
    rank = "A" if value == 1 else FACES[int(rng.integers(3))] if value == 10 else str(value)
    return Card(random_suit(rng), rank)


@dataclass(frozen=True)
class BlackjackGame(NoFormula):
    name: str = "blackjack"
    env_id: str = "vlrl/Blackjack-v0"
    thought_keys: tuple[str, ...] = ("thoughts",)
    success_reward: float = 1.0
    tokens: tuple[str, ...] = ("stand", "hit")

    def deal(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> BlackjackState:
        """Two cards each from the generator; `options` may fix `player`, `dealer` and the next `draws` (values or ranks).
        Raises ValueError."""
        forced = options or {}
        hands = []
        for who in ("player", "dealer"):
            cards = _forced(forced.get(who, ()), rng)
            if who in forced and len(cards) < 2:
                raise ValueError(f"{who}={forced[who]!r}: two cards are dealt")
            hands.append(cards or tuple(self._random(rng) for _ in range(2)))
        if len(hands[1]) != 2:
            raise ValueError(f"dealer={forced['dealer']!r}: give the open card and the hole card")
        return BlackjackState(hands[0], hands[1], _forced(forced.get("draws", ()), rng))

    def _random(self, rng: np.random.Generator) -> Card:
        return _drawn(VALUES[int(rng.integers(len(VALUES)))], rng)

    def step(self, state: BlackjackState, token: str, rng: np.random.Generator) -> Outcome[BlackjackState]:
        """Hit: one more card, -1 above 21. Stand: the dealer draws to 17; +1, 0 or -1 by comparison (bust counts 0)."""
        queue = list(state.draws)

        def draw() -> Card:
            return queue.pop(0) if queue else self._random(rng)

        if token == "hit":
            after = BlackjackState((*state.player, draw()), state.dealer, tuple(queue), state.step + 1)
            return Outcome(after, -1.0, terminated=True) if after.total > 21 else Outcome(after, 0.0)
        dealer = list(state.dealer)
        while total(card.value for card in dealer) < DEALER_STANDS:
            dealer.append(draw())
        points = total(card.value for card in dealer)
        theirs = points if points <= 21 else 0
        after = BlackjackState(state.player, tuple(dealer), tuple(queue), state.step + 1)
        return Outcome(after, float(np.sign(state.total - theirs)), terminated=True)

    def legal(self, state: BlackjackState) -> tuple[str, ...]:
        return self.tokens

    def good(self, state: BlackjackState) -> tuple[str, ...]:
        """The action of highest expected return against the open card (both if they tie)."""
        values = _action_values(*_hand(state.player), state.up_card.value, _return)
        return tuple(token for token in self.tokens if values[token] >= max(values.values()) - 1e-12)

    def right(self, state: BlackjackState, token: str) -> bool:
        return token in self.good(state)

    def lost(self, state: BlackjackState) -> bool:
        return False

    def best(self, state: BlackjackState) -> str:
        return self.good(state)[0]

    def shown(self, state: BlackjackState) -> dict[str, Any]:
        """A thought about blackjack has no fields beside its text."""
        return {}

    def recognised(self, fields: Mapping[str, Any], state: BlackjackState) -> bool:
        """Whether the thought states the hand's total, as in "total is 17" or "total 17", and no other."""
        stated = {int(number) for number in _STATED_TOTAL.findall(str(fields.get("thoughts", "")).lower())}
        return stated == {state.total}

    @property
    def brief(self) -> Brief:
        return BLACKJACK

    def named_move(self, thought: str) -> str | None:
        return decision(thought)

    def problem(self, state: BlackjackState, fields: Mapping[str, Any]) -> str | None:
        thought = str(fields["thoughts"])
        if not self.recognised(fields, state):
            return NOT_STATED
        if dealer_value(thought) not in (None, state.up_card.value):
            return f"the dealer shows {state.up_card.face}"
        return move_problem(self.named_move(thought), self.good(state))

    def move_towards(self, state: BlackjackState, formula: Sequence[str]) -> str:
        return self.best(state)

    def info(self, state: BlackjackState) -> dict[str, Any]:
        """Privileged facts under the published names; `Dealer Card` holds the hole card too."""
        return {"Dealer Card": [triple(card) for card in state.dealer], "Player Card": [triple(card) for card in state.player]}

    def answer(self, state: BlackjackState) -> dict[str, Any]:
        """The state as the answer of a single-turn sample: what the image shows, never the hole card."""
        return {
            "player": [triple(card) for card in state.player],
            "dealer_up": [triple(state.up_card)],
            "good": list(self.good(state)),
        }


_STATED_TOTAL = re.compile(r"\btotals?\s*(?:is|of|are|:|=|to|stands at)?\s*([0-9]{1,2})\b")


def triple(card: Card) -> list[Any]:
    """`[value, face, suit]`."""
    return [card.value, card.face, card.suit]


def _forced(cards: Any, rng: np.random.Generator) -> tuple[Card, ...]:
    """Forced cards: a value of ten becomes a face card, as in a random deal."""
    ranks = [rank_of(card) for card in cards]
    return tuple(_drawn(10, rng) if rank == "T" else Card(random_suit(rng), rank) for rank in ranks)


# ---- best play


EndValue = Callable[[int, int], float]
"""(player's points, dealer's points or 0) -> the value of that end."""


def _return(ours: int, theirs: int) -> float:
    return float(ours > theirs) - float(ours < theirs)


def _win(ours: int, theirs: int) -> float:
    return float(ours > theirs)


def _hand(cards: tuple[Card, ...]) -> tuple[int, bool]:
    """Points with aces as 1, and whether there is an ace."""
    return sum(card.value for card in cards), any(card.value == 1 for card in cards)


def _points(hard: int, ace: bool) -> int:
    return hard + 10 if ace and hard <= 11 else hard


@cache
def _dealer_ends(hard: int, ace: bool) -> tuple[tuple[int, float], ...]:
    """The dealer's final points (0: bust) with their probabilities, from a hand."""
    points = _points(hard, ace)
    if points >= DEALER_STANDS:
        return ((points if points <= 21 else 0, 1.0),)
    ends: dict[int, float] = defaultdict(float)
    for value in VALUES:
        for end, share in _dealer_ends(hard + value, ace or value == 1):
            ends[end] += share / len(VALUES)
    return tuple(ends.items())


@cache
def _stand_value(points: int, up: int, end_value: EndValue) -> float:
    return sum(share * end_value(points, end) for end, share in _dealer_ends(up, up == 1))


@cache
def _action_values(hard: int, ace: bool, up: int, end_value: EndValue) -> dict[str, float]:
    """Value of both actions in a hand that is not bust, if play is best afterwards. Best play is by `end_value`."""
    hit = 0.0
    for value in VALUES:
        after = (hard + value, ace or value == 1)
        hit += end_value(0, 1) if after[0] > 21 else max(_action_values(*after, up, end_value).values())
    return {"stand": _stand_value(_points(hard, ace), up, end_value), "hit": hit / len(VALUES)}


@lru_cache(maxsize=1)
def bounds() -> dict[str, float]:
    """Exact expectations over random deals: `best_return` and the `best_return_wins` of that policy, `best_wins`,
    and return and wins of standing at once and of random play."""

    def both(policy: Callable[[int, bool, int], Mapping[str, float]]) -> tuple[float, float]:
        @cache
        def value(hard: int, ace: bool, up: int, end_value: EndValue) -> float:
            if hard > 21:
                return end_value(0, 1)
            shares = policy(hard, ace, up)
            found = shares.get("stand", 0.0) * _stand_value(_points(hard, ace), up, end_value)
            if shares.get("hit"):
                draws = [value(hard + card, ace or card == 1, up, end_value) for card in VALUES]
                found += shares["hit"] * sum(draws) / len(draws)
            return found

        deals = [(a + b, 1 in (a, b), up) for a in VALUES for b in VALUES for up in VALUES]
        return (
            sum(value(*deal, _return) for deal in deals) / len(deals),
            sum(value(*deal, _win) for deal in deals) / len(deals),
        )

    def best_by(end_value: EndValue) -> Callable[[int, bool, int], Mapping[str, float]]:
        def policy(hard: int, ace: bool, up: int) -> Mapping[str, float]:
            values = _action_values(hard, ace, up, end_value)
            return {max(values, key=lambda token: values[token]): 1.0}

        return policy

    best, stand = both(best_by(_return)), both(lambda hard, ace, up: {"stand": 1.0})
    random = both(lambda hard, ace, up: {"stand": 0.5, "hit": 0.5})
    return {
        "best_return": best[0],
        "best_return_wins": best[1],
        "best_wins": both(best_by(_win))[1],
        "stand_return": stand[0],
        "stand_wins": stand[1],
        "random_return": random[0],
        "random_wins": random[1],
    }
