"""Parsing text answers into typed ones: a choice, yes or no, a number, a plan; and the checks of samples at load time."""

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers.choices import choice_letter
from vlrl.answers.plans import plan_words, read_plan
from vlrl.answers.text import is_mathematical, number, read_text, reference_letters, reference_texts
from vlrl.answers.yes_no import yes_or_no
from vlrl.schema import Sample
from vlrl.tasks import classification, planning
from vlrl.tasks.qa import check as qa_problem
from vlrl.tasks.qa import qa_reward

pytestmark = pytest.mark.quick


def qa(answer, choices=None, **meta):
    return Sample("q", "qa", "what is it?", answer, choices=choices, meta=meta)


@pytest.mark.parametrize(
    ("completion", "answer", "why"),
    [
        ("<think>t</think><answer> a\nb </answer>", "a\nb", ""),
        ("plain", "plain", ""),
        ("<answer>x</answer>", "x", ""),
        ("<think>x</think>", None, "a thought without an answer"),
        ("<think>t</think><answer>x", None, "the answer is cut short"),
        ("<answer>x</answer><answer>x</answer>", None, "2 answer blocks"),
        ("<answer>x</answer> No, wait: <answer>y</answer>", "y", ""),
        ("<answer>x</answer>更正：<answer>y</answer>", "y", ""),
        ("<answer>x</answer> and <answer>y</answer>", None, "2 answer blocks"),
        ("<answer>x</answer> no: <answer>y</answer><answer>z</answer>", None, "3 answer blocks"),
        ("<answer>x</answer><answer>y</answer> wait <answer>z", None, "2 answer blocks"),
        ("<answer>\u00a0x，y。\u200b</answer>", "x,y.", ""),
        ("", None, "empty answer"),
        ("<answer>  </answer>", None, "empty answer"),
        ("x" * 100_001, None, "longer than 100000 characters"),
    ],
)
def test_answers_as_text(completion, answer, why):
    assert read_text(completion, qa("x")) == (answer, why)


def test_tags_may_be_required_and_the_layout_is_the_samples():
    assert read_text("plain", qa("x"), tags=True) == (None, "no answer tags")
    first = qa("x", answer_format="answer_think")
    assert read_text("<answer>x</answer><think>y</think>", first)[0] == "x"
    assert read_text("<answer>x</answer><think>y</think>", qa("x"))[0] is None


CHOICES = ("a cat", "a dog", "a bird")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ('"B"', "B"),
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("\\boxed{(b)}", "B"),
        ("it is \\boxed{B}, not C or A.", "B"),
        ("answer is: b", "B"),
        ("My answer: **B**.", "B"),
        ("The correct choice is option B", "B"),
        ("**Answer**: B", "B"),
        ("Option B is right, as A and C show no dog", "B"),
        ("B, B and again B", "B"),
        ("I think B", "B"),
        ("A dog", "B"),
        ("a_dog", "B"),
        ("Option A is right", "A"),
        ("The answer is A because it meows", "A"),
        ("A: a cat", "A"),
        ("A", "A"),
        ("a", "A"),
        ("so it is A.", "A"),
        ("B or C", None),
        ("B, C", None),
        ("Option B or C", None),
        ("answer: (B) and (C)", None),
        ("\\boxed{A} \\boxed{B}", None),
        ("not B", None),
        ("It isn't B", None),
        ("not C but B", "B"),
        ("D", None),
        ("Z or B", None),
        ("A cow", None),
        ("The answer is a cow", None),
        ("Answer: A cow", None),
        ("I am sure", None),
        ("B-side", None),
        ("C's", None),
        ("Bee", None),
        ("B2", None),
        ("a b c", None),
        ("Ｂ", "B"),
        ("éB", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice(text, letter):
    found, why = choice_letter(text, CHOICES)
    assert found == letter
    assert (why == "") == (letter is not None)


def test_letters_without_choices_and_beyond_them():
    assert choice_letter("Z", None)[0] == "Z"
    assert choice_letter("I", None)[0] == "I"
    assert choice_letter("I see", None)[0] is None
    many = [f"number {i}" for i in range(30)]
    assert choice_letter("number 3", many)[0] == "D"
    assert choice_letter("number 28", many)[0] is None
    assert choice_letter("vitamin C", ("vitamin A", "vitamin C"))[0] == "B"
    assert choice_letter("same", ("same", "same"))[0] is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("yes", "yes"),
        ("Yes, it is.", "yes"),
        ("NO!", "no"),
        ("no, no", "no"),
        ("**no**", "no"),
        ("yes and no", None),
        ("maybe", None),
        ("I know", None),
        ("eyes", None),
        ("no-one", None),
        ("yes_no", None),
        ("noé", None),
    ],
)
def test_yes_or_no(text, word):
    assert yes_or_no(text)[0] == word


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        (" -3.50 ", Fraction(-7, 2)),
        ("+.5", Fraction(1, 2)),
        ("5.", 5),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("007", 7),
        ("1,00", None),
        ("1e3", None),
        ("1/2", None),
        ("2024-01", None),
        ("١٢", None),
        ("１２", None),
        ("12 cm", None),
        (".", None),
        ("", None),
        ("NaN", None),
        ("inf", None),
        ("9" * 400, int("9" * 400)),
        ("9" * 5000, None),
    ],
)
def test_plain_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["12", "-1.5", "1,000", "1/2", "50%", "50\\%", "10 cm", "3 m/s^2", "1e3", "$x=3$", "\\frac{1}{2}", "\\(x\\)"]
)
def test_what_mathematics_is(text):
    assert is_mathematical(text)


