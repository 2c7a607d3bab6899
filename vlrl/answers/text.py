"""A completion's answer as text, a sample's reference answers as texts, and which texts are numbers or mathematics.

Not here: choices, yes and no, plans (`vlrl.answers.choices`, `yes_no`, `plans`), an answer's score (`vlrl.rewards`), formulas
beyond plain numbers (`vlrl.rewards.mathematics`).
"""

from __future__ import annotations

import math
import re
import string
from decimal import Decimal
from fractions import Fraction
from typing import Any

from vlrl.answers.boxes import MAX_CHARS
from vlrl.answers.literals import MAX_NUMBER_CHARS
from vlrl.answers.markup import without_markup
from vlrl.answers.mathematics import is_formula
from vlrl.answers.normalise import normalised
from vlrl.answers.read import whole_answer
from vlrl.answers.span import canon
from vlrl.schema import Sample

LETTERS = string.ascii_uppercase
"""The letters of choices, in order."""


def read_text(text: str, sample: Sample, *, tags: bool = False) -> tuple[str | None, str]:
    """A completion's answer as normalised text (`vlrl.answers.normalise`), or None and why: no answer, an empty one, one that
    was cut or is too long.

    `tags`: answer tags are required. A text is never read from an answer tag that was not closed.
    """
    written, why = whole_answer(text, sample, tags=tags)
    if written is None:
        return None, why
    if len(written) > MAX_CHARS:
        return None, f"longer than {MAX_CHARS} characters"
    answer = normalised(written).strip()
    return (answer, "") if answer else (None, "empty answer")


def reference_texts(sample: Sample) -> list[str]:
    """The reference answers of a text sample, as texts. A float is also right without its exponent or its empty decimals."""
    texts = []
    for answer in reference_answers(sample):
        texts.append(str(answer))
        if isinstance(answer, float) and math.isfinite(answer):
            plain = format(Decimal(str(answer)), "f")
            texts.append(plain.removesuffix(".0"))
    return list(dict.fromkeys(texts))


def reference_answers(sample: Sample) -> list[Any]:
    """The reference answers as the file has them: the members of a list, or the one answer."""
    return list(sample.answer) if isinstance(sample.answer, list | tuple) else [sample.answer]


def reference_letters(sample: Sample) -> set[str]:
    """The letters of the right choices, given as letters or as full texts."""
    choices = sample.choices or ()
    valid = LETTERS[: len(choices)] if choices else LETTERS
    found = set()
    for reference in reference_texts(sample):
        text = reference.strip()
        same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if canon(choice) == canon(reference)]
        if len(text) == 1 and text.upper() in valid:
            found.add(text.upper())
        elif len(same) == 1:
            found.add(same[0])
    return found


def without_full_stop(text: str) -> str:
    """The canonical text without one final full stop."""
    return canon(text).removesuffix(".").rstrip()


_LEAD_IN = re.compile(
    r"(?:(?:so|therefore|thus|hence)[, ]+)?(?:(?:the|my|final|correct|right|short|best)\s+)*"
    r"(?:answer|label|class|category|breed)\s*(?:is|:|=)\s*:?\s*"
    r"|(?:(?:最终|正确|正しい|最終)的?)?(?:答案|回答|答え|正解|정답|답)\s*(?:是|为|為|は|은|는|:)\s*:?\s*"
    r"|(?:(?:die|la|a|le|el|il)\s+)?(?:(?:richtige|bonne|correcta)\s+)?(?:antwort|respuesta|réponse|resposta|risposta)"
    r"(?:\s+(?:correcta|correta|corretta|correcte|certa|final))?\s*(?:ist|lautet|est|es|é|è|:)\s*:?\s*"
    r"|(?:правильный\s+)?ответ\s*(?:-|:)\s*|(?:الإجابة|الجواب)(?:\s+(?:الصحيحة|الصحيح))?\s*(?:هي|هو|:)\s*:?\s*|(?:सही\s+)?उत्तर\s*(?:है|:)\s*:?\s*",
    re.IGNORECASE,
)
_COPULA_END = re.compile(r"(?:です|だ|입니다|이다|है)\Z")
_BULLET = re.compile(r"(?:#{1,6}|>|[-•](?=\s*[^\W\d]))\s+")
_HEADING = re.compile(
    r"[#*\s]*(?:final\s+|the\s+|correct\s+)?(?:answer|label|class|category|result|conclusion|reasoning|explanation|答案|回答|答え|정답"
    r"|antwort|respuesta|réponse|resposta|ответ)[*:\s]*",
    re.IGNORECASE,
)
_STATEMENT_START = re.compile(r"[.!?,;:]\s+")
_EMPHASIS = re.compile(r"[*`]+|(?<![^\W_])__|__(?![^\W_])")
_WRAPPED = re.compile(r"\\(?:boxed|text|textbf|textit|mathrm|mathbf)\s*\{([^{}]{0,400})\}")
_MAX_SHORT_CHARS = 4_000
_PAIRS = {'"': '"', "'": "'", "(": ")", "[": "]", "{": "}", "$": "$"}


