"""How thoughts about a state are worded: eight ways each, drawn from a seed. What they say is the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlrl.envs.cards.blackjack import BlackjackGame
from vlrl.envs.cards.deck import pick
from vlrl.envs.cards.games import Game
from vlrl.envs.cards.numberline import NumberLineGame
from vlrl.envs.cards.points import PointsGame, written

POINTS_THOUGHTS = (
    "{formula} makes {goal}; {have}so next is {token}",
    "I can reach {goal} with {formula}; {have}next is {token}",
    "The plan is {formula} = {goal}. {have}Next comes {token}",
    "{goal} is {formula}; {have}hence the next token is {token}",
    "With these cards {formula} gives {goal}; {have}I play {token}",
    "Aiming at {formula}, which equals {goal}, {have}I choose {token}",
    "To get {goal} I build {formula}; {have}now append {token}",
    "{formula} equals {goal}. {have}I pick {token}",
)
HOPELESS_THOUGHTS = (
    "No formula of these cards makes {goal}, so I end it with {token}",
    "{goal} cannot be reached from here; I press {token}",
)
NUMBERLINE_THOUGHTS = (
    "The target {target} is {side} {current}, so I go {way}",
    "From {current} to {target} I have to go {way}",
    "{current} is not yet {target}; go {way}",
    "To reach {target} from {current}, step {way}",
    "I stand at {current} and want {target}, so {way} it is",
    "{target} is {side} {current}: {way}",
    "Going {way} brings {current} nearer to {target}",
    "The distance from {current} to {target} shrinks if I move {way}",
)
BLACKJACK_THOUGHTS = (
    "My total is {total} and the dealer shows {up}, so I {token}",
    "The dealer shows {up}; my total is {total}: {token}",
    "With a total of {total} against a dealer {up}, {token}",
    "My cards total {total}, the dealer has {up}. I {token}",
    "I see a total of {total}. The dealer shows {up}. Best is to {token}",
    "Since the dealer shows {up} and my total is {total}, I {token}",
    "A total of {total} when the dealer has {up} means {token}",
    "The total is {total}, the dealer card is {up}; I {token}",
)


def word_thought(game: Game, state: Any, move: str, rng: np.random.Generator, formula: Sequence[str] = ()) -> str:
    """A thought that ends in `move`. `formula`: what a points game is heading for; without one there is nothing left to win.
    Raises TypeError for an unknown game."""
    if isinstance(game, PointsGame):
        ways = POINTS_THOUGHTS if formula else HOPELESS_THOUGHTS
        played = written(state.formula)
        words = {"goal": game.target, "have": f"I have {played}, " if played else ""}
        return str(pick(rng, ways).format(formula=" ".join(formula), token=move, **words))
    if isinstance(game, NumberLineGame):
        up = move == "+"
        words = {"side": "above" if up else "below", "way": "up" if up else "down"}
        return str(pick(rng, NUMBERLINE_THOUGHTS).format(current=state.current, target=state.target, **words))
    if isinstance(game, BlackjackGame):
        return str(pick(rng, BLACKJACK_THOUGHTS).format(total=state.total, up=state.up_card.face, token=move))
    raise TypeError(f"no words for the game {game.name!r}")
