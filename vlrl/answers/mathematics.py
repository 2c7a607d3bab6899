"""A mathematical answer as a value: a number with its unit, a list, set, tuple, interval, union or matrix of them, an equation.

The whole text is read, or nothing of it. Not here: where an answer stands in a text (`vlrl.answers.final_answer`), and whether
two answers are equal (`vlrl.rewards.mathematics`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from vlrl.answers.math_numbers import EXACT_DIGITS, Real, is_near, same
from vlrl.answers.math_scalar import real_value, values_at_points, with_braces
from vlrl.answers.math_symbols import MAX_FORMULA_CHARS, PLAIN_WORDS, is_unit, plain_form
from vlrl.answers.math_tokens import Token, Unread, latex_of, matching, tokens_of
from vlrl.answers.math_units import without_unit

MAX_VALUES = 64
_COMMA = re.compile("[0-9],[0-9]")
_THOUSANDS = re.compile("(?<![0-9.])[1-9][0-9]{0,2},[0-9]{3}(?![0-9])")
"""A comma that separates thousands: 42,000 is not 42."""
_BRACKETS = frozenset("()[]{}")


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number or formula. `latex`: the same for all spellings of it. `number`: its value, None where it holds letters or
    functions. `is_decimal`: written as a decimal."""

    latex: str
    number: Real | None
    is_decimal: bool = False
    is_computed: bool = False
    """Written as a decimal of `EXACT_DIGITS` or more significant digits, as computers print them."""
    is_percent: bool = False
    unit: str = ""
    is_opaque: bool = False
    """Equal to the same characters only."""
    points: tuple[Real | None, ...] = ()
    """Of a formula with letters: its values at fixed points (`values_at_points`)."""


@dataclass(frozen=True, slots=True)
class Collection:
    """`kind`: "list" (without brackets), "set", "matrix", "union", "ratio", or the two brackets: "()", "[]", "[)", "(]"."""

    latex: str
    kind: str
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality. An assignment `x = 3` has its `symbol` and its `value`; `a = b ≈ c` has `rounded` c."""

    latex: str
    symbol: str | None = None
    value: Value | None = None
    rounded: Value | None = None


Value = Scalar | Collection | Relation


@lru_cache(maxsize=8192)
def read_mathematics(text: str) -> tuple[Value, ...] | str:
    """The readings of a text as mathematics, the usual one first, or why there is none. Several where a comma between
    digits can be a thousands separator, a list's or a decimal comma."""
    text = plain_form(text).strip()
    readings: list[Value] = []
    why = ""
    for commas in ("thousands", "list", "decimal"):
        if commas != "thousands" and not _COMMA.search(text):
            break
        if commas == "decimal" and (text.count(",") > 1 or not _BRACKETS.isdisjoint(text) or _THOUSANDS.search(text)):
            break
        try:
            value = _listed(tokens_of(text, commas=commas))
        except Unread as error:
            why = why or str(error)
            continue
        if value not in readings:
            readings.append(value)
    return tuple(readings) or why


_SIGNS = re.compile(
    r"[=^√π×÷∞<>≤≥∪±½⅓¼¾²³€£¥₹]|\\[A-Za-z$%{]|\*\*|\A\s*[(\[{].*,.*[)\]}]\s*\Z|\A[+-]?[0-9]+,[0-9]{1,2}\Z|\{,\}|\\[,!]"
    r"|\A\$[0-9]|\A[+-]?[0-9]+\s+[0-9]+/[0-9]+\Z|\A[1-9][0-9]{0,4}\s?:\s?[1-9](?:[0-9]{2,4})?\Z"
    r"|\A-?(?:[0-9]+[a-z]|[0-9]*[xyzn])\s*(?:\+\s*[0-9]*[a-z]?|-\s*[0-9]*[xyzn]?|-\s+[0-9]+)\Z|\A-?[0-9]+\s*\+\s*[0-9]*[a-z]\Z"
)
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9][0-9,]*(?:\.[0-9]*)?")
_BOX = re.compile(r"\s*\[\s*(?:-?[0-9.]+\s*,\s*){3}-?[0-9.]+\s*\]\s*")


def is_formula(text: str) -> bool:
    """Whether a text is mathematics by its signs and can be read as a whole. Words, dates, part numbers, times and boxes are
    not."""
    if len(text) > MAX_FORMULA_CHARS or _BOX.fullmatch(text):
        return False
    if not _SIGNS.search(text) and (text.isascii() or not _PLAIN_NUMBER.fullmatch(plain_form(text).strip())):
        return False
    found = read_mathematics(text)
    return not isinstance(found, str) and re.search(r"[0-9\\√π∞½⅓¼¾]", plain_form(text)) is not None