def bare_text(text: str) -> str:
    """The canonical text of a short answer without what is put around one: "The answer is", emphasis, quotes, brackets, a box,
    a final full stop. Two boxes are no short answer."""
    if len(text) > _MAX_SHORT_CHARS:
        return canon(text)
    bare = without_markup(text).strip()
    bullet = _BULLET.match(bare)
    bare = _EMPHASIS.sub("", bare[bullet.end() :] if bullet else bare)
    for _ in range(2):
        bare = _WRAPPED.sub(r"\1", bare, count=1)
    for _ in range(4):
        before, bare = bare, bare.strip().rstrip(".!").strip()
        lead = _LEAD_IN.match(bare)
        if lead and lead.end() < len(bare):
            bare = _COPULA_END.sub("", bare[lead.end() :])
        elif len(bare) > 2 and _PAIRS.get(bare[0]) == bare[-1] and bare[0] not in bare[1:-1] and bare[-1] not in bare[1:-1]:
            bare = bare[1:-1]
        if bare == before:
            break
    return canon(bare)


def _is_sentence(line: str) -> bool:
    """Whether a line is prose, which no short answer is: four words or more (less without spaces), and a stop."""
    is_long = len(line.split()) >= 4 or (len(line) >= 8 and not line.isascii() and " " not in line)
    return is_long and line.rstrip("*\"')").endswith((".", "!", "?", ":"))


def _statements(line: str) -> list[int]:
    """Where "the answer is" and the like begin in a line."""
    starts: list[int] = []
    end = 0
    for at in (0, *(found.end() for found in _STATEMENT_START.finditer(line))):
        lead = _LEAD_IN.match(line, at) if at >= end else None
        if lead:
            starts.append(at)
            end = lead.end()
    return starts


def short_forms(text: str) -> set[str]:
    """What a short answer may say: its bare text, and that of its last statement where only sentences or headings stand before.

    The last statement is "the answer is red" at the end of the last line, or that whole line. Two statements are none.
    """
    forms = {bare_text(text)}
    lines = [line.strip() for line in without_markup(text[:_MAX_SHORT_CHARS]).splitlines() if line.strip()]
    lines = [_EMPHASIS.sub("", line) for line in lines]
    is_last = all(_HEADING.fullmatch(line) or _is_sentence(line) for line in lines[:-1])
    if len(text) > _MAX_SHORT_CHARS or not lines or not is_last:
        return forms - {""}
    starts = [(row, at) for row, line in enumerate(lines) for at in _statements(line)]
    if len(starts) == 1 and starts[0][0] == len(lines) - 1:
        forms.add(bare_text(lines[-1][starts[0][1] :]))
    elif not starts and len(lines) > 1:
        forms.add(bare_text(lines[-1]))
    return forms - {""}


# ---- numbers

_PLAIN = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]*)?|[+-]?\.[0-9]+")
_LATEX = re.compile(
    r"\$[^$]+\$|\\[(\[]|\\(?:[dtc]?frac|sqrt|boxed|pi|cdot|times|div|pm|le|leq|ge|geq|ne|neq|infty|left|right|text|mathrm|mathbb"
    r"|sin|cos|tan|log|ln|exp|sum|int|alpha|beta|theta|circ|angle|begin|%)(?![A-Za-z])"
)
_EXPONENT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")
_MEASURE = re.compile(
    rf"(?P<number>{_PLAIN.pattern})\s*(?:\\?%|[A-Za-zµ°]{{1,12}}(?:\^?[0-9²³])?(?:/[A-Za-z]{{1,6}}(?:\^?[0-9²³])?)?)"
)


def number(text: str) -> Fraction | None:
    """The exact value of a plain decimal number (ASCII digits, optional sign, commas between thousands), or None.

    No exponents, fractions, per cent or units: "1e3", "1/2" and "2024-01" are no plain numbers.
    """
    text = text.strip()
    if len(text) > MAX_NUMBER_CHARS or not _PLAIN.fullmatch(text):
        return None
    return Fraction(text.replace(",", "").removesuffix("."))


_UNWRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed)\s?\{([^{}]{0,100})\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s?\{([^{}]{1,50})\}\s?\{([^{}]{1,50})\}")
_SPACING = re.compile(r"\\[,;:! ]|[\s$]+")
_COUNTED = re.compile(r"([+-]?[0-9][0-9.,/]*)([^\W\d_]{0,24})")


def measure_form(text: str) -> tuple[str, str]:
    """A number and its unit in one form, whatever the spaces, dollar signs and wrappers: "$15\\text{ cm}$" is ("15", "cm"),
    "\\frac{1}{2}" is ("1/2", ""). ("", "") for any other text."""
    if len(text) > 200:
        return "", ""
    for _ in range(2):
        text = _UNWRAPPED.sub(r"\1", text)
    found = _COUNTED.fullmatch(_SPACING.sub("", _FRACTION.sub(r"\1/\2", text)).rstrip("."))
    return (found[1], found[2]) if found else ("", "")


def has_exponent(text: str) -> bool:
    """Whether a text is a number with an exponent, as "1e3"."""
    return _EXPONENT.fullmatch(text.strip()) is not None


def is_latex(text: str) -> bool:
    """Whether a text holds a formula: dollar signs around something, or a command of LaTeX mathematics."""
    return _LATEX.search(text) is not None


def is_mathematical(text: str) -> bool:
    """Whether `math_equal` may grade an answer: a number, a fraction, a percentage, a number with its unit, LaTeX, or a
    formula in plain signs (2^10, 3π, x=3, [0,1))."""
    text = text.strip()
    if number(text) is not None or is_latex(text) or has_exponent(text):
        return True
    upper, slash, lower = text.partition("/")
    if slash and number(upper) is not None and number(lower) is not None:
        return True
    measure = _MEASURE.fullmatch(text)
    if measure is not None and number(measure["number"]) is not None:
        return True
    return is_formula(text)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
