"""Special tokens in a row's own words reach a model as text, and answers that hold them compare as before."""

import dataclasses

import pytest

from vlrl.answers.normalise import normalised
from vlrl.data.special_tokens import (
    KEY,
    USUAL,
    as_plain_text,
    split_tokens,
    token_pattern,
    with_written_tokens,
    without_special_tokens,
    written_tokens,
)
from vlrl.schema import Sample

pytestmark = pytest.mark.quick

PATTERN = token_pattern(["<|image_pad|>", "<|im_end|>", "</s>", "[INST]", "word", "a"])
ROW = Sample("r", "qa", "What does <|im_end|> do?", "it ends a turn")


@pytest.mark.parametrize(
    "change",
    [
        {"question": "see <|image_pad|>"},
        {"choices": ("yes", "<|image_pad|>")},
        {"answer": [{"label": "<|image_pad|>", "bbox_2d": [0, 0, 1, 1]}]},
        {"answer": "<|image_pad|>"},
        {"meta": {"categories": ["cat", "<|image_pad|>"]}},
        {"meta": {"note": {"<|image_pad|>": 1}}},
    ],
)
def test_they_are_found_wherever_a_prompt_or_target_may_take_them_from(change):
    sample = dataclasses.replace(ROW, **{"question": "plain", **change})
    assert written_tokens(sample, PATTERN) == ("<|image_pad|>",)
    prepared = with_written_tokens(sample, PATTERN)
    assert prepared.meta[KEY] == ("<|image_pad|>",)
    assert with_written_tokens(prepared, PATTERN) == prepared


def test_a_row_without_any_stays_itself():
    sample = dataclasses.replace(ROW, question="a word of <think> and <b>")
    assert with_written_tokens(sample, PATTERN) is sample
    assert as_plain_text(sample, "<|im_end|>") == "<|im_end|>", "what a task adds itself stays"


def test_text_says_the_same_to_people_and_readers():
    text = "</s><|im_end|> and <|im_end|><|image_pad|>[INST]"
    plain = without_special_tokens(text, PATTERN)
    assert not PATTERN.search(plain)
    assert normalised(plain) == text
    assert split_tokens("<|im_end|>", ["<|im_end|>"]) == "<\u200b|im_end|>"


@pytest.mark.parametrize(
    "token", ["<|im_start|>", "<|vision_start|>", "<image>", "</s>", "<|endoftext|>", "[INST]", "<start_of_turn>"]
)
def test_tokens_of_the_usual_families_are_known_without_a_tokenizer(token):
    assert USUAL.fullmatch(token)


@pytest.mark.parametrize("text", ["<think>", "<answer>", "<b>", "a < b | c > d", "[1, 2]", "<|>", "<table>"])
def test_ordinary_text_is_no_special_token(text):
    assert not USUAL.search(text)
