"""Card games as samples: an episode to be played (`{"env", "seed"}`), or one state with one decision to make.

`answer` of an episode holds the environment's id and the seed of the deal; of a state also what the image shows and `good`,
the tokens that are right there. `meta.game` may set the rules' options (`exact`, `face_as_ten`, `max_position`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.envs.cards.games import GAMES, Game, game
from vlrl.envs.cards.transcripts import read_moves, state_after, write_moves
from vlrl.schema import Sample

ENVIRONMENTS = tuple(known.env_id for known in GAMES.values())


@dataclass(frozen=True)
class Deal:
    """What a sample is about. `moves=None`: the whole episode; otherwise the one state after these tokens."""

    game: Game
    seed: int
    moves: tuple[str, ...] | None

    @property
    def is_episode(self) -> bool:
        return self.moves is None

    def state(self) -> Any:
        """The state to decide in (of an episode, the first). Raises ValueError for moves that end the game."""
        return state_after(self.game, self.seed, self.moves or ())


def deal_of(sample: Sample) -> Deal:
    """Raises ValueError naming what is wrong with the sample's answer."""
    answer = sample.answer
    if not isinstance(answer, dict) or answer.get("env") not in ENVIRONMENTS:
        raise ValueError(f"the answer of a card game names its env, one of {', '.join(ENVIRONMENTS)}; got {answer!r:.80}")
    seed = answer.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"the seed of a deal is a whole number from 0, got {seed!r}")
    try:
        rules = game(answer["env"], **sample.facts.get("game", {}))
    except TypeError as error:
        raise ValueError(f"meta.game {sample.meta['game']!r}: {error}") from error
    moves = sample.facts.get("moves")
    return Deal(rules, seed, None if moves is None else read_moves(rules, moves))


def episode_sample(identity: str, task: str, rules: Game, seed: int) -> Sample:
    """An episode to be played from the deal of `seed`."""
    return Sample(identity, task, f"Play {rules.name}.", {"env": rules.env_id, "seed": seed})


def state_sample(episode: Sample, moves: Sequence[str], *, identity: str | None = None, good: bool = True) -> Sample:
    """The decision after `moves` of an episode. `good=False` leaves out which tokens are right, which takes the solver's
    time; such samples are prompts to play from, and are not scored."""
    deal = deal_of(episode)
    state = state_after(deal.game, deal.seed, moves)
    written = write_moves(deal.game, moves)
    answer = {"env": deal.game.env_id, "seed": deal.seed, "step": len(moves)}
    if good:
        answer |= deal.game.answer(state)
    address = f"synthetic:{deal.game.name}/{written}/{deal.seed}/{len(moves)}"
    meta = {**episode.meta, "moves": written}
    name = identity or f"{episode.id}/{len(moves)}"
    return dataclasses.replace(episode, id=name, answer=answer, images=(address,), meta=meta)


def answer_problem(sample: Sample) -> str | None:
    """What is wrong with a card sample, or None. A state must be what its seed and moves lead to, and not lost."""
    try:
        deal = deal_of(sample)
        state = deal.state()
    except ValueError as error:
        return str(error)
    if deal.is_episode:
        return f"an episode has no image; {sample.images[0]} is one" if sample.images else None
    stated = {key: value for key, value in sample.answer.items() if key not in ("env", "seed", "step")}
    if stated != deal.game.answer(state):
        return f"the answer says {stated!r:.100}, but seed and moves lead to {deal.game.answer(state)!r:.100}"
    return None if stated["good"] else "nothing can be won from this state; leave it out"
