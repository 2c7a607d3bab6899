"""A large JSON object, one entry of its lists at a time: the whole of it would not fit in memory next to what is made of it.

An annotation file of a million polygons takes gigabytes once decoded, and a converter needs a few numbers of each entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_prep.image_headers import not_fetched

_CHUNK = 4_000_000
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


def entries(path: Path) -> Iterator[tuple[str, bool, Any]]:
    """(key, is_entry, value) of the object in a JSON file: for a key with a list, one after the other its entries, and first of
    all (key, False, []); for any other key its value. Ends the program where the file is no JSON object."""
    problem = not_fetched(path)
    if problem is not None:
        raise SystemExit(problem)
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.read(4))
    try:
        with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding) as file:
            yield from _Reader(file).object()
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path}: not JSON: {error}") from error


class _Reader:
    """Decodes values of a text that is read in pieces. Raises ValueError where it is no JSON."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.at, self.before, self.at_end = file, "", 0, 0, False
        self.decoder = json.JSONDecoder()

    def object(self) -> Iterator[tuple[str, bool, Any]]:
        seen: set[str] = set()
        if self.next() != "{":
            raise ValueError(f"an object is expected, not {self.text[:20]!r}")
        self.at += 1
        closing = self.next() == "}"
        while not closing:
            key = self.value()
            if not isinstance(key, str) or self.next() != ":":
                raise self.wrong("a key and a colon are expected")
            if key in seen:
                raise ValueError(f"the key {key!r} is given twice")
            seen.add(key)
            self.at += 1
            if self.next() == "[":
                yield key, False, []
                yield from ((key, True, entry) for entry in self.list())
            else:
                yield key, False, self.value()
            closing = self.closes("}")
        self.at += 1
        if self.next():
            raise self.wrong("there is more after the end")

    def list(self) -> Iterator[Any]:
        self.at += 1
        closing = self.next() == "]"
        while not closing:
            yield self.value()
            # the usual case without a function call: a comma, and the next entry behind it
            comma = _COMMA.match(self.text, self.at)
            if comma and comma.end() < len(self.text):
                self.at = comma.end()
            else:
                closing = self.closes("]")
        self.at += 1

    def closes(self, bracket: str) -> bool:
        """Whether the list or object ends here; otherwise steps over the comma."""
        found = self.next()
        if found == ",":
            self.at += 1
            return False
        if found != bracket:
            raise self.wrong(f"a comma or {bracket} is expected")
        return True

    def next(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.fill():
                return ""

    def value(self) -> Any:
        if self.at == len(self.text) or self.text[self.at] in " \t\n\r":
            self.next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self.fill():
                    raise self.wrong(error.msg) from error
                continue
            # a number near the end may go on in the next piece, as 1.5 does after "1" and after "1."
            is_whole = end < len(self.text) - 2 or not isinstance(value, int | float)
            if is_whole or not self.fill():
                self.at = end
                return value

    def fill(self) -> bool:
        """Read another piece, no smaller than what is left; False at the end of the file."""
        left = self.text[self.at :]
        piece = "" if self.at_end else self.file.read(max(_CHUNK, len(left)))
        self.at_end = not piece
        if piece:
            self.before += self.at
            self.text, self.at = left + piece, 0
        return bool(piece)

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{what}: character {self.before + self.at + 1}, {self.text[self.at : self.at + 20]!r}")
