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
    """What a formula asks for is no real number, or too large. The message says which. `is_symbolic`: it may be a value all the
    same, a complex one or a power that is not computed here."""

    @property
    def is_symbolic(self) -> bool:
        return str(self) in (_COMPLEX, _POWER)


_COMPLEX, _POWER = "the root of a negative number", "a power whose exponent is no fraction"


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
            raise NotComputed(_COMPLEX)
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
        raise NotComputed(_POWER)
    upper, lower = exponent.value.numerator, exponent.value.denominator
    if lower > 1:
        if base.decimal() < 0:
            raise NotComputed(_COMPLEX)
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


def logarithm(a: Real, base: Real | None = None) -> Real:
    """The natural logarithm, or the one to a base."""
    if a.decimal() <= a.bound():
        raise NotComputed(_COMPLEX if a.decimal() < 0 else "a division by zero")
    value = Real(_CONTEXT.ln(a.decimal()), a.bound() / a.decimal() + _UNIT_ERROR * 10)
    return value if base is None else divide(value, logarithm(base))


def exponential(a: Real) -> Real:
    if abs(a.decimal()) > 10_000:
        raise NotComputed("a power too large to compute")
    value = _CONTEXT.exp(a.decimal())
    return Real(value, value * (a.bound() + _UNIT_ERROR) * 10)


def sine(a: Real) -> Real:
    """The sine of an angle in radians, by its series near 0."""
    angle = a.decimal()
    if abs(angle) > 10**9:
        raise NotComputed("the sine of a number too large to compute")
    turns = _CONTEXT.to_integral_value(_CONTEXT.divide(angle, PI.decimal()))
    rest = _CONTEXT.subtract(angle, _CONTEXT.multiply(turns, PI.decimal()))
    term, total, n = rest, rest, 1
    while n < 80:
        term = _CONTEXT.divide(_CONTEXT.multiply(term, _CONTEXT.multiply(rest.copy_negate(), rest)), Decimal((n + 1) * (n + 2)))
        total, n = _CONTEXT.add(total, term), n + 2
    return Real(total if turns % 2 == 0 else total.copy_negate(), a.bound() + (abs(angle) + 1) * _UNIT_ERROR * 10)


def cosine(a: Real) -> Real:
    return sine(add(a, divide(PI, Real(Fraction(2)))))


def applied(name: str, a: Real, base: Real | None) -> Real | None:
    """The value of a function, or None for one that is not computed here. `\\log` without a base may be any logarithm."""
    one = Real(Fraction(1))
    try:
        if name in ("ln", "log_"):
            return logarithm(a, base)
        if name == "lg":
            return logarithm(a, Real(Fraction(10)))
        if name == "exp":
            return exponential(a)
        if name in ("sin", "csc"):
            return sine(a) if name == "sin" else divide(one, sine(a))
        if name in ("cos", "sec"):
            return cosine(a) if name == "cos" else divide(one, cosine(a))
        if name in ("tan", "cot"):
            return divide(sine(a), cosine(a)) if name == "tan" else divide(cosine(a), sine(a))
    except NotComputed as error:
        if not error.is_symbolic:
            raise
    return None


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
