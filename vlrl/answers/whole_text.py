"""Text that every file, page and tokenizer can hold: UTF-8 has no form for half of a surrogate pair, JSON has ("\\ud83d")."""

from __future__ import annotations

from typing import Any

INSTEAD = "\ufffd"


def whole_text(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD; a pair that was written as two halves becomes its character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def is_whole(value: Any) -> bool:
    """Whether every text in a value of JSON is whole."""
    if isinstance(value, str):
        return value.isascii() or whole_text(value) == value
    if isinstance(value, dict):
        return all(is_whole(key) and is_whole(one) for key, one in value.items())
    return all(map(is_whole, value)) if isinstance(value, list) else True


def whole_json(value: Any) -> Any:
    """A value of JSON, every text in it whole."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, dict):
        return {whole_json(key): whole_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole_json(one) for one in value]
    return value
