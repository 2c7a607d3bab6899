"""Advantages of tokens where a reward pays steps: by hand, and against TRL's own where every step returns the same."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlrl.schema import Score
from vlrl.training.grpo.batch import Batch, Completion, Tensors
from vlrl.training.grpo.step_credits import Return, StepCredits, advantages_of, returns_of, step_of_tokens

STEPS = Score(1.75, 3, "", ((2, 1.75), (4, 1.25), (6, 1.0)))


def test_returns_are_the_other_rewards_and_the_credits():
    assert returns_of([1.0, 1.75], [2.0, 1.0], [Score(1.0), STEPS]) == Return((3.75, 3.25, 3.0))
    assert returns_of([1.0, math.nan], [2.0, 1.0], [Score(1.0), Score(None)]) == Return((2.0,))
    assert math.isnan(returns_of([math.nan], [1.0], [Score(None)]).steps[0])
    assert returns_of([1.0, 1.75], [1.0, 0.5], [Score(1.0), STEPS]) == Return((1.875, 1.625, 1.5))


def test_advantages_by_hand():
    group = [Return((1.0, 0.0)), Return((2.5,))]
    mean, s = 1.5, math.sqrt((0.25 + 2.25) / 2 + 1.0)  # of 0.5 and 2.5; over one degree of freedom
    (a, b), (c,) = advantages_of(group, 2, "group")
    assert (a, b, c) == pytest.approx(((1 - mean) / (s + 1e-4), (0 - mean) / (s + 1e-4), 1 / (s + 1e-4)))
    assert advantages_of(group, 2, "none") == [(-0.5, -1.5), (1.0,)]
    assert advantages_of([Return((math.nan,)), Return((1.0,)), Return((3.0,))], 3, "none") == [(0.0,), (-1.0,), (1.0,)]
    assert advantages_of([Return((math.nan,))] * 2, 2, "group") == [(0.0,)] * 2


@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8), st.sampled_from(["group", "batch", "none"]), st.integers(1, 3))
def test_equal_returns_of_all_steps_give_trls_advantages(rewards, scale, n_steps):
    from trl.trainer.utils import nanstd

    groups = torch.tensor(rewards, dtype=torch.float64).view(2, 4)
    wanted = groups - groups.mean(1, keepdim=True)
    if scale != "none":
        std = nanstd(groups, dim=1)[:, None] if scale == "group" else nanstd(groups.flatten())
        wanted = wanted / (std + 1e-4)
    found = advantages_of([Return((reward,) * n_steps) for reward in rewards], 4, scale)
    assert [one[0] for one in found] == pytest.approx(wanted.flatten().tolist(), abs=1e-6)
    assert all(len(set(one)) == 1 for one in found)


def test_a_token_belongs_to_the_step_it_begins_in():
    spans = [(0, 1), (1, 3), (3, 4), (4, 6), (6, 6)]
    assert step_of_tokens(spans, [2, 4, 6]) == [0, 0, 1, 2, 2]
    assert step_of_tokens(spans, [6]) == [0] * 5


class Engine:
    num_generations = 2

    class args:
        scale_rewards = "none"

    class accelerator:
        process_index = 0

    def __init__(self):
        self.completions_log = {"advantages": [9.0, 9.0, 9.0]}


def batch(scores):
    zeros = torch.zeros(2, 4)
    tensors = Tensors(zeros, zeros, zeros, zeros, torch.tensor([0.5, -0.5]), torch.tensor(8))
    completions = (Completion([], [1, 2, 3, 0]), Completion([], [1, 0]))
    return Batch((), completions, scores_BR=torch.tensor(scores), tensors=tensors)


def decode(ids):
    return "".join({0: "", 1: "ab", 2: "cd", 3: "ef"}[one] for one in ids)


def test_tokens_of_a_batch_have_the_advantages_of_their_steps():
    engine = Engine()
    station = StepCredits(engine, [1.0], [False], decode)
    made = station(batch([[1.75], [0.75]]), [[STEPS], [Score(0.75, 1, "", ((2, 0.75),))]]).made
    mean = (4 / 3 + 0.75) / 2
    assert made.advantages_B[0].tolist() == pytest.approx([1.75 - mean, 1.25 - mean, 1 - mean, 1 - mean])
    assert made.advantages_B[1, :2].tolist() == pytest.approx([0.75 - mean] * 2)
    assert engine.completions_log["advantages"] == pytest.approx([9, 4 / 3 - mean, 0.75 - mean])


def test_a_score_that_an_endpoint_did_not_give_stands_at_its_groups_mean():
    station = StepCredits(Engine(), [1.0, 1.0], [False, True], decode)
    one = Score(1.0, 1, "", ((2, 1.0),))
    made = station(batch([[1.0, math.nan], [1.0, 4.0]]), [[one, Score(None)], [one, Score(4.0)]]).made
    assert made.advantages_B[:, 0].tolist() == [0, 0]
