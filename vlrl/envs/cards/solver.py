"""Which formulas reach a target with given numbers: all of them, those that go on from a beginning, and whether there is one.

The formulas are every order of the numbers, every choice of operators, and the bracketings of `_BRACKETS`, which suffice for
whatever any expression reaches. A beginning with other (redundant) brackets is completed by an exhaustive search.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from vlrl.envs.cards.formula import BLANK, OPERATORS, Level, Reading, equals, read, read_token, value_of, with_number

Formula = tuple[str, ...]
_BRACKETS: dict[int, tuple[tuple[tuple[int, int], ...], ...]] = {
    2: ((),),
    4: ((), ((0, 1),), ((1, 2),), ((2, 3),), ((0, 2),), ((1, 3),), ((0, 1), (2, 3))),
}
"""By how many numbers: the pairs of brackets, each from its first to its last number."""


@lru_cache(maxsize=4096)
def solvable(numbers: tuple[int, ...], target: int = 24, operators: str = OPERATORS) -> bool:
    """Whether any expression over all of two numbers or more is the target, which is not 0 (a search over subsets, apart
    from `formulas`)."""
    whole = frozenset(range(len(numbers)))
    values: dict[frozenset[int], set[Fraction]] = {frozenset({i}): {Fraction(n)} for i, n in enumerate(numbers)}
    for size in range(2, len(numbers)):
        for subset in map(frozenset, itertools.combinations(sorted(whole), size)):
            values[subset] = {
                value
                for left, right in _splits(subset)
                for a, b in itertools.product(values[left], values[right])
                for value in _combined(a, b, operators)
            }
    goal = Fraction(target)
    return any(
        not values[right].isdisjoint(_partners(a, goal, operators)) for left, right in _splits(whole) for a in values[left]
    )


def _partners(a: Fraction, goal: Fraction, operators: str) -> set[Fraction]:
    """What makes the goal together with `a`, on either side of an operator."""
    found = set()
    if "+" in operators:
        found.add(goal - a)
    if "-" in operators:
        found |= {a - goal, a + goal}
    if "*" in operators and a:
        found.add(goal / a)
    if "/" in operators and a:
        found |= {a / goal, goal * a}
    return found


def _splits(subset: frozenset[int]) -> list[tuple[frozenset[int], frozenset[int]]]:
    first, *others = sorted(subset)
    parts = [
        frozenset({first, *rest}) for size in range(len(others)) for rest in itertools.combinations(others, size)
    ]  # the first member's side, so that no split comes twice
    return [(part, subset - part) for part in parts]


def _combined(a: Fraction, b: Fraction, operators: str) -> set[Fraction]:
    found = set()
    if "+" in operators:
        found.add(a + b)
    if "*" in operators:
        found.add(a * b)
    if "-" in operators:
        found |= {a - b, b - a}
    if "/" in operators:
        found |= ({a / b} if b else set()) | ({b / a} if a else set())
    return found


def _shapes(n_numbers: int, operators: str) -> list[tuple[str, ...]]:
    """Formulas with the places of numbers (`0`, `1`, ...) for numbers."""
    found = []
    for brackets in _BRACKETS[n_numbers]:
        for chosen in itertools.product(operators, repeat=n_numbers - 1):
            tokens: list[str] = []
            for place in range(n_numbers):
                tokens += ["("] * sum(start == place for start, _ in brackets)
                tokens.append(str(place))
                tokens += [")"] * sum(end == place for _, end in brackets)
                tokens += chosen[place : place + 1]
            found.append(tuple(tokens))
    return found


Node = tuple[str, int, int]


@lru_cache(maxsize=4)
def _plan(n_numbers: int, operators: str) -> tuple[tuple[Node, ...], dict[int, list[tuple[str, ...]]]]:
    """What to compute, each subexpression once: nodes (operator, left, right), numbered behind the numbers' places, and by
    node the shapes that have its value (redundant brackets make several)."""
    numbered: dict[Node, int] = {}
    shapes: dict[int, list[tuple[str, ...]]] = {}
    for shape in _shapes(n_numbers, operators):
        stack: list[int] = []
        for item in _postfix(shape):
            if item.isdecimal():
                stack.append(int(item))
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(numbered.setdefault((item, left, right), n_numbers + len(numbered)))
        shapes.setdefault(stack[0], []).append(shape)
    return tuple(numbered), shapes


def _postfix(shape: Sequence[str]) -> list[str]:
    """Operators behind their numbers (Dijkstra's shunting yard)."""
    out: list[str] = []
    waiting: list[str] = []
    for token in shape:
        if token.isdecimal():
            out.append(token)
        elif token == "(":
            waiting.append(token)
        elif token == ")":
            while waiting[-1] != "(":
                out.append(waiting.pop())
            waiting.pop()
        else:
            while waiting and waiting[-1] != "(" and (waiting[-1] in "*/" or token in "+-"):
                out.append(waiting.pop())
            waiting.append(token)
    return [*out, *reversed(waiting)]


_NUMPY = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


@lru_cache(maxsize=4096)
def formulas(numbers: tuple[int, ...], target: int = 24, operators: str = OPERATORS, exact: bool = True) -> tuple[Formula, ...]:
    """Every formula over all the numbers that equals the target, shortest first. `exact=False` leaves out those that
    Python's arithmetic misses by rounding. Two or four numbers."""
    if not exact:
        return tuple(tokens for tokens in formulas(numbers, target, operators) if equals(tokens, target, exact=False))
    orders = sorted(set(itertools.permutations(sorted(numbers))))
    nodes, shapes = _plan(len(numbers), operators)
    values = list(np.array(orders, dtype=float).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        for operator, left, right in nodes:
            values.append(_NUMPY[operator](values[left], values[right]))
        # Within rounding of the target: computed exactly below.
        near = np.argwhere(np.abs(np.stack(values) - target) < 1e-6).tolist()
    found: list[Formula] = []
    for node, order in near:
        written = [_fill(shape, orders[order]) for shape in shapes.get(node, ())]
        if written and equals(written[0], target, exact=True):
            found += written
    return tuple(sorted(found, key=lambda tokens: (len(tokens), tokens)))


def _fill(shape: tuple[str, ...], numbers: tuple[int, ...]) -> Formula:
    return tuple(str(numbers[int(token)]) if token.isdecimal() else token for token in shape)


@lru_cache(maxsize=4096)
def _prefixes(numbers: tuple[int, ...], target: int, operators: str, exact: bool) -> frozenset[Formula]:
    return frozenset(tokens[:n] for tokens in formulas(numbers, target, operators, exact) for n in range(len(tokens) + 1))


def completions(
    numbers: Sequence[int],
    prefix: Sequence[str] = (),
    target: int = 24,
    *,
    operators: str = OPERATORS,
    brackets: bool = True,
    max_entries: int = 20,
    exact: bool = True,
) -> tuple[Formula, ...]:
    """The formulas that go on from `prefix` (blanks are skipped), shortest first; empty if and only if none does within
    `max_entries` entries.

    These are the solver's formulas; where none of them starts like this, one formula found by searching all bracketings.
    `exact=False` searches no further than the solver's: what only Python's reading of the tokens allows is never proposed.
    """
    beginning = tuple(token for token in prefix if token != BLANK)
    return _completions(tuple(sorted(numbers)), beginning, target, operators, brackets, max_entries - len(prefix), exact)


@lru_cache(maxsize=1024)
def _completions(
    values: tuple[int, ...], beginning: Formula, target: int, operators: str, brackets: bool, room: int, exact: bool
) -> tuple[Formula, ...]:
    """`completions` of sorted numbers, kept: a move and the thought beside it ask for the same ones."""
    key = (values, target, operators, exact)
    if beginning in _prefixes(*key):
        n = len(beginning)
        found = tuple(whole for whole in formulas(*key) if whole[:n] == beginning and len(whole) - n <= room)
        if found:
            return found
    if not exact:
        return ()
    tail = _search_from(values, beginning, target, operators, brackets, room)
    return () if tail is None else ((*beginning, *tail),)


@lru_cache(maxsize=65536)
def _search_from(
    numbers: tuple[int, ...], beginning: Formula, target: int, operators: str, brackets: bool, room: int
) -> Formula | None:
    reading = read(beginning)
    left = Counter(map(str, numbers))
    left.subtract(token for token in beginning if token.isdecimal())
    if reading is None or min(left.values()) < 0 or not solvable(numbers, target, operators):
        # Whatever a beginning allows is an expression over all the numbers, so a lost deal needs no search.
        return None
    return _Search(Fraction(target), operators, brackets).tail(reading, tuple(sorted(left.elements())), room)


class _Search:
    """Depth first over readings, an operand at a time; a reading that failed is not tried again."""

    def __init__(self, target: Fraction, operators: str, brackets: bool) -> None:
        self.target, self.operators, self.brackets = target, operators, brackets
        self.dead: set[tuple[Reading, Formula, int]] = set()

    def tail(self, reading: Reading, left: Formula, room: int) -> Formula | None:
        """Tokens that complete the formula, at most `room`, from the numbers `left`."""
        missing = bool(reading[-1].waiting)
        if 2 * len(left) - missing + len(reading) - 1 > room or (missing and not left):
            return None
        if not left and len(reading) == 1:
            return () if value_of(reading) == self.target else None
        key = (reading, left, room)
        if key in self.dead:
            return None
        found = self._with_operand(reading, left, room) if missing else self._with_token(reading, left, room)
        if found is None:
            self.dead.add(key)
        return found

    def _with_token(self, reading: Reading, left: Formula, room: int) -> Formula | None:
        for token in (*([")"] if len(reading) > 1 else []), *(self.operators if left else "")):
            further = read_token(reading, token)
            tail = None if further is None else self.tail(further, left, room - 1)
            if tail is not None:
                return (token, *tail)
        return None

    def _with_operand(self, reading: Reading, left: Formula, room: int) -> Formula | None:
        if len(reading) == 1:
            for value in _last_operands(reading[0], self.target, left, self.operators, self.brackets):
                tokens = _operands(left, self.operators, self.brackets)[value]
                if len(tokens) <= room:
                    return tokens
        # An operand of all numbers ends the formula (tried above), or stands where its bracket could be left out.
        sizes = range(1, len(left) if len(reading) == 1 or len(left) == 4 else len(left) + 1)
        for chosen in {part for size in sizes for part in itertools.combinations(left, size)}:
            for value, tokens in _operands(chosen, self.operators, self.brackets).items():
                further = with_number(reading, value)
                tail = None if further is None else self.tail(further, _without(left, chosen), room - len(tokens))
                if tail is not None:
                    return (*tokens, *tail)
        return None


def _last_operands(level: Level, target: Fraction, left: Formula, operators: str, brackets: bool) -> list[Fraction]:
    """The values that an operand of all numbers left can have to end the formula at the target."""
    known = _operands(left, operators, brackets)
    missing = target - level.total
    if level.waiting in ("*", "/") and level.term == 0:
        # Zero times anything; zero over anything else than zero.
        return [value for value in known if value or level.waiting == "*"] if missing == 0 else []
    if level.waiting == "/" and missing == 0:
        return []
    wanted = {
        "+": lambda: missing,
        "-": lambda: -missing,
        "*": lambda: missing / level.term,
        "/": lambda: level.term / missing,
    }[level.waiting or "+"]()
    return [wanted] if wanted in known else []


@lru_cache(maxsize=16384)
def _operands(numbers: Formula, operators: str, brackets: bool) -> dict[Fraction, Formula]:
    """Every value that one operand over all these numbers can have (a number, or an expression in brackets), with its
    shortest text."""
    if len(numbers) == 1:
        return {Fraction(int(numbers[0])): numbers}
    return {value: ("(", *tokens, ")") for value, tokens in _sums(numbers, operators).items()} if brackets else {}


@lru_cache(maxsize=16384)
def _sums(numbers: Formula, operators: str) -> dict[Fraction, Formula]:
    """Values of every expression over all these numbers that is not one bracket."""
    return _joined(numbers, operators, "+-", _sums, _products, dict(_factors(numbers, operators)))


@lru_cache(maxsize=16384)
def _factors(numbers: Formula, operators: str) -> dict[Fraction, Formula]:
    """As `_sums`, of products of two operands or more; of one number: itself."""
    start = _operands(numbers, operators, True) if len(numbers) == 1 else {}
    return _joined(numbers, operators, "*/", _products, _bracketed, dict(start))


def _bracketed(numbers: Formula, operators: str) -> dict[Fraction, Formula]:
    return _operands(numbers, operators, True)


@lru_cache(maxsize=16384)
def _products(numbers: Formula, operators: str) -> dict[Fraction, Formula]:
    """Products of operands, one bracket included."""
    return _bracketed(numbers, operators) | _factors(numbers, operators)


Values = Callable[[Formula, str], dict[Fraction, Formula]]


def _joined(
    numbers: Formula, operators: str, joints: str, heads: Values, tails: Values, found: dict[Fraction, Formula]
) -> dict[Fraction, Formula]:
    """Adds to `found` what one of `joints` makes of a head and a tail that share these numbers out; shorter texts win."""
    for right in {part for size in range(1, len(numbers)) for part in itertools.combinations(numbers, size)}:
        pairs = itertools.product(heads(_without(numbers, right), operators).items(), tails(right, operators).items())
        for (a, text), (b, more) in pairs:
            for joint in joints:
                if joint not in operators or (joint == "/" and not b):
                    continue
                value = a + b if joint == "+" else a - b if joint == "-" else a * b if joint == "*" else a / b
                if value not in found or len(text) + len(more) + 1 < len(found[value]):
                    found[value] = (*text, joint, *more)
    return found


def _without(numbers: Formula, taken: Formula) -> Formula:
    rest = list(numbers)
    for number in taken:
        rest.remove(number)
    return tuple(rest)
