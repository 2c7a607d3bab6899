"""Our rewards beside the rules that other evaluations publish, case by case: where the values differ, why.

The rules were read in their public sources in November 2026 and are stated here as facts, with the values that follow from
them by hand; none of their code is here.

VLMEvalKit (Apache-2.0), `can_infer`: the marks `.()[],:;!*#{}` become blanks; if exactly one of the letters is then a word of the
answer, among its last five, it is the choice; if none is, the one option whose text the answer holds anywhere, in any case.
Otherwise a language model is asked (None below).

MMMU (Apache-2.0), also in lmms-eval, `parse_multi_choice_response`: the letters in brackets; else those followed by a blank;
else by a full stop; else, in answers of more than five words, the options whose text occurs. Of several the last one; of none a
random one (its expected value below). Open questions: numbers and parts of sentences are collected, numbers rounded to two
decimals, and any one that fits is right; a text fits if it holds the reference answer.

ChartQA (arXiv 2203.10244; lmms-eval and VLMEvalKit): a number within 5 % of the reference answer's, "%" being a hundredth;
other text in any case. Numbers are what `float` reads; a reference answer of zero is compared as text.

VQA (arXiv 1505.00468): of ten people's answers, each left out in turn, min(1, matches / 3) on average; punctuation, articles and
case do not count, and number words are digits.
"""

import math

import pytest

from vlrl.rewards import load_reward, score_rows
from vlrl.schema import Sample

pytestmark = pytest.mark.quick

COLOURS = ("red", "green", "blue")
ALIKE = "the same"
HEDGE = "several different candidates are no answer, or a model learns to name them all"
NEGATED = "a negated answer is no answer"
PART = "a part of a word is not the word"
CHANCE = "an answer that cannot be read is 0, never drawn by chance: a reward must not be noise"
EXACT = "a reward of 1 for a near miss teaches near misses; numbers are equal or not"
SPELLING = "how a right answer is written does not matter"
PROSE = "a letter or a choice somewhere in prose is not chosen by it"


def ours(reward, reference, answer, choices=None):
    sample = Sample("1", "qa", "q", reference, choices=choices)
    [score] = score_rows(load_reward(reward), [f"<think>t</think><answer>{answer}</answer>"], [sample], None, None)
    return score.value


def check(reward, answer, reference, theirs, value, why, choices=None):
    assert ours(reward, reference, answer, choices) == value
    assert (why == ALIKE) == (theirs is not None and math.isclose(theirs, value)), "a difference needs a reason"


@pytest.mark.parametrize(
    ("answer", "reference", "theirs", "value", "why"),
    [
        ("B", "B", 1, 1, ALIKE),
        ("(B)", "B", 1, 1, ALIKE),
        ("B. green", "B", 1, 1, ALIKE),
        ("**B**", "B", 1, 1, ALIKE),
        ("The answer is B.", "B", 1, 1, ALIKE),
        ("C", "B", 0, 0, ALIKE),
        ("green", "B", 1, 1, ALIKE),
        ("Green.", "B", 1, 1, ALIKE),
        ("A red", "A", 1, 1, ALIKE),
        ("b", "B", None, 1, SPELLING),
        ("Ｂ", "B", None, 1, SPELLING),
        ("答案是B", "B", None, 1, SPELLING),
        ("A or B", "B", None, 0, HEDGE),
        ("red or green", "B", None, 0, HEDGE),
        ("not B", "B", 1, 0, NEGATED),
        ("It is not green", "B", 1, 0, NEGATED),
        ("anything but B", "B", 1, 0, NEGATED),
        ("evergreen", "B", 1, 0, PART),
        ("a greenish thing", "B", 1, 0, PART),
        ("vitamin B", "B", 1, 0, PROSE),
    ],
)  # fmt: skip
def test_multiple_choice_of_vlmevalkit(answer, reference, theirs, value, why):
    check("mcq", answer, reference, theirs, value, why, COLOURS)


@pytest.mark.parametrize(
    ("answer", "reference", "theirs", "value", "why"),
    [
        ("B", "B", 1, 1, ALIKE),
        ("(B) green", "B", 1, 1, ALIKE),
        ("Answer: B.", "B", 1, 1, ALIKE),
        ("(C)", "B", 0, 0, ALIKE),
        ("green", "B", 1 / 3, 1, SPELLING),
        ("b", "B", 1 / 3, 1, SPELLING),
        ("I do not know.", "A", 1 / 3, 0, CHANCE),
        ("...", "A", 1 / 3, 0, CHANCE),
        ("(A) or (B)", "B", 1, 0, HEDGE),
        ("A B C", "C", 1, 0, HEDGE),
        ("(A) (B) (C)", "C", 1, 0, HEDGE),
        ("not (B)", "B", 1, 0, NEGATED),
        ("DNA repair", "A", 1, 0, PART),
        ("the thing in this picture looks evergreen", "B", 1, 0, PART),
    ],
)  # fmt: skip
def test_multiple_choice_of_mmmu(answer, reference, theirs, value, why):
    check("mcq", answer, reference, theirs, value, why, COLOURS)


