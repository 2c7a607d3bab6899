"""Properties of rewards that read one value, 2,000 examples each: which choice is right, and in which order they stand, changes
nothing; several different values are no answer, several equal ones are one."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from test_answers_choices import RIGHT, WRONG, filled

from vlrl.answers.plans import PATHS, SPEEDS
from vlrl.rewards import load_reward
from vlrl.schema import Sample

SEEDS = st.integers(0, 2**63)
EXAMPLES = settings(max_examples=2000, deadline=None, derandomize=True)
WORDS = [
    "red",
    "green",
    "blue",
    "black",
    "oak",
    "pine",
    "maple",
    "lamp",
    "chair",
    "bench",
    "river",
    "tram",
    "bus",
    "violin",
    "harp",
    "copper",
    "zinc",
    "copper-red",
    "snow",
    "fog",
]
SEPARATORS = [" or ", " and ", ", ", " / ", "; ", " 或 ", "、", " oder ", " ou "]
N_SETS = 30
"""So many sets of choices, in two orders each: what finds a set's words in a text is made once a set."""
VALUED = {name: load_reward(name).function for name in ("mcq", "exact_match", "cls_rl_accuracy", "yes_no", "math_equal")}


PLANS = {name: load_reward(name).function for name in ("alphadrive_speed", "alphadrive_path")}


def two_orders(rng):
    """A set of choices in two orders."""
    own = random.Random(rng.randrange(N_SETS))
    choices = own.sample(WORDS, own.randint(3, 6))
    return choices, own.sample(choices, len(choices))


def tagged(text):
    return f"<think>t</think><answer>{text}</answer>"


def earned(name, text, sample):
    return VALUED[name](tagged(text), sample).value


@given(SEEDS)
@EXAMPLES
def test_the_order_of_choices_and_the_letter_of_the_right_one_change_nothing(seed):
    rng = random.Random(seed)
    orders = two_orders(rng)
    form = rng.choice([*RIGHT, *WRONG])
    right, other = rng.sample(orders[0], 2)
    values = []
    for choices in orders:
        at, rival = choices.index(right), choices.index(other)
        sample = Sample("1", "qa", "which?", "ABCDEF"[at], choices=tuple(choices))
        values.append(earned("mcq", filled(form, choices, at, rival), sample))
    assert values == [float(form in RIGHT)] * 2, (form, orders, right)


@given(SEEDS)
@EXAMPLES
def test_different_numbers_are_no_answer_and_equal_ones_are_one(seed):
    rng = random.Random(seed)
    true = rng.choice([rng.randint(0, 99), rng.randint(100, 10**6), rng.randint(1, 999) / 4])
    wrong = rng.choice([true + 1, true + 10, true * 2 + 1])
    between = rng.choice([one for one in SEPARATORS if one != " / "])  # which is a fraction between numbers
    sample = Sample("1", "qa", "how many?", true)
    pair = [true, wrong]
    rng.shuffle(pair)
    assert earned("math_equal", between.join(map(str, pair)), sample) == 0, (pair, between)
    assert earned("math_equal", f"{true}", sample) == 1
    assert earned("math_equal", f"The answer is {true}. The answer is {true}.", sample) == 1, true
    assert earned("math_equal", rf"\boxed{{{true}}} \boxed{{{true}}}", sample) == 1, true
    assert earned("math_equal", rf"\boxed{{{true}}} \boxed{{{wrong}}}", sample) == 0, (true, wrong)


@given(SEEDS)
@EXAMPLES
def test_different_labels_are_no_answer(seed):
    rng = random.Random(seed)
    choices, _ = two_orders(rng)
    true, wrong = rng.sample(choices, 2)
    sample = Sample("1", "classification", "what is it?", true, choices=tuple(choices))
    pair = [true, wrong]
    rng.shuffle(pair)
    name = rng.choice(["exact_match", "cls_rl_accuracy"])
    assert earned(name, rng.choice(SEPARATORS).join(pair), sample) == 0, (name, pair)
    said = rng.choice([true, true.upper(), f"{true}.", f"**{true}**", f'"{true}"', f"  {true}\n"])
    assert earned(name, said, sample) == 1, (name, said)
    assert earned(name, f"not {true}", sample) == 0, (name, true)


@given(SEEDS)
@EXAMPLES
def test_yes_and_no_together_are_no_answer(seed):
    rng = random.Random(seed)
    true, wrong = rng.choice([("yes", "no"), ("no", "yes")])
    sample = Sample("1", "qa", "is it?", true)
    pair = [true, wrong]
    rng.shuffle(pair)
    assert earned("yes_no", rng.choice(SEPARATORS).join(pair), sample) == 0, pair
    said = rng.choice(
        [true, true.title(), true.upper(), f"{true}.", f"**{true}**", f"The answer is {true}.", f"{true}, {true}"]
    )
    assert earned("yes_no", said, sample) == 1, said
    assert earned("yes_no", rng.choice([wrong, wrong.upper(), f"{wrong}."]), sample) == 0


@given(SEEDS)
@EXAMPLES
def test_several_plans_are_no_plan(seed):
    rng = random.Random(seed)
    speeds, paths = rng.sample(sorted(SPEEDS), 2), rng.sample(sorted(PATHS), 2)
    sample = Sample("1", "planning", "plan", {"speed": speeds[0], "path": paths[0]})

    def both(text):
        return [PLANS[name]([tagged(text)], [sample])[0].value for name in PLANS]

    right = rng.choice(["{}, {}", "Speed: {}, Path: {}", '{{"speed": "{}", "path": "{}"}}', "{}，{}"]).format(
        speeds[0], paths[0]
    )
    assert min(both(right)) > 0, right
    between = rng.choice([" or ", " / ", " 或 ", ", otherwise "])
    several = f"{speeds[0]}, {paths[0]}{between}{speeds[1]}, {paths[1]}"
    assert both(several) == [0, 0], several
