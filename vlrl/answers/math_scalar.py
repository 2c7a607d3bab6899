"""One formula without commas and relations: its syntax, checked to the last sign, and its value where it is a real number."""

from __future__ import annotations

import zlib
from fractions import Fraction

from vlrl.answers.math_numbers import (
    PI,
    E,
    NotComputed,
    Real,
    add,
    applied,
    binomial,
    divide,
    exactly,
    factorial,
    multiply,
    negative,
    power,
    root,
)
from vlrl.answers.math_symbols import ACCENTS, FUNCTIONS, LETTER_COMMANDS
from vlrl.answers.math_tokens import MAX_DEPTH, Token, Unread, matching

DEGREE = divide(PI, Real(Fraction(180)))
_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1, "surd": 1, "dot": 1, **dict.fromkeys(ACCENTS, 1)}


def with_braces(tokens: list[Token]) -> list[Token]:
    """The same formula with every argument in braces: `\\frac12`, `\\sqrt3`, `√(3)`, `x^10`. Raises Unread where an argument is
    missing or could end in two places (`\\sqrt12`, `\\frac123`)."""
    pairs = matching(tokens)
    out: list[Token] = []
    wanted: tuple[str, int] | None = None
    later: dict[int, tuple[str, int]] = {}
    swapped: set[int] = set()
    i = 0
    while i < len(tokens):
        wanted = later.pop(i, wanted)
        token = tokens[i]
        if wanted is None:
            out.append(Token("op", "}") if i in swapped else token)
            if token.kind == "command" and token.text in _ARGUMENTS:
                wanted = (token.text, _ARGUMENTS[token.text])
            elif token.kind == "op" and token.text in "^_":
                wanted = (token.text, 1)
            i += 1
            continue
        (name, count), wanted = wanted, None
        if token.text == "{" or (token.text == "[" and name == "sqrt") or (token.text == "(" and name in ("sqrt", "surd", "^")):
            count += token.text == "["
            if token.text == "(":
                swapped.add(pairs[i])
            out.append(Token("op", "{") if token.text == "(" else token)
            if count > 1:
                later[pairs[i] + 1] = (name if token.text != "[" else "surd", count - 1)
            i += 1
            continue
        i, wanted = _bare_argument(tokens, i, name, count, out)
    if wanted is not None or later:
        raise Unread("an argument is missing")
    return [Token("command", "sqrt", one.spaced) if one.kind == "command" and one.text == "surd" else one for one in out]


def _bare_argument(tokens: list[Token], i: int, name: str, count: int, out: list[Token]) -> tuple[int, tuple[str, int] | None]:
    token = tokens[i]
    content = [token]
    rest = (name, count - 1) if count > 1 else None
    if token.kind == "op" and token.text in "+-" and name in "^_" and i + 1 < len(tokens):
        i += 1
        content.append(tokens[i])
    if content[-1].kind == "number":
        digits = content[-1].text
        if name in ("frac", "binom") and len(digits) > 1:
            if not (digits.isdigit() and len(digits) == count == 2):
                raise Unread(f"\\{name}{digits} can be read in several ways")
            for digit in digits:
                out += [Token("op", "{"), Token("number", digit), Token("op", "}")]
            return i + 1, None
        if name == "sqrt" and len(digits) > 1 and not token.spaced:
            raise Unread(f"\\sqrt{digits} can be read in several ways")
    elif content[-1].kind not in ("letter", "text") and not (
        content[-1].kind == "command" and content[-1].text not in _ARGUMENTS and content[-1].text not in FUNCTIONS
    ) and not (content[-1].text in ("*", "'") and name == "^"):  # fmt: skip
        raise Unread("an argument is missing")
    out += [Token("op", "{"), *content, Token("op", "}")]
    return i + 1, rest


N_POINTS = 4


def values_at_points(tokens: list[Token]) -> tuple[Real | None, ...]:
    """The values of a formula at four fixed points, one of them with negative letters; None where it has none there. Two
    formulas that differ at a point are different; two that agree at all four are the same but for a chance of 1 in 10^9."""
    found: list[Real | None] = []
    for point in range(N_POINTS):
        try:
            found.append(real_value(tokens, point))
        except Unread:
            found.append(None)
    return tuple(found)


def _letter_value(name: str, point: int) -> Real | None:
    if name == "e":
        return E
    if name == "i":
        return None
    value = Fraction(zlib.crc32(f"{name.casefold()} {point}".encode()) % 99_991 + 7, 4_001 + 2 * point)
    return Real(-value if point == N_POINTS - 1 else value)


