"""Properties of `math_equal` and of `fuzzy_match`'s numbers, 2,000 examples each; none of them needs math-verify.

They take some 5 to 10 seconds each on an idle core, so they are not among the quick tests.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers.final_answer import final_answer
from vlrl.answers.mathematics import read_mathematics
from vlrl.rewards import load_reward, math_verify_worker, mathematics
from vlrl.rewards.mathematics import equal_numbers, math_equal, same_mathematics
from vlrl.schema import Sample

EXAMPLES = settings(max_examples=2000, deadline=None, derandomize=True)


def qa(answer):
    return Sample("q", "qa", "what is it?", answer)


def tagged(answer):
    return f"<think>t</think><answer>{answer}</answer>"


def value(reference, answer):
    return math_equal(tagged(answer), qa(reference)).value


# ---- the reference in other spellings, and with another number


def spellings(latex):
    """Five spellings of a formula, and a sentence."""
    yield latex
    yield f"${latex}$"
    yield f"\\({latex}\\)"
    yield f"\\boxed{{{latex}}}"
    yield latex.replace("\\frac", "\\dfrac")
    yield f"The answer is ${latex}$."


def signed(strategy):
    return st.builds(lambda sign, one: sign + one, st.sampled_from(["", "-"]), strategy)


NUMBERS = st.integers(1, 9999)
SMALL = st.integers(2, 60)
NOT_SQUARE = st.integers(2, 99).filter(lambda n: round(n**0.5) ** 2 != n)
KINDS = {
    "integers": (lambda n: str(n), NUMBERS),
    "fractions": (lambda a, b: f"\\frac{{{a}}}{{{b}}}", NUMBERS, SMALL),
    "decimals": (lambda a, b: f"{a}.{b}", NUMBERS, st.integers(1, 999)),
    "roots": (lambda a, b: f"{a}\\sqrt{{{b}}}", SMALL, NOT_SQUARE),
    "cube roots": (lambda a, b: f"{a}\\sqrt[3]{{{b}}}", SMALL, st.integers(2, 7)),
    "pi": (lambda a, b: f"\\frac{{{a}\\pi}}{{{b}}}", SMALL, SMALL),
    "powers": (lambda a, b: f"{a}^{{{b}}}", st.integers(2, 30), st.integers(2, 30)),
    "percentages": (lambda a: f"{a}\\%", NUMBERS),
    "intervals": (lambda a, b, c: f"[{a}, {a + b}{'])'[c % 2]}", NUMBERS, NUMBERS, st.just(0)),
    "tuples": (lambda a, b, c: f"({a}, {b}, {c})", NUMBERS, NUMBERS, NUMBERS),
    "sets": (lambda a, b, c: f"\\{{{a}, {a + b}, {a + b + c}\\}}", NUMBERS, NUMBERS, NUMBERS),
    "matrices": (
        lambda a, b, c, d: f"\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}", NUMBERS, NUMBERS, NUMBERS, NUMBERS
    ),
    "equations": (lambda a, b: f"x=\\frac{{{a}}}{{{b}}}", NUMBERS, SMALL),
    "units": (lambda a: f"{a}\\text{{ cm}}", NUMBERS),
    "scientific": (lambda a, b, c: f"{a}.{b}\\times 10^{{{c}}}", st.integers(1, 9), st.integers(1, 99), st.integers(-9, 9)),
    "thousands": (lambda a, b: f"{a}{{,}}{b:03d}", st.integers(1, 990), st.integers(0, 990)),
    "sums": (lambda a, b, c: f"{a}+{b}\\sqrt{{{c}}}", SMALL, SMALL, NOT_SQUARE),
    "formulas": (lambda a, b: f"{a}x^2+{b}y", SMALL, SMALL),
}  # fmt: skip


def write(kind, numbers):
    return KINDS[kind][0](*numbers)


@EXAMPLES
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), st.tuples(*KINDS[kind][1:]))), st.data())
def test_the_reference_earns_1_in_five_spellings_and_0_with_another_number(drawn, data):
    """2,000 examples over all kinds, about 110 a kind; none of them needs math-verify."""
    kind, numbers = drawn
    at, more = data.draw(st.integers(0, len(numbers) - 1)), data.draw(st.integers(1, 9))
    reference, other = write(kind, numbers), write(kind, changed(numbers, at, more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(math_verify_worker, "own_worker", lambda: pytest.fail("a process was started"))
        answer = data.draw(st.sampled_from(list(spellings(reference))))
        assert value(reference, answer) == 1, (reference, answer)
        if other == reference:
            return
        if same_mathematics(reference, other)[0]:
            assert float_of(kind, numbers) == pytest.approx(float_of(kind, changed(numbers, at, more)))
            return
        answer = data.draw(st.sampled_from(list(spellings(other))))
        assert value(reference, answer) == 0, (reference, answer)
        assert value(other, reference) == 0


def changed(numbers, at, more):
    return tuple(n + more * (i == at) for i, n in enumerate(numbers))


def float_of(kind, numbers):
    """What a formula of one of the kinds is worth, by other means; only these have one value in several forms."""
    a, b, *c = numbers
    return {
        "fractions": lambda: a / b,
        "equations": lambda: a / b,
        "pi": lambda: a / b,
        "roots": lambda: a * b**0.5,
        "cube roots": lambda: a * b ** (1 / 3),
        "powers": lambda: float(a) ** b,
        "scientific": lambda: float(f"{a}.{b}e{c[0]}"),
        "decimals": lambda: float(f"{a}.{b}"),
        "sums": lambda: a + b * c[0] ** 0.5,
    }[kind]()


@EXAMPLES
@given(st.integers(-(10**12), 10**12), st.integers(-9, 9), st.integers(0, 8))
def test_whole_numbers_in_other_scripts(n, more, form):
    full = str(n).replace("-", "−").translate(str.maketrans("0123456789", "０１２３４５６７８９"))
    arabic = str(n).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩"))
    answer = (
        str(n),
        f"{n:,}",
        f"{n:,}".replace(",", "{,}"),
        f"{n:,}".replace(",", "\\,"),
        full,
        arabic,
        f"答案是{n}",
        f"{n}.0",
        f"{n} cm",
    )[form]
    assert value(str(n), answer) == 1, answer
    assert value(str(n + more), answer) == (more == 0), answer


@EXAMPLES
@given(
    st.lists(st.integers(0, 99), min_size=2, max_size=4), st.sampled_from([", ", " or ", " and ", " / ", "\n", "; ", " 或 "])
)
def test_several_different_candidates_are_none_and_equal_ones_are_one(numbers, joint):
    answer = joint.join(map(str, numbers))
    for reference in (numbers[0], numbers[-1]):
        expected = len(set(numbers)) == 1 and joint.strip() in (",", "or", "and", ";", "或")
        if expected or len(set(numbers)) > 1:
            assert value(reference, answer) == expected or (
                joint == " / " and value(reference, answer) == (is_quotient(numbers, reference))
            ), answer
        assert value(reference, " ".join(f"\\boxed{{{n}}}" for n in numbers)) == (len(set(numbers)) == 1)


def is_quotient(numbers, reference):
    total = numbers[0]
    for n in numbers[1:]:
        if n == 0:
            return False
        total /= n
    return total == reference


@EXAMPLES
@given(
    st.integers(-999, 999),
    st.sampled_from(["not {}", "The answer is not {}", "$\\neq {}$", "{} is wrong", "never {}", "anything but {}"]),
)
def test_a_negated_answer_is_none(n, form):
    assert value(n, form.format(n)) == 0
    assert fuzzy(n, form.format(n)) == 0


def fuzzy(reference, answer):
    return load_reward("fuzzy_match").function(tagged(answer), qa(reference)).value


@EXAMPLES
@given(
    st.integers(-999, 999),
    st.integers(1, 9),
    st.sampled_from(["{}, {}", "{} or {}", "between {} and {}", "{} and {}", "\\boxed{{{}}} \\boxed{{{}}}"]),
)
def test_fuzzy_match_reads_one_number(n, more, form):
    assert fuzzy(n, form.format(n, n + more)) == 0
    assert fuzzy(n, form.format(n + more, n)) == 0
    assert fuzzy(n, str(n)) == fuzzy(n, f"\\boxed{{{n}}}") == fuzzy(n, f"The answer is {n}.") == 1
    assert fuzzy(n, str(n + more)) == 0


TOKENS = st.lists(
    st.sampled_from(
        [
            "1",
            "2",
            "42",
            "3.5",
            "x",
            "+",
            "-",
            "*",
            "/",
            "^",
            "_",
            "=",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "\\{",
            "\\}",
            "\\frac",
            "\\sqrt",
            "√",
            "\\pi",
            "π",
            "!",
            "%",
            ",",
            "\\boxed{",
            "$",
            "\\(",
            "\\)",
            "\\text{cm}",
            "cm",
            "not",
            "or",
            "9^9^9",
            "½",
            "²",
            "\\begin{pmatrix}",
            "\\\\",
            "&",
            "�",
            "\\end{pmatrix}",
            "\\log",
            "\\pm",
            "≈",
            "<",
            "答案是",
            "１",
            "1e9",
            "\\left",
            "|",
            "'",
            ":",
            "\\cup",
            "\\infty",
            "e",
            "i",
            ".",
            "answer",
            "is",
            "",
            "The+answer+is",
        ]
    ),
    max_size=14,
).map(lambda parts: "".join(part or " " for part in parts).replace("The+answer+is", "The answer is "))


@EXAMPLES
@given(TOKENS, TOKENS)
def test_nothing_raises_and_equality_is_symmetric(a, b):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mathematics, "verified", lambda *_: (False, "not asked"))
        for one, other in ((a, b), (b, a)):
            score = value(42, one)
            assert score in (0, 1)
            assert value("\\sqrt{2}", one) in (0, 1)
            final_answer(one)
            equal_numbers("3", other)
        assert same_mathematics(a, b)[0] == same_mathematics(b, a)[0]
        if not isinstance(read_mathematics(a), str):
            assert same_mathematics(a, a)[0]
