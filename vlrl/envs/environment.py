"""One card game as a `gymnasium.Env`: images out, token indices in. The rules are in `vlrl.envs.cards`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vlrl.envs.cards import Game, game
from vlrl.envs.frames import FRAME_PX, LAYOUTS, draw_frame

OPTIONS = {
    "points24": {"numbers"},
    "ezpoints": {"numbers"},
    "numberline": {"start", "target"},
    "blackjack": {"player", "dealer", "draws"},
}
"""What `reset(options=...)` may fix, by game."""


class CardEnv(gymnasium.Env[np.ndarray, np.int64]):
    """A game by name. `layout`: "fixed" or "compat" (the published places); other options are the game's (`exact`,
    `face_as_ten`, `max_position`).

    All randomness is `self.np_random`'s: one seed, one deal, one sequence of frames. `info` is privileged (it holds the
    cards, and in Blackjack the hole card); of it only the formula may enter a prompt. Its values are copies.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, name: str, render_mode: str | None = None, layout: str = "fixed", **options: Any) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}; give {' or '.join(LAYOUTS)}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}; give rgb_array or nothing")
        self.game: Game = game(name, **options)
        self.layout, self.render_mode = layout, render_mode
        self.action_space = gymnasium.spaces.Discrete(len(self.game.tokens))
        self.observation_space = gymnasium.spaces.Box(0, 255, (FRAME_PX, FRAME_PX, 3), np.uint8)
        self.state: Any = None
        self.is_over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """A new deal, or the one `options` fix. Raises ValueError for options the game does not have."""
        super().reset(seed=seed)
        unknown = set(options or {}) - OPTIONS[self.game.name]
        if unknown:
            known = ", ".join(sorted(OPTIONS[self.game.name]))
            raise ValueError(f"{self.game.name} cannot fix {', '.join(sorted(unknown))}; it can fix {known}")
        self.state, self.is_over = self.game.deal(self.np_random, options), False
        return self._frame(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays the token with this index. Raises ResetNeeded once the episode is over."""
        if self.is_over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset")
        if not 0 <= action < len(self.game.tokens):
            raise gymnasium.error.InvalidAction(f"action {action} is none of {len(self.game.tokens)} tokens")
        outcome = self.game.step(self.state, self.game.tokens[int(action)], self.np_random)
        self.state, self.is_over = outcome.state, outcome.done
        return self._frame(), outcome.reward, outcome.terminated, outcome.truncated, self._info()

    def render(self) -> Any:
        return self._frame() if self.render_mode == "rgb_array" and self.state is not None else None

    def _frame(self) -> np.ndarray:
        return draw_frame(self.game.name, self.state, self.layout)

    def _info(self) -> dict[str, Any]:
        legal = list(self.game.legal(self.state))
        return {**self.game.info(self.state), "legal_tokens": legal, "step": self.state.step}
