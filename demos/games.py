"""A card game being played on the page: its goal, its image, its moves, and the corrector's verdict on each thought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from vlrl.envs import CardEnv
from vlrl.envs.cards import GAMES, thought_fields, write_reply
from vlrl.envs.cards.deals import deal_of, episode_sample, state_sample
from vlrl.envs.cards.deck import Card
from vlrl.envs.cards.games import Game as Rules
from vlrl.gtr import OracleCorrector
from vlrl.gtr.episodes import Episode
from vlrl.schema import Sample
from vlrl.tasks.games import right_reply

MEANINGS = {"hit": "hit (one more card)", "stand": "stand (the dealer plays)", "=": "= (ends the formula)"}
"""Moves whose name does not say what they do."""


def goal(rules: Rules, state: Any) -> str:
    """What to reach from this state, in one sentence."""
    if rules.name == "numberline":
        return (
            f"Goal: bring the current number from {state.current} to the target {state.target}; + adds one, - takes one away."
        )
    if rules.name == "blackjack":
        return "Goal: get closer to 21 than the dealer without going over it. Jack, queen and king count 10, an ace 1 or 11."
    target = 12 if rules.name == "ezpoints" else 24
    numbers = ", ".join(map(str, state.numbers))
    none = " No formula of these cards does; the best you can do is to end it." if rules.solvable(state) is False else ""
    return f"Goal: write a formula that equals {target}, with each of the numbers {numbers} exactly once; = ends it.{none}"


def described(rules: Rules, state: Any) -> str:
    """What the player's image shows, in words."""
    if rules.name == "numberline":
        return f"A target number, {state.target}, and a current number, {state.current}."
    if rules.name == "blackjack":
        return f"The dealer's open card: {named([state.dealer[0]])}; your cards: {named(state.player)}."
    so_far = " ".join(rules.formula(state) or ()) or "nothing yet"
    return f"The cards {named(state.cards)}; the formula so far: {so_far}."


SUITS = {"H": "hearts", "D": "diamonds", "C": "clubs", "S": "spades"}


def named(cards: Sequence[Card]) -> str:
    return ", ".join(f"{card.rank} of {SUITS.get(card.suit, card.suit)}" for card in cards)


def meaning(token: str) -> str:
    return MEANINGS.get(token, token)


@dataclass
class Game:
    """One visitor's game."""

    name: str
    seed: int
    episode: Episode = field(init=False)
    lines: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.episode = Episode(CardEnv(self.name), self.seed)

    @property
    def image(self) -> Image.Image:
        return self.episode.observation

    @property
    def tokens(self) -> list[str]:
        """The moves that can be played, in their order."""
        return [] if self.episode.done else list(self.episode.env.game.legal(self.episode.env.state))

    @property
    def rules(self) -> Rules:
        return self.episode.env.game

    @property
    def goal(self) -> str:
        return goal(self.rules, self.episode.env.state)

    @property
    def described(self) -> str:
        return described(self.rules, self.episode.env.state)

    def hint(self) -> str:
        """The move of the reference player, whom training imitates, and its thought. Empty once the game is over."""
        if self.episode.done:
            return ""
        reply = json.loads(right_reply(deal_of(self.state_sample())))
        lost = " No move wins any more." if self.rules.lost(self.episode.env.state) else ""
        return f"The reference player would play {reply['action']}: {reply['thoughts']}.{lost}"

    def state_sample(self) -> Sample:
        """The state as a sample, for a model to answer."""
        sample = episode_sample(f"{self.name}-{self.seed}", self.name, GAMES[self.name], self.seed)
        moves = [step.token for step in self.episode.steps if step.token is not None]
        return state_sample(sample, moves, good=False)

    def play_token(self, token: str, thought: str) -> None:
        """Plays by hand; an empty thought states what the image shows and nothing else."""
        fields = {**self.episode.env.game.shown(self.episode.env.state), "thoughts": thought}
        self.play_reply(write_reply(fields, token), judged=bool(thought.strip()))

    def play_reply(self, reply: str, judged: bool = True, ended: bool = True) -> None:
        """Plays what a policy (or a person) wrote, and has the corrector judge the thought."""
        verdict = OracleCorrector().correct(self.episode.request(reply, ended)) if judged else None
        step = self.episode.step(reply, ended)
        fields = thought_fields(reply, self.episode.env.game, ended)
        thought = "" if fields is None else str(fields.get("thoughts", ""))
        played = str(step.token) if step.action is not None else f"{step.token} (random: the action could not be read)"
        judgement = "" if verdict is None else "right" if verdict.status == "ok" else verdict.why or verdict.status
        self.lines.append([str(step.t + 1), thought if fields is not None else reply, played, f"{step.reward:+g}", judgement])

    @property
    def status(self) -> str:
        total = self.episode.total
        if not self.episode.done:
            return f"Return so far {total:+g}."
        return f"Over after {len(self.episode.steps)} steps: {'won' if total > 0 else 'not won'}, return {total:+g}."
