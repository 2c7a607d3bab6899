"""The implicit reward (PRIME): its equations by hand, its options, and real steps of the bundled model."""

import json
import math
import shutil
import zlib

import pytest
import torch
from bundled_steps import bundled_trainer, rows, same, train
from hypothesis import given
from hypothesis import strategies as st

from vlrl.models.load import load_model
from vlrl.rewards import load_reward
from vlrl.rewards.implicit_reward import Prime, PrimeOptions, read_prime, split_prime
from vlrl.schema import Reward, Score
from vlrl.training.checkpoints import RunStopped
from vlrl.training.command_line import check_command_line
from vlrl.training.grpo.implicit_reward import PRIME_STATE, Predicted, outcome_loss, process_returns, token_rewards
from vlrl.training.grpo.step_credits import Return, advantages_of
from vlrl.training.options import ConfigError

# ---- equations


def test_rewards_of_tokens_are_log_ratios():
    logps = torch.tensor([[math.log(0.5), math.log(0.25), -math.inf]])
    reference = torch.tensor([[math.log(0.25), math.log(0.5), 0.0]])
    paid = token_rewards(logps, reference, torch.tensor([[1, 1, 0]]), 0.5)
    assert paid[0].tolist() == pytest.approx([0.5 * math.log(2), -0.5 * math.log(2), 0.0])


def test_the_loss_is_the_cross_entropy_of_the_outcome():
    sums = torch.tensor([math.log(3), 0.0, 5.0], requires_grad=True)
    loss = outcome_loss(sums, torch.tensor([1.0, 0.0, math.nan]))
    assert float(loss.detach()) == pytest.approx(-math.log(0.75) - math.log(0.5))
    loss.backward()
    assert sums.grad.tolist() == pytest.approx([0.75 - 1, 0.5 - 0, 0.0]), "sigmoid less label; none without a label"


def test_process_returns_by_hand():
    """Means 1.5 and 3; each is the other's baseline: (1 - 3) + (2 - 3), 2 - 3; 3 - 1.5."""
    assert process_returns([[1.0, 2.0], [3.0]]) == [(-3.0, -1.0), (1.5,)]
    assert process_returns([[1.0], [], [2.0, 4.0]]) == [(-2.0,), (), (4.0, 3.0)]
    assert process_returns([[1.0, 1.0]]) == [(2.0, 1.0)]


@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=4), min_size=2, max_size=4), st.data())
def test_advantages_are_equation_5_but_for_what_is_said_to_differ(rewards, data):
    """With `--scale_rewards none`: the outcome's part is (K - 1)/K of the leave-one-out one, all else is one shift a group."""
    k = len(rewards)
    outcomes = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=k, max_size=k))
    paid = process_returns(rewards)
    found = advantages_of(
        [Return(tuple(outcome + one for one in own)) for outcome, own in zip(outcomes, paid, strict=True)], k, "none"
    )
    shifts = []
    for i, own in enumerate(rewards):
        baseline = sum(sum(other) / len(other) for j, other in enumerate(rewards) if j != i) / (k - 1)
        leave_one_out = outcomes[i] - sum(outcomes[:i] + outcomes[i + 1 :]) / (k - 1)
        for t in range(len(own)):
            equation_5 = sum(reward - baseline for reward in own[t:])
            shifts.append(found[i][t] - equation_5 - leave_one_out * (k - 1) / k)
    assert shifts == pytest.approx([shifts[0]] * len(shifts), abs=1e-9)


def test_how_well_sums_tell_outcomes_apart():
    found = Predicted.of([1.0, -1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.0], 4)
    assert found == Predicted((1 + 0 + 0 + 0.5) / 4, 0.5, (0 + 1 + 0 + 0) / 4)
    apart = Predicted.of([1.0, 2.0, 5.0, 7.0], [0.0, 1.0, 1.0, math.nan], 2)
    assert (apart.pair_accuracy, apart.base_rate) == (1.0, pytest.approx(2 / 3)), "pairs are within groups"
    assert math.isnan(Predicted.of([1.0, 2.0], [1.0, 1.0], 2).pair_accuracy)
    assert all(map(math.isnan, (lambda one: (one.accuracy, one.base_rate))(Predicted.of([1.0], [math.nan], 1))))


# ---- options


def test_it_is_taken_out_of_the_rewards_with_its_weight():
    split = split_prime(["math_equal", "prime:beta=0.1,lr=1e-4", "json_format"], [1, 2, 0.5])
    assert (split.rewards, split.weights) == (["math_equal", "json_format"], [1.0, 0.5])
    assert split.prime == Prime(PrimeOptions(beta=0.1, lr=1e-4), 2.0)
    assert split_prime(["math_equal"], [1]).prime is None
    assert split_prime(None, None).rewards is None
    assert read_prime("prime:some/folder,update=before") == PrimeOptions(folder="some/folder", update="before")
    assert read_prime("prime,beta=0.2") == PrimeOptions(beta=0.2)
    with pytest.raises(ValueError, match="is learnt by a run"):
        load_reward("prime:beta=0.1")


