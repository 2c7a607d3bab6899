"""A solution is split into steps; nothing is lost but white space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.answers.steps import split_steps, statistics

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "steps", "method"),
    [
        ("Step 1: a b c\nStep 2: d e f", ["Step 1: a b c", "Step 2: d e f"], "markers"),
        ("**Step 1:** look\nit is red\n**Step 2.** add\nThe answer is 3.", ["**Step 1:** look\nit is red", "**Step 2.** add\nThe answer is 3."], "markers"),
        ("### step 1. x y\n\ntext\n\n### STEP 2: z w", ["### step 1. x y\n\ntext", "### STEP 2: z w"], "markers"),
        ("Let me see.\nStep 1: one two\nStep 2: two three\n\nFinal answer: 4", ["Let me see.\nStep 1: one two", "Step 2: two three\n\nFinal answer: 4"], "markers"),
        ("first block\nof lines\n\nsecond block\n \nthird", ["first block\nof lines", "second block", "third"], "blank lines"),
        ("1. apples\n2. pears\n3. so five", ["1. apples", "2. pears", "3. so five"], "lines"),
        ("First do step 2 of it, then stop.", ["First do step 2 of it, then stop."], "one step"),
        ("a line\nok\nno\nanother line", ["a line\nok\nno", "another line"], "lines"),
        ("", [""], "one step"),
    ],
)  # fmt: skip
def test_splitting(text, steps, method):
    found = split_steps(text)
    assert (list(found.steps), found.method) == (steps, method)


@given(st.text(alphabet="aS tep1:.\n*#-é", max_size=200))
def test_splitting_loses_nothing_but_white_space(text):
    found = split_steps(text)
    assert "".join("".join(found.steps).split()) == "".join(text.split())
    assert all(len(step) >= 3 for step in found.steps) or len(found.steps) == 1


def test_splitting_is_linear():
    assert len(split_steps("Step 1 " * 40_000).steps) == 1


def test_statistics_name_methods_and_unsplit_share():
    told = statistics([split_steps("Step 1: abc\nStep 2: def"), split_steps("whole")])
    assert told["mean"] == 1.5
    assert told["methods"] == {"markers": 1, "one step": 1}
    assert told["unsplit"] == 0.5