@pytest.mark.parametrize(
    "text", ["beagle", "2024-01", "737-200", "3 dogs and 4 cats", "", "12/", "C:\\Users", "2024-01-02", "A4 paper", "x"]
)
def test_what_no_mathematics_is(text):
    assert not is_mathematical(text)


def plan(text):
    words = plan_words(text)
    return words.speed, words.path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KEEP, STRAIGHT", ("KEEP", "STRAIGHT")),
        ("straight,keep", ("KEEP", "STRAIGHT")),
        ("Accelerate;\nleft turn.", ("ACCELERATE", "LEFT_TURN")),
        ("`STOP`, **Right-Change**", ("STOP", "RIGHT_CHANGE")),
        ("KEEP, KEEP, STRAIGHT", ("KEEP", "STRAIGHT")),
        ("KEEP, STOP, STRAIGHT", (None, "STRAIGHT")),
        ("KEEP STRAIGHT", (None, None)),
        ("KEEP and STRAIGHT", (None, None)),
        ("KEEPING, STRAIGHTS", (None, None)),
        ("", (None, None)),
    ],
)
def test_plans(text, expected):
    assert plan(text) == expected


def test_a_plan_without_any_word_is_none():
    sample = Sample("p", "planning", "plan", {"speed": "KEEP", "path": "STRAIGHT"})
    assert read_plan("<answer>go on</answer>", sample) == (None, "no word of the vocabularies")
    assert read_plan("<answer>keep</answer>", sample)[0].speeds == {"KEEP"}
    assert read_plan("<think>KEEP, STRAIGHT</think>", sample)[0] is None


