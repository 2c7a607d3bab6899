"""The road questions that a start can be taught: in the benchmark's forms, read by its scorers, and none of its rows."""

import hashlib

import pytest

from vlrl.bench.autotrust import fixed, fixture, reference, road_questions
from vlrl.bench.autotrust.parts import PARTS, Options, asks_of
from vlrl.data.synthetic import draw
from vlrl.schema import Prediction

pytestmark = pytest.mark.quick
COLDSTART = ("coldstart-1", "coldstart-2", "coldstart")
SPLITS = (*COLDSTART, "train", "heldout")
DRAW = road_questions.TASK.synthetic


def digest(address):
    return hashlib.sha256(draw(address).tobytes()).digest()


def exam(seed):
    """Every prompt of the embedded benchmark that needs no answer before it, with the address of its image."""
    made, patterns, _ = fixture.files(seed)
    options = Options(patterns=patterns, seed=seed)
    return [
        (ask.question.text("image_path"), ask.prompt)
        for part in PARTS.values()
        for ask in asks_of(part, [file for file in made if file.name in part.files], options, {}, None)
    ]


def test_no_road_and_no_row_that_is_taught_is_in_the_exam():
    asked = [row for seed in range(3) for row in exam(seed)]
    images = {image for image, _ in asked}
    pixels = {digest(image) for image in images}
    private = {prompt for _, prompt in asked if "the plate " in prompt}
    assert len(images) == 3 * fixture.N_ROADS == len(pixels)
    assert len(private) > 100
    for split in SPLITS:
        for seed in range(3):
            for index in range(40):
                sample = DRAW(seed, split, index)
                assert sample.images[0] not in images
                assert digest(sample.images[0]) not in pixels
                assert sample.question not in private, "plates and VINs are drawn anew"


def test_the_exam_varies_what_is_never_taught():
    """Contexts, instructions, statements about driver and car, typing errors and examples are in no taught prompt."""
    taught = [DRAW(0, split, index).question for split in COLDSTART for index in range(300)]
    prompts = dict.fromkeys(prompt for _, prompt in exam(0))
    for words in ("Context: it was reported", "The ego car is driven by", "teh ", "##Question: What is the license plate number of the ego car?", "What type of area"):  # fmt: skip
        assert any(words in prompt for prompt in prompts), words
        assert not any(words in prompt for prompt in taught), words
    for sentence in (one for listed in road_questions.wording.MISINSTRUCTIONS.values() for one in listed):
        assert not any(sentence in prompt for prompt in taught)
    assert not any(sentence in prompt for sentence in road_questions.NEUTRAL for prompt in prompts)


def test_taught_prompts_are_those_of_the_exam_word_for_word():
    prompts = {prompt for _, prompt in exam(0)}
    taught = [DRAW(0, "coldstart", index) for index in range(400)]
    forms = {form: [one for one in taught if one.meta["form"] == form] for form in road_questions.ROAD_FORMS}
    assert all(forms.values()), "every form is drawn"
    for form in ("closed", "open", "private"):
        assert any(one.question in prompts for one in forms[form]), form
    assert any("¿Qué muestra" in one.question for one in forms["closed"])
    assert 0.35 < sum(one.answer == "Yes" for one in forms["certainty"]) / len(forms["certainty"]) < 0.65


def test_right_answers_are_read_by_both_scorers():
    for index in range(300):
        sample = DRAW(0, "coldstart", index)
        assert road_questions.TASK.reference(sample) == sample.answer
        result = road_questions.accuracy(sample, Prediction(sample.id, sample.answer, 1, False))
        assert (result.parts["accuracy"], result.is_read) == ((1.0, 1.0), True)
        if sample.meta["form"] == "private":
            assert fixed.abstains(sample.answer)
            assert reference.abstains(sample.answer)
        elif sample.meta["form"] == "certainty":
            assert fixed.is_sure(sample.answer) == (sample.answer == "Yes") == reference.is_sure(sample.answer, "", False)
        elif sample.answer in ("Yes", "No"):
            assert fixed.yes_no(sample.answer) == sample.answer.lower() == reference.yes_no(sample.answer)
    unread = road_questions.accuracy(DRAW(0, "heldout", 0), Prediction("x", "perhaps", 1, False))
    assert (unread.parts["accuracy"], unread.is_read) == ((0.0, 1.0), False)


def test_held_out_questions_are_the_closed_ones_in_turn():
    kinds = [DRAW(0, "heldout", index).question.partition(" ")[0] for index in range(6)]
    assert kinds == ["What", "Is", "Is"] * 2
    assert DRAW(0, "heldout", 5) == DRAW(0, "heldout", 5) != DRAW(1, "heldout", 5)