def _listed(tokens: list[Token]) -> Value:
    """Elements with commas, "and" or "or" between them, or the one element."""
    if not tokens:
        raise Unread("nothing between brackets")
    pieces = _split(tokens, "separator")
    if len(pieces) > 1:
        pieces = pieces[:1] + [piece for piece in pieces[1:-1] if piece] + pieces[-1:]  # "1, 2, and 3"
    if not pieces[0] or not pieces[-1]:
        raise Unread("a comma without a value")
    if len(pieces) > MAX_VALUES:
        raise Unread(f"more than {MAX_VALUES} values")
    items = [_element(piece) for piece in pieces]
    if len(items) == 1:
        return items[0]
    first = items[0]
    if isinstance(first, Relation) and first.symbol is not None and first.value is not None:
        others = items[1:]
        if all(isinstance(one, Relation) and one.symbol == first.symbol and one.value is not None for one in others):
            values: list[Value] = [one.value for one in items if isinstance(one, Relation) and one.value is not None]
            return Relation(latex_of(tokens), first.symbol, _flat("list", values))
        if not any(isinstance(one, Relation) for one in others):
            return Relation(latex_of(tokens), first.symbol, _flat("list", [first.value, *others]))
    return _flat("list", items)


def _flat(kind: str, items: list[Value]) -> Collection:
    """A list; what ± stands for are items of it."""
    flat: list[Value] = []
    for item in items:
        flat += item.items if isinstance(item, Collection) and item.kind == "list" else [item]
    return Collection(f" {kind} ".join(item.latex for item in flat), kind, tuple(flat))


def _split(tokens: list[Token], kind: str, text: str | None = None) -> list[list[Token]]:
    """The runs between tokens of a kind (and text) that stand outside all brackets."""
    pairs = matching(tokens)
    pieces: list[list[Token]] = [[]]
    until = -1
    for i, token in enumerate(tokens):
        if i > until and i in pairs:
            until = pairs[i]
        if i > until and token.kind == kind and text in (None, token.text):
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _element(tokens: list[Token]) -> Value:
    sides = _split(tokens, "relation")
    if len(sides) == 1:
        return _side(tokens)
    outer = set(map(id, (token for side in sides for token in side)))
    names = [token.text for token in tokens if token.kind == "relation" and id(token) not in outer]
    if not sides[0] and names[0] in ("=", "approx"):  # "= 42", the end of a calculation
        return (
            _element([token for side in sides[1:] for token in side])
            if len(sides) == 2
            else _relation(tokens[1:], sides[1:], names[1:])
        )
    if not all(sides):
        raise Unread("a relation without a side")
    return _relation(tokens, sides, names)


def _relation(tokens: list[Token], sides: list[list[Token]], names: list[str]) -> Value:
    latex = latex_of(with_braces(tokens))
    if names == ["in"]:
        return Relation(latex, latex_of(sides[0]), _side(sides[1])) if _is_name(sides[0]) else Relation(latex)
    if not set(names) <= {"=", "approx", "equiv"}:
        bounds = [None if _is_name(side) else _side(side) for side in sides]
        return _interval_of(latex, sides, bounds, names) or Relation(latex)
    if _is_name(sides[-1]) and not _is_name(sides[0]) and len(sides) == 2:
        sides = sides[::-1]
    symbol = latex_of(sides[0]) if _is_name(sides[0]) else None
    values = [_side(side) for side in (sides[1:] if symbol else sides)]
    names = names[1:] if symbol else names
    rounded = None
    if "approx" in names:
        if names.index("approx") != len(names) - 1:
            raise Unread("several approximations")
        rounded = values.pop()
    numbers = [value for value in values if isinstance(value, Scalar) and value.number is not None]
    for one in numbers[1:]:
        if not _agree(numbers[0], one):
            raise Unread(f"{numbers[0].latex} and {one.latex} are not equal")
    if rounded is not None and not (numbers and _rounds_to(values[-1], rounded)):
        raise Unread("an approximation of another value")
    if symbol is None and len(numbers) < len(values):
        return Relation(latex)  # an equation between formulas
    if symbol is None and rounded is None:
        return values[-1]
    return Relation(latex, symbol, values[-1], rounded)


