"""Formulas of number, operator and bracket tokens: read exactly, or judged as Python would judge the joined text.

Nothing is ever passed to `eval`. Not here: which formulas reach a target (`vlrl.envs.cards.solver`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

BLANK = " "
"""What stands in a formula for a number that could not be played."""
OPERATORS = "+-*/"
MAX_POWER_BITS = 100_000


class Level(NamedTuple):
    """What is read of one bracket: finished summands, the summand under way, and the operator that waits for its number
    (None: a number stands, an operator or the end may follow)."""

    total: Fraction
    term: Fraction
    waiting: str | None


START = Level(Fraction(0), Fraction(0), "+")
Reading = tuple[Level, ...]
"""Open brackets from the outermost, `(START,)` before the first token."""


def read_token(reading: Reading, token: str) -> Reading | None:
    """The reading after one more token; None: no formula starts like this (or it divides by zero)."""
    *outer, level = reading
    if token == BLANK:
        return reading
    if token == "(":
        return (*reading, START) if level.waiting else None
    if token == ")":
        if level.waiting or not outer:
            return None
        return with_number((*outer,), level.total + level.term)
    if token in OPERATORS:
        if level.waiting:
            return None
        if token in "+-":
            return (*outer, Level(level.total + level.term, Fraction(0), token))
        return (*outer, Level(level.total, level.term, token))
    if not token.isdecimal() or level.waiting is None:
        return None
    return with_number(reading, Fraction(int(token)))


def with_number(reading: Reading, number: Fraction) -> Reading | None:
    """The reading after an operand of this value where one is due; None: a division by zero."""
    *outer, (total, term, waiting) = reading
    if waiting == "+":
        term = number
    elif waiting == "-":
        term = -number
    elif waiting == "*":
        term *= number
    elif number:
        term /= number
    else:
        return None
    return (*outer, Level(total, term, None))


def read(tokens: Iterable[str]) -> Reading | None:
    """All tokens of a beginning of a formula, or None."""
    reading: Reading = (START,)
    for token in tokens:
        further = read_token(reading, token)
        if further is None:
            return None
        reading = further
    return reading


def value_of(reading: Reading | None) -> Fraction | None:
    """The value of a whole formula; None while brackets are open or a number is missing."""
    if reading is None or len(reading) != 1 or reading[0].waiting:
        return None
    return reading[0].total + reading[0].term


def exact_value(tokens: Iterable[str]) -> Fraction | None:
    """The exact value of a formula: binary `+ - * /`, brackets, every number one token. None: malformed or a division by
    zero. Blanks are skipped; neighbouring numbers, `**`, `//`, signs and empty brackets are malformed."""
    return value_of(read(tokens))


def evaluate_as_python(tokens: Iterable[str]) -> Any:
    """The value Python's own arithmetic gives the tokens joined without separators, or None.

    Neighbouring digits make one number, `**` is a power, `//` floor division, `/` makes floats. A power of more than
    `MAX_POWER_BITS` bits is None.
    """
    text = "".join(tokens).lstrip(BLANK)
    try:
        return _walk(ast.parse(text, mode="eval").body)
    except (SyntaxError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError):
        return None


_BINARY: dict[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
}


def _walk(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _walk(node.operand)
        return value if isinstance(node.op, ast.UAdd) else -value
    if isinstance(node, ast.BinOp):
        left, right = _walk(node.left), _walk(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](left, right)
    raise ValueError(f"no arithmetic: {ast.dump(node)}")


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        bits = base.bit_length() * abs(exponent)
        if bits > MAX_POWER_BITS:
            raise OverflowError(f"a power of {bits} bits")
    return base**exponent


def equals(tokens: Iterable[str], target: int, exact: bool) -> bool:
    """Whether the formula's value is the target: exactly, or by Python's arithmetic and `==`."""
    return bool((exact_value(tokens) if exact else evaluate_as_python(tokens)) == target)
