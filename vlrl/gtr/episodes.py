"""One episode of a card game, driven by a policy's replies: what it sees, what its reply plays, and when training cuts it.

The caller shows `observation` to the policy and hands its reply to `step`. Many episodes run side by side. Not here:
the words of the prompt, and the correction (made between the two, from `request`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from vlrl.envs.cards import random_action, read_action, thought_fields
from vlrl.envs.environment import CardEnv
from vlrl.gtr.corrector import Correction, StepRequest

ILLEGAL = ("random", "end")
TRUNCATIONS = ("none", "reward", "target")
CUT_REWARD = -1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it was played. `action=None`: the reply played nothing, `token` stood for it (None: the episode ended).
    In a guided episode `token` is the corrector's move.
    `recognised`: whether the thought states the image right (None: invalid). `cut`: training ended the episode here."""

    t: int
    state: Any
    frame: np.ndarray
    completion: str
    action: str | None
    token: str | None
    valid: bool
    recognised: bool | None
    reward: float
    done: bool
    cut: bool
    correction: Correction | None = None


@dataclass
class Episode:
    """`illegal`: an unreadable action becomes a random one ("random", as published) or ends the episode with -1 ("end").
    `truncation`, for training only: "reward" ends an episode at a reward of -1, "target" also where the corrector sees no
    solution or a Points24 formula leaves its target; "none" is the plain game, for evaluation."""

    env: CardEnv
    seed: int
    number: int = 0
    illegal: str = "random"
    truncation: str = "none"
    parser: str = "strict"
    target: str | None = None
    steps: list[Step] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        if self.illegal not in ILLEGAL or self.truncation not in TRUNCATIONS:
            raise ValueError(f"illegal={self.illegal!r}, truncation={self.truncation!r}: give {ILLEGAL}, {TRUNCATIONS}")
        self.frame, _ = self.env.reset(seed=self.seed)

    @property
    def observation(self) -> Image.Image:
        """The image of the state to act on."""
        return Image.fromarray(self.frame)

    @property
    def total(self) -> float:
        """The sum of rewards so far; above 0 at the end of a plain episode is success."""
        return sum(step.reward for step in self.steps)

    def request(self, completion: str, ended: bool) -> StepRequest:
        """The request to a corrector about a reply, before it is played."""
        seed = self.seed * 1009 + self.number
        return StepRequest(self.env.game, self.env.state, completion, ended, self.observation, self.target, seed)

    def step(self, completion: str, ended: bool, correction: Correction | None = None, instead: str | None = None) -> Step:
        """Plays a reply. `correction`: the corrector's verdict on it, whose target formula is kept. `instead`: a token to play
        whatever the reply's action. Raises RuntimeError once the episode is over."""
        if self.done:
            raise RuntimeError(f"episode {self.number} of seed {self.seed} is over after {len(self.steps)} steps")
        game, state, frame, t = self.env.game, self.env.state, self.frame, len(self.steps)
        fields = thought_fields(completion, game, ended)
        action = read_action(completion, game, parser=self.parser)
        if correction is not None:
            self.target = correction.target or self.target
        if action is None and instead is None and self.illegal == "end":
            token, reward, done = None, CUT_REWARD, True
        else:
            token = instead or action or random_action(game, self.seed, self.number, t)
            self.frame, reward, terminated, truncated, _ = self.env.step(game.tokens.index(token))
            done = terminated or truncated
        cut = not done and self._is_cut(reward, correction)
        reward = CUT_REWARD if cut else reward
        self.done = done or cut
        recognised = None if fields is None else game.recognised(fields, state)
        step = Step(
            t, state, frame, completion, action, token, fields is not None, recognised, reward, self.done, cut, correction
        )
        self.steps.append(step)
        return step

    def _is_cut(self, reward: float, correction: Correction | None) -> bool:
        if self.truncation == "none":
            return False
        if reward <= CUT_REWARD:
            return True
        if self.truncation == "reward" or not self.env.game.follows_target:
            return False
        if correction is not None and correction.status == "unsolvable":
            return True
        # A target that is still open cuts nothing. differs: there, a right thought left it missing, and missing cut.
        return self.target is not None and self.env.game.leaves_target(self.env.state, self.target)
