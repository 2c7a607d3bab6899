"""Rules of the card games as pure functions: deals, moves, rewards, best moves, and what a reply says.

    from vlrl.envs.cards import GAMES
    game = GAMES["points24"]
    state = game.deal(np.random.default_rng(17))
    outcome = game.step(state, game.best(state), rng)

Not here: images and gymnasium (`vlrl.envs`), correctors of thoughts (`vlrl.gtr`).
"""

from vlrl.envs.cards.deck import Card, Outcome, own_rng
from vlrl.envs.cards.games import GAMES, Game, game
from vlrl.envs.cards.points import written
from vlrl.envs.cards.replies import random_action, read_action, thought_fields, write_reply
from vlrl.envs.cards.solver import completions, formulas, solvable

__all__ = [
    "GAMES",
    "Card",
    "Game",
    "Outcome",
    "completions",
    "formulas",
    "game",
    "own_rng",
    "random_action",
    "read_action",
    "solvable",
    "thought_fields",
    "write_reply",
    "written",
]
