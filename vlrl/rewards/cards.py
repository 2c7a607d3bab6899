"""Card games: whether an episode was won, whether one move was right, whether a thought states what the image shows.

An episode's text is its transcript (`vlrl.envs.cards.transcripts`), which is played again by the rules. Training rewards
episodes by the game itself, step by step (`vlrl.gtr.credit`).
"""

from __future__ import annotations

from vlrl.envs.cards import read_action, thought_fields
from vlrl.envs.cards.deals import deal_of
from vlrl.envs.cards.transcripts import read_transcript, replay
from vlrl.schema import Sample, Score


def card_success(text: str, sample: Sample) -> Score:
    """1 for an episode that was played to its end with a return above 0, else 0. None for a single state."""
    deal = deal_of(sample)
    if not deal.is_episode:
        return Score(None, None, "a single state; episodes alone are won or lost")
    turns = read_transcript(text)
    if turns is None:
        return Score(0.0, None, "not a transcript of replies")
    played = replay(deal.game, deal.seed, turns)
    total = sum(turn.reward for turn in played)
    if not played or not played[-1].done:
        return Score(0.0, total, f"the episode is not over after {len(played)} steps")
    n_illegal = sum(turn.action is None for turn in played)
    why = f"return {total:g} after {len(played)} steps" + (f", {n_illegal} of them unreadable" if n_illegal else "")
    return Score(float(total > 0), total, why)


def card_move(text: str, sample: Sample) -> Score:
    """1 for an action that is right in the state (`answer.good`), else 0. None for an episode."""
    deal = deal_of(sample)
    if deal.is_episode or "good" not in sample.answer:
        return Score(None, None, "no single state whose right moves are known")
    action = read_action(text, deal.game)
    if action is None:
        return Score(0.0, None, "no action in the reply")
    good = sample.answer["good"]
    if action in good:
        return Score(1.0, action, f"{action} is right")
    return Score(0.0, action, f"{action} is not right; right: {' '.join(good) or 'nothing, the deal is lost'}")


def card_recognition(text: str, sample: Sample) -> Score:
    """1 for a valid reply whose thought states the cards or numbers of the image, else 0. None for an episode."""
    deal = deal_of(sample)
    if deal.is_episode:
        return Score(None, None, "an episode; its states are judged one by one")
    fields = thought_fields(text, deal.game)
    if fields is None:
        return Score(0.0, None, "the reply is not valid")
    state = deal.state()
    if deal.game.recognised(fields, state):
        return Score(1.0, fields, "states what the image shows")
    return Score(0.0, fields, f"the image shows {deal.game.shown(state) or 'another total'}")
