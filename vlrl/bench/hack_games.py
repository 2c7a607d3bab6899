"""Degenerate replies and transcripts of card games, for `bench hack`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from vlrl.bench.hack_answers import MAX_VARIANTS, THOUGHT, Degenerate, ReferencedSample
from vlrl.envs.cards import Game, write_reply
from vlrl.envs.cards.deals import Deal, deal_of
from vlrl.envs.cards.transcripts import Playthrough, Turn, read_transcript, replay, write_transcript


def game_attacks(case: ReferencedSample, others: Sequence[ReferencedSample]) -> Iterator[Degenerate]:
    """Attacks on an episode (a transcript of replies) or on a single state (one reply)."""
    deal = deal_of(case.sample)
    tokens = deal.game.tokens[:MAX_VARIANTS]
    yield Degenerate("references of other samples", tuple(one.reference for one in others), is_answer=True)
    if not deal.is_episode:
        yield Degenerate("each action alone", tuple(_reply(deal.game, token) for token in tokens), is_answer=True)
        listed = (", ".join(tokens), " ".join(tokens), "/".join(tokens))
        yield Degenerate("every action listed", (*(_reply(deal.game, one) for one in listed), json.dumps({"action": tokens})))
        twice = ", ".join(f'"action": {json.dumps(token)}' for token in tokens)
        yield Degenerate("several actions in one reply", (f'{{"thoughts": "{THOUGHT}", {twice}}}',))
        return
    yield Degenerate(
        "each action, again and again", tuple(_played(deal, _reply(deal.game, one)) for one in tokens), is_answer=True
    )
    yield Degenerate("unreadable replies", (_played(deal, ""), _played(deal, "I won")), is_answer=True)
    rows = json.loads(case.reference)
    claimed = [{"reply": "I won", "ended": True, "reward": 10, "done": True}]
    yield Degenerate(
        "claimed success", (json.dumps(claimed), "[]", '{"success": true}', write_transcript([Turn("{}")])), is_answer=True
    )
    yield Degenerate("episode cut short", (json.dumps(rows[:-1]), json.dumps(rows[: len(rows) // 2])))


def is_won(case: ReferencedSample, text: str) -> bool:
    """Whether a text is right in the game itself: an episode that is won, an action that is right in the state."""
    deal = deal_of(case.sample)
    if deal.is_episode:
        return sum(turn.reward for turn in replay(deal.game, deal.seed, read_transcript(text) or [])) > 0
    good = case.sample.answer.get("good", ())
    return any(text == _reply(deal.game, token) for token in good)


def _reply(game: Game, action: str) -> str:
    """A valid reply whose thought says nothing."""
    return write_reply(dict.fromkeys(game.thought_keys, "") | {"thoughts": THOUGHT}, action)


def _played(deal: Deal, reply: str) -> str:
    """The transcript of an episode in which every reply is the same."""
    play = Playthrough(deal.game, deal.seed)
    while not play.done:
        play.step(Turn(reply))
    return write_transcript(one.turn for one in play.played)