@pytest.mark.parametrize(
    ("reward", "answer", "reference", "theirs", "value", "why"),
    [
        ("math_equal", "42", "42", 1, 1, ALIKE),
        ("math_equal", "42.0", "42", 1, 1, ALIKE),
        ("math_equal", "1,234", "1234", 1, 1, ALIKE),
        ("math_equal", "The answer is 42.", "42", 1, 1, ALIKE),
        ("math_equal", "43", "42", 0, 0, ALIKE),
        ("math_equal", "41 or 42", "42", 1, 0, HEDGE),
        ("math_equal", "40, 41, 42", "42", 1, 0, HEDGE),
        ("math_equal", "between 40 and 42", "42", 1, 0, HEDGE),
        ("math_equal", "not 42", "42", 1, 0, NEGATED),
        ("math_equal", "3.141", "3.14", 1, 0, EXACT),
        ("exact_match", "red", "red", 1, 1, ALIKE),
        ("exact_match", "Red.", "red", 1, 1, ALIKE),
        ("exact_match", "not red", "red", 1, 0, NEGATED),
        ("exact_match", "red or blue", "red", 1, 0, HEDGE),
        ("exact_match", "covered", "red", 1, 0, PART),
    ],
)  # fmt: skip
def test_open_questions_of_mmmu(reward, answer, reference, theirs, value, why):
    check(reward, answer, reference, theirs, value, why)


@pytest.mark.parametrize(
    ("reward", "answer", "reference", "theirs", "value", "why"),
    [
        ("math_equal", "100", "100", 1, 1, ALIKE),
        ("math_equal", "106", "100", 0, 0, ALIKE),
        ("math_equal", "-100", "100", 0, 0, ALIKE),
        ("math_equal", "nan", "100", 0, 0, ALIKE),
        ("math_equal", "inf", "100", 0, 0, ALIKE),
        ("math_equal", "5%", "0.05", 1, 1, ALIKE),
        ("math_equal", "0.5", "50%", 1, 1, ALIKE),
        ("math_equal", "105", "100", 1, 0, EXACT),
        ("math_equal", "95", "100", 1, 0, EXACT),
        ("math_equal", "2020", "2021", 1, 0, EXACT),  # a year
        ("math_equal", "21", "20", 1, 0, EXACT),  # a count
        ("math_equal", "1,000", "1000", 0, 1, SPELLING),
        ("math_equal", "0.0", "0", 0, 1, SPELLING),
        ("math_equal", "1/2", "0.5", 0, 1, SPELLING),
        ("math_equal", "$0.5$", "0.5", 0, 1, SPELLING),
        ("yes_no", "Yes", "yes", 1, 1, ALIKE),
        ("yes_no", "Yes.", "yes", 0, 1, SPELLING),
        ("exact_match", "North America", "north america", 1, 1, ALIKE),
        ("exact_match", "north  america.", "North America", 0, 1, SPELLING),
        ("exact_match", "America", "North America", 0, 0, ALIKE),
    ],
)  # fmt: skip
def test_relaxed_accuracy_of_chartqa(reward, answer, reference, theirs, value, why):
    check(reward, answer, reference, theirs, value, why)


TEN = ["dog"] * 8 + ["puppy", "black dog"]
ANY_OF_SEVERAL = "a list of reference answers means that each is right; list only those, as often as you like"
WHOLE = "labels compare whole; articles and number words belong to some of them"


@pytest.mark.parametrize(
    ("answer", "reference", "theirs", "value", "why"),
    [
        ("dog", TEN, 1, 1, ALIKE),
        ("Dog.", TEN, 1, 1, ALIKE),
        ("cat", TEN, 0, 0, ALIKE),
        ("", TEN, 0, 0, ALIKE),
        ("dog or cat", TEN, 0, 0, ALIKE),
        ("puppy", TEN, 0.3, 1, ANY_OF_SEVERAL),  # nine of ten subsets hold it once, which is a third each
        ("a dog", TEN, 1, 0, WHOLE),
        ("two", ["2"] * 10, 1, 0, WHOLE),
    ],
)  # fmt: skip
def test_soft_accuracy_of_vqa(answer, reference, theirs, value, why):
    check("exact_match", answer, reference, theirs, value, why)
