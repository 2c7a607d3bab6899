"""Rehearsal: the start's own replies to the five tasks, as targets of a supervised stage."""

import pytest

from vlrl.models import rehearsal
from vlrl.models.inputs import open_image, prepare_sample, target
from vlrl.schema import Prediction
from vlrl.tasks import TASKS

N = 2 * len(TASKS)


@pytest.fixture(scope="module")
def asked():
    return [rehearsal.TASK.draw(1, "coldstart-1", index) for index in range(N)]


def test_prompts_and_images_are_the_tasks_own(asked, tiny):
    for index, sample in enumerate(asked):
        turn, place = divmod(index, len(TASKS))
        task = list(TASKS.values())[place]
        own = prepare_sample(task.draw(1, "coldstart", turn), tiny)
        assert (sample.question, sample.images) == (task.prompt(own), own.images)
        assert rehearsal.TASK.prompt(prepare_sample(sample, tiny)) == sample.question
        assert open_image(sample.images[0]).size == tuple(own.meta["image_size"])


def test_the_target_is_a_reply_that_the_start_draws_and_no_right_answer(asked, tiny):
    replies = [target(prepare_sample(sample, tiny), rehearsal.TASK) for sample in asked]
    assert replies == [sample.answer for sample in asked]
    assert all(reply.strip() for reply in replies)
    right = []
    for index in range(rehearsal.ASKED_TOGETHER):
        turn, place = divmod(index, len(TASKS))
        own = prepare_sample(list(TASKS.values())[place].draw(1, "coldstart", turn), tiny)
        right.append(list(TASKS.values())[place].reference(own) == rehearsal.TASK.draw(1, "coldstart", index).answer)
    assert 0 < sum(right) < 0.5 * len(right), "the start errs, in boxes most of all, and its errors are kept"


def test_the_same_seed_gives_the_same_replies_and_another_seed_or_split_others(asked):
    rehearsal._block.cache_clear()
    assert [rehearsal.TASK.draw(1, "coldstart-1", index) for index in range(N)] == asked
    for seed, split in ((2, "coldstart-1"), (1, "heldout")):
        others = [rehearsal.TASK.draw(seed, split, index) for index in range(N)]
        assert not {sample.images for sample in others} & {sample.images for sample in asked}


def test_agreement_is_word_for_word(asked):
    same, other = (rehearsal.agreement(asked[0], Prediction("x", text, 1, False)) for text in (asked[0].answer + "\n", "a cat"))
    assert (same.parts["agreement"], other.parts["agreement"]) == ((1.0, 1.0), (0.0, 1.0))
