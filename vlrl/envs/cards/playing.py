"""Playing whole episodes with a policy that answers one state at a time: a model, a server, a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlrl.envs.cards.deals import deal_of, state_sample
from vlrl.envs.cards.transcripts import Playthrough, Turn, write_transcript
from vlrl.schema import Prediction, Sample


def play_episodes(episodes: Sequence[Sample], ask: Callable[[Sequence[Sample]], list[Prediction]]) -> list[Prediction]:
    """Play episodes side by side to their ends on the plain rules; `ask` answers the states they are in."""
    playthroughs = [Playthrough(deal.game, deal.seed) for deal in map(deal_of, episodes)]
    n_tokens: list[int | None] = [0] * len(playthroughs)
    n_cut = [0] * len(playthroughs)
    while live := [i for i, one in enumerate(playthroughs) if not one.done]:
        states = [state_sample(episodes[i], playthroughs[i].moves, good=False) for i in live]
        for i, reply in zip(live, ask(states), strict=True):
            playthroughs[i].step(Turn(reply.completion, ended=not reply.truncated))
            before = n_tokens[i]
            n_tokens[i] = None if before is None or reply.n_tokens is None else before + reply.n_tokens
            n_cut[i] += reply.truncated
    return [
        Prediction(sample.id, write_transcript(turn.turn for turn in one.played), n_tokens[i], truncated=n_cut[i] > 0)
        for i, (sample, one) in enumerate(zip(episodes, playthroughs, strict=True))
    ]
