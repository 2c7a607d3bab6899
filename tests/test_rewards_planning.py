"""AlphaDrive's rewards beyond their golden tables: what a group is, order, spam, and how the two variants differ."""

import itertools
import random

import pytest

from vlrl.answers.plans import PATHS, SPEEDS
from vlrl.rewards import load_reward, score_rows
from vlrl.rewards.planning import WEIGHTS, alphadrive_format, alphadrive_path, alphadrive_speed
from vlrl.schema import Sample

pytestmark = pytest.mark.quick

PLANS = list(itertools.product(SPEEDS, PATHS))


def sample(speed="ACCELERATE", path="STRAIGHT", name="p"):
    return Sample(name, "planning", "plan", {"speed": speed, "path": path})


def tagged(*words):
    return f"<think>t</think><answer>{', '.join(words)}</answer>"


def values(function, texts, one=None, **options):
    one = one or sample()
    return [score.value for score in function(texts, [one] * len(texts), **options)]


@pytest.mark.parametrize(("speed", "path"), PLANS)
def test_every_right_plan_is_paid_its_weight_less_a_fifth_at_most(speed, path):
    one = sample(speed, path)
    assert values(alphadrive_speed, [tagged(speed, path)], one) == [pytest.approx(0.8 * WEIGHTS[speed])]
    others = [tagged("x")] * 7
    assert values(alphadrive_path, [tagged(speed, path), *others], one)[0] == pytest.approx(0.875 * WEIGHTS[path])
    released = values(alphadrive_speed, [tagged(speed, path)], one, variant="released")
    assert released == [pytest.approx(WEIGHTS[speed] + 0.4, abs=1e-5)]


def test_position_in_the_group_decides_nothing_by_default():
    rng = random.Random(0)
    for _ in range(200):
        texts = [tagged(*rng.choice(PLANS)) if rng.random() < 0.8 else "prose" for _ in range(6)]
        order = rng.sample(range(6), 6)
        for function in (alphadrive_speed, alphadrive_path):
            found = values(function, texts)
            assert values(function, [texts[i] for i in order]) == [found[i] for i in order]
    twice = [tagged("ACCELERATE", "STRAIGHT")] * 2
    assert len(set(values(alphadrive_speed, twice))) == 1
    assert values(alphadrive_speed, twice, variant="released")[0] - values(alphadrive_speed, twice, variant="released")[
        1
    ] == pytest.approx(0.8)


def test_more_words_never_pay_more():
    rng = random.Random(1)
    for _ in range(500):
        one = sample(*rng.choice(PLANS))
        words = [one.answer["speed"], one.answer["path"]] if rng.random() < 0.5 else list(rng.choice(PLANS))
        group = [tagged(*rng.choice(PLANS)) for _ in range(rng.randint(0, 7))]
        spam = rng.choice([*SPEEDS, *PATHS, "x", "go"])
        if spam in (one.answer["speed"], one.answer["path"]):
            continue
        for function in (alphadrive_speed, alphadrive_path):
            before, after = (values(function, [text, *group], one)[0] for text in (tagged(*words), tagged(*words, spam)))
            assert after <= before + 1e-12


def test_unreadable_text_earns_nothing_by_default_and_a_bonus_as_released():
    for text in ("prose", "", "<answer>KEEP", tagged("go")):
        assert values(alphadrive_speed, [text]) == [0]
        scores = alphadrive_speed([text], [sample()])
        assert scores[0].answer is None
        assert scores[0].why
    assert values(alphadrive_path, ["prose"], variant="released") == [pytest.approx(0.4)]


def test_groups_are_separate_and_speed_and_path_are_counted_apart():
    a, b = sample(name="a"), sample(name="b")
    right = tagged("ACCELERATE", "STRAIGHT")
    reward = load_reward("alphadrive_speed")
    same_speed = [right, *(tagged("ACCELERATE", path) for path in PATHS[1:])]
    found = [score.value for score in score_rows(reward, [right, *same_speed], [a] + [b] * 5, None, None)]
    assert found == [pytest.approx(0.72)] * 6
    assert values(alphadrive_path, [right, *[tagged("ACCELERATE", "LEFT_TURN")] * 7])[0] == pytest.approx(0.7)


def test_variants_are_options_and_nothing_else_is():
    assert values(load_reward("alphadrive_speed:variant=released").function, ["x"]) == [pytest.approx(0.4)]
    with pytest.raises(ValueError, match="variant=other must be paper/released"):
        load_reward("alphadrive_path:variant=other")


def test_the_format_follows_the_layout_a_sample_asks_for():
    one = Sample("p", "planning", "plan", {"speed": "KEEP", "path": "STRAIGHT"}, meta={"answer_format": "none"})
    assert alphadrive_format("KEEP, STRAIGHT", one).value == 1
    assert alphadrive_format(tagged("KEEP", "STRAIGHT"), one).value == 0
    assert alphadrive_format("<think>" + "</think>" * 20000 + "</answer>", sample(), variant="released").value == 0
