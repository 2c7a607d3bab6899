"""The stated answer of a solution, graded against the reference answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.bench.vilbench.judging import read_score
from vlrl.data.best_of_n import Item
from vlrl.metrics.answer_grading import grade, kind_of, read_number, stated_answer

pytestmark = pytest.mark.quick


TEN = (*(f"option {i}" for i in range(9)), "None of the above")


@pytest.mark.parametrize(
    ("response", "item", "correct", "answer"),
    [
        ("Step 1: x\nThe answer is (B).", {"choices": ("cat", "dog"), "answer": "B"}, True, "B"),
        ("The answer is A. No, the answer is B", {"choices": ("cat", "dog"), "answer": "B"}, True, "B"),
        ("so\n<answer>dog</answer>", {"choices": ("cat", "dog"), "answer": "B"}, True, "B"),
        ("Answer: dog", {"choices": ("cat", "dog"), "answer": "dog"}, True, "B"),
        ("we get \\boxed{J}", {"choices": TEN, "answer": "J"}, True, "J"),
        ("Final answer: none of the above", {"choices": TEN, "answer": "J"}, True, "J"),
        ("it may be A or B\nor C", {"choices": ("x", "y", "z"), "answer": "A"}, False, None),
        ("The answer is K", {"choices": TEN, "answer": "J"}, False, None),
        ("The answer is 1,250 cm.", {"answer": "1250"}, True, "1250"),
        ("The answer is $12.50.", {"answer": "12.5"}, True, "25/2"),
        ("The answer is \\frac{1}{2}", {"answer": "0.5"}, True, "1/2"),
        ("\\boxed{\\frac{3}{4}\\text{ m}}", {"answer": "0.75"}, True, "3/4"),
        ("The answer is 45%.", {"answer": "45"}, True, "45"),
        ("x = 3.14159\nThe answer is 3.14159", {"answer": "3.14", "precision": 2}, True, "157/50"),
        ("The answer is 3.15", {"answer": "3.14", "precision": 2}, False, "63/20"),
        ("The answer is 1000.5", {"answer": "1000"}, True, "2001/2"),
        ("The answer is 1002", {"answer": "1000"}, False, "1002"),
        ("The answer is −5", {"answer": "-5"}, True, "-5"),
        ("The answer is yes.", {"answer": "Yes"}, True, "yes"),
        ("The answer is a Stop sign!", {"answer": "the stop sign", "answer_type": "text"}, True, "stop sign"),
        ("long\ntext without any", {"answer": "3"}, False, None),
        ("", {"answer": "3"}, False, None),
        ("the answer is \\boxed{3", {"answer": "3"}, False, None),
    ],
)
def test_grading(response, item, correct, answer):
    item = Item("1", "s", "q", **item)
    assert grade(response, item) == (correct, answer)


def test_kinds_and_numbers():
    assert kind_of(Item("1", "s", "q", "B", choices=("a", "b"))) == "letter"
    assert kind_of(Item("1", "s", "q", "no")) == "yes_no"
    assert kind_of(Item("1", "s", "q", "7", answer_type="text")) == "text"
    assert read_number("about 3 or 4") is None
    assert read_number("2 + 1 = 3") == 3
    assert read_number("90^\\circ") == 90
    assert stated_answer("one\ntwo") is None


@settings(deadline=None)
@given(st.text(max_size=300))
def test_grading_never_raises(text):
    for item in (Item("1", "s", "q", "3"), Item("1", "s", "q", "B", choices=("a", "b")), Item("1", "s", "q", "cat")):
        grade(text, item)
        read_score(text)
