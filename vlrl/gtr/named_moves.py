"""The move that the thought of a reply names, whatever its action: what is played where a corrector leads an episode, and what
the ablation "full-response cloning" imitates with the thought."""

from __future__ import annotations

from vlrl.envs.cards import Game, thought_fields, write_reply
from vlrl.envs.cards.deals import deal_of
from vlrl.gtr.corrector import Correction
from vlrl.schema import Sample


def named_in(reply: str, game: Game) -> str | None:
    """The move named by the thought of a reply; None where it is not valid or names none."""
    fields = thought_fields(reply, game)
    return None if fields is None else game.named_move(str(fields.get("thoughts", "")))


def correctors_move(reply: str, verdict: Correction, game: Game) -> str | None:
    """The move that a corrector wants played in place of the reply's: that of its correction, or of the thought that it finds
    right. None where it wants none (a game that is lost, a reply that is not valid, no verdict) or what it names is no move of
    the game."""
    text = verdict.text or (reply if verdict.status == "ok" else "")
    move = named_in(text, game)
    return move if move in game.tokens else None


def with_named_action(text: str, sample: Sample) -> str:
    """A corrected reply to a state with the action that its thought names, in place of the policy's own; as it is where the
    thought names none."""
    game = deal_of(sample).game
    named, fields = named_in(text, game), thought_fields(text, game)
    return text if named is None or fields is None else write_reply(fields, named)
