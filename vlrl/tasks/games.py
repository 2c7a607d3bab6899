"""The card games as tasks: an episode is played reply by reply, a single state is one question.

Each reply is one JSON object of what the image shows, a thought and an action. The prompt holds nothing that is not public:
the rules, and in the points games the formula so far, as published.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from vlrl.data.synthetic.deals import game_sample
from vlrl.envs.cards import GAMES, own_rng, read_action, write_reply
from vlrl.envs.cards.deals import Deal, answer_problem, deal_of, state_sample
from vlrl.envs.cards.transcripts import Playthrough, Turn, read_transcript, replay, write_transcript
from vlrl.envs.cards.wording import word_thought
from vlrl.metrics.cards import Played, episode_row, game_metrics
from vlrl.rewards.cards import card_move, card_recognition
from vlrl.schema import Prediction, Result, Sample, Task

RULES_IN_PROMPT = {
    "numberline": "The image shows a target number and a current number. The action + adds one to the current number,"
    " the action - takes one away. Reach the target.",
    "blackjack": "The image shows one open card of the dealer and your cards. Jack, queen and king count ten, an ace one or"
    " eleven. Get closer to twenty-one than the dealer without going over. The action is hit or stand.",
    "ezpoints": "The image shows two cards and a formula. Jack, queen and king count ten, an ace one. Each action adds one"
    " token to the formula, a number of the cards, + or *, and = ends it. It has to use each card once and equal twelve.",
    "points24": "The image shows four cards and a formula. {faces}, an ace one. Each action adds"
    " one token to the formula, a number of the cards, +, -, *, /, ( or ), and = ends it. It has to use each card once"
    " and equal twenty-four.",
}
FACES_IN_PROMPT = {True: "Jack, queen and king count ten", False: "Jack, queen and king count eleven, twelve and thirteen"}
SHOWN = {
    "numberline": '"current number": number, "target number": number, ',
    "blackjack": "",
    "ezpoints": '"cards": [two ranks], "formula": "so far", ',
    "points24": '"cards": [four ranks], "formula": "so far", ',
}

COLD_START = ("points24", "points24", "numberline", "points24", "points24", "ezpoints", "points24", "points24", "blackjack")
_WORDS = 1
"""What the draws of a wording are for."""


def prompt(sample: Sample) -> str:
    """The user turn of a state (of an episode: its first)."""
    deal = deal_of(sample)
    rules = RULES_IN_PROMPT[deal.game.name].replace("{faces}", FACES_IN_PROMPT[getattr(deal.game, "face_as_ten", True)])
    entries = deal.game.formula(deal.state())
    formula = "" if entries is None else f"\nFormula: {' '.join(entries)}"
    pattern = f'{{{SHOWN[deal.game.name]}"thoughts": "reasoning", "action": "token"}}'
    return f"{rules}{formula}\nReply with one JSON object.\n{pattern}"


def right_reply(deal: Deal) -> str:
    """A true thought about the state of a deal, and a best action."""
    rules, state = deal.game, deal.state()
    move = rules.best(state)
    formula = rules.plan(state) or ()
    if not formula and rules.right(state, "="):  # only by Python's reading
        formula = rules.formula(state) or ()
    rng = own_rng(deal.seed, state.step, purpose=_WORDS)
    return write_reply({**rules.shown(state), "thoughts": word_thought(rules, state, move, rng, formula)}, move)


def oracle(sample: Sample) -> str:
    """A true thought and a best action; of an episode, the transcript of playing so to its end."""
    deal = deal_of(sample)
    if not deal.is_episode:
        return right_reply(deal)
    play = Playthrough(deal.game, deal.seed)
    while not play.done:
        play.step(Turn(right_reply(dataclasses.replace(deal, moves=play.moves))))
    return write_transcript(one.turn for one in play.played)


def sft_target(sample: Sample) -> str:
    """What the supervised stage imitates in a state: `meta.loose_reply` (a noisy player's) where a sample has one."""
    deal = deal_of(sample)
    if deal.is_episode:
        raise ValueError(f"sample {sample.id!r} is an episode; the supervised stage needs states (meta.moves)")
    return str(sample.facts.get("loose_reply") or right_reply(deal))


def is_episode(sample: Sample) -> bool:
    return deal_of(sample).is_episode


def metric(sample: Sample, prediction: Prediction) -> Result:
    """Of an episode, played again from its transcript: success, return, legal and right moves; of a state: its one move."""
    text, deal = prediction.completion, deal_of(sample)
    if not deal.is_episode:
        move, stated = card_move(text, sample), card_recognition(text, sample).value or 0.0
        parts = {"single_step": (move.value or 0.0, 1.0), "single_step_recognised": (stated, 1.0)}
        return Result(parts, read_action(text, deal.game), move.answer is not None)
    turns = read_transcript(text)
    played = replay(deal.game, deal.seed, turns or [])
    row = episode_row(deal.state(), deal.game, played)
    parts = {"success": (float(row.won), 1.0), "return": (row.total, 1.0), "legal": (row.n_legal, row.n_steps)}
    parts |= {"right_moves": (row.n_right, row.n_open)} if row.n_open else {}
    moves = None if turns is None else " ".join(turn.token for turn in played)
    return Result(parts, moves, turns is not None, Played(row, deal))


def _rewards(sample: Sample) -> tuple[str, ...]:
    return ("card_success", "card_recognition") if is_episode(sample) else ("card_move", "card_recognition")


def _any_game(seed: int, split: str, index: int) -> Sample:
    """The four games in turns, as rows of the task `cards`; in the cold start two of three are the hardest."""
    if split.startswith("coldstart"):
        sample = game_sample(COLD_START[index % len(COLD_START)], seed, split, index)
    else:
        sample = game_sample(list(GAMES)[index % len(GAMES)], seed, split, index // len(GAMES))
    return dataclasses.replace(sample, task="cards")


def _task(name: str) -> Task:
    return Task(
        name=name,
        prompt=prompt,
        oracle=oracle,
        sft_target=sft_target,
        check=answer_problem,
        rewards=_rewards,
        metric=metric,
        headline="success",
        aggregate=game_metrics,
        shown_as=lambda sample: sample if sample.images else state_sample(sample, (), good=False),
        default_model="tiny-cards",
        synthetic=_any_game if name == "cards" else partial(game_sample, name),
        is_episode=is_episode,
        thought_format="json",
    )


GAME_TASKS = {name: _task(name) for name in ("cards", "numberline", "ezpoints", "points24", "blackjack")}
