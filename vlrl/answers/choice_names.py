"""Where a text names a choice: by its letter, where no word can stand, or by its own text, with or without an article.

Not here: what the text says of the choices that it names (`vlrl.answers.choices`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from vlrl.answers import phrases
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS

_LATIN = r"[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0600-\u06ff\u0900-\u0dff\u0e00-\u0e7f\ue000-\uf8ff]"
"""A character that makes a letter beside it part of a word; scripts written without spaces do not."""
_WORD = f"(?-i:{_LATIN})"
"""The same within a pattern that ignores case, which would take milliseconds to compile for each choice otherwise."""
_FIRST = 0xE000
_MENTION = re.compile(
    rf"(?P<text>[\ue000-\ue019])|(?<!{_LATIN})(?<!{_LATIN}[-'’])(?:(?P<upper>[A-Z])|(?P<lower>[a-z]))(?!{_LATIN})(?![-'’]{_LATIN})"
)
PRIVATE_USE = re.compile("[\ue000-\uf8ff]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|mathit|rm|bf|emph)\s*\{([^{}\\]{0,400})\}")
_MARKS = re.compile(r"[*`#|~]+|(?<![^\W_])_+|_+(?![^\W_])|\\[()\[\]]|\$(?![0-9])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]{0,400})\}")
_BOX_OPEN, _BOX_CLOSE = "\uf000", "\uf001"
_FOLLOWS = re.compile(
    r"[^\S\n]*\n|\s*(?:\Z|[^\w\s]|[\u0370-\uffff])|\s+(?:[A-Z](?![^\W_])|\d+[).])|\s+(?:is|it|was|are|were|as|because|since|for|which|with|based"
    r"|due\s+to|in|from|by|on|and|or|but|so|not\s+(?:[A-Z]\b|the\b|correct|right)|(?:would|could|should|may|might|must|can|will)"
    r"\s+(?:be|not|also|have|seem|fit)|cannot|does|doesn't|isn't|wasn't|can't|has|have|had|seems?|looks?|appears?|shows?|fits?|matches"
    r"|describes|depicts|represents|corresponds|contains|makes|then|than|if|when|where|that|also|instead|option|above|below"
    r"|rather\s+than|unless|vs|versus|alternatively|otherwise|else|respectively|maybe|perhaps|possibly|plus(?=\s+\W?[A-Z\ue000-\ue019](?![^\W_]))|therefore|thus|wins|works|applies|only\s*(?:\Z|[.,!])"
    r"|ist|sind|weil|da|denn|und|oder|passt|es|porque|ya|y|o|est|parce|et|ou|è|perché|e|é|pois|или|и|потому|не|karena|vì|adalah"
    r"|là|değil)\b(?!-)",
    re.IGNORECASE,
)
_LETTER_NEXT = re.compile(r"\s+[A-Z](?![^\W_])")
"""Letters in a row, as in "A B C", are all named."""
_AFTER_TEXT = re.compile(
    r"[^\S\n]*\n|\s+-\s|\s*(?:\Z|[^\w\s'-]|[\uf000\uf001])|\s+(?:is|was|are|were|as|because|since|which|would|could|should|must|can|may|might|seems?|looks?"
    r"|appears?|in\s+(?:the|this)\s+(?:image|picture|photo|scene|figure)|and|or|but|not|based|due|given|rather|instead|than|ist|es|est|è|é|weil|porque|oder|und|o|y|ou|et)\b"
    r"|\s*(?:的|了|吧|呢|です|だ|でしょう|になり|が正|입니다|이다|이에요|예요|이|가|은|는|색|ではな|じゃな|または|或|和|及|と|是|不)",
    re.IGNORECASE,
)
AHEAD_MARKS = re.compile(r"[\s(\[{\"'<>=:.\uf000-]*\Z")
_NOT_A_CHOICE = re.compile(
    r"\b(?:vitamin|hepatitis|type|grade|plan|phase|stage|vitamins|triangle|angle|side|segment|line|point|axis|mr|mrs|dr|st)\.?\s*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ChoiceMention:
    """A choice that a text names: from where to where, by its text or its letter, and what follows."""

    letter: str
    start: int
    end: int
    by_text: bool
    loose: bool
    """A choice's text that more words follow ("green" in "green apple")."""
    boxed: bool


@lru_cache(maxsize=4096)
def trimmed_choice(text: str) -> str:
    return canon(text).strip(" .,;:!?\"'`*$").strip()


_ARTICLE = re.compile(r"(?:an?|the)\s+")


def without_article(text: str) -> str:
    """The trimmed text of a choice without its article."""
    return _ARTICLE.sub("", trimmed_choice(text), count=1) if _ARTICLE.match(trimmed_choice(text)) else trimmed_choice(text)


_GRAMMAR = frozenset(
    re.findall(
        r"\S+",
        """a an the is are was were be been it its he she they we you i of to in on at by for with from as and or but not answer
        option choice correct right wrong this that which who what where when do does did has have had will would can could may
        might must should so 是 为 为什么 的 选 对 了 在 有 は が の です 이 가 은 는""",
    )
)
"""Choices that are words of grammar are only read where they are the whole answer or the whole statement."""


