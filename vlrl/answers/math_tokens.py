"""A formula as LaTeX or plain text -> its tokens. Every character belongs to a token, or the formula is unread."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlrl.answers.math_symbols import (
    ACCENTS,
    CURRENCIES,
    FUNCTIONS,
    IGNORED_COMMANDS,
    MAX_FORMULA_CHARS,
    PLAIN_WORDS,
    RELATIONS,
    SAME_COMMANDS,
    SET_OPERATORS,
    SINGLE_LETTER_UNITS,
    SYMBOL_COMMANDS,
    TEXT_COMMANDS,
    WORD_COMMANDS,
    is_unit,
)

MAX_DEPTH = 24
SCALES = {"hundred": "100", "thousand": "1000", "million": "1" + "0" * 6, "billion": "1" + "0" * 9, "dozen": "12"}
MAX_DIGITS = 400
OPENERS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_CLOSERS = frozenset(OPENERS.values())


class Unread(Exception):
    """A text that is no formula as a whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: number, letter, word, text, unit, command, environment, relation, separator, or op (signs and brackets)."""

    kind: str
    text: str
    spaced: bool = False
    """White space stood before it."""


_DELIMITERS = re.compile(r"(?<!\\)\$|(?<!\\)\\[()\[\]]")
_NUMBER = re.compile(
    r"(?P<whole>[0-9]{1,3}(?:(?:\{,\}|\\!,|\\[,;:! ]|,\\!|(?<=[0-9]),|(?<=[0-9]) )[0-9]{3})+(?![0-9])|[0-9]+)?"
    r"(?P<part>\.[0-9]*)?(?P<exponent>[eE][+-]?[0-9]{1,4}(?![0-9A-Za-z]))?"
)
_LIST_NUMBER = re.compile(
    r"(?P<whole>[0-9]{1,3}(?:(?:\{,\}|\\!,|\\[,;:! ]|,\\!)[0-9]{3})+(?![0-9])|[0-9]+)?"
    r"(?P<part>\.[0-9]*)?(?P<exponent>[eE][+-]?[0-9]{1,4}(?![0-9A-Za-z]))?"
)
_TIMES_LETTER = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^|10\*\*)")
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_WORD = re.compile(r"[A-Za-zµΩ]+(?:'[a-z]+)?")
_SEPARATOR_WORDS = frozenset({"and", "or", "und", "oder", "et", "ou", "y"})
_SIGN_RELATIONS = {
    "<=": "leq", ">=": "geq", "!=": "neq", "=<": "leq", "==": "=", "~=": "approx", "=": "=", "<": "<", ">": ">",
}  # fmt: skip
_MATRICES = frozenset({"matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"})
_KNOWN_COMMANDS = (
    SYMBOL_COMMANDS | FUNCTIONS | ACCENTS | SET_OPERATORS
    | {"frac", "sqrt", "surd", "binom", "pi", "pm", "mp", "times", "cdot", "div", "circ", "dot"}
    | {"lfloor", "rfloor", "lceil", "rceil"}
)  # fmt: skip


def tokens_of(text: str, *, commas: str = "thousands") -> list[Token]:
    """The tokens of a formula in `plain_form`. `commas` between digits: "thousands" (1,234), "list" (1 and 234), or
    "decimal" (3,5 is 3.5). Raises Unread."""
    if len(text) > MAX_FORMULA_CHARS:
        raise Unread(f"longer than {MAX_FORMULA_CHARS} characters")
    text = re.sub(r"\\\\\[[0-9.]+[a-z]{2}\]", r"\\\\", text)
    text = _TIMES_LETTER.sub(r"\\times ", text)
    if commas == "decimal":
        text = re.sub(r"(?<![0-9,])([0-9]+),([0-9]+)(?![0-9,])", r"\1.\2", text)
    is_plain = "\\" not in text and "$" not in text
    text = _DELIMITERS.sub(" ", text)
    found: list[Token] = []
    at, brackets = 0, 0
    while at < len(text):
        start = at
        while at < len(text) and text[at] in " \t\r\n~":
            at += 1
        if at == len(text):
            break
        token, at = _one_token(text, at, at > start, is_plain, _LIST_NUMBER if brackets or commas == "list" else _NUMBER)
        if token is not None:
            brackets += (token.text in ("(", "[", r"\{")) - (token.text in (")", "]", r"\}"))
            if token.kind == "word" and token.text.casefold() in SCALES and found and found[-1].kind == "number":
                found.append(Token("op", "*"))
                token = Token("number", SCALES[token.text.casefold()])
            found.append(token)
    if is_plain and len(found) > 1 and all(token.kind == "letter" for token in found):
        raise Unread("a word")
    return found


def _one_token(text: str, at: int, spaced: bool, is_plain: bool, numbers: re.Pattern[str]) -> tuple[Token | None, int]:
    char = text[at]
    if char.isdigit() or char == ".":
        return _number_token(text, at, spaced, numbers)
    if char == "\\":
        return _command_token(text, at, spaced)
    if (char.isalpha() and char.isascii()) or char in "µΩ":
        return _word_token(text, at, spaced, is_plain)
    for sign, name in _SIGN_RELATIONS.items():
        if text.startswith(sign, at):
            return Token("relation", name, spaced), at + len(sign)
    if text.startswith("**", at):
        return Token("op", "^", spaced), at + 2
    if char in "+-*/^_!()[]{}|&:'%":
        return Token("op", char, spaced), at + 1
    if char in ",;或和及":
        return Token("separator", char, spaced), at + 1
    if char in CURRENCIES:
        return Token("unit", char, spaced), at + 1
    raise Unread(f"{char!r} is no part of a formula")


def _number_token(text: str, at: int, spaced: bool, numbers: re.Pattern[str]) -> tuple[Token, int]:
    found = numbers.match(text, at)
    if found is None or (found["whole"] is None and not (found["part"] or "").strip(".")):
        raise Unread("a point without digits")
    if found.end() - at > MAX_DIGITS:
        raise Unread(f"a number of more than {MAX_DIGITS} characters")
    whole = re.sub(r"[^0-9]", "", found["whole"] or "0")
    part = (found["part"] or "").rstrip(".") if (found["part"] or "") != "." else "."
    end = found.end()
    if part == "." and not re.match(r"\\(overline|dot)\b", text[end:]):
        part = ""
    return Token("number", whole + part + (found["exponent"] or ""), spaced), end


def _command_token(text: str, at: int, spaced: bool) -> tuple[Token | None, int]:
    if text.startswith("\\\\", at):
        return Token("op", "\\\\", spaced), at + 2
    named = _COMMAND.match(text, at)
    if named is None:
        char = text[at + 1 : at + 2]
        if char in ",;:! ":
            return None, at + 2
        if char in "{}":
            return Token("op", "\\" + char, spaced), at + 2
        if char == "%":
            return Token("op", "%", spaced), at + 2
        if char == "$":
            return Token("unit", "$", spaced), at + 2
        if char == "|":
            return Token("op", "|", spaced), at + 2
        raise Unread(f"a stray backslash before {char!r}")
    name, end = SAME_COMMANDS.get(named[1], named[1]), named.end()
    if name in IGNORED_COMMANDS:
        return None, end + (text[end : end + 1] == "." and named[1] in ("left", "right"))
    if name in TEXT_COMMANDS:
        return _text_token(text, end, spaced)
    if name in ("begin", "end"):
        environment = re.compile(r"\s*\{([A-Za-z]+)\*?\}(?:\s*\{[clr| ]+\})?").match(text, end)
        if environment is None or environment[1] not in _MATRICES:
            raise Unread(f"an environment that is no matrix: {text[end : end + 20]!r}")
        return Token("environment", name, spaced), environment.end()
    if name in ("boxed", "fbox"):
        raise Unread("a box within the formula")
    if name in RELATIONS:
        return Token("relation", name, spaced), end
    if name in "{}":
        return Token("op", "\\" + name, spaced), end
    if len(name) == 1 and not name.isalpha():
        return Token("op", name, spaced), end
    if name in _KNOWN_COMMANDS:
        return Token("command", name, spaced), end
    raise Unread(f"\\{named[1]} is not known")


def _text_token(text: str, at: int, spaced: bool) -> tuple[Token | None, int]:
    found = re.compile(r"\s*\{([^{}\\$]*)\}").match(text, at)
    if found is None:
        raise Unread("text in a formula that is not closed")
    words = found[1].replace("~", " ").strip()
    if not words:
        return None, found.end()
    if words.casefold() in _SEPARATOR_WORDS:
        return Token("separator", ",", spaced), found.end()
    if words in ("%", r"\%") or words.casefold() in ("percent", "percentage", "pct"):
        return Token("op", "%", spaced), found.end()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", words):
        return Token("number", words, spaced), found.end()
    if words in ("e", "i", "d"):
        return Token("letter", words, spaced), found.end()
    return Token("word" if " " in words and not is_unit(words.split()[-1]) else "text", words, spaced), found.end()


def _word_token(text: str, at: int, spaced: bool, is_plain: bool) -> tuple[Token, int]:
    found = _WORD.match(text, at)
    assert found is not None
    word, end = found[0], found.end()
    low = word.casefold()
    if len(word) > 1 and low in _SEPARATOR_WORDS:
        return Token("separator", ",", spaced), end
    if low in ("percent", "percentage", "pct"):
        return Token("op", "%", spaced), end
    if low in ("infinity", "inf", "infty"):
        return Token("command", "infty", spaced), end
    if low in WORD_COMMANDS and len(word) > 1:
        return Token("command", low, spaced), end
    longer = re.compile(r"[A-Za-zµΩ]+[0-9²³]?(?:\s?/\s?[A-Za-z]+[0-9]?)+|[A-Za-zµΩ]+[23](?![0-9A-Za-z])").match(text, at)
    if longer is not None and is_plain and is_unit(re.sub(r"\s", "", longer[0])):
        return Token("unit", longer[0], spaced), longer.end()
    if len(word) == 1:
        follows_number = at > 0 and text[:at].rstrip()[-1:].isdigit()
        at_end = not re.match(r"\s*[A-Za-z0-9\\(+*/=^_!-]", text[end:]) or re.match(r"\s*\^\{?[23]\}?\s*$", text[end:])
        if word in SINGLE_LETTER_UNITS and follows_number and at_end and is_plain:
            return Token("unit", word, spaced), end
        return Token("letter", word, spaced), end
    if is_unit(word):
        return Token("unit", word, spaced), end
    is_differential = not is_plain and len(word) == 2 and word[0] == "d"
    if (spaced and not is_differential) or len(word) > 3 or low in PLAIN_WORDS:
        return Token("word", word, spaced), end
    return Token("letter", word[0], spaced), at + 1


def matching(tokens: list[Token]) -> dict[int, int]:
    """Opening bracket -> closing one, by position; `[0, 1)` and `(0, 1]` match too. Raises Unread."""
    pairs: dict[int, int] = {}
    open_at: list[int] = []
    for i, token in enumerate(tokens):
        name = ("\\" if token.kind == "command" else "") + token.text
        if token.kind not in ("op", "command", "environment"):
            continue
        if name in OPENERS or (token.kind == "environment" and token.text == "begin"):
            open_at.append(i)
            if len(open_at) > MAX_DEPTH:
                raise Unread(f"brackets nested deeper than {MAX_DEPTH}")
        elif name in _CLOSERS or (token.kind == "environment" and token.text == "end"):
            if not open_at:
                raise Unread("a bracket that is not opened")
            opening = tokens[open_at[-1]]
            wanted = OPENERS.get(("\\" if opening.kind == "command" else "") + opening.text, "end")
            if wanted != name and {wanted, name} != {")", "]"}:
                raise Unread("brackets that do not match")
            pairs[open_at.pop()] = i
    if open_at:
        raise Unread("a bracket that is not closed")
    return pairs


def latex_of(tokens: list[Token]) -> str:
    """The tokens as one LaTeX formula, the same for every spelling of it."""
    parts = []
    for token in tokens:
        if token.kind == "number":
            plain, exponent, shift = token.text.lower().partition("e")
            parts.append(plain + (rf"\times 10^{{{int(shift)}}}" if exponent else ""))
        elif token.kind == "command" or (token.kind == "relation" and token.text.isalpha()):
            parts.append(f"\\{token.text} ")
        elif token.kind in ("text", "unit", "word"):
            parts.append(rf"\text{{{token.text}}}")
        elif token.kind == "environment":
            parts.append(rf"\{token.text}{{pmatrix}}")
        else:
            parts.append(token.text)
    return "".join(parts).strip()
