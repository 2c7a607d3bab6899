"""Text on its way into HTML and plots. Own markup is marked by its type (`Markup`); every other text is escaped.

`Markup` is made by `markup` alone, whose template stands in the code (a test looks for that). Not here: what a page looks like.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable

from markupsafe import Markup, escape

__all__ = ["Markup", "escaped", "in_base64", "in_json", "joined", "markup", "plot_label", "readable"]

MAX_SHOWN = 20_000
"""Characters that are shown of one text; how many follow is said."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, lone surrogates (no file and no browser takes them), and marks that reverse what is read."""


def readable(text: str) -> str:
    """`text` in which characters that cannot be seen or sent are spelled out as in JSON, such as `\\u001b` and `\\ud83d`. Tabs
    and line breaks stay."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def escaped(text: object, most: int = MAX_SHOWN) -> Markup:
    """`text` for HTML, inside an element or a quoted attribute; of a longer one the first `most` characters. Markup stays."""
    if isinstance(text, Markup):
        return text
    whole = str(text)
    rest = len(whole) - most
    return escape(readable(whole[:most]) + (f" … ({rest} more characters)" if rest > 0 else ""))


def markup(template: str, *values: object) -> Markup:
    """`template`, which is own HTML written in the code, with its `{}` filled by escaped values."""
    return Markup(template).format(*map(escaped, values))


def joined(parts: Iterable[Markup]) -> Markup:
    """Markup after markup."""
    return Markup("").join(map(escaped, parts))


def in_base64(data: bytes) -> Markup:
    """Bytes in base64, which has no character that HTML knows, in any length."""
    return Markup(base64.b64encode(data).decode())


def plot_label(text: object, most: int = 60) -> str:
    """A text for matplotlib: on one line, cut, `$` no formula, and not left out of a legend for a leading underscore."""
    line = " ".join(readable(str(text)[: 4 * most]).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def in_json(value: object) -> Markup:
    """A value as JSON for `<script type="application/json">`: every character that HTML knows is written as in `\\u003c`, so
    that no text in it can end the element. Raises ValueError for a number that JSON does not have."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
