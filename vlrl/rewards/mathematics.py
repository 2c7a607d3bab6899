"""Equality of numbers and formulas: numbers exactly and here, formulas with letters or functions by math-verify in a process of
its own (`vlrl.rewards.math_verify_worker`)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from fractions import Fraction

from vlrl.answers.final_answer import final_answer, last_boxed
from vlrl.answers.math_numbers import Real, has_short_decimal, is_near, multiply, same
from vlrl.answers.math_scalar import N_POINTS
from vlrl.answers.math_symbols import MAX_FORMULA_CHARS, plain_form
from vlrl.answers.math_words import in_figures
from vlrl.answers.mathematics import Collection, Relation, Scalar, Value, read_mathematics
from vlrl.answers.text import is_mathematical, number, read_text, reference_texts
from vlrl.rewards.math_verify_worker import LIMIT_S, own_worker, verified
from vlrl.rewards.scoring import TOO_LONG
from vlrl.schema import Sample, Score

__all__ = ["MAX_FORMULA_CHARS", "equal_numbers", "last_boxed", "math_equal", "math_problem", "same_mathematics", "verified"]

CALL_LIMIT_S = 0.45
"""Seconds that one call may wait for math-verify, all its formulas together."""


def math_problem(sample: Sample) -> str | None:
    """Why `math_equal` cannot grade a sample's answer, or None. Where a reference answer is a formula that math-verify must
    compare, its process is started here, before the first completion."""
    for answer in reference_texts(sample):
        if not is_mathematical(answer):
            return f"math_equal grades numbers and LaTeX, not {answer!r}; use exact_match"
    if any(_needs_math_verify(value) for answer in reference_texts(sample) for value in _readings(answer)):
        own_worker().start()
    return None


def math_equal(text: str, sample: Sample) -> Score:
    """1 if the final answer's value equals a right one, else 0. None where the sample's answer is neither number nor LaTeX.

    The final answer is the content of `\\boxed{}`, what follows "the answer is", the whole text, or the one formula of a
    sentence (`vlrl.answers.final_answer`), at most 512 characters. It is read as a whole or not at all. Numbers, roots,
    powers and multiples of pi compare exactly, formulas with letters at four points; intervals, tuples, sets and matrices part
    by part; functions, inequalities and equations by math-verify (`verify(reference, answer)`, both in delimiters, LaTeX first
    and then plain expressions, strict, 6 decimals).

    Sources: VLM-R1's math reward; math-verify's documented examples. differs, on purpose:
    - A calculation that the question asks for ("8 + 6") is no answer to it where the right answer is a number.
    - An answer of which only a part is understood, several different answers, a negated answer or a bound ("at least 42",
      "mindestens 42", 42以上) are unread, as are words that are not known right before a number in a language other than
      English. "About 42" is 42 in every language; "42 thousand" is 42000. math-verify takes the last number it finds: 2 for
      `2\\sqrt{3}` written without delimiters, 42 for "40, 41, 42".
    - `a = b = c` counts only where the sides are equal, `≈` only where it rounds; math-verify takes the last side.
    - Small numbers are not rounded: 1/2^98 is not 1/2^99. A decimal equals a fraction or root to one part in a million where
      that has no short decimal form; a decimal of 15 digits or more, as computers print them, so equals any number.
    - A percentage equals its number and its hundredth, however they are written. `1e3` is 1000 (math-verify reads 1).
    - A reference without unit accepts the number with any unit; with a unit, the same unit or none. Units are not converted.
    - Comparisons longer than 0.45 s are 0 with a reason, counted as `rewards/math_equal/too_long`. The start of math-verify,
      a few seconds once a process, is waited for and does not count: no answer is 0 because it was the first. `math_problem`
      starts it before, where a reference needs it.
    differs from ChartQA's relaxed accuracy (within 5 %) and MMMU (two decimals, any number of the text): a reward of 1 for a
    near miss teaches near misses, also of counts and years.
    Never applied to labels, boxes, dates or part numbers.
    """
    references = reference_texts(sample)
    if not references or not all(is_mathematical(reference) for reference in references):
        return Score(None, None, f"neither a number nor LaTeX: {sample.answer!r}")
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    plain = _plain_integer(answer)
    if plain is not None and all(_PLAIN_INTEGER.fullmatch(reference) for reference in references):
        right = plain in map(int, references)
        return Score(float(right), answer, f"as numbers, against {' or '.join(references)}"[:200])
    same_text = (
        next((one for one in references if _signs(one) == _signs(answer)), None) if len(answer) <= MAX_FORMULA_CHARS else None
    )
    if same_text is not None:
        return Score(1.0, answer, f"the same as {same_text}")
    found = final_answer(answer)
    if not found.texts:
        return Score(0.0, None, found.why)
    if _repeats_the_question(found.texts[-1], sample.question, references):
        return Score(0.0, None, "repeats the question's calculation, not its result")
    unread = _unread(found.texts, references)
    if unread is not None:
        return Score(0.0, None, unread)
    deadline = time.monotonic() + CALL_LIMIT_S
    if not _are_one(found.texts, deadline):
        return Score(0.0, None, f"several answers: {', '.join(found.texts)}"[:200])
    whys = []
    for reference in references:
        equal, why = same_mathematics(reference, found.texts[-1], deadline)
        if equal:
            return Score(1.0, found.texts[-1], f"{why} {reference}"[:200])
        whys.append(f"{why} {reference}")
    return Score(0.0, None if any(TOO_LONG in why for why in whys) else found.texts[-1], "; ".join(whys)[:200])


def _unread(texts: tuple[str, ...], references: Sequence[str]) -> str | None:
    """Why a statement of the answer cannot be read as a whole, or None. The text of a reference answer counts as read."""
    for one in texts:
        is_long = len(one) > MAX_FORMULA_CHARS
        values = f"longer than {MAX_FORMULA_CHARS} characters" if is_long else read_mathematics(one)
        if isinstance(values, str) and not any(_signs(one) == _signs(reference) for reference in references):
            return f"{one[:60]!r} cannot be read as a whole: {values}"
    return None


_CALCULATION = re.compile(r"[0-9)}]\s*(?:[-+*×·÷−^]|\\times|\\cdot|\\div)\s*(?!10\s*\^)[0-9({\\]")


def _repeats_the_question(text: str, question: str, references: Sequence[str]) -> bool:
    """Whether an answer to "What is 8 + 6?" is "8 + 6": equal to the right number, but copied and not worked out."""
    if not _CALCULATION.search(text) or any(number(reference) is None for reference in references):
        return False
    return "".join(text.split()) in "".join(question.split())


_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,18}")
_HUNDREDTH = Fraction(1, 100)


def _plain_integer(text: str) -> int | None:
    return int(text) if _PLAIN_INTEGER.fullmatch(text) else None


def equal_numbers(reference: str, answer: str) -> bool | None:
    """Whether an answer is the number that a reference is, by the rules of `math_equal`; None where the reference is no plain
    number."""
    if number(reference) is None:
        return None
    found = final_answer(answer) if len(answer) <= 100_000 else None
    if found is None or not found.texts:
        return False
    deadline = time.monotonic() + CALL_LIMIT_S
    return _are_one(found.texts, deadline) and same_mathematics(reference, found.texts[-1], deadline)[0]


def _are_one(texts: tuple[str, ...], deadline: float) -> bool:
    """Whether several statements of the answer are all the same."""
    return all(same_mathematics(texts[-1], one, deadline)[0] for one in texts[:-1])


_DELIMITERS = re.compile(r"\\(?:left|right)(?![A-Za-z])|(?<!\\)\$|(?<!\\)\\[()\[\]]")
_SPACES = re.compile(r"(?<![0-9A-Za-z])\s+|\s+(?![0-9A-Za-z])")


def _signs(text: str) -> str:
    """A text's signs without white space, delimiters and a final full stop, for the equality of texts."""
    text = _SPACES.sub("", _DELIMITERS.sub(" ", plain_form(text)).strip()).removesuffix(".")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _readings(text: str) -> tuple[Value, ...]:
    """The readings of a reference answer."""
    found = final_answer(text) if "boxed" in text else None
    values = read_mathematics(found.texts[-1] if found is not None and found.texts else in_figures(text).strip().rstrip("."))
    return () if isinstance(values, str) else values


