"""What holds a policy back beside TRL's KL: χ², costs with multipliers, pairs. Closed forms on small numbers, then real steps."""

import json
import math
import shutil
import zlib
from itertools import product

import pytest
import torch
from bundled_steps import bundled_trainer, rows, same, train

from vlrl.rewards import load_reward
from vlrl.schema import Reward, Score
from vlrl.tasks import load_task
from vlrl.training.checkpoints import RunStopped
from vlrl.training.command_line import check_command_line
from vlrl.training.grpo.costs import MULTIPLIERS, Costs, HeldBack, HeldCost, group_advantages, held_back_of, less_costs, updated
from vlrl.training.grpo.regularisers import chi2_terms, expm1_clipped, p3o_loss, pair_sums, sqrt_chi2
from vlrl.training.options import ConfigError
from vlrl.training.regulariser_options import CostLimit, RegulariserConfig, read_costs

# ---- chi-squared


def test_chi2_of_two_completions():
    """Log-ratios ln 2 (of two tokens) and 0: r + 1/r - 2 is 0.5 and 0, the mean 0.25, its root 0.5."""
    logps = torch.tensor([[math.log(0.5), math.log(0.8), 9.0], [math.log(0.3), 0.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[math.log(0.25), math.log(0.8), 0.0], [math.log(0.3), 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    terms = chi2_terms(logps, reference, mask)
    assert terms.tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    root = sqrt_chi2(terms, terms.detach().mean())
    assert float(root.detach()) == pytest.approx(0.5)
    root.backward()
    # d root / d log r = (r - 1/r) / 2 completions / (2 root)
    assert logps.grad[0].tolist() == pytest.approx([0.75, 0.75, 0.0], abs=1e-6)
    assert logps.grad[1].tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_the_estimate_is_chi2_on_average():
    """Over everything that a policy can say, weighed by how often it says it: sum of π²/π_ref - 1."""
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    terms = chi2_terms(policy.log()[:, None], reference.log()[:, None], torch.ones(3, 1))
    assert float((policy * terms).sum()) == pytest.approx(float((policy**2 / reference).sum() - 1))
    assert bool((terms > 0).all())


def test_two_processes_have_the_gradient_of_one():
    logps = torch.tensor([[0.3], [-0.2], [0.8], [0.1]], requires_grad=True)
    zeros, mask = torch.zeros(4, 1), torch.ones(4, 1)
    terms = chi2_terms(logps, zeros, mask)
    mean = terms.detach().mean()
    (whole,) = torch.autograd.grad(sqrt_chi2(terms, mean), logps, retain_graph=True)
    halves = (sqrt_chi2(terms[:2], mean) + sqrt_chi2(terms[2:], mean)) / 2
    assert float(halves) == pytest.approx(float(mean.sqrt()))
    (both,) = torch.autograd.grad(halves, logps)
    assert torch.allclose(whole, both)


def test_a_policy_that_has_not_moved_has_no_gradient_and_a_far_one_no_infinite_one():
    logps = torch.zeros(2, 1, requires_grad=True)
    terms = chi2_terms(logps, torch.zeros(2, 1), torch.ones(2, 1))
    sqrt_chi2(terms, terms.detach().mean()).backward()
    assert logps.grad.tolist() == [[0.0], [0.0]]
    far = torch.tensor([500.0, -500.0, 10.0], requires_grad=True)
    found = expm1_clipped(far)
    assert found[0].item() == pytest.approx(math.exp(10) * 491 - 1, rel=1e-5)
    assert found[1].item() == -1
    assert found[2].item() == pytest.approx(math.expm1(10), rel=1e-5)
    found.sum().backward()
    assert far.grad[0].item() == pytest.approx(math.exp(10), rel=1e-5)


# ---- pairs


def brute_force(log_ratios, rewards, group, low, high):
    """The mean over ordered pairs of a group of -min(ρ_i Δ, clip(ρ_i) Δ), of all groups."""
    total, n = 0.0, 0
    for start in range(0, len(rewards), group):
        for i, j in product(range(start, start + group), repeat=2):
            if i != j:
                ratio, gap = math.exp(log_ratios[i]), rewards[i] - rewards[j]
                total -= min(ratio * gap, min(max(ratio, 1 - low), 1 + high) * gap)
                n += 1
    return total / n


def test_pairs_are_what_all_pairs_come_to():
    generator = torch.Generator().manual_seed(3)
    log_ratios = torch.randn(8, generator=generator).double() * 0.4
    rewards = torch.randn(8, generator=generator).double()
    loss = p3o_loss(log_ratios[:, None], torch.zeros(8, 1), torch.ones(8, 1), pair_sums(rewards, 4), 0.2, 0.3)
    assert float(loss) == pytest.approx(brute_force(log_ratios.tolist(), rewards.tolist(), 4, 0.2, 0.3))
    shifted = rewards + torch.tensor([5.0] * 4 + [-7.0] * 4)
    again = p3o_loss(log_ratios[:, None], torch.zeros(8, 1), torch.ones(8, 1), pair_sums(shifted, 4), 0.2, 0.3)
    assert float(again) == pytest.approx(float(loss)), "a function of the prompt changes nothing"


def test_on_policy_the_gradient_is_the_pairwise_policy_gradient():
    """Of two completions with rewards 1 and 0: -½ (1 - 0) ∇(log π_1 - log π_2), on every token."""
    logps = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    sums = pair_sums(torch.tensor([1.0, 0.0]), 2)
    assert sums.tolist() == [[1.0, 0.0], [0.0, -1.0]]
    loss = p3o_loss(logps, logps.detach(), mask, sums, 0.2, 0.2)
    assert float(loss) == 0.0
    loss.backward()
    assert logps.grad.tolist() == [[-0.5, -0.5, -0.5], [0.5, 0.5, 0.0]]


# ---- costs


def test_a_multiplier_takes_the_papers_step():
    """ln λ + α λ (J - limit): from 2 with α = 0.1, mean 0.8 over a limit of 0.3."""
    assert updated(2.0, 0.8, 0.3, 0.1, 10.0) == pytest.approx(2 * math.exp(0.1 * 2 * 0.5))
    assert updated(2.0, 0.1, 0.3, 0.1, 10.0) == pytest.approx(2 * math.exp(-0.1 * 2 * 0.2))
    assert updated(9.9, 1e9, 0.0, 0.1, 10.0) == 10.0
    assert updated(10.0, -1e3, 0.0, 1.0, 10.0) >= 0.0


def test_advantages_with_costs():
    """(A_r - Σ λ A_c) / (1 + Σ λ), by hand."""
    advantages, costs = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    assert less_costs(advantages, costs, [1.0, 0.5]).tolist() == pytest.approx([(1 - 1) / 2.5, (-1 + 1 - 1) / 2.5])
    assert less_costs(advantages, costs[:, :1], [3.0]).tolist() == pytest.approx([(1 - 3) / 4, (-1 + 3) / 4])


def test_costs_are_scaled_as_rewards_are():
    values = torch.tensor([1.0, 3.0, 2.0, 2.0])
    spread = math.sqrt(2)
    assert group_advantages(values, 2, "group").tolist() == pytest.approx([-1 / (spread + 1e-4), 1 / (spread + 1e-4), 0, 0])
    assert group_advantages(values, 2, "none").tolist() == [-1.0, 1.0, 0.0, 0.0]
    whole = float(values.std()) + 1e-4
    assert group_advantages(values, 2, "batch").tolist() == pytest.approx([-1 / whole, 1 / whole, 0, 0])
    absent = torch.tensor([1.0, float("nan"), 3.0, float("nan")])
    assert group_advantages(absent, 4, "none").tolist() == [-1.0, 0.0, 1.0, 0.0], "a cost that does not apply"
    assert group_advantages(torch.full((4,), float("nan")), 2, "batch").tolist() == [0.0] * 4


def cost(name="repetition", limit=-0.1):
    return HeldCost(load_reward(name), limit)


def test_multipliers_go_on_from_a_checkpoint(tmp_path):
    costs = Costs([cost(), cost("vlm_r1_odlength", 0.5)], rate=0.1, start=1.0, largest=10.0)
    costs.weigh(torch.zeros(4), torch.tensor([[0.0, 0.9], [0.0, float("nan")], [0.0, 0.9], [0.0, 0.9]]), 2, "group")
    assert costs.multipliers == pytest.approx([math.exp(0.1 * 0.1), math.exp(0.1 * 0.4)])
    assert costs.numbers()["cost/repetition/multiplier"] == costs.multipliers[0]
    costs.save(tmp_path)
    again = Costs([cost("vlm_r1_odlength", 0.5), cost()])
    again.restore(tmp_path)
    assert again.multipliers == costs.multipliers[::-1], "exactly"
    fresh = Costs([cost()])
    fresh.restore(tmp_path / "none")
    assert fresh.multipliers == [1.0]
    (tmp_path / MULTIPLIERS).write_text('{"repetition": -1}')
    with pytest.raises(RunStopped, match="the multiplier of repetition is -1, no positive number"):
        fresh.restore(tmp_path)


# ---- flags

MEASURED = ["--per_device_train_batch_size", "8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cost", "repetition"], "--cost repetition: write REWARD:limit"),
        (["--cost", "repetition:much"], "write REWARD:limit"),
        (["--cost", "repetition:nan"], "write REWARD:limit"),
        (["--cost", "repetition:-0.1", "repetition:-0.2"], "--cost names repetition twice"),
        (["--cost", "repetitoin:-0.1"], "unknown reward 'repetitoin'.*repetition"),
        (["--cost", "mcq:0.5"], "--cost mcq scores answers of the kind text, these are boxes"),
        (["--cost", "cosine_length:0.5"], "builds on another reward"),
        (["--cost", "iou_f1:0.5", "--rewards", "iou_f1"], "it is among --rewards"),
        (["--cost", "repetition:-0.1", "--dynamic_sampling", "2"], "--cost with --dynamic_sampling was not tried"),
        (
            ["--cost", "repetition:-0.1", "--multi_objective_aggregation", "normalize_then_sum"],
            "normalize_then_sum was not tried",
        ),
        (["--cost_lr", "0.5"], "--cost_lr has no effect without --cost"),
        (["--cost", "repetition:-0.1", "--cost_max", "0"], "--cost_max 0.0: must be above 0"),
        (["--chi2_coef", "-1"], "--chi2_coef -1.0: must be at least 0"),
        (["--chi2_coef", "0.1", "--stage", "sft"], "--chi2_coef: it is a part of GRPO"),
        (["--chi2_coef", "0.1", "--task", "numberline"], "--chi2_coef with --corrector was not tried"),
        (["--pairwise", "--corrector", "oracle", "--task", "numberline"], "--pairwise with --corrector was not tried"),
        (["--pairwise", "--importance_sampling_level", "sequence"], "pairs always have one ratio a completion"),
        (["--pairwise", "--delta", "1.5"], "--pairwise with --delta"),
        (["--pairwise", "--top_entropy_quantile", "0.5"], "--pairwise with --top_entropy_quantile"),
        (["--chi2_coef", "0.1", "--task", "prm"], "--task prm has no option --chi2_coef"),
    ],
)
def test_what_was_not_tried_is_refused_at_once(words, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_command_line(words)
    assert "\n" not in str(caught.value)


def test_a_cost_keeps_its_options_before_its_limit():
    assert read_costs(["my.py:long:most=3:0.5", "repetition:-0.1"]) == (
        CostLimit("my.py:long:most=3", 0.5),
        CostLimit("repetition", -0.1),
    )
    check_command_line(["--cost", "repetition:-0.1", "vlm_r1_odlength:0.9", "--chi2_coef", "0.1", "--pairwise", *MEASURED])


def test_rows_decide_what_a_cost_can_score():
    sample = load_task("detection").synthetic(0, "train", 0)
    with pytest.raises(ConfigError, match="it is among the rewards of these rows"):
        held_back_of(RegulariserConfig(cost=["iou_f1:0.5"]), [load_reward("iou_f1")], [sample])
    with pytest.raises(ConfigError, match="can score none of the training samples"):
        held_back_of(RegulariserConfig(cost=["mcq:0.5"]), [load_reward("iou_f1")], [sample])
    found = held_back_of(RegulariserConfig(cost=["repetition:-0.1"], chi2_coef=0.2, pairwise=True), [], [sample])
    assert found.words() == "χ² to the start, weight 0.2, repetition at most -0.1, pairs in place of TRL's policy term (P3O)"
    assert not HeldBack().words()


# ---- real steps

COSTLY = Reward("costly", lambda text, sample: Score(zlib.crc32(text[::-1].encode()) % 97 / 97, text), 0.0, 1.0)
ALL = HeldBack(chi2_coef=0.5, costs=(HeldCost(COSTLY, 0.3),), pairwise=True)


def trained(folder, held_back=None, resume=None, peft=None, **changes):
    """Steps on the bundled model; returns the trainer."""
    more = {} if held_back is None else {"held_back": held_back}
    return train(bundled_trainer(folder, peft, changes, **more), resume)


def test_off_is_off(tmp_path):
    plain, off = trained(tmp_path / "plain"), trained(tmp_path / "off", HeldBack(chi2_coef=0.0))
    assert same(plain.model, off.model), "bit for bit"
    assert off.ref_model is None
    assert (off.logprob_losses, off.costs, off.needs_reference, off._logps) == ((), None, False, None)
    assert rows(tmp_path / "plain")[0].keys() == rows(tmp_path / "off")[0].keys()


def test_each_of_them_changes_the_steps_and_is_logged(tmp_path):
    plain = trained(tmp_path / "plain")
    for name, held_back in (
        ("chi2", HeldBack(chi2_coef=5.0)),
        ("cost", HeldBack(costs=ALL.costs)),
        ("pairs", HeldBack(pairwise=True)),
    ):
        assert not same(plain.model, trained(tmp_path / name, held_back).model), name
    chi2, plain_rows = rows(tmp_path / "chi2"), rows(tmp_path / "plain")
    assert (chi2[0]["chi2"], chi2[0]["reward"]) == (0.0, plain_rows[0]["reward"])
    assert chi2[1]["chi2"] > 0
    assert "kl" not in chi2[0], "TRL's KL is another term, and off"
    cost, first = rows(tmp_path / "cost"), plain_rows[0]["reward"]
    assert cost[0]["reward"] == pytest.approx(first), "what a cost gives is no part of the reward"
    mean = cost[0]["rewards/costly/mean"]
    assert cost[0]["cost/costly/multiplier"] == pytest.approx(updated(1.0, mean, 0.3, 0.1, 10.0))
    logged = [json.loads(line) for line in (tmp_path / "cost" / "completions" / "step_000001.jsonl").read_text().splitlines()]
    rewards, costs = (torch.tensor([row["rewards"][name]["value"] for row in logged]) for name in ("paying", "costly"))
    wanted = less_costs(
        group_advantages(rewards, 4, "group"), group_advantages(costs, 4, "group")[:, None], [cost[0]["cost/costly/multiplier"]]
    )
    assert [row["advantage"] for row in logged] == pytest.approx(wanted.tolist(), abs=1e-4), "as they were learnt from"


@pytest.mark.long
def test_chi2_beside_kl_leaves_the_kl_as_it_is(tmp_path):
    """Beside `--beta` the first step, where the policy is the reference, is the same; KL is logged as TRL does."""
    kl, both = trained(tmp_path / "kl", beta=0.1), trained(tmp_path / "both", HeldBack(chi2_coef=1.0), beta=0.1)
    assert both.beta == both.args.beta == 0.1
    one, other = rows(tmp_path / "kl"), rows(tmp_path / "both")
    assert one[0]["kl"] == other[0]["kl"] == 0.0
    assert one[1]["kl"] > 0
    assert other[1]["kl"] > 0
    assert not same(kl.model, both.model) or other[1]["chi2"] < 1e-4


@pytest.mark.long
@pytest.mark.parametrize(
    "changes", [{"steps_per_generation": 4}, {"steps_per_generation": 2, "num_iterations": 2, "group": "off"}]
)
def test_a_run_that_goes_on_takes_the_same_steps(tmp_path, changes):
    changes = {key: value for key, value in changes.items() if key != "group"}
    whole = trained(tmp_path, ALL, max_steps=5, save_strategy="steps", save_steps=3, **changes)
    kept = json.loads((tmp_path / "checkpoint-3" / MULTIPLIERS).read_text())
    assert 0 < kept["costly"] != 1
    again = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-again")
    resumed = trained(again, ALL, again / "checkpoint-3", max_steps=5, save_strategy="steps", save_steps=3, **changes)
    assert same(whole.model, resumed.model)
    assert resumed.costs.multipliers == whole.costs.multipliers


@pytest.mark.long
def test_adapters_are_held_to_the_model_without_them(tmp_path):
    from peft import LoraConfig

    trainer = trained(tmp_path, ALL, peft=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    assert trainer.ref_model is None
    first, second = rows(tmp_path)[:2]
    assert first["chi2"] == pytest.approx(0.0, abs=1e-6)
    assert second["chi2"] > 0
