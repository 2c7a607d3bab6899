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
from data_prep.text_encoding import of_file, problem

_CHUNK = 4_000_000
_SPACE = re.compile(r"[ \t\n\r]*")
_BATCH = 100_000
"""Characters of entries that are decoded at once."""


def entries(path: Path, as_text: str | None = None, encoding: str | None = None) -> Iterator[tuple[str, bool, Any]]:
    """(key, is_entry, value) of the object in a JSON file: for a key with a list, one after the other its entries, and first of
    all (key, False, []); for any other key its value. `as_text`: a key whose nested lists of numbers stay text,
    which takes less time; who needs them decodes them. `encoding`: of a file that is not UTF-8. Ends the program where the file
    is no JSON object."""
    pointer = not_fetched(path)
    if pointer is not None:
        raise SystemExit(pointer)
    with path.open("rb") as file:
        detected = json.detect_encoding(file.read(4))
    name = of_file(path, encoding) if detected.startswith("utf-8") else detected
    try:
        with path.open(encoding=name) as file:
            yield from _Reader(file, as_text).whole()
    except UnicodeDecodeError as error:
        raise SystemExit(f"{path}: {problem(error, name)}") from error
    except (ValueError, RecursionError) as error:
        raise SystemExit(f"{path}: not JSON: {error}") from error


class _Reader:
    """Decodes values of a text that is read in pieces. Raises ValueError where it is no JSON."""

    def __init__(self, file: IO[str], as_text: str | None) -> None:
        self.file, self.text, self.at, self.before, self.at_end = file, "", 0, 0, False
        self.as_text, self.unquoted = as_text and f'"{as_text}":', ""
        self.decoder = json.JSONDecoder()

    def whole(self) -> Iterator[tuple[str, bool, Any]]:
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
                yield from ((key, True, entry) for entry in self.listed())
            else:
                yield key, False, self.value()
            closing = self.closes("}")
        self.at += 1
        if self.next():
            raise self.wrong("there is more after the end")

    def listed(self) -> Iterator[Any]:
        self.at += 1
        closing = self.next() == "]"
        while not closing:
            yield from self.several()
            yield self.value()
            closing = self.closes("]")
        self.at += 1

    def several(self) -> list[Any]:
        """Some entries at once, up to one whose end is at hand: decoding them one by one takes longer. Where the place does
        not end an entry, as inside of one, the text before it is no list, and nothing is taken."""
        end = self.text.rfind("},", self.at, self.at + _BATCH)
        if end < 0:
            return []
        try:
            found: list[Any] = self.decoder.decode(f"[{self.text[self.at : end + 1]}]")
        except json.JSONDecodeError:
            return []
        self.at = end + 2
        return found

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
        if self.as_text:
            piece, self.unquoted = _quoted(self.unquoted + piece, self.as_text, self.at_end)
        if piece or self.unquoted:
            self.before += self.at
            self.text, self.at = left + piece, 0
        return bool(piece or self.unquoted)

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{what}: character {self.before + self.at + 1}, {self.text[self.at : self.at + 20]!r}")


def _quoted(text: str, key: str, at_end: bool) -> tuple[str, str]:
    """`text` with the lists behind `key` as strings, up to the last place where that can be decided, and the rest.

    Such a list holds no quote, so it ends before the next one; where brackets do not balance there (texts or objects inside, an
    empty rest), it is left as it is.
    """
    parts: list[str] = []
    done = 0
    while True:
        start = text.find(key, done)
        end = -1 if start < 0 else text.find('"', start + len(key))
        if end < 0:
            break
        first, last = text.find("[", start, end), text.rfind("]", start, end)
        value = text[first : last + 1]
        is_list = 0 < first < last and value.count("[") == value.count("]") and not text[start + len(key) : first].strip()
        # a text has no line breaks or tabs in it, so a list that is spread over lines stays one
        if is_list and "\n" not in value and "\t" not in value and "\r" not in value:
            parts += (text[done:first], '"', value, '"')
            done = last + 1
        else:
            parts.append(text[done:end])
            done = end
    # the key itself may be cut
    keep = len(text) if at_end else max(done, start if start >= 0 else len(text) - len(key))
    parts.append(text[done:keep])
    return "".join(parts), text[keep:]
