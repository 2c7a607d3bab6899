"""The unit of a number in a formula: words or a text behind it, a degree sign, or money before it."""

from __future__ import annotations

from vlrl.answers.math_symbols import CURRENCIES, FUNCTIONS, PLAIN_WORDS, is_unit, unit_of
from vlrl.answers.math_tokens import Token, Unread
from vlrl.answers.math_words import makes_no_answer

_UNIT_KINDS = ("unit", "word", "text")


def without_unit(tokens: list[Token]) -> tuple[list[Token], str]:
    """The number and its unit, which stands after it, or before it for money."""
    if len(tokens) > 1 and tokens[0].kind == "unit" and (tokens[0].text in CURRENCIES or unit_of(tokens[0].text) in CURRENCIES):
        return tokens[1:], unit_of(tokens[0].text)
    if len(tokens) > 2 and tokens[0].text == "-" and tokens[1].text in CURRENCIES:
        return [tokens[0], *tokens[2:]], unit_of(tokens[1].text)
    at = len(tokens)
    for i in range(len(tokens) - 1, 0, -1):
        token = tokens[i]
        if token.kind in _UNIT_KINDS:
            at = i
        elif not (
            token.text in ("^", "{", "}", "/", "cdot", "-")
            or (token.kind == "number" and tokens[i - 1].text in ("^", "{", "-"))
        ):
            break
    names = [] if any(token.text in FUNCTIONS for token in tokens) else [token.text for token in tokens]
    for end in (["^", "circ"], ["^", "{", "circ", "}"]):
        for n_after in (0, 1):
            stop = len(names) - n_after
            if names[stop - len(end) : stop] == end and stop > len(end):
                scale = names[stop] if n_after else ""
                if not n_after or tokens[stop].kind in ("letter", "text", "unit"):
                    return tokens[: stop - len(end)], unit_of("°" + scale)
    if at == len(tokens) or tokens[at - 1].text in ("+", "-", "*", "/", "^", "_", "times", "cdot"):
        return tokens, ""
    named = [token.text for token in tokens[at:] if token.kind in ("word", "text")]
    unknown = [word for word in named if not is_unit(word)]
    if any(set(word.casefold().split()) & (PLAIN_WORDS - {"per"}) for word in named) or len(unknown) > 1 + ("per" in named):
        raise Unread(f"{' '.join(named)!r} is no unit")
    if makes_no_answer(f"0 {' '.join(token.text for token in tokens[at:])}"):
        raise Unread(f"{' '.join(named)!r} is no unit")
    words = (
        " ".join(token.text for token in tokens[at:]).replace(" ^ ", "^").replace("{ ", "").replace(" }", "").replace("- ", "-")
    )
    return tokens[:at], unit_of(words)