def _needs_math_verify(value: Value | None) -> bool:
    if isinstance(value, Collection):
        return any(_needs_math_verify(item) for item in value.items)
    if isinstance(value, Relation):
        return value.symbol is None or (isinstance(value.value, Scalar) and value.value.number is None)
    return value is not None and value.number is None and not value.is_opaque and not all(value.points)


def same_mathematics(reference: str, candidate: str, deadline: float | None = None) -> tuple[bool, str]:
    """Whether two texts, each a formula as a whole, have the same value, and the reason in words."""
    if _signs(reference) == _signs(candidate):
        return True, "the same as"
    references, candidates = _readings(reference), read_mathematics(candidate)
    if not references:
        return False, "the reference answer cannot be read:"
    if isinstance(candidates, str):
        return False, f"cannot be read as a whole ({candidates}), against"
    comparison = ValueComparison(time.monotonic() + CALL_LIMIT_S if deadline is None else deadline)
    for a in references:
        for b in candidates:
            if comparison.same(a, b):
                return True, comparison.why or "as numbers, against"
    return False, comparison.why or "as numbers, against"


class ValueComparison:
    """Compares values; formulas go to math-verify until the deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.why = deadline, ""

    def same(self, a: Value, b: Value) -> bool:
        if isinstance(a, Relation) or isinstance(b, Relation):
            return self._same_relation(a, b)
        if isinstance(a, Collection) and len(a.items) == 1 and a.kind in ("set", "list"):
            return self.same(a.items[0], b)
        if isinstance(b, Collection) and len(b.items) == 1 and b.kind in ("set", "list"):
            return self.same(a, b.items[0])
        if isinstance(a, Collection) and isinstance(b, Collection):
            return self._same_group(a, b)
        if isinstance(a, Collection) or isinstance(b, Collection):
            group, other = (a, b) if isinstance(a, Collection) else (b, a)
            if isinstance(group, Collection) and group.kind in ("list", "set"):
                return bool(group.items) and all(self.same(item, other) for item in group.items)
            return (
                self._by_math_verify(a, b)
                if isinstance(other, Scalar) and other.number is None and not other.is_opaque
                else False
            )
        return self._same_scalar(a, b)

    def _same_scalar(self, a: Scalar, b: Scalar) -> bool:
        if a.unit and b.unit and a.unit != b.unit:
            self.why = f"{b.unit} is another unit, against"
            return False
        if a.latex == b.latex and a.is_percent == b.is_percent:
            return True
        if a.number is not None and b.number is not None:
            return _same_number(a, b)
        if a.is_opaque or b.is_opaque:
            return False
        at_points = _same_at_points(a, b)
        if at_points is not None:
            self.why = "by their values, against"
            return at_points
        return self._by_math_verify(a, b)

    def _same_group(self, a: Collection, b: Collection) -> bool:
        loose, ordered = ("list", "set"), ("()", "list", "set")
        if a.kind == "union" or b.kind == "union":
            return (a.kind == b.kind and self._unordered(a.items, b.items)) or self._by_math_verify(a, b)
        if a.kind in loose and b.kind in loose:
            return self._unordered(a.items, b.items)
        lists = ("[]", "()", *loose)
        if a.kind == b.kind or (a.kind in ordered and b.kind in ordered) or (
            len(a.items) > 2 and a.kind in lists and b.kind in lists
        ):  # fmt: skip
            if len(a.items) == len(b.items) and all(self.same(x, y) for x, y in zip(a.items, b.items, strict=True)):
                return True
            return (
                len(a.items) > 2
                and {a.kind, b.kind} & set(loose) != set()
                and "()" not in (a.kind, b.kind)
                and self._unordered(a.items, b.items)
            )
        return False

    def _unordered(self, a: tuple[Value, ...], b: tuple[Value, ...]) -> bool:
        """Each item of one is an item of the other; repeated items count once."""
        return all(any(self.same(x, y) for y in b) for x in a) and all(any(self.same(x, y) for x in a) for y in b)

    def _same_relation(self, a: Value, b: Value) -> bool:
        a_name, b_name = (one.symbol if isinstance(one, Relation) else None for one in (a, b))
        a_value, b_value = (one.value if isinstance(one, Relation) else one for one in (a, b))
        if a_value is not None and b_value is not None and (a_name is None or b_name is None or _same_name(a_name, b_name)):
            if self.same(a_value, b_value):
                return True
            roundings = [
                (one.rounded, other) for one, other in ((a, b_value), (b, a_value)) if isinstance(one, Relation) and one.rounded
            ]
            if any(rounded is not None and self.same(rounded, other) for rounded, other in roundings):
                return True
            if a_name is None or b_name is None or not (_needs_math_verify(a_value) or _needs_math_verify(b_value)):
                return False
        if a.latex == b.latex:
            return True
        one_number = [one for one in (a, b) if isinstance(one, Scalar)]
        if one_number:
            self.why = "an equation against a value"
            return False
        if any(_is_known(one) for one in (a, b)) and not all("=" in one.latex for one in (a, b)):
            self.why = "another relation, against"
            return False
        if all(_is_known(one) for one in (a, b)):
            self.why = "another variable, against"
            return False
        return self._by_math_verify(a, b)

    def _by_math_verify(self, a: Value, b: Value) -> bool:
        left = self.deadline - time.monotonic()
        if left < 0.02:
            self.why = f"{TOO_LONG} to compare, against"
            return False
        waited = own_worker().waited_s
        equal, self.why = verified(_latex(a), _latex(b), LIMIT_S if left > LIMIT_S * 0.9 else round(left, 1))
        self.deadline += own_worker().waited_s - waited
        return equal


def _is_known(value: Value) -> bool:
    """Whether a relation gives a number to a variable."""
    return isinstance(value, Relation) and isinstance(value.value, Scalar) and value.value.number is not None


def _latex(value: Value) -> str:
    if isinstance(value, Collection) and value.kind in ("list", "set"):
        return r"\{" + ",".join(_latex(item) for item in value.items) + r"\}"
    return value.latex


def _same_name(a: str, b: str) -> bool:
    return a.casefold().replace(" ", "") == b.casefold().replace(" ", "")


def _same_at_points(a: Scalar, b: Scalar) -> bool | None:
    """Whether two formulas have the same values at fixed points, None where they have too few there to tell."""
    values = [one.points or (one.number,) * N_POINTS for one in (a, b)]
    pairs = [(x, y) for x, y in zip(*values, strict=True) if x is not None and y is not None]
    if any(not same(x, y) for x, y in pairs):
        return False
    return True if len(pairs) == N_POINTS else None


def _same_number(a: Scalar, b: Scalar) -> bool:
    """Equal, or a decimal that is the other rounded. One percentage is also read as its number, unless it is below 1%: "0.5%"
    is not 1/2."""
    if a.is_percent == b.is_percent:
        return _near(a, b)
    share = a.number if a.is_percent else b.number
    if share is not None and abs(share.decimal()) >= 1 and _near(a, b):
        return True
    hundredth = Real(_HUNDREDTH)
    return _near(_scaled(a, hundredth) if a.is_percent else a, _scaled(b, hundredth) if b.is_percent else b)


def _scaled(a: Scalar, factor: Real) -> Scalar:
    assert a.number is not None
    return Scalar(a.latex, multiply(a.number, factor), a.is_decimal, a.is_computed)


def _near(a: Scalar, b: Scalar) -> bool:
    assert a.number is not None
    assert b.number is not None
    if same(a.number, b.number):
        return True
    if a.is_computed or b.is_computed:
        return is_near(a.number, b.number)
    if a.is_decimal == b.is_decimal:
        return False
    exact, stated = (b.number, a.number) if a.is_decimal else (a.number, b.number)
    return not has_short_decimal(exact) and is_near(exact, stated)
