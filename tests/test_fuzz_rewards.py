"""A small slice of `tests/fuzz_rewards.py`, and the bounds that hold for every reward on long and hostile text."""

import time
from functools import partial

import pytest
from fuzz_rewards import HOSTILE, MAX_CHARS, completion, fuzz, readers, samples

from vlrl.answers.kind import answer_kinds
from vlrl.rewards import REWARDS, score_rows

LOCAL = [name for name, reward in REWARDS.items() if not reward.needs & {"network", "model"}]


@pytest.mark.quick
def test_fuzzed_completions_raise_nothing_and_stay_in_range():
    counts = fuzz(250, seed=11)
    assert set(LOCAL) <= set(counts)
    assert {name: one.where for name, one in counts.items() if one.raised or one.out_of_range} == {}


def test_a_completion_depends_on_seed_and_number_alone():
    assert completion(3, 5) == completion(3, 5)
    assert len({completion(3, number)[0] for number in range(40)}) > 30
    assert fuzz(2, seed=3, start=5).keys() == fuzz(2, seed=3, start=5).keys()


def cpu_seconds(call, enough):
    """The CPU time of a call; of two where the first took more than `enough`, as other processes may slow one down."""
    found = []
    while not found or (len(found) < 2 and found[-1] > enough):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return min(found)


def scorer(name):
    """A function of a text that calls the reward or the reader of this name, and how many texts it scores."""
    if name in readers():
        return readers()[name], 1
    reward = REWARDS[name]
    n = 2 if "group" in reward.needs else 1
    sample = next(one for _, one, _ in samples() if not reward.answers or reward.answers & answer_kinds(one))
    return (lambda text: score_rows(reward, [text] * n, [sample] * n, 7, [40] * n, [0.5] * n)), n


EVERY = [*LOCAL, *readers()]
LONG = ["a", "{", '["', "(1,2)", "<answer>", "1 ", "\ud800", "2^", "None. ", "next ", '{"action": "+"} ']


@pytest.mark.parametrize("name", EVERY)
def test_a_megabyte_of_text_takes_less_than_half_a_second(name):
    call, n = scorer(name)
    for unit in LONG[EVERY.index(name) % 2 :: 2]:
        for text in (unit * (MAX_CHARS // len(unit)), f"<think>t</think><answer>{unit * (99_000 // len(unit))}</answer>"):
            assert cpu_seconds(partial(call, text), 0.5 * n) < 0.5 * n, (unit, len(text))


@pytest.mark.parametrize("name", EVERY)
def test_four_times_the_text_takes_some_times_as_long(name):
    """Work that grows with the square takes 16 times as long for four times the text; linear work with noise stays below 10."""
    call, _ = scorer(name)
    for unit in HOSTILE[EVERY.index(name) % 4 :: 4]:
        short, long = unit * (4_000 // len(unit)), unit * (16_000 // len(unit))
        seconds = cpu_seconds(partial(call, long), 0.03)
        if seconds > 0.03:  # shorter times are noise
            assert seconds < 10 * max(cpu_seconds(partial(call, short), 0), 0.003), unit
