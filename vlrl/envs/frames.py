"""A state as the image a policy sees: `[300, 300, 3]` uint8.

Places and sizes follow RL4VLM's code. differs: own card faces; `layout="fixed"` breaks a long formula into two lines and keeps
every card of a Blackjack hand visible; `layout="compat"` keeps the published places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from vlrl.envs.cards.blackjack import BlackjackState
from vlrl.envs.cards.deck import Card
from vlrl.envs.cards.numberline import NumberLineState
from vlrl.envs.cards.points import PointsState
from vlrl.envs.faces import BLACK, TABLE, WHITE, Colour, advance, back, face, inside, line

FRAME_PX = 300
LAYOUTS = ("fixed", "compat")
_LAST_PX = 295


@cache
def _empty(colour: Colour) -> np.ndarray:
    return np.full((FRAME_PX, FRAME_PX, 3), colour, dtype=np.uint8)


def _put(frame: np.ndarray, pixels: np.ndarray, x: int, y: int, mask: np.ndarray | None = None) -> None:
    """Copies `pixels` to (x, y), cut off at the frame's right and bottom edges."""
    height, width = max(0, min(pixels.shape[0], FRAME_PX - y)), max(0, min(pixels.shape[1], FRAME_PX - x))
    target = frame[y : y + height, x : x + width]
    if mask is None:
        target[...] = pixels[:height, :width]
    else:
        np.copyto(target, pixels[:height, :width], where=mask[:height, :width, None])


def _put_words(frame: np.ndarray, words: Sequence[str], x: float, y: int, size_px: int, second_y: int | None) -> None:
    """Words with single spaces between them; with `second_y` a line that is full goes on there."""
    start, space = x, advance(" ", size_px)
    for word in words:
        width = advance(word, size_px)
        if second_y is not None and x + width > _LAST_PX:
            x, y, second_y = start, second_y, None
        if word.strip() and x < FRAME_PX:
            _put(frame, line(word, size_px, WHITE, TABLE), round(x), y)
        x += width + space


def points24(state: PointsState, layout: str) -> np.ndarray:
    frame = _empty(TABLE).copy()
    for card, x in zip(state.cards, (5, 78, 152, 226), strict=True):
        _put(frame, face(card.code, 67, 93), x, 103)
    _put(frame, line("Formula:", 16, WHITE, TABLE), 10, 210)
    _put_words(frame, state.formula, 10, 240, 16, 262 if layout == "fixed" else None)
    return frame


def ezpoints(state: PointsState, layout: str) -> np.ndarray:
    frame = _empty(TABLE).copy()
    for card, x in zip(state.cards, (5, 153), strict=True):
        _put(frame, face(card.code, 135, 189), x, 55)
    _put_words(frame, ("Formula:", *state.formula), 10, 258, 20, None)
    return frame


def numberline(state: NumberLineState, layout: str) -> np.ndarray:
    frame = _empty(WHITE).copy()
    _put(frame, line(f"Target: {state.target}", 36, BLACK, WHITE, bold=True), 30, 60)
    _put(frame, line(f"Current: {state.current}", 36, BLACK, WHITE, bold=True), 30, 180)
    return frame


def blackjack(state: BlackjackState, layout: str) -> np.ndarray:
    frame = _empty(TABLE).copy()
    _put(frame, line("Dealer", 16, WHITE, TABLE, bold=True), 5, 5)
    _put(frame, face(state.up_card.code, 70, 98), 5, 25)
    _put(frame, back(70, 98), 78, 25)
    _put(frame, line("Player", 16, WHITE, TABLE, bold=True), 5, 130)
    places = hand_places(state.player, layout)
    overlap = len(places) > 1 and places[1][0] < places[0][0] + 70
    for card, (x, y) in zip(state.player, places, strict=True):
        _put(frame, face(card.code, 70, 98), x, y, inside(70, 98) if overlap else None)
    return frame


def hand_places(cards: Sequence[Card], layout: str) -> list[tuple[int, int]]:
    """Upper left corners of a hand's cards. Published: four a row, the fifth out of sight, then a row that is cut off."""
    n = len(cards)
    if layout == "fixed":
        return [(5 + round(i * min(74, 222 / max(n - 1, 1))), 150) for i in range(n)]
    return [(5 + 74 * (i % 5), 150 + 103 * (i // 5)) for i in range(n)]


DRAW: dict[str, Callable[[Any, str], np.ndarray]] = {
    "points24": points24,
    "ezpoints": ezpoints,
    "numberline": numberline,
    "blackjack": blackjack,
}


def draw_frame(name: str, state: Any, layout: str = "fixed") -> np.ndarray:
    """The image of a game's state; a new array each time. Raises ValueError for an unknown layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}; give {' or '.join(LAYOUTS)}")
    return DRAW[name](state, layout)
