"""What the prompt to a model that corrects thoughts says of each game: rules, questions, keys of its reply, the solver.

The words reach models and are part of every cache key (`vlrl.gtr.corrector_prompts.VERSION`): change both together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Brief:
    """`questions` may hold `{undetermined}` (how an open target formula is written) and `{call}` (how the solver is called, or
    nothing). `reply_keys`: keys that the reply has beside those of every game. `solver`: the function that a corrector may
    call, in the form of OpenAI's tools."""

    rules: str
    questions: tuple[str, ...]
    reply_keys: str = ""
    solver: Mapping[str, Any] | None = None


NUMBERLINE = Brief(
    "The picture shows a target number and a current number. Move `+` adds one to the current number, `-`"
    " takes one away. The player wants to reach the target.",
    (
        "Which target and which current number does the picture show, and does the thought agree?",
        "Does the thought move in the right direction?",
    ),
)
BLACKJACK = Brief(
    "The picture shows one open card and one hidden card of the dealer, and the player's cards. Jack, queen and"
    " king count 10, an ace 1 or 11. The moves are `hit` and `stand`. The dealer draws to 17.",
    (
        "Which cards and totals does the picture show, and does the thought agree?",
        "Is the decision of the thought the right one?",
    ),
)
EZPOINTS = Brief(
    "The picture shows two cards and the formula so far. Jack, queen and king count 10, an ace 1. Each move adds"
    " one token (a number, `+` or `*`) to the formula; `=` ends it. The finished formula must use each card once"
    " and equal 12.",
    (
        "Which two cards does the picture show, and do the ranks in the thought agree, in any order?",
        "Which formula is the player heading for, and does it equal 12?",
        "Is the token the thought names next right for that formula, or `=` if the formula is complete?",
    ),
)
_SOLVER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "formulas_that_make_24",
        "description": "All formulas that make 24 of four cards",
        "parameters": {
            "type": "object",
            "properties": {f"card{i}": {"type": "string", "description": "rank: A, 2 .. 10, J, Q or K"} for i in range(1, 5)},
            "required": [f"card{i}" for i in range(1, 5)],
            "additionalProperties": False,
        },
    },
}


def points24_brief(faces: str) -> Brief:
    """`faces`: what jack, queen and king count."""
    return Brief(
        f"The picture shows four cards and the formula so far. Jack, queen and king count {faces}, an ace 1. Each move adds"
        " one token (a number, `+`, `-`, `*`, `/`, `(` or `)`) to the formula; `=` ends it. The finished formula must use each"
        " card once and equal 24.",
        (
            "Which four cards does the picture show? If the target formula is {undetermined}, find out with these cards which"
            " formulas make 24{call}.",
            "Do the ranks in the thought agree with the picture, in any order?",
            "Which formula is the player heading for, and is it the target formula (or, if that is {undetermined}, one that"
            " makes 24)?",
            "Is the token the thought names next right for that formula, or `=` if the formula is complete?",
        ),
        ' "possible_solution": "NO" if no formula can make 24 from here, else "YES"; "target_formula": the given target'
        " formula, or the player's own if its thought is right, otherwise one that makes 24;",
        _SOLVER,
    )
