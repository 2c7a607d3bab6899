import functools

import pytest

from vlrl.schema import Reward, Sample, Score
from vlrl.tasks import TASKS
from vlrl.tasks.rubric import choose, own_rewards, with_planned_steps

pytestmark = pytest.mark.quick

BOX = [{"bbox_2d": [1, 2, 30, 40], "label": "dog"}]
DETECTION = Sample("d", "detection", "dog", BOX, ("a.jpg",))
GROUNDING = Sample("g", "grounding", "the dog", {"bbox_2d": [1, 2, 30, 40]}, ("a.jpg",))
LETTER = Sample("q1", "qa", "which", "B", choices=("x", "y"))
YES = Sample("q2", "qa", "is it", "yes")
ALL = [DETECTION, GROUNDING, LETTER, YES]


def scoring(rubric, sample):
    return [reward.name for reward in rubric.rewards if rubric.applies(reward, sample)]


def test_each_row_is_scored_by_its_own_tasks_rewards():
    rubric = choose(None, ALL, TASKS)
    assert rubric.rewards[-1].name == "think_answer_format", "form comes last"
    for sample in ALL:
        assert sorted(scoring(rubric, sample)) == sorted(TASKS[sample.task].rewards(sample))


def test_a_named_reward_that_is_some_rows_own_scores_only_those():
    rubric = choose(["mcq", "yes_no", "repetition"], [LETTER, YES], TASKS)
    assert scoring(rubric, LETTER) == ["mcq", "repetition"]
    assert scoring(rubric, YES) == ["yes_no", "repetition"]


def test_a_row_may_name_its_rewards():
    named = Sample("n", "qa", "which", "B", choices=("x", "y"), meta={"rewards": ["exact_match", "fuzzy_match:min_ratio=0.5"]})
    assert own_rewards(named, TASKS) == ("exact_match", "fuzzy_match")
    rubric = choose(None, [named, YES], TASKS)
    assert set(scoring(rubric, named)) == {"exact_match", "fuzzy_match"}
    assert rubric.rewards[[r.name for r in rubric.rewards].index("fuzzy_match")].function.keywords == {"min_ratio": 0.5}


def test_a_row_that_no_reward_applies_to_is_an_error():
    with pytest.raises(ValueError, match=r"no reward of this run \(iou_f1\) applies to sample 'q1'"):
        choose(["iou_f1"], [DETECTION, LETTER], TASKS)


def test_rewards_that_build_on_another_take_the_first_that_judges_the_answer():
    rubric = choose(["think_answer_format", "cosine_length", "vlm_r1_weighted"], [DETECTION], TASKS)
    assert rubric.base is not None
    assert rubric.base.name == "vlm_r1_weighted"
    with pytest.raises(ValueError, match="cosine_length builds on another"):
        choose(["cosine_length", "think_answer_format"], [DETECTION], TASKS)


def test_a_stage_given_as_a_share_becomes_a_step():
    def staged(text, sample, *, step, stage_step=1500.0):
        return Score(float(step >= stage_step))

    reward = Reward("staged", functools.partial(staged, stage_step=0.5), 0, 1, frozenset({"step"}))
    assert with_planned_steps(reward, 60).function.keywords == {"stage_step": 30.0}
    fixed = Reward("staged", functools.partial(staged, stage_step=7.0), 0, 1)
    assert with_planned_steps(fixed, 60) is fixed
    plain = Reward("staged", staged, 0, 1)
    assert with_planned_steps(plain, 60) is plain