@pytest.mark.parametrize(
    ("rewards", "more", "said"),
    [
        (["prime"], [], "name one beside it: --rewards math_equal prime"),
        (["math_equal", "prime", "prime"], [], "names prime twice"),
        (["math_equal", "prime:lr=0"], [], "lr=0 must be more than 0"),
        (["math_equal", "prime:betta=1"], [], "did you mean 'beta'"),
        (["math_equal", "prime:no/where"], [], "no/where holds no model"),
        (["math_equal", "prime:outcome=mcq"], [], "outcome=mcq is not among --rewards"),
        (["math_equal", "prime:threshold=2"], [], "tells nothing apart: math_equal is 0 to 1"),
        (["math_equal", "prime"], ["--reward_weights", "1"], "1 reward_weights for 2 rewards"),
        (["math_equal", "prime"], ["--mask_truncated_completions", "true"], "was not tried; leave one out"),
        (["math_equal", "prime"], ["--multi_objective_aggregation", "normalize_then_sum"], "rewards tokens"),
        (["math_equal", "prime"], ["--stage", "sft"], "leave it out with --stage sft"),
        (["math_equal", "prime"], ["--cost", "repetition:0.1"], "reward prime with --cost"),
    ],
)
def test_what_cannot_be_is_one_line(rewards, more, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_command_line(["--task", "qa", "--rewards", *rewards, *more])
    assert "\n" not in str(caught.value)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="reward prime with 2 processes was not tried"):
        check_command_line(["--task", "qa", "--rewards", "math_equal", "prime"])
    check_command_line(["--task", "qa", "--rewards", "math_equal"])


# ---- real steps

OUTCOME = Reward("paying", lambda text, sample: Score(float(zlib.crc32(text.encode()) % 2), text), 0.0, 1.0)
FAST = PrimeOptions(beta=0.5, lr=1e-3)


def trained(folder, prime=None, resume=None, peft=None, **changes):
    """Steps on the bundled model; returns the trainer."""
    more = {} if prime is None else {"prime": Prime(prime)}
    return train(bundled_trainer(folder, peft, {"max_completion_length": 12, **changes}, OUTCOME, **more), resume)


def advantages(folder, step):
    lines = (folder / "completions" / f"step_{step:06d}.jsonl").read_text().splitlines()
    return [json.loads(line)["advantage"] for line in lines]


def test_it_starts_as_grpo_and_then_differs(tmp_path):
    """At first phi is the reference: no token is rewarded and the loss is ln 2. Afterwards both differ."""
    plain, prime = trained(tmp_path / "plain"), trained(tmp_path / "prime", FAST)
    assert (plain.implicit, plain.step_credits, plain.ref_model) == (None, None, None)
    assert not any("prime" in name for name in rows(tmp_path / "plain")[0])
    first, second = rows(tmp_path / "prime")[:2]
    assert (first["rewards/prime/mean"], first["prime/accuracy"], first["prime/labelled"]) == (0.0, 0.5, 1.0)
    assert first["prime/loss"] == pytest.approx(math.log(2))
    assert advantages(tmp_path / "prime", 1) == pytest.approx(advantages(tmp_path / "plain", 1), abs=1e-5)
    assert second["rewards/prime/mean"] != 0
    assert 0 < second["rewards/prime/time_share"] < 1
    assert prime.beta == 0
    assert "kl" not in first, "the reference is asked, TRL's KL is off"
    assert not same(plain.model, prime.model)
    assert not same(prime.ref_model, prime.implicit.learnt.model)
    assert (
        "prime" in json.loads((tmp_path / "prime" / "completions" / "step_000002.jsonl").read_text().splitlines()[0])["rewards"]
    )


@pytest.mark.long
def test_before_and_after(tmp_path):
    """`update=before` rewards a batch by the model that has learnt from it: its own outcomes are told apart better."""
    trained(tmp_path / "before", PrimeOptions(beta=0.5, lr=1e-3, update="before"), max_steps=1)
    first = rows(tmp_path / "before")[0]
    assert first["rewards/prime/std"] > 0
    assert first["prime/pair_accuracy"] > 0.5
    assert first["prime/loss"] == pytest.approx(math.log(2))


@pytest.mark.long
def test_a_run_that_goes_on_takes_the_same_steps(tmp_path):
    """Also where a checkpoint falls inside a generation."""
    changes = {"steps_per_generation": 2, "per_device_train_batch_size": 4}
    whole = trained(tmp_path, FAST, max_steps=4, save_strategy="steps", save_steps=3, **changes)
    again = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-again")
    resumed = trained(again, FAST, again / "checkpoint-3", max_steps=4, save_strategy="steps", save_steps=3, **changes)
    assert same(whole.model, resumed.model)
    assert same(whole.implicit.learnt.model, resumed.implicit.learnt.model)
    (again / "checkpoint-3" / PRIME_STATE).unlink()
    with pytest.raises(RunStopped, match=r"prime.pt is missing"):
        trained(again, FAST, again / "checkpoint-3", max_steps=5)


@pytest.mark.long
def test_adapters_learn_beside_the_model_without_them(tmp_path):
    from peft import LoraConfig

    peft = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.2)
    trainer = trained(tmp_path, FAST, peft=peft)
    assert trainer.ref_model is None
    first, second = rows(tmp_path)[:2]
    assert first["rewards/prime/mean"] == pytest.approx(0.0, abs=1e-6)
    assert abs(second["rewards/prime/mean"]) > 0
    assert all("lora" in name for name in trainer.implicit.learnt.trained)
    trainer.implicit.save_final(tmp_path, trainer.processing_class)
    assert load_model(str(tmp_path / "prime")).model is not None
