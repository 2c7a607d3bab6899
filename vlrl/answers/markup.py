"""What typography says of an answer: emphasis says nothing, what is crossed out is not said, and a sign can deny.

Linear in the text. Not here: punctuation and scripts (`vlrl.answers.normalise`), words (`vlrl.answers.phrases`).
"""

from __future__ import annotations

import re

CROSS = "✗"
"""Stands for every cross that says "wrong"."""
_STRUCK = re.compile(
    r"~~[^~]{1,400}~~|<(s|del|strike)>[^<]{0,400}</\1>|\\(?:[bx]?cancel|sout|st)\s?\{[^{}]{0,400}\}", re.IGNORECASE
)
_HTML = re.compile(r"</?(?:em|strong|span|div|code|mark|font|center|h[1-6]|li|ul)(?:\s[^<>]{0,100})?/?>", re.IGNORECASE)
_SHORT_HTML = re.compile(r"<([biup])>([^<>]{0,400})</\1>", re.IGNORECASE)
_LINE_TAG = re.compile(r"<br\s?/?>", re.IGNORECASE)
_CROSSES = re.compile(r"[✗✘❌❎✖🚫⛔👎☒]\ufe0f?|(?:(?<=[A-Z\s])|(?<=\A))×(?=\s*(?:\Z|\n|[A-Z]\b))")
_NOT_SIGNS = re.compile(r"[≠¬]|\\(?:neq?|lnot|neg|not)(?![A-Za-z])|!=|(?<![^\s(\[])!(?=[A-Za-z\ue000-\ue019])(?![^!\n]{0,80}!)")
_UNEQUAL = re.compile(r"(?<=[\w\ue000-\ue019]) ?(?:≠|!=|\\neq?(?![A-Za-z]))")
"""An inequality of two things, which states neither."""
_ASSURED = re.compile(
    r"\b(?:(?:there\s+is\s+|there's\s+)?(?:no|little|without|beyond)\s(?:a\s|any\s)?(?:shadow\sof\s(?:a\s)?)?(?:doubt|question)(?:\s+that)?"
    r"|(?:sin|sem|senza|sans|ohne)\s(?:la\smenor\s|ninguna\s|aucun\s|alcun\s|jeden\s)?(?:duda|dúvida|dubbio|doute|zweifel)"
    r"|no\s+(?:hay|cabe)\s+duda|não\s+há\s+dúvida|kein(?:en)?\s+zweifel|без\s+(?:всякого\s+)?сомнени[яй]|несомненно)\b"
    r"|毫无疑问|毫無疑問|无疑|疑いなく|間違いなく|틀림없이|의심할\s?여지\s?없이|بلا\s?شك",
    re.IGNORECASE,
)


def without_markup(text: str) -> str:
    """The text without what is crossed out, without HTML emphasis, and with `\\_` as an underscore."""
    if "~~" in text or "<" in text or "\\" in text:
        text = _LINE_TAG.sub("\n", _STRUCK.sub(" ", text)).replace("\\_", "_")
        text = _SHORT_HTML.sub(r"\2", _HTML.sub("", text))
    return text


def signs_as_words(text: str) -> str:
    """The text with `≠`, `¬`, `\\neq` and `!C` as "not", and each cross as `CROSS`."""
    if not text.isascii():
        text = _CROSSES.sub(f" {CROSS} ", text)
    return _NOT_SIGNS.sub(" not ", _UNEQUAL.sub(f" {CROSS} ", text))


def without_assurance(text: str) -> str:
    """The text without "no doubt", "without question" and the like, which deny nothing."""
    return _ASSURED.sub(" ", text)
