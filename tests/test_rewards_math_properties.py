"""Properties of `math_equal` and of `fuzzy_match`'s numbers, 2,000 examples each; none of them needs math-verify.

They take some seconds each on an idle core, so they are not among the quick tests.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers.mathematics import read_mathematics
from vlrl.rewards import load_reward, math_verify_worker, mathematics
from vlrl.rewards.mathematics import equal_numbers, math_equal, same_mathematics
from vlrl.schema import Sample

SEEDS = st.integers(0, 2**63)
"""Examples are made from a seed: drawing each part of them costs more than the reward does."""
EXAMPLES = settings(max_examples=2000, deadline=None, derandomize=True)


def qa(answer):
    return Sample("q", "qa", "what is it?", answer)


def tagged(answer):
    return f"<think>t</think><answer>{answer}</answer>"


@pytest.fixture(autouse=True, scope="module")
def no_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(math_verify_worker.Worker, "start", lambda _: pytest.fail("a process was started"))
        yield


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


NUMBERS = range(1, 10_000)
SMALL = range(2, 61)
NOT_SQUARE = [n for n in range(2, 100) if round(n**0.5) ** 2 != n]
KINDS = {
    "integers": (lambda n: str(n), NUMBERS),
    "fractions": (lambda a, b: f"\\frac{{{a}}}{{{b}}}", NUMBERS, SMALL),
    "decimals": (lambda a, b: f"{a}.{b}", NUMBERS, range(1, 1000)),
    "roots": (lambda a, b: f"{a}\\sqrt{{{b}}}", SMALL, NOT_SQUARE),
    "cube roots": (lambda a, b: f"{a}\\sqrt[3]{{{b}}}", SMALL, range(2, 8)),
    "pi": (lambda a, b: f"\\frac{{{a}\\pi}}{{{b}}}", SMALL, SMALL),
    "powers": (lambda a, b: f"{a}^{{{b}}}", range(2, 31), range(2, 31)),
    "percentages": (lambda a: f"{a}\\%", NUMBERS),
    "intervals": (lambda a, b, c: f"[{a}, {a + b}{'])'[c % 2]}", NUMBERS, NUMBERS, [0]),
    "tuples": (lambda a, b, c: f"({a}, {b}, {c})", NUMBERS, NUMBERS, NUMBERS),
    "sets": (lambda a, b, c: f"\\{{{a}, {a + b}, {a + b + c}\\}}", NUMBERS, NUMBERS, NUMBERS),
    "matrices": (
        lambda a, b, c, d: f"\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}", NUMBERS, NUMBERS, NUMBERS, NUMBERS
    ),
    "equations": (lambda a, b: f"x=\\frac{{{a}}}{{{b}}}", NUMBERS, SMALL),
    "units": (lambda a: f"{a}\\text{{ cm}}", NUMBERS),
    "scientific": (lambda a, b, c: f"{a}.{b}\\times 10^{{{c}}}", range(1, 10), range(1, 100), range(-9, 10)),
    "thousands": (lambda a, b: f"{a}{{,}}{b:03d}", range(1, 991), range(991)),
    "sums": (lambda a, b, c: f"{a}+{b}\\sqrt{{{c}}}", SMALL, SMALL, NOT_SQUARE),
    "formulas": (lambda a, b: f"{a}x^2+{b}y", SMALL, SMALL),
}  # fmt: skip


def write(kind, numbers):
    return KINDS[kind][0](*numbers)


@EXAMPLES
@given(SEEDS)
def test_the_reference_earns_1_in_five_spellings_and_0_with_another_number(seed):
    """2,000 examples over all kinds and spellings, about 110 a kind; none of them needs math-verify."""
    rng = random.Random(seed)
    kind = rng.choice(sorted(KINDS))
    numbers = tuple(rng.choice(values) for values in KINDS[kind][1:])
    at, more = rng.randrange(len(numbers)), rng.randint(1, 9)
    reference, other = write(kind, numbers), write(kind, changed(numbers, at, more))
    answer = rng.choice(list(spellings(reference)))
    assert value(reference, answer) == 1, (reference, answer)
    if other == reference:
        return
    if same_mathematics(reference, other)[0]:
        assert float_of(kind, numbers) == pytest.approx(float_of(kind, changed(numbers, at, more)))
        return
    answer = rng.choice(list(spellings(other)))
    assert value(reference, answer) == 0, (reference, answer)


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
@given(SEEDS)
def test_several_different_candidates_are_none_and_equal_ones_are_one(seed):
    rng = random.Random(seed)
    numbers = [rng.randrange(100)] * 4 if rng.random() < 0.3 else [rng.randrange(100) for _ in range(4)]
    numbers = numbers[: rng.randint(2, 4)]
    joint = rng.choice([", ", " or ", " and ", " / ", "\n", "; ", " 或 ", "boxes"])
    reference, are_one = rng.choice(numbers), len(set(numbers)) == 1
    if joint == "boxes":
        assert value(reference, " ".join(f"\\boxed{{{n}}}" for n in numbers)) == are_one
        return
    answer = joint.join(map(str, numbers))
    expected = is_quotient(numbers, reference) if joint == " / " else are_one
    if joint != "\n" or not are_one:
        assert value(reference, answer) == expected, answer


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
@given(SEEDS)
def test_fuzzy_match_reads_one_number(seed):
    rng = random.Random(seed)
    n, more = rng.randint(-999, 999), rng.choice([-7, -1, 1, 9])
    form = rng.choice(["{}, {}", "{} or {}", "between {} and {}", "{} and {}", "\\boxed{{{}}} \\boxed{{{}}}"])
    assert fuzzy(n, form.format(*rng.sample([n, n + more], 2))) == 0
    assert fuzzy(n, rng.choice([f"{n}", f"\\boxed{{{n}}}", f"The answer is {n}."])) == 1
    assert fuzzy(n, str(n + more)) == 0


TOKENS = [
    '1', '2', '42', '3.5', 'x', '+', '-', '*', '/', '^', '_', '=', '(', ')', '[', ']', '{', '}', '\\{', '\\}', '\\frac',
    '\\sqrt', '√', '\\pi', 'π', '!', '%', ',', '\\boxed{', '$', '\\(', '\\)', '\\text{cm}', 'cm', 'not', 'or', '9^9^9',
    '½', '²', '\\begin{pmatrix}', '\\\\', '&', '�', '\\end{pmatrix}', '\\log', '\\pm', '≈', '<', '答案是', '１', '1e9',
    '\\left', '|', "'", ':', '\\cup', '\\infty', 'e', 'i', '.', 'answer', 'is', ' ', 'The answer is ',
]  # fmt: skip


def some_tokens(rng):
    return "".join(rng.choices(TOKENS, k=rng.randint(0, 14)))


@EXAMPLES
@given(SEEDS)
def test_nothing_raises_and_equality_is_symmetric(seed):
    rng = random.Random(seed)
    a, b = some_tokens(rng), some_tokens(rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mathematics, "verified", lambda *_: (False, "not asked"))
        assert value(rng.choice([42, "\\sqrt{2}"]), a) in (0, 1)
        equal_numbers("3", b)
        assert same_mathematics(a, b)[0] == same_mathematics(b, a)[0]
        if not isinstance(read_mathematics(a), str):
            assert same_mathematics(a, a)[0]
