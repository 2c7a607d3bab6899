"""What a policy writes at one step: a JSON object of its thought's fields and an action. Never raises, never guesses.

Two parsers: `strict` (the default) and `compat`, which takes what the published code takes. Not here: the mask of thought
tokens (`vlrl.gtr.masks`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.decoder import JSONDecoder
from typing import Any

from vlrl.answers.literals import decimal, is_nested_deeper, strict_json, whole_number
from vlrl.answers.span import answer_span
from vlrl.answers.whole_text import whole_text
from vlrl.envs.cards.deck import own_rng
from vlrl.envs.cards.games import Game

MAX_REPLY_CHARS = 20_000
"""A longer reply is no reply; this also bounds the work on brackets that never close."""
_MAX_FAILED_CHARS = 10 * MAX_REPLY_CHARS
_STANDS_IN = 7
"""What the stand-in of an unreadable action is drawn with."""
_SPACE = re.compile(r"[ \t\r\n]*")


class _Twice(ValueError):
    """An object that has a key twice: two answers are none."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


_DECODER = JSONDecoder(object_pairs_hook=_once, parse_int=whole_number, parse_float=decimal)


def last_object(text: str) -> tuple[dict[str, Any], int] | None:
    """The last whole JSON object of a text (not one inside another) and where it starts; None without one, for a text that is
    too long and for one with brackets nested deeper than 32."""
    if len(text) > MAX_REPLY_CHARS:
        return None
    found, at, failed = None, text.find("{"), 0
    while at >= 0 and failed < _MAX_FAILED_CHARS:
        try:
            value, end = _DECODER.raw_decode(text, at)
            if is_nested_deeper(text[at:end]):
                return None
            found = (value, at)
        except json.JSONDecodeError as error:
            failed += error.pos - at + 1
            end = at + 1
        except (_Twice, RecursionError):
            return None
        at = text.find("{", end)
    return found


def key_position(text: str, start: int, key: str) -> int | None:
    """Where the opening quote of a top-level key stands in the JSON object that starts at `start`."""
    at = _skip(text, start + 1)
    while text[at : at + 1] == '"':
        name, end = _DECODER.raw_decode(text, at)
        if name == key:
            return at
        _, at = _DECODER.raw_decode(text, _skip(text, _skip(text, end) + 1))
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at : at + 1] == "," else at
    return None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def thought_fields(text: str, game: Game, ended: bool = True) -> dict[str, Any] | None:
    """The reply's object without its action if the reply is valid, else None.

    Valid: it ended by itself (`ended`), is one JSON object and nothing else, and has every key of the game's thought and
    an action. Only valid thoughts are corrected and earn the format reward.
    """
    stripped = text.strip()
    if not ended or len(stripped) > MAX_REPLY_CHARS:
        return None
    try:
        reply = strict_json(stripped, _once)
    except ValueError:
        return None
    if not isinstance(reply, dict) or any(key not in reply for key in (*game.thought_keys, "action")):
        return None
    return {key: value for key, value in reply.items() if key != "action"}


def write_reply(fields: Mapping[str, Any], action: str) -> str:
    """A reply on one line, the action last. differs: the published code indents by two."""
    return whole_text(json.dumps({**fields, "action": action}, ensure_ascii=False))


def read_action(text: str, game: Game, *, parser: str = "strict", layout: str = "json") -> str | None:
    """The token a reply plays, or None.

    `strict`: the string `action` of the last whole JSON object (layout "json"), or the one answer block (layout "tags"),
    equals a token (in Blackjack in any case). `compat`: what of the vocabulary occurs after the first `"action":`, if it
    is one token. Raises ValueError for other parsers or layouts.
    """
    if parser not in ("strict", "compat") or layout not in ("json", "tags"):
        raise ValueError(f"parser={parser!r}, layout={layout!r}: give strict or compat, json or tags")
    if parser == "compat":
        return _read_compat(text, game)
    if layout == "tags":
        span = answer_span(text)
        written: Any = span.text if span.tagged and not span.truncated else None
    else:
        found = last_object(text)
        written = found[0].get("action") if found else None
    if not isinstance(written, str):
        return None
    token = written.strip()
    token = token.lower() if game.name == "blackjack" else token
    return token if token in game.tokens else None


def _read_compat(text: str, game: Game) -> str | None:
    text = text.lower()
    _, key, rest = text.partition('"action":')
    rest = key + rest if key else text[-1:]
    found = []
    for token in sorted(game.tokens, key=len, reverse=True):
        if token in rest:
            found.append(token)
            if token.isdecimal() and len(token) > 1:
                rest = rest.replace(token, "")
    return found[0] if len(found) == 1 else None


def random_action(game: Game, deal_seed: int, episode: int, step: int) -> str:
    """The action that stands for an unreadable one: uniform, and the same whenever the same step is repeated."""
    rng = own_rng(deal_seed, episode, step, purpose=_STANDS_IN)
    return game.tokens[int(rng.integers(len(game.tokens)))]
