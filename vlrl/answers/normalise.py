"""One form for text in any script: full-width and CJK punctuation, digits, dashes, quotes and spaces as their ASCII equals.

Linear in the text; text in ASCII stays as it is. Based on Unicode NFKC. differs: what NFKC would turn into another number
stays as written: `x²` (x2), `½` (1⁄2), `①` (1), `⒈5` (1.5), `㎡` (m2). Not here: how labels compare
(`vlrl.answers.span.canon`).
"""

from __future__ import annotations

import re
import unicodedata

_MAX_CHARS = 200_000
"""Longer text stays as it is; no reader takes it."""
_MAX_MARKS = 30
"""Combining marks kept in a row. Unicode's Stream-Safe form has the same limit: to put n of them in order takes n² steps."""

_EQUALS = {
    "’": "'",
    "‘": "'",
    "‚": "'",
    "‛": "'",
    **dict.fromkeys("´\u1ffd", "'"),
    **dict.fromkeys("“”„‟«»「」『』〝〞〟《》", '"'),
    "‹": "'",
    "›": "'",
    **dict.fromkeys("【〖〔〚", "["),
    **dict.fromkeys("】〗〕〛", "]"),
    **dict.fromkeys("−‐‑⁃➖", "-"),
    **dict.fromkeys("؛", ";"),
    **dict.fromkeys("؟¿", "?"),
    "¡": "!",
    "٫": ".",
    "٬": ",",
    "٪": "%",
    "⁄": "/",
    "∕": "/",
    "∶": ":",
    **dict.fromkeys("\u2028\u2029\u0085", "\n"),
    "\u3164": " ",
}
_IN_CONTEXT = frozenset("，、،。‒–—―")
"""Commas, full stops and dashes whose equal depends on what stands beside them."""
_FULL_WIDTH_THOUSANDS = re.compile("(?<=[０-９])，(?=[０-９]{3}(?![０-９]))")
_BEFORE_DIGIT = re.compile("([，،。])(?=[0-9])")
_PUNCTUATION = str.maketrans({"，": ",", "،": ",", "。": ".", "、": ", "})
_DASHES = "‒–—―"
_MINUS = re.compile(rf"(?<![^\s([{{=<>+*/^:;,|$\"'~≈≠≤≥±])(?<![0-9]\s)[{_DASHES}](?=\.?[0-9])")
"""A dash right before a number that follows nothing it could be subtracted from."""
_WORD_DASH = re.compile(rf"[{_DASHES}]+(?=\s{{0,3}}(?:[^\W\d_]|\Z))")


class _Table(dict[int, str | None]):
    """What each character becomes, found when it is first met."""

    def __missing__(self, code: int) -> str | None:
        found = self[code] = _equal(chr(code))
        return found


def _equal(character: str) -> str:
    if character.isascii() or character in _IN_CONTEXT:
        return character
    if character in "｡۔।":
        return "。"
    if character in _EQUALS:
        return _EQUALS[character]
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return ""
    if category == "Zs":
        return " "
    if unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>")):
        return character
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and any(unicodedata.numeric(one, None) is not None for one in plain):
        return character
    if plain[0] == " " or len(plain) > 6:  # an accent alone, which NFKC would set on a space; a whole sentence in one sign
        return character
    return "".join(one if one.isascii() else _EQUALS.get(one, one) for one in plain)


_TABLE = _Table()


def normalised(text: str) -> str:
    """The text with ASCII equals for punctuation, decimal digits, minus signs, quotes and spaces; letters as NFKC has them.

    Zero-width and direction characters are dropped. A comma or full stop of a CJK or Arabic text between digits gets a space
    behind it, or "3、400" would be 3,400. A dash is a minus only where one may stand: "–3", not "40–42". Superscripts,
    fractions and circled digits stay; of a run of combining marks the first 30.
    """
    if text.isascii() or len(text) > _MAX_CHARS:
        return text
    text = _FULL_WIDTH_THOUSANDS.sub(",", text).translate(_TABLE)
    if text.isascii():
        return text
    text = _BEFORE_DIGIT.sub(r"\1 ", text).translate(_PUNCTUATION)
    text = _WORD_DASH.sub("-", _MINUS.sub("-", text))
    return unicodedata.normalize("NFC", _with_few_marks(text))


def _with_few_marks(text: str) -> str:
    """The text without the combining marks that follow `_MAX_MARKS` others."""
    marks = "".join(sorted(character for character in set(text) if unicodedata.category(character)[0] == "M"))
    if not marks:
        return text
    return re.sub(f"([{marks}]{{{_MAX_MARKS}}})[{marks}]+", r"\1", text)