def test_reference_texts():
    assert reference_texts(qa(12)) == ["12"]
    assert reference_texts(qa(12.0)) == ["12.0", "12"]
    assert reference_texts(qa(1e-05)) == ["1e-05", "0.00001"]
    assert reference_texts(qa(1e22)) == ["1e+22", "10000000000000000000000"]
    assert reference_texts(qa(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("sample", "reward"),
    [
        (qa("B", ("x", "y")), "mcq"),
        (qa("yes", ("yes", "no")), "mcq"),
        (qa("Yes."), "yes_no"),
        (qa(["no", "No"]), "yes_no"),
        (qa(["yes", "no"]), "yes_no"),
        (qa(12), "math_equal"),
        (qa("1,200"), "math_equal"),
        (qa("$\\frac{1}{2}$"), "math_equal"),
        (qa([1, "2"]), "math_equal"),
        (qa(["1", "one"]), "exact_match"),
        (qa("10 cm"), "exact_match"),
        (qa("2024-01"), "exact_match"),
        (qa("737-200"), "exact_match"),
        (qa("a red bus"), "exact_match"),
    ],
)
def test_the_reward_a_question_asks_for(sample, reward):
    assert qa_reward(sample) == reward


@pytest.mark.parametrize(
    ("sample", "words_in"),
    [
        (qa(""), "matches nothing"),
        (qa("_ "), "matches nothing"),
        (qa([]), "empty"),
        (qa(True), "string, a number"),
        (qa({"a": 1}), "string, a number"),
        (qa(None), "string, a number"),
        (qa(float("nan")), "finite"),
        (qa("D", ("x", "y")), "not among the choices"),
        (qa("B", ("B", "x")), "another's text"),
        (qa("x", ("x", "X")), "two choices are the same"),
        (qa("A", tuple(f"{i}" for i in range(27))), "27 choices"),
        (qa(["yes", "no"]), "yes/no"),
        (qa("maybe", rewards=["yes_no"]), "yes/no"),
        (qa("a cat", rewards=["math_equal"]), "use exact_match"),
        (qa("2024-01", rewards=["math_equal", "exact_match"]), "use exact_match"),
        (qa("x y", rewards=["mcq"]), "not among the choices"),
        (qa("x", rewards="mcq"), "list of reward names"),
    ],
)
def test_problems_of_questions(sample, words_in):
    assert words_in in qa_problem(sample)


@pytest.mark.parametrize(
    "sample",
    [
        qa("yes"),
        qa(12),
        qa("a red bus"),
        qa(["a", "b"]),
        qa("B", ("x", "y")),
        qa("y", ("x", "y")),
        qa("B", ("A", "B")),
        qa("C", rewards=["mcq"]),
        qa("10 cm", rewards=["math_equal"]),
        qa("$x$"),
        qa("anything", rewards=["fuzzy_match:min_ratio=0.5"]),
    ],
)
def test_usable_questions(sample):
    assert qa_problem(sample) is None


def test_problems_of_labels():
    sample = Sample("c", "classification", "what", "pug", choices=("Pug", "beagle"))
    assert classification.check(sample) is None
    assert classification.check(dataclasses.replace(sample, choices=None)) is None
    assert "not among the choices" in classification.check(dataclasses.replace(sample, answer="cat"))
    for answer in ("", " _", 3, None, ["pug"]):
        assert "is a label" in classification.check(dataclasses.replace(sample, answer=answer, choices=None))


def test_problems_of_plans():
    sample = Sample("p", "planning", "plan", {"speed": "KEEP", "path": "STRAIGHT"}, meta={"speed_mps": 4, "navigation": "left"})
    assert planning.check(sample) is None
    for answer, message in (
        ("KEEP, STRAIGHT", "is {"),
        ({"speed": "KEEP"}, "is {"),
        ({"speed": "keep", "path": "STRAIGHT"}, "'keep' is not one of KEEP"),
        ({"speed": "KEEP", "path": "KEEP"}, "path 'KEEP' is not one of STRAIGHT"),
        ({"speed": ["KEEP"], "path": "STRAIGHT"}, "is not one of"),
    ):
        assert message in planning.check(dataclasses.replace(sample, answer=answer))
    for meta, message in (
        ({"speed_mps": "4"}, "speed_mps"),
        ({"speed_mps": float("inf")}, "speed_mps"),
        ({"navigation": 3}, "navigation"),
    ):
        assert message in planning.check(dataclasses.replace(sample, meta=meta))


def test_right_choices_by_letter_or_text():
    assert reference_letters(qa("b", ("x", "y"))) == {"B"}
    assert reference_letters(qa("Y", ("x", "y"))) == {"B"}
    assert reference_letters(qa(["A", "y"], ("x", "y"))) == {"A", "B"}
    assert reference_letters(qa("maybe")) == set()


@settings(max_examples=1000, deadline=None)
@given(st.text())
def test_nothing_raises(text):
    assert choice_letter(text, CHOICES)[0] in {*"ABC", None}
    assert yes_or_no(text)[0] in {"yes", "no", None}
    number(text)
    is_mathematical(text)
    plan_words(text)
