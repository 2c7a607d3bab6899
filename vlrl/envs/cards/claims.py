"""What the words of a thought claim: a formula, a next token, a direction, a decision, the dealer's card. Read from text alone.

A claim that is not made is None. Not here: whether a claim is true (`Game.problem`).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from vlrl.envs.cards.deck import Card, rank_of

NOT_STATED = "the state is not stated, or wrongly"
_ARITHMETIC = re.compile(r"[0-9()+\-*/ ]+")
_MAX_DIGITS = 9
"""A longer number belongs to no formula of a game."""
_EQUALS = re.compile(r"\s*(?:=|makes|gives|is|equals)\s*([0-9]+)\b")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_NEXT = re.compile(
    r"\b(?:next|play|plays|choose|append|pick|take|press)\b(?:\s+(?:token|move|step|comes|is|be|should|must|a|the|,))*"
    r"\s*(?::\s*)?[\"'`]?(1[0-3]|[1-9]|[-+*/()=])[\"'`]?(?=[\s.,;:!\"]|$)"
)
_DIRECTIONS = {
    "+": ("+", "up", "increase", "increases", "add", "plus", "forward", "raise"),
    "-": ("-", "down", "decrease", "decreases", "subtract", "minus", "back", "lower"),
}
_DIRECTION_OF = {word: token for token, words in _DIRECTIONS.items() for word in words}
_DIRECTION = re.compile(r"(?<![\w+-])(" + "|".join(re.escape(word) for word in _DIRECTION_OF) + r")(?![\w+-])")
_DECISION = re.compile(r"\b(hit|stand)s?\b")
_DEALER = re.compile(
    r"\bdealer(?:'s)?(?:\s+(?:shows|has|card|is|open|up-card|holds|an?|the))*\s+([0-9]{1,2}|[ajqkt]|ace|jack|queen|king|ten)\b"
)
_NAMES = {"ace": "A", "jack": "J", "queen": "Q", "king": "K", "ten": "10", "t": "10"}


def announced_formula(thought: str, n_numbers: int) -> tuple[str, ...] | None:
    """The tokens of the formula a thought is heading for: the last arithmetic over `n_numbers` numbers, or, failing that,
    one that is stated to equal something. What a thought says to "have" so far does not count."""
    text = thought.replace("×", "*").replace("÷", "/").replace("−", "-")
    whole, stated = None, None
    for found in _ARITHMETIC.finditer(text):
        start = found.start() + len(found[0]) - len(found[0].lstrip(")+-*/ "))
        written = text[start : found.end()].rstrip("(+-*/ ")
        tokens = tuple(_TOKEN.findall(written))
        if not any(token in "+-*/" for token in tokens) or any(len(token) > _MAX_DIGITS for token in tokens):
            continue
        is_stated = _EQUALS.match(text, start + len(written)) is not None
        is_played = text[max(0, start - 8) : start].lower().split()[-1:] == ["have"]
        if sum(token.isdecimal() for token in tokens) == n_numbers and (is_stated or not is_played):
            whole = tokens
        elif is_stated:
            stated = tokens
    return whole or stated


def next_token(thought: str) -> str | None:
    """The token of a formula that the thought names as the next one: the last it names."""
    found = _NEXT.findall(thought.lower())
    return found[-1] if found else None


def direction(thought: str) -> str | None:
    """`+` or `-`: the last direction named."""
    found = _DIRECTION.findall(thought.lower())
    return _DIRECTION_OF[found[-1]] if found else None


def decision(thought: str) -> str | None:
    """`hit` or `stand`: the last one named."""
    found = _DECISION.findall(thought.lower())
    return found[-1] if found else None


def dealer_value(thought: str) -> int | None:
    """The value of the dealer's open card, aces 1: the last one named."""
    found = _DEALER.findall(thought.lower())
    if not found:
        return None
    name = _NAMES.get(found[-1], found[-1])
    try:
        rank = rank_of(name)
    except ValueError:
        return None
    return Card("S", rank).value


def move_problem(named: str | None, right: Collection[str]) -> str | None:
    """What is wrong with the move that a thought names, or None. `right`: the moves that are right."""
    if named is None:
        return "no move is named"
    return None if named in right else f"{named!r} is not right"