def _interval_of(latex: str, sides: list[list[Token]], values: Sequence[Value | None], names: list[str]) -> Relation | None:
    """`x > 3` and `1 < x <= 2` as the interval of the variable."""
    if values.count(None) != 1 or not set(names) <= {"<", ">", "leq", "geq"} or len(values) > 3:
        return None
    if not all(value is None or (isinstance(value, Scalar) and value.number is not None) for value in values):
        return None
    at = values.index(None)
    if len(values) == 3 and (at != 1 or {names[0][0], names[1][0]} not in ({"<", "l"}, {"<"}, {"l"}, {">", "g"}, {">"}, {"g"})):
        return None
    low: tuple[Value, str] = (Scalar(r"-\infty", None, is_opaque=True), "(")
    high: tuple[Value, str] = (Scalar(r"\infty", None, is_opaque=True), ")")
    for i, value in enumerate(values):
        if value is None:
            continue
        name = names[min(i, at)] if i < at else names[i - 1]
        is_below = (name in ("<", "leq")) == (i < at)
        is_open = name in "<>"
        if is_below:
            low = (value, "(" if is_open else "[")
        else:
            high = (value, ")" if is_open else "]")
    return Relation(latex, latex_of(sides[at]), Collection(latex, low[1] + high[1], (low[0], high[0])))


def _is_name(tokens: list[Token]) -> bool:
    """Whether a side is what a value is given to: a letter, a word, `f(x)`, `x_1`, `\\angle ABC`, `|AB|`."""
    kinds = {token.kind for token in tokens}
    if tokens and tokens[0].text == "(" and tokens[-1].text == ")":
        kinds -= {"separator"}
    if not kinds <= {"letter", "word", "text", "command", "op", "number", "unit"} or not kinds & {
        "letter",
        "word",
        "text",
        "unit",
    }:
        return False
    if any(token.kind == "word" and token.text.casefold() in PLAIN_WORDS - {"the", "of"} for token in tokens):
        return False
    signs = {token.text for token in tokens if token.kind == "op"}
    if not signs <= {"(", ")", "_", "{", "}", "'", "|"}:
        return False
    numbers = any(
        token.kind == "number" and (i == 0 or tokens[i - 1].text not in ("_", "{", "(")) for i, token in enumerate(tokens)
    )
    commands = {token.text for token in tokens if token.kind == "command"}
    return not numbers and not commands & {"frac", "sqrt", "surd", "pm", "times", "cdot", "div", "cup", "pi", "binom"}


def _agree(a: Scalar, b: Scalar) -> bool:
    if a.number is None or b.number is None:
        return True
    if same(a.number, b.number) or a.is_percent != b.is_percent:
        return True
    return (a.is_decimal or b.is_decimal) and is_near(a.number, b.number)


def _rounds_to(value: Value, rounded: Value) -> bool:
    """Whether a decimal is a value rounded: it is off by less than one in its last place."""
    if not (
        isinstance(value, Scalar) and isinstance(rounded, Scalar) and value.number is not None and rounded.number is not None
    ):
        return False
    places = len(re.sub(r"[^0-9.]", "", rounded.latex).partition(".")[2])
    return bool(abs(value.number.decimal() - rounded.number.decimal()) * 10**places < 1)


def _side(tokens: list[Token]) -> Value:
    if not tokens:
        raise Unread("a side without a value")
    pairs = matching(tokens)
    outside = _outside(tokens, pairs)
    names = [tokens[i].text for i in outside if tokens[i].kind == "command"]
    n_signs = sum(token.kind == "command" and token.text in ("pm", "mp") for token in tokens)
    if n_signs:
        if n_signs > 1 or "pm" not in names:
            raise Unread("signs that can be read in several ways")
        at = next(i for i in outside if tokens[i].text == "pm" and tokens[i].kind == "command")
        both = [_side([*tokens[:at], Token("op", sign), *tokens[at + 1 :]]) for sign in "+-"]
        return _flat("list", both)
    if "cup" in names and not {"cap", "setminus"} & set(names):
        parts = _split(tokens, "command", "cup")
        if not all(parts):
            raise Unread("a union without a side")
        return Collection(latex_of(with_braces(tokens)), "union", tuple(_side(part) for part in parts))
    if [token.text for token in tokens] == ["emptyset"]:
        return Collection(r"\emptyset", "set", ())
    if pairs.get(0) == len(tokens) - 1:
        return _enclosed(tokens)
    if any(tokens[i].text == ":" for i in outside):
        parts = _split(tokens, "op", ":")
        if not all(parts):
            raise Unread("a colon without a side")
        if len(parts[0]) > 1 and all(token.kind == "letter" for token in parts[0]):
            raise Unread("a word before a colon")
        return Collection(latex_of(tokens), "ratio", tuple(_scalar(part) for part in parts))
    return _scalar(tokens)


