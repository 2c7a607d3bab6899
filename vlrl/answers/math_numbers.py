"""Exact arithmetic for mathematical answers: fractions, and roots and multiples of pi to 60 digits with a bound on their
error.

Written by hand because it decides nearly every answer in microseconds, where math-verify takes 5 to 300 ms a formula, and
because it never rounds: math-verify takes 1/2^98 for 1/2^99.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from fractions import Fraction

MAX_BITS = 65_536
MAX_FACTORIAL = 3_000
_CONTEXT = Context(prec=60, Emax=10**6, Emin=-(10**6), traps=[DivisionByZero, InvalidOperation, Overflow])
_UNIT_ERROR = Decimal(10) ** -58
EXACT_DIGITS = 15
"""A decimal with this many significant digits was computed, not stated."""


class NotComputed(Exception):
    """What a formula asks for is no real number, or too large. The message says which."""


@dataclass(frozen=True, slots=True)
class Real:
    """A real number: a fraction (`error` 0), or a decimal of 60 digits that is off by at most `error`."""

    value: Fraction | Decimal
    error: Decimal = Decimal(0)

    @property
    def is_exact(self) -> bool:
        return isinstance(self.value, Fraction)

    def decimal(self) -> Decimal:
        value = self.value
        if isinstance(value, Decimal):
            return value
        try:
            return _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))
        except (Overflow, InvalidOperation):
            raise NotComputed("a number too large to compute") from None

    def bound(self) -> Decimal:
        """How far `decimal()` may be off."""
        return self.error if not self.is_exact else _CONTEXT.multiply(abs(self.decimal()), _UNIT_ERROR)


PI = Real(Decimal("3.14159265358979323846264338327950288419716939937510582097494"), _UNIT_ERROR)
E = Real(Decimal("2.71828182845904523536028747135266249775724709369995957496697"), _UNIT_ERROR)


def exactly(value: Fraction) -> Real:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NotComputed("a number too large to compute")
    return Real(value)


def add(a: Real, b: Real) -> Real:
    if isinstance(a.value, Fraction) and isinstance(b.value, Fraction):
        return exactly(a.value + b.value)
    total = _CONTEXT.add(a.decimal(), b.decimal())
    return Real(total, a.bound() + b.bound() + abs(total) * _UNIT_ERROR)


def negative(a: Real) -> Real:
    return Real(-a.value, a.error) if isinstance(a.value, Fraction) else Real(a.value.copy_negate(), a.error)


def multiply(a: Real, b: Real) -> Real:
    if isinstance(a.value, Fraction) and isinstance(b.value, Fraction):
        return exactly(a.value * b.value)
    if Fraction(0) in (a.value, b.value):
        return Real(Fraction(0))
    return _inexact(lambda: _CONTEXT.multiply(a.decimal(), b.decimal()), a, b)


def divide(a: Real, b: Real) -> Real:
    if b.value == 0 or (not b.is_exact and abs(b.decimal()) <= 10 * b.error):
        raise NotComputed("a division by zero")
    if isinstance(a.value, Fraction) and isinstance(b.value, Fraction):
        return exactly(a.value / b.value)
    return _inexact(lambda: _CONTEXT.divide(a.decimal(), b.decimal()), a, b)


def root(a: Real, degree: int) -> Real:
    """The real root; of a negative number only where the degree is odd."""
    if not 2 <= degree <= 1_000:
        raise NotComputed(f"a root of degree {degree}")
    if a.decimal() < 0:
        if degree % 2 == 0:
            raise NotComputed("the root of a negative number")
        return negative(root(negative(a), degree))
    if isinstance(a.value, Fraction):
        upper, lower = _whole_root(a.value.numerator, degree), _whole_root(a.value.denominator, degree)
        if upper is not None and lower is not None:
            return Real(Fraction(upper, lower))
    if degree == 2:
        return _inexact(lambda: _CONTEXT.sqrt(a.decimal()), a)
    return _inexact(lambda: _CONTEXT.power(a.decimal(), _CONTEXT.divide(Decimal(1), Decimal(degree))), a, factor=100)


def power(base: Real, exponent: Real) -> Real:
    """base ** exponent for a fraction as exponent."""
    if not isinstance(exponent.value, Fraction):
        raise NotComputed("a power whose exponent is no fraction")
    upper, lower = exponent.value.numerator, exponent.value.denominator
    if lower > 1:
        if base.decimal() < 0:
            raise NotComputed("the root of a negative number")
        return power(root(base, lower), Real(Fraction(upper)))
    if base.value == 0 and upper <= 0:
        raise NotComputed("a division by zero")
    if isinstance(base.value, Fraction):
        bits = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
        if (bits - (bits == 1)) * abs(upper) > MAX_BITS:
            raise NotComputed("a power too large to compute")
        if bits == 1:
            return Real(base.value if upper % 2 else abs(base.value) ** abs(upper % 2)) if upper else Real(Fraction(1))
        return exactly(base.value**upper)
    if abs(upper) > 1_000:
        raise NotComputed("a power too large to compute")
    return _inexact(lambda: _CONTEXT.power(base.decimal(), Decimal(upper)), base, factor=10 + 2 * abs(upper))


def factorial(a: Real) -> Real:
    if not isinstance(a.value, Fraction) or a.value.denominator != 1 or a.value < 0:
        raise NotComputed("the factorial of no whole number")
    if a.value > MAX_FACTORIAL:
        raise NotComputed("a factorial too large to compute")
    return Real(Fraction(math.factorial(int(a.value))))


def binomial(n: Real, k: Real) -> Real:
    values = (n.value, k.value)
    if not all(isinstance(one, Fraction) and one.denominator == 1 and 0 <= one <= MAX_FACTORIAL for one in values):
        raise NotComputed("a binomial of no small whole numbers")
    return Real(Fraction(math.comb(int(values[0]), int(values[1]))))


def _inexact(compute: Callable[[], Decimal], *sides: Real, factor: int = 4) -> Real:
    try:
        value = compute()
        relative = sum((one.bound() / abs(one.decimal()) for one in sides if one.decimal()), _UNIT_ERROR)
    except (Overflow, InvalidOperation, DivisionByZero):
        raise NotComputed("a number too large to compute") from None
    return Real(value, abs(value) * relative * factor)


def _whole_root(value: int, degree: int) -> int | None:
    if degree == 2:
        found = math.isqrt(value)
    elif value.bit_length() > 900:
        return None
    else:
        found = round(value ** (1 / degree))
        found = next((one for one in (found - 1, found, found + 1) if one >= 0 and one**degree == value), 0)
    return found if found**degree == value else None


def same(a: Real, b: Real) -> bool:
    """Whether two numbers are the same: fractions exactly, others to some 50 digits."""
    if a.is_exact and b.is_exact:
        return a.value == b.value
    return bool(abs(_CONTEXT.subtract(a.decimal(), b.decimal())) <= 10 * (a.bound() + b.bound()))


def is_near(a: Real, b: Real) -> bool:
    """Whether two numbers are the same to one part in a million."""
    x, y = a.decimal(), b.decimal()
    return bool(abs(_CONTEXT.subtract(x, y)) * 1_000_000 <= max(abs(x), abs(y)))


def has_short_decimal(a: Real) -> bool:
    """Whether a number is a decimal of at most `EXACT_DIGITS` places."""
    return isinstance(a.value, Fraction) and 10**EXACT_DIGITS % a.value.denominator == 0
