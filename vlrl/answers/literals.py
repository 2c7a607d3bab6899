"""A tolerant reader of one JSON or Python literal in a text, which may be cut off. Nothing is evaluated, nothing is filled in,
and work is linear in the length of the text. What the value means is not decided here (`vlrl.answers.boxes`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_DEPTH, MAX_NUMBER_CHARS = 32, 400


class Unreadable(Exception):
    """Not a literal, or not the one that was looked for; the message says why. Never leaves `vlrl.answers`."""


class CutOff(Exception):
    """The text ends inside a value. Never leaves `vlrl.answers`."""


class BareWord(str):
    """A bare word such as `true`, `NaN`, `...` or `dog`: never a number."""


class Rivals(list[Any]):
    """The different values of a key that an object has more than once."""


NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"-?[^\W\d]\w*|\.\.\.|…")
_SPACE = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)*")
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE_QUOTED_END = re.compile(r"'(?=\s*(?:[,:}\])]|$))")
_OPEN = {"[": "]", "{": "}", "(": ")"}


def decimal(digits: str) -> float:
    """The number that `digits` write; infinite where they are more than 400 characters."""
    return float(digits) if len(digits) <= MAX_NUMBER_CHARS else math.inf


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def is_nested_deeper(text: str, depth: int = MAX_DEPTH) -> bool:
    """Whether brackets outside of strings go deeper than `depth` in a text that starts as JSON, in time linear in the text."""
    if text.count("[") + text.count("{") <= depth:
        return False
    codes = np.frombuffer(_STRING.sub("", text).encode("ascii", "replace"), dtype=np.uint8)
    opened = np.isin(codes, (ord("["), ord("{"))).astype(np.int32) - np.isin(codes, (ord("]"), ord("}"))).astype(np.int32)
    return bool(len(opened) and opened.cumsum().max() > depth)


def whole_number(digits: str) -> int | float:
    """The whole number that `digits` write; infinite where they are more than 400 characters, which Python may not read."""
    return int(digits) if len(digits) <= MAX_NUMBER_CHARS else math.inf


def strict_json(text: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a text that is strict JSON. Raises ValueError for any other text and for brackets nested deeper than 32, and
    nothing else, however hostile the text; numbers of more than 400 digits are infinite."""
    if is_nested_deeper(text):
        raise ValueError(f"brackets nested deeper than {MAX_DEPTH}")
    return json.loads(text, object_pairs_hook=pairs_hook, parse_int=whole_number, parse_float=decimal)


@dataclass(slots=True)
class LiteralReader:
    """A tolerant reader of JSON and Python literals: a missing comma between two objects, two lists or two numbers, bare keys
    and comments are no fault. An unclosed list keeps its complete members. Nesting is read to a depth of 32 and no further."""

    text: str
    truncated: bool = False

    def value(self, at: int, depth: int = 1) -> tuple[Any, int]:
        """The value that starts at `at` and the position behind it. Raises Unreadable, or CutOff at the text's end."""
        if at >= len(self.text):
            raise CutOff
        head = self.text[at]
        if head in "[(":
            return self._list(at, depth)
        if head == "{":
            return self._object(at, depth)
        return self._scalar(at, depth)

    def _scalar(self, at: int, depth: int) -> tuple[Any, int]:
        """A quoted text, a number or a bare word."""
        text, head = self.text, self.text[at]
        if head == '"':
            found = _DOUBLE_QUOTED.match(text, at)
            if found is None:
                raise CutOff
            try:
                return (json.loads(found[0], strict=False) if "\\" in found[1] else found[1]), found.end()
            except ValueError:
                return found[1], found.end()
        if head == "'":
            closing = _SINGLE_QUOTED_END.search(text, at + 1)
            if closing is None:
                raise CutOff
            return text[at + 1 : closing.start()].replace("\\'", "'"), closing.end()
        found = NUMBER.match(text, at)
        if found is not None and found.end() > at:
            if found.end() == len(text) and depth > 1:
                raise CutOff
            return decimal(found[0]), found.end()
        found = _WORD.match(text, at)
        if found is not None:
            return BareWord(found[0]), found.end()
        raise Unreadable(f"unexpected {head!r}")

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        if depth > MAX_DEPTH:
            raise Unreadable(f"brackets nested deeper than {MAX_DEPTH}")
        close = _OPEN[self.text[at]]
        items: list[Any] = []
        at = self._skip(at + 1)
        try:
            while True:
                if self.text[at : at + 1] == close:
                    return items, at + 1
                item, end = self.value(at, depth + 1)
                items.append(item)
                at = self._skip(end)
                if self.text[at : at + 1] in (",", ";"):
                    at = self._skip(at + 1)
                elif at >= len(self.text):
                    raise CutOff
                elif self.text[at] != close and not self._is_comma_missing(item, at, at > end):
                    raise Unreadable(f"unexpected {self.text[at]!r} in a list")
        except CutOff:
            # Only members with a closing bracket of their own are known to be whole.
            if depth > 2 or not (items and all(isinstance(item, dict | list) for item in items)):
                raise
            self.truncated = True
            return items, len(self.text)

    def _is_comma_missing(self, item: Any, at: int, spaced: bool) -> bool:
        """Whether what stands behind an item of a list is plainly the next: a bracket after a bracket, a number after space."""
        if isinstance(item, dict | list):
            return self.text[at] in ("{" if isinstance(item, dict) else "[(")
        return isinstance(item, float) and spaced and NUMBER.match(self.text, at) is not None

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        if depth > MAX_DEPTH:
            raise Unreadable(f"brackets nested deeper than {MAX_DEPTH}")
        found: dict[str, Any] = {}
        at = self._skip(at + 1)
        while True:
            if self.text[at : at + 1] == "}":
                return found, at + 1
            if at >= len(self.text):
                raise CutOff
            key, at = self._scalar(at, MAX_DEPTH)
            at = self._skip(at)
            if at >= len(self.text):
                raise CutOff
            if self.text[at] not in ":=" or not isinstance(key, str):
                raise Unreadable("an object without keys")
            whole = self.truncated
            value, at = self.value(self._skip(at + 1), max(depth + 1, 3))
            self.truncated = whole
            _put(found, str(key), value)
            at = self._skip(at)
            if at >= len(self.text):
                raise CutOff
            if self.text[at] in ",;":
                at = self._skip(at + 1)
            elif self.text[at] not in "}\"'":
                raise Unreadable(f"unexpected {self.text[at]!r} in an object")


def _put(found: dict[str, Any], key: str, value: Any) -> None:
    """Keeps a key's value; a second value that differs makes the two rivals."""
    if key not in found:
        found[key] = value
    elif isinstance(found[key], Rivals):
        found[key].append(value)
    elif not _is_same(found[key], value):
        found[key] = Rivals([found[key], value])


def _is_same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