def _outside(tokens: list[Token], pairs: dict[int, int]) -> list[int]:
    """The positions outside all brackets."""
    found, i = [], 0
    while i < len(tokens):
        if i in pairs:
            i = pairs[i]
        else:
            found.append(i)
        i += 1
    return found


def _enclosed(tokens: list[Token]) -> Value:
    """What stands in one pair of brackets."""
    opening, inner = tokens[0], tokens[1:-1]
    latex = latex_of(tokens)
    if opening.kind == "environment":
        return _matrix(inner)
    if opening.kind == "command":
        return _scalar(tokens)
    pieces = _split(inner, "separator") if inner else []
    brackets = opening.text + tokens[-1].text
    if brackets == r"\{\}" or (brackets == "{}" and len(pieces) > 1):
        items = [] if not inner else list(_flat("list", [_listed(inner)]).items)
        return Collection(latex, "set", tuple(items))
    if len(pieces) <= 1:
        if not inner:
            raise Unread("empty brackets")
        if brackets not in ("()", "[]", "{}"):
            raise Unread("brackets that do not match")
        return _side(inner) if not any(token.kind == "relation" for token in inner) else _element(inner)
    if not all(pieces) or len(pieces) > MAX_VALUES:
        raise Unread("a comma without a value")
    items = [_element(piece) for piece in pieces]
    rows = [item.items for item in items if isinstance(item, Collection) and item.kind == "[]"]
    if brackets == "[]" and len(rows) == len(items) and len({len(row) for row in rows}) == 1:
        return Collection(latex, "matrix", tuple(Collection("", "row", row) for row in rows))
    return Collection(latex, brackets, tuple(items))


def _matrix(inner: list[Token]) -> Value:
    rows = [row for row in _split(inner, "op", "\\\\") if row]
    cells = [[_side(cell) if cell else None for cell in _split(row, "op", "&")] for row in rows]
    if not cells or len({len(row) for row in cells}) != 1 or any(cell is None for row in cells for cell in row):
        raise Unread("a matrix with an empty cell or rows of several lengths")
    n = len(cells) * len(cells[0])
    if n > 2 * MAX_VALUES:
        raise Unread("a matrix too large")
    groups = [Collection("", "row", tuple(cell for cell in row if cell is not None)) for row in cells]
    latex = r"\begin{pmatrix}" + r"\\".join("&".join(cell.latex for cell in row.items) for row in groups) + r"\end{pmatrix}"
    return Collection(latex, "matrix", tuple(groups))


_INFINITIES = (r"\infty", r"-\infty")


def _scalar(tokens: list[Token]) -> Scalar:
    if len(tokens) == 1 and tokens[0].kind == "text":
        return Scalar(rf"\text{{{tokens[0].text.casefold()}}}", None, is_opaque=True)
    number, unit = without_unit(tokens)
    is_percent = number[-1].kind == "op" and number[-1].text == "%"
    number = with_braces(number[:-1] if is_percent else number)
    if unit == "%":
        is_percent, unit = True, ""
    if any(token.kind in ("word", "unit") for token in number):
        raise Unread(f"{next(t.text for t in number if t.kind in ('word', 'unit'))!r} is no part of a formula")
    value = real_value(number)
    latex = latex_of(number).removeprefix("+")
    digits = _digits_of_decimal(number)
    if unit.startswith("^") or (value is None and unit and not is_unit(unit)):
        raise Unread(f"{unit!r} is no part of a formula")
    in_base = latex in _INFINITIES or any(a.kind == "number" and b.text == "_" for a, b in pairwise(number))
    points = values_at_points(number) if value is None and not in_base else ()
    scalar = Scalar(latex, value, digits > 0, digits >= EXACT_DIGITS, is_percent, unit, in_base, points)
    return scalar if value is None or value.value != 0 else replace(scalar, latex="0")


def _digits_of_decimal(tokens: list[Token]) -> int:
    """The significant digits of a decimal literal, also one times a power of ten; 0 for anything else."""
    tokens = [token for token in tokens if not (token.kind == "op" and token.text in "+-" and token is tokens[0])]
    if not tokens or tokens[0].kind != "number":
        return 0
    rest = [token.text for token in tokens[1:]]
    scaled = rest[:1] in (["times"], ["cdot"], ["*"]) and rest[1:4] == ["10", "^", "{"]
    plain = tokens[0].text.lower().partition("e")[0]
    if (rest and not scaled) or ("." not in plain and not scaled and plain == tokens[0].text):
        return 0
    return max(1, len(plain.replace(".", "").strip("0")))
