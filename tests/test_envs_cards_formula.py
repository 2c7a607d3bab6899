"""Formulas read exactly and as Python would; completions against a plain search."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.envs.cards import GAMES, completions
from vlrl.envs.cards.formula import equals, evaluate_as_python, exact_value, read, read_token, value_of

pytestmark = pytest.mark.quick

POINTS24 = GAMES["points24"]


# ---- formulas


def test_exact_reading():
    assert exact_value(["8", "/", "(", "3", "-", "8", "/", "3", ")"]) == 24
    assert exact_value(["1", "-", "2", "-", "3", "*", "4", "/", "6"]) == -3
    assert exact_value(["2", "/", "4"]) == Fraction(1, 2)
    assert exact_value(["(", "(", "4", ")", ")", " "]) == 4
    for broken in ("", "4 4", "4 +", "+ 4", "( 4", "4 )", "( )", "4 ( 4 )", "4 / ( 2 - 2 )", "4 * * 2", "4 / / 2", "4 ="):
        assert exact_value(broken.split()) is None, broken


NUMBER = st.integers(1, 10).map(str)
EXPRESSION = st.recursive(
    NUMBER.map(lambda n: [n]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner, st.booleans()).map(
        lambda parts: ["(", *parts[0], parts[1], *parts[2], ")"] if parts[3] else [*parts[0], parts[1], *parts[2]]
    ),
    max_leaves=8,
)


@given(EXPRESSION)
def test_well_formed_formulas_have_pythons_value(tokens):
    try:
        expected = eval("".join(f"Fraction({token})" if token.isdecimal() else token for token in tokens))  # our own text
    except ZeroDivisionError:
        expected = None
    assert exact_value(tokens) == expected


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@given(st.lists(st.sampled_from((*POINTS24.tokens[:-1], " ")), max_size=21))
def test_pythons_arithmetic_without_eval_agrees_with_it(tokens):
    text = "".join(tokens)
    small = "**" not in text
    try:
        expected = eval(text, {"__builtins__": {}}) if small else None  # tokens of our vocabulary only
    except (SyntaxError, ArithmeticError, TypeError, ValueError):
        expected = None
    if small and not isinstance(expected, tuple):
        assert evaluate_as_python(tokens) == expected
    assert equals(tokens, 24, exact=True) == (exact_value(tokens) == 24)


def test_huge_powers_are_refused_quickly():
    assert evaluate_as_python(["10", "*", "*", "10", "*", "*", "10", "*", "*", "10"]) is None
    assert evaluate_as_python(["(", "1", "-", "2", ")", "*", "*", "(", "1", "/", "2", ")", "/", "/", "1"]) is None
    assert evaluate_as_python(["(", "1", "+", "1", ")", "*", "*", "4"]) == 16


# ---- completions against a plain search


def plainly_completable(prefix, left, target, room):
    """Token by token, without any cleverness."""
    reading = read(prefix)
    if reading is None or room < 0 or 2 * len(left) + len(reading) - 2 > room:
        return False
    if not left and value_of(reading) == target:
        return True
    tokens = {*left, *"+-*/", "(", ")"}
    for token in tokens:
        if read_token(reading, token) is None or (token == "(" and (len(left) < 2 or len(reading) > 3)):
            continue
        rest = list(left)
        if token in rest:
            rest.remove(token)
        if plainly_completable((*prefix, token), tuple(rest), target, room - 1):
            return True
    return False


@given(st.lists(st.integers(1, 10), min_size=4, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_completions_are_empty_exactly_where_a_plain_search_finds_none(numbers, data):
    left, prefix = [str(n) for n in numbers], []
    while len(left) > 1:
        choices = [token for token in (*dict.fromkeys(left), *"+-*/()") if read_token(read(prefix), token) is not None]
        choices = [token for token in choices if token != "(" or len(read(prefix)) < 3]
        token = data.draw(st.sampled_from(choices))
        prefix.append(token)
        if token in left:
            left.remove(token)
    found = completions(numbers, prefix)
    assert bool(found) == plainly_completable(tuple(prefix), tuple(left), 24, 20 - len(prefix))
    for tokens in found:
        assert list(tokens[: len(prefix)]) == prefix
        assert exact_value(tokens) == 24
        assert sorted(int(token) for token in tokens if token.isdecimal()) == sorted(numbers)
        assert len(tokens) <= 20


def test_completions_know_how_much_room_is_left():
    deep = ["("] * 6 + ["4", "*", "6"]
    assert completions((1, 1, 4, 6), deep)
    assert not completions((1, 1, 4, 6), ["("] * 7 + ["4", "*", "6"]), "seven brackets cannot be closed within 20 entries"
    blanks = [" "] * 13
    assert completions((1, 1, 4, 6), blanks)
    assert not completions((1, 1, 4, 6), [*blanks, " "])
    assert completions((3, 3, 8, 8), [*blanks[:11], "8"])
    assert not completions((3, 3, 8, 8), [*blanks[:12], "8"]), "`/ ( 3 - 8 / 3 )` needs eight entries more"
    assert completions((3, 5, 6, 9), [*blanks[:11], "9", "*"]) == (("9", "*", "(", "5", "-", "3", ")", "+", "6"),)
    assert not completions((3, 5, 6, 9), [*blanks[:12], "9", "*"])
    assert completions((3, 3, 8, 8), [*blanks[:9], "(", "8", ")"])
    assert not completions((3, 3, 8, 8), [*blanks[:10], "(", "8", ")"])
    assert not completions((1, 1, 1, 1))
    assert not completions((1, 1, 4, 6), ["4", "4"])
    assert not completions((1, 1, 4, 6), ["7"])
    assert completions((3, 3, 8, 8))
    assert not completions((3, 3, 8, 8), exact=False)
