"""Whole corrected replies, action included: what the ablation "full-response cloning" imitates instead of the thought."""

from __future__ import annotations

from vlrl.cards import thought_fields, write_reply
from vlrl.cards.blackjack import BlackjackGame
from vlrl.cards.deals import deal_of
from vlrl.cards.numberline import NumberLineGame
from vlrl.gtr import claims
from vlrl.schema import Sample


def with_named_action(text: str, sample: Sample) -> str:
    """A corrected reply to a state with the action that its thought names, in place of the policy's own; as it is where the
    thought names none."""
    game = deal_of(sample).game
    fields = thought_fields(text, game)
    if fields is None:
        return text
    thoughts = str(fields.get("thoughts", ""))
    if isinstance(game, NumberLineGame):
        named = claims.direction(thoughts)
    elif isinstance(game, BlackjackGame):
        named = claims.decision(thoughts)
    else:
        named = claims.next_token(thoughts)
    return text if named is None else write_reply(fields, named)
