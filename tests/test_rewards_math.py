"""`math_equal`: what its tables and properties leave out.

Three values of `tests/cases/math_equal.jsonl` are not the published ones: 1e3 is 1000 (math-verify reads 1), and the last of
two different boxes counts only where the text says that it replaces the first.
"""

import json
import random
import string
import time
from pathlib import Path

import pytest
from hypothesis import settings

from vlrl.answers.final_answer import last_boxed
from vlrl.answers.math_symbols import plain_form
from vlrl.answers.text import is_mathematical
from vlrl.rewards import as_trl, load_reward, math_verify_worker, mathematics
from vlrl.rewards.math_verify_worker import TOO_LONG
from vlrl.rewards.mathematics import math_equal
from vlrl.schema import Sample, Score

pytestmark = pytest.mark.quick

EXAMPLES = settings(max_examples=2000, deadline=None, derandomize=True)


def qa(answer):
    return Sample("q", "qa", "what is it?", answer)


def tagged(answer):
    return f"<think>t</think><answer>{answer}</answer>"


def value(reference, answer):
    return math_equal(tagged(answer), qa(reference)).value


@pytest.fixture
def no_process(monkeypatch):
    monkeypatch.setattr(math_verify_worker, "own_worker", lambda: pytest.fail("a process was started"))


@pytest.mark.parametrize("unit", [*(("{", "}", "[", "(", ")", "\\boxed{", "$", "\\(", "^", "9^", "9!", "\\frac", "\\sqrt{", "1,", "1.", "-", "=", "|")),
    *("\\begin{pmatrix}", "a ", "the answer is ", "not ", "42 ", "\\text{", "½", "²", "，", "答案是", "so ", "\\", "1 or ", "42 thousand ", "~~a", "__a", "<b>", "42 (", "e^", "\\boxed{42} ", "!", "?", "$$")])  # fmt: skip
def test_one_call_is_short_whatever_the_text(unit, no_process):
    for n in (500, 1_000_000):
        text = (unit * (n // len(unit) + 1))[:n]
        for completion in (
            tagged(text),
            text,
            tagged("42 " + text),
            tagged(text + " the answer is 42"),
            tagged("\\boxed{" + text + "}"),
        ):
            start = time.perf_counter()
            score = math_equal(completion, qa(42))
            load_reward("fuzzy_match").function(completion, qa(42))
            assert time.perf_counter() - start < 0.5, (unit, n)
            assert score.value in (0, 1)


# ---- what the tables leave out


def test_the_last_box_counts():
    assert last_boxed("x") == "x"
    assert last_boxed("\\boxed{1} then \\boxed{\\frac{1}{2}} .") == "\\frac{1}{2}"
    assert last_boxed("\\boxed{{}") is None


def test_plain_numbers_and_prose_start_no_process(no_process):
    rng = random.Random(0)
    for _ in range(300):
        a, b = rng.randint(-50, 50), rng.randint(-50, 50)
        assert value(a, b) == (a == b)
        assert value(a / 4, f"{b}/4") == (a == b)
        assert value(a / 8, f"${b / 8}$") == (a == b)
        assert value(a, "".join(rng.choices(string.ascii_letters + " .,:$=", k=30))) == 0
    for reference, answer in (
        (0.5, "50%"),
        ("50%", "0.5"),
        (50, "50\\%"),
        ("1,000", "1000"),
        (7, "\\boxed{7}"),
        (0.1 + 0.2, "0.3"),
    ):
        assert value(reference, answer) == 1
    for reference, answer in (("50%", "0.5%"), (0.3333, "1/3"), (10**20, str(10**20 + 1)), (1, "1e1"), (0, "0.0000001")):
        assert value(reference, answer) == 0


def test_a_number_computed_is_one_stated_to_six_digits():
    assert value(1 / 3, "0.333333") == 1
    assert value(1 / 3, "0.33333") == 0
    assert value("\\frac{1}{3}", "0.333333") == 1
    assert value(0.5, "500001/1000000") == 0
    assert value(1234567.5, "1234567.6") == 0


@pytest.mark.parametrize("text", ["2^10", "2^{10}", "3π", "√2", "(1,2)", "[0,1)", "x=3", "\\{1,2\\}", "\\$5", "1.2×10^3", "0.\\overline{3}", "½", "x^2+1", "(−∞, 2]", "$5", "$12.50", "1 1/2", "-2 1/3", "2x+1", "2:3", "16:9"])  # fmt: skip
def test_formulas_in_plain_signs_are_mathematics(text):
    assert is_mathematical(text)


@pytest.mark.parametrize("text", ["2024-01", "737-200", "10:30", "[10, 20, 30, 40]", "a=b", "C:\\Users", "cat", "(left, right)", "1-2", "http://x.y/?a=1", "A^B", "x", "3 dogs and 4 cats", "12:30", "1:05", "B-2", "a-1", "x1", "3D-2"])  # fmt: skip
def test_labels_dates_and_boxes_are_none(text):
    assert not is_mathematical(text)


def test_the_plain_form_never_changes_what_a_number_is_worth():
    for text, same in (
        ("3²", "3^{2}"),
        ("1½", "1\\frac{1}{2}"),
        ("x₁", "x_{1}"),
        ("10⁻³", "10^{-3}"),
        ("５０％", "50%"),
        ("−3", "-3"),
    ):
        assert plain_form(text) == same


def test_the_reason_says_what_was_seen():
    assert "several answers" in math_equal(tagged("\\boxed{41} \\boxed{42}"), qa(42)).why
    assert "not" in math_equal(tagged("not 42"), qa(42)).why
    assert "bound" in math_equal(tagged("at least 42 of them"), qa(42)).why
    assert "too large" in math_equal(tagged("9^9^9^9"), qa(42)).why
    assert "40 and 41 are not equal" in math_equal(tagged("$40=41=42$"), qa(42)).why


def test_the_log_shows_the_share_that_was_given_up(monkeypatch):
    monkeypatch.setattr(mathematics, "verified", lambda *_: (False, f"{TOO_LONG} to compare (limit 0.4 s), against"))
    logged = {}
    texts = [tagged(text) for text in ("$\\arcsin(2x)$", "\\arcsin 3", "$\\arccos y$", "dog")]
    function = as_trl(load_reward("math_equal"))
    values = function(texts, texts, sample=[qa("$\\arctan x$")] * 4, log_metric=logged.__setitem__)
    assert values == [0, 0, 0, 0]
    assert logged["rewards/math_equal/too_long"] == 0.75
    assert logged["rewards/math_equal/unparsed"] == 1
    assert function([tagged("3")], [tagged("3")], sample=[qa(3)], log_metric=logged.__setitem__) == [1]


def test_the_tables_hold_at_least_200_rows_right_and_wrong():
    rows = [
        json.loads(line)
        for path in Path(__file__).parent.glob("cases/math_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    expected = [row["expected"] for row in rows if "expected" in row]
    assert len(expected) > 700
    assert min(expected.count(0), expected.count(1)) > 250


def test_a_score_given_up_is_no_parsed_answer():
    assert Score(0.0, None, TOO_LONG).answer is None
