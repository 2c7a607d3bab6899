"""Card games without a data set: deals to play, and for the cold start states with the reply of a noisy player.

The noisy player reads the image right but does not plan: on the number line it moves in a random direction, in blackjack it
hits or stands at random, and in the points games it writes a formula with the cards in random order (in Points24 a right one in
one of four deals).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from vlrl.data.synthetic.items import item_rng
from vlrl.envs.cards import Game, game, write_reply
from vlrl.envs.cards.deals import Deal, deal_of, episode_sample, state_sample
from vlrl.envs.cards.deck import pick
from vlrl.envs.cards.transcripts import read_moves, state_after
from vlrl.envs.cards.wording import word_thought
from vlrl.envs.frames import draw_frame as draw_state
from vlrl.schema import Sample

RIGHT_FORMULAS = {"points24": 0.25, "ezpoints": 0.0}
"""Share of the deals in which the noisy player writes a formula that wins."""
N_SEEDS = 2**31


def frame(name: str, moves: str, seed: int) -> Image.Image:
    """The image of the state after `moves` in the deal of `seed`. Raises ValueError for moves that the rules do not allow."""
    rules = game(name)
    return Image.fromarray(draw_state(name, state_after(rules, seed, read_moves(rules, moves)), "fixed"))


def game_sample(name: str, seed: int, split: str, index: int) -> Sample:
    """Deal `index` of a split as an episode; in splits named `coldstart...` a state that the noisy player has reached, with its
    reply as `meta.loose_reply`."""
    rng = item_rng(name, split, seed, index)
    rules = game(name)
    episode = episode_sample(f"{name}-{split}-{seed}-{index}", name, rules, int(rng.integers(N_SEEDS)))
    if not split.startswith("coldstart"):
        return episode
    deal = deal_of(episode)
    plan = _plan(deal, rng)
    moves = plan[: int(rng.integers(len(plan)))]
    sample = state_sample(episode, moves, identity=episode.id, good=False)
    reply = noisy_reply(rules, state_after(rules, deal.seed, moves), plan, len(moves), rng)
    return dataclasses.replace(sample, meta={**sample.meta, "loose_reply": reply})


def noisy_reply(rules: Game, state: Any, plan: tuple[str, ...], step: int, rng: np.random.Generator) -> str:
    """The reply of the noisy player at step `step` of its plan."""
    move = plan[step]
    formula = () if rules.formula(state) is None else plan[:-1]
    return write_reply({**rules.shown(state), "thoughts": word_thought(rules, state, move, rng, formula)}, move)


def _plan(deal: Deal, rng: np.random.Generator) -> tuple[str, ...]:
    """The moves of the noisy player. The game ends with the last move and not before."""
    if deal.game.name in RIGHT_FORMULAS:
        return (*_formula(deal.game, deal.state(), rng), "=")
    moves: list[str] = []
    while True:
        moves.append(pick(rng, deal.game.tokens))
        try:
            state_after(deal.game, deal.seed, moves)
        except ValueError:
            return tuple(moves)


def _formula(rules: Game, state: Any, rng: np.random.Generator) -> tuple[str, ...]:
    """The cards in random order with random operators between them, or a right formula."""
    if rng.random() < RIGHT_FORMULAS[rules.name] and (right := rules.plan(state)) is not None:
        return right
    return rules.random_formula(state, rng)
