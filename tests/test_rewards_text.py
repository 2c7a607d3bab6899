"""Rewards on text beyond their golden tables: ranges, spam."""

import random

import pytest

from vlrl.rewards import load_reward, score_rows
from vlrl.rewards.classification import cls_rl_accuracy, visual_rft_classification
from vlrl.rewards.length import cosine_length, repetition
from vlrl.rewards.mathematics import math_equal
from vlrl.rewards.text import exact_match, fuzzy_match, longest_common_subsequence, mcq, yes_no
from vlrl.schema import Sample

pytestmark = pytest.mark.quick


def qa(answer, choices=None, **meta):
    return Sample("q", "qa", "what is it?", answer, choices=choices, meta=meta)


def tagged(answer):
    return f"<think>t</think><answer>{answer}</answer>"


def test_an_empty_reference_matches_nothing():
    for text in ("", tagged(""), tagged("."), tagged("x"), " "):
        assert exact_match(text, qa("")).value == 0
        assert fuzzy_match(text, qa("")).value == 0
        for function in (cls_rl_accuracy, visual_rft_classification):
            assert function(text, Sample("c", "classification", "what", "")).value == 0


def test_words_added_never_pay():
    rng = random.Random(0)
    label = Sample("c", "classification", "what", "red fox", choices=("red fox", "fox", "dog"))
    cases = [
        (cls_rl_accuracy, label, ["red fox", "fox", "dog"]),
        (mcq, qa("B", ("red", "blue", "green")), ["A", "B", "C", "red", "blue"]),
        (yes_no, qa("yes"), ["yes", "no"]),
        (exact_match, qa("blue car"), ["blue car", "car"]),
        (math_equal, qa(12), ["12", "11"]),
    ]
    for function, sample, answers in cases:
        for answer in answers:
            before = function(tagged(answer), sample).value
            for _ in range(20):
                spam = rng.choice([*answers, "and", "or", "x"])
                if function in (mcq, yes_no) and before == 0 and spam in ("B", "blue", "yes"):
                    continue
                if function is math_equal and spam == "12":
                    continue
                assert function(tagged(f"{answer} {spam}"), sample).value <= before, (function, answer, spam)


def test_similarity_is_the_indel_similarity():
    rng = random.Random(0)

    def plain(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            new = [0]
            for j, y in enumerate(b):
                new.append(row[j] + 1 if x == y else max(row[j + 1], new[j]))
            row = new
        return row[-1]

    for _ in range(1000):
        a, b = ("".join(rng.choices("abcd ", k=rng.randint(0, 90))) for _ in range(2))
        assert longest_common_subsequence(a, b) == plain(a, b) == longest_common_subsequence(b, a)


def test_several_right_answers_and_the_nearest_counts():
    sample = qa(["a red bus", "7"])
    assert exact_match(tagged("A red_bus."), sample).value == 1
    assert fuzzy_match(tagged("7.0"), sample).value == 1
    assert fuzzy_match(tagged("a red car"), sample).value == pytest.approx(2 / 3)


def test_rewards_that_do_not_fit_an_answer_say_so():
    for function, sample in (
        (mcq, qa("a cat")),
        (yes_no, qa("maybe")),
        (math_equal, qa("a cat")),
        (math_equal, qa(["1", "one"])),
    ):
        score = function(tagged("x"), sample)
        assert score.value is None
        assert score.why


# ---- length and repetition


def test_lengths_are_clamped_and_right_answers_earn_more_than_wrong_ones_at_any_length():
    for n_tokens in (0, 1, 700, 1024, 10_000, 10**9):
        right, wrong = (cosine_length("x", qa("x"), n_tokens=n_tokens, base=base).value for base in (1.0, 0.0))
        assert 0.5 <= right <= 1
        assert -0.5 <= wrong <= 0


def test_cosine_length_takes_the_value_of_the_other_reward():
    reward = load_reward("cosine_length:max_tokens=128")
    scores = score_rows(reward, ["x", "x"], [qa("x")] * 2, None, [0, 128], [1.0, 0.2])
    assert [score.value for score in scores] == [1, pytest.approx(0)]
    assert score_rows(reward, ["x"], [qa("x")], None, [3], None)[0].value is None
    assert score_rows(reward, ["x"], [qa("x")], None, None, [1.0])[0].value is None


def test_repetition_is_never_negative_zero():
    for text in ("", "a b c", "a b c d e f g", "x" * 300_000):
        assert str(repetition(text, qa("x")).value) == "0.0"