@lru_cache(maxsize=512)
def _pattern(names: tuple[str, ...]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """What finds the choices' texts, longest first, and the character that stands for each."""
    stands: dict[str, str] = {}
    twice: set[str] = set()
    for at, name in enumerate(names[: len(LETTERS)]):
        key = trimmed_choice(name)
        if key in stands:
            twice.add(key)
        if key and key not in _GRAMMAR and not (len(key) == 1 and key.isascii() and key.isalpha()):
            stands[key] = chr(_FIRST + at)
    stands = {key: stand for key, stand in stands.items() if key not in twice}
    bare = [without_article(key) for key in stands]
    short = {one: stands[key] for key, one in zip(stands, bare, strict=True) if bare.count(one) == 1 and one not in stands}
    short = {key: stand for key, stand in short.items() if len(key) > 1 and key not in _GRAMMAR}
    if not stands:
        return None, {}
    parts = []
    for key in sorted([*stands, *short], key=len, reverse=True):
        words = r"[\s_]+".join(map(re.escape, key.split()))
        lead = rf"(?<!{_WORD})(?<!\d[.,])(?<!(?<!\w)-)" if _is_ascii_word(key[0]) else ""
        tail = rf"(?!{_WORD})(?![.,]\d)" if _is_ascii_word(key[-1]) else ""
        tail += r"(?!\s?%)" if key[-1].isdecimal() else ""
        lead += _WITH_ARTICLE if key in short else _MAY_HAVE_ARTICLE if _is_ascii_word(key[0]) else ""
        parts.append(f"{lead}{words}{tail}")
    return re.compile("|".join(parts), re.IGNORECASE), {**short, **stands}


_MAY_HAVE_ARTICLE = r"(?:(?-i:an?|the|An|The|(?<=[.):]\s)A)\s+)?"
_WITH_ARTICLE = r"(?:(?-i:an?|the|An|The|(?<=[.):]\s)A)\s+|(?<=[.):(]\s)|(?<=[.):(])|\A)"
"""What stands before a choice's text without its own article: "the dog" or "B. dog" for the choice "a dog"."""


def _is_ascii_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


def choices_masked(text: str, names: tuple[str, ...]) -> str:
    """The text with one private character for each choice's text, so that its words are no letters, denials or statements."""
    pattern, stands = _pattern(names)
    if pattern is None:
        return text
    return pattern.sub(
        lambda found: stands.get(trimmed_choice(found[0])) or stands.get(without_article(found[0])) or found[0], text
    )


def without_wrappers(text: str) -> str:
    """Without emphasis, dollar signs and the wrappers of LaTeX; boxes as one character before and behind."""
    if "\\" in text:
        for _ in range(2):
            text = _WRAPPER.sub(r" \1 ", text)
        text = _BOX.sub(f"{_BOX_OPEN}\\1{_BOX_CLOSE}", text)
    return _MARKS.sub(" ", text)


_MAX_SMALL = 1000
"""Small letters looked at in one text."""


def choice_mentions(text: str, valid: str) -> Iterator[ChoiceMention]:
    n_small = 0
    has_boxes = _BOX_OPEN in text
    for found in _MENTION.finditer(text):
        start, end = found.span()
        at_box = text.rfind(_BOX_OPEN, max(0, start - 400), start) if has_boxes else -1
        boxed = at_box >= 0 and text.find(_BOX_CLOSE, at_box, start) < 0
        if found["text"]:
            loose = _AFTER_TEXT.match(text, end) is None
            yield ChoiceMention(LETTERS[ord(found[0]) - _FIRST], start, end, True, loose, boxed)
        elif found["upper"]:
            is_letter = _FOLLOWS.match(text, end) or _LETTER_NEXT.match(text, end)
            if is_letter and not _NOT_A_CHOICE.search(text, max(0, start - 16), start):
                yield ChoiceMention(found[0], start, end, False, False, boxed)
        elif boxed or n_small < _MAX_SMALL:
            n_small += 1
            if boxed or _is_small_letter(text, start, end):
                yield ChoiceMention(found[0].upper(), start, end, False, False, boxed)


def _is_small_letter(text: str, start: int, end: int) -> bool:
    """Whether a small letter is a choice's: in brackets, first with a mark behind, or last behind "answer:" and the like."""
    ahead, rest = text[max(0, start - 2) : start], text[end : end + 2].lstrip(" ")
    if ahead[-1:] in ("(", "[", "{") and rest[:1] in (")", "]", "}"):
        return True
    if start <= 8 and AHEAD_MARKS.match(text, 0, start):
        before_text = text[start] != "a" and "\ue000" <= rest[:1] <= "\ue019"  # "a green" is no letter
        if before_text or rest[:1] in (")", "]", ".", ":", "-"):
            return True
    stops = rest[:1] in ("", ".", ")", "]", "}", '"', "'", "\n", ",", "!", ";") and text[end : end + 1] != " "
    if not stops:
        return False
    window = phrases.before(text, start)
    return phrases.linked(window) or phrases.numbered(window)