def real_value(tokens: list[Token], point: int | None = None) -> Real | None:
    """The value of a formula `with_braces`, or None where it holds letters or functions. Raises Unread where it is no
    formula, or too large to compute. `point`: letters stand for the numbers of one of the four points."""
    try:
        parser = _Parser(tokens, point)
        value = parser.sum()
        if parser.at < len(tokens):
            raise Unread(f"{tokens[parser.at].text!r} is left over")
    except NotComputed as error:
        raise Unread(str(error)) from None
    return value


class _Parser:
    """Recursive descent of bounded depth."""

    def __init__(self, tokens: list[Token], point: int | None) -> None:
        self.tokens, self.at, self.point, self.depth = tokens, 0, point, 0
        self.pairs = matching(tokens)

    def text(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else ""

    def sum(self) -> Real | None:
        total = self.term()
        while self.kind() == "op" and self.text() in "+-":
            sign = self.text()
            self.at += 1
            term = self.term()
            if total is not None and term is not None:
                total = add(total, term if sign == "+" else negative(term))
            else:
                total = None
        return total

    def term(self) -> Real | None:
        sign = 1
        while self.kind() == "op" and self.text() in "+-":
            sign = -sign if self.text() == "-" else sign
            self.at += 1
        product = self.mixed_or_factor()
        by_slash = False
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            name = token.text
            if (token.kind == "op" and name in "*/:") or (token.kind == "command" and name in ("times", "cdot", "div")):
                self.at += 1
                negated = False
                while self.kind() == "op" and self.text() in "+-":
                    negated ^= self.text() == "-"
                    self.at += 1
                factor = self.factor()
                factor = negative(factor) if negated and factor is not None else factor
                by_slash = name in "/:"
                operation = divide if name in ("/", ":", "div") else multiply
            elif self.starts_factor():
                if by_slash:
                    raise Unread("a/bc can be read in two ways")
                if token.kind == "number" and self.tokens[self.at - 1].kind == "number":
                    raise Unread("two numbers side by side")
                factor, operation = self.factor(), multiply
            else:
                break
            product = None if product is None or factor is None else operation(product, factor)
        return product if sign > 0 or product is None else negative(product)

    def starts_factor(self) -> bool:
        kind, name = self.kind(), self.text()
        if kind in ("number", "letter", "text"):
            return True
        if kind == "command":
            return name not in ("times", "cdot", "div", "pm", "mp", "cup", "cap", "setminus", "rfloor", "rceil")
        return kind == "op" and name in ("(", "[", "{", r"\{")

    def mixed_or_factor(self) -> Real | None:
        """A mixed number `1\\frac{1}{2}` or `1 1/2`, or a factor."""
        at = self.at
        if self.kind() != "number" or not self.text().isdigit() or at + 1 == len(self.tokens):
            return self.factor()
        whole = Fraction(self.text())
        rest = self.tokens[at + 1 :]
        names = [one.text for one in rest[:7]]
        if [one.kind for one in rest[:3]] == ["number", "op", "number"] and names[1] == "/" and rest[0].spaced:
            upper, lower, length = names[0], names[2], 4
        elif names[:2] == ["frac", "{"] and len(names) == 7 and names[3:5] == ["}", "{"] and names[6] == "}":
            upper, lower, length = names[2], names[5], 8
        else:
            return self.factor()
        if not (upper.isdigit() and lower.isdigit()):
            return self.factor()
        if not int(upper) < int(lower):
            raise Unread("a mixed number whose fraction is not below 1")
        self.at += length
        return exactly(whole + Fraction(int(upper), int(lower)))

    def factor(self) -> Real | None:
        """An atom with its powers, indices, factorials and primes."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unread(f"nested deeper than {MAX_DEPTH}")
        value = self.atom()
        self.depth -= 1
        while self.kind() == "op" and self.text() in ("^", "_", "!", "'", "%"):
            name = self.text()
            if name == "^":
                value = self.raised(value)
                continue
            self.at += 1
            if name == "_":
                start = self.at
                self.group()
                index = "".join(token.text for token in self.tokens[start - 2 : self.at])
                value = None if value is None or self.point is None else _letter_value(index, self.point)
            elif name == "!":
                value = None if value is None else factorial(value)
            elif name == "%":
                value = None if value is None else divide(value, Real(Fraction(100)))
            else:
                value = None
        return value

    def raised(self, base: Real | None) -> Real | None:
        """A tower of powers, from its top."""
        exponents = []
        while self.kind() == "op" and self.text() == "^":
            self.at += 1
            if self.text(1) == "circ" and self.pairs.get(self.at) == self.at + 2:
                self.at += 3
                return None if base is None else multiply(base, DEGREE)
            exponents.append(self.group())
        exponent = exponents.pop()
        while exponents:
            exponent = self.power(exponents.pop(), exponent)
        return self.power(base, exponent)

    @staticmethod
    def power(base: Real | None, exponent: Real | None) -> Real | None:
        if base is None or exponent is None:
            return None
        try:
            return power(base, exponent)
        except NotComputed as error:
            if error.is_symbolic:
                return None
            raise

    def group(self, closing: str = "}") -> Real | None:
        """What stands between brackets, the opening one next."""
        if self.at not in self.pairs:
            raise Unread("an argument is missing")
        end = self.pairs[self.at]
        self.at += 1
        if self.at == end:
            raise Unread("empty brackets")
        if self.tokens[self.at].text in ("circ", "'", "*") and self.at + 1 == end:
            self.at = end + 1
            return None
        value = self.sum()
        if self.at != end:
            raise Unread(f"{self.text()!r} within brackets")
        self.at = end + 1
        return value

    def atom(self) -> Real | None:
        if self.at >= len(self.tokens):
            raise Unread("the formula ends too early")
        token = self.tokens[self.at]
        if token.kind == "number":
            return self.number()
        if token.kind == "op" and token.text == "|":
            return self.absolute()
        if token.kind == "op" and token.text in ("(", "[", "{"):
            return self.group()
        if token.kind in ("letter", "text"):
            self.at += 1
            return None if self.point is None else _letter_value(token.text, self.point)
        if token.kind == "command":
            return self.command(token.text)
        raise Unread(f"{token.text!r} where a number or a letter must stand")

    def number(self) -> Real:
        digits = self.text()
        self.at += 1
        if self.kind() == "command" and self.text() in ("overline", "dot") and "." in digits:
            self.at += 2
            repeated = self.text()
            if not repeated.isdigit() or self.text(1) != "}":
                raise Unread("a repeating decimal that cannot be read")
            self.at += 2
            places = len(digits.partition(".")[2])
            period = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10**places)
            return exactly(Fraction(digits.rstrip(".")) + period)
        plain, exponent, shift = digits.lower().rstrip(".").partition("e")
        return exactly(Fraction(plain) * Fraction(10) ** int(shift) if exponent else Fraction(plain))

    def absolute(self) -> Real | None:
        self.at += 1
        value = self.sum()
        if self.kind() != "op" or self.text() != "|":
            raise Unread("a bar that is not closed")
        self.at += 1
        return value if value is None or value.decimal() >= 0 else negative(value)

    def command(self, name: str) -> Real | None:
        if name in ("lfloor", "lceil"):
            self.group()
            return None
        self.at += 1
        if name == "pi":
            return PI
        if name == "frac":
            upper, lower = self.group(), self.group()
            return None if upper is None or lower is None else divide(upper, lower)
        if name == "binom":
            n, k = self.group(), self.group()
            return None if n is None or k is None else binomial(n, k)
        if name == "sqrt":
            return self.root()
        if name in ACCENTS or name == "dot":
            self.group()
            return None
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("times", "cdot", "div", "pm", "mp", "cup", "cap", "setminus", "circ", "rfloor", "rceil"):
            raise Unread(f"\\{name} where a number or a letter must stand")
        return _letter_value(name, self.point) if self.point is not None and name in LETTER_COMMANDS else None

    def root(self) -> Real | None:
        degree: Real | None = Real(Fraction(2))
        if self.kind() == "op" and self.text() == "[":
            degree = self.group()
        radicand = self.group()
        if radicand is None or degree is None or not isinstance(degree.value, Fraction) or degree.value.denominator != 1:
            return None
        try:
            return root(radicand, int(degree.value))
        except NotComputed as error:
            if error.is_symbolic:
                return None
            raise

    def function(self, name: str) -> Real | None:
        """A function with its powers, its base or its limits, and its argument: brackets, or what stands side by side."""
        base: Real | None = None
        raised: Real | None = Real(Fraction(1))
        while self.kind() == "op" and self.text() in "^_":
            is_power = self.text() == "^"
            self.at += 1
            if self.at in self.pairs and any(one.kind == "relation" for one in self.tokens[self.at : self.pairs[self.at]]):
                self.at = self.pairs[self.at] + 1  # the limits of a sum
                raised = None
            elif is_power:
                raised = self.group()
            else:
                base, name = self.group(), f"{name}_"
        if self.at == len(self.tokens):
            return None
        if self.text() not in ("(", "[", "{", "|") and not self.starts_factor():
            raise Unread("a function without an argument")
        argument = self.factor()
        if self.tokens[self.at - 1].text not in (")", "]"):
            while self.at < len(self.tokens) and self.starts_factor() and self.text() not in FUNCTIONS:
                factor = self.factor()
                argument = None if argument is None or factor is None else multiply(argument, factor)
        if argument is None or raised is None or (name.endswith("_") and base is None) or raised.decimal() <= 0:
            return None
        value = applied(name, argument, base)
        return None if value is None else self.power(value, raised)
