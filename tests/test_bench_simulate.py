"""The simulated step: close to what was measured, and right about who waits for whom. No torch."""

from dataclasses import replace

import pytest

from vlrl.bench.speed.hardware import SOURCE_KINDS, Hardware, all_gather_s, all_reduce_s, constants
from vlrl.bench.speed.measured import QWEN_3B, comparisons
from vlrl.bench.speed.simulator import ClusterPlan, Lengths, balanced, simulate
from vlrl.bench.speed.step_costs import decode_s, group_work, update_flops
from vlrl.models.memory import Job

pytestmark = pytest.mark.quick

H100 = Hardware()
JOB = Job(engine="zero3", processes=8, rows_generated=16)
PLAN = ClusterPlan(QWEN_3B, JOB, 8)


def test_measured_steps_are_predicted():
    """docs/speed.md; the rates are fixed by three of them."""
    found = comparisons()
    assert sum(one.fixes for one in found) == 3
    for one in found:
        assert abs(one.error) < (0.02 if one.fixes else 0.2), one


def test_every_constant_says_where_it_comes_from():
    for name, value, kind, source in constants():
        assert value > 0, name
        assert kind in SOURCE_KINDS, name
        assert len(source) > 15, name


def test_the_same_plan_gives_the_same_numbers():
    assert simulate(PLAN, H100, steps=3) == simulate(PLAN, H100, steps=3)
    assert simulate(PLAN, H100, steps=3) != simulate(PLAN, H100, steps=3, seed=1)


@pytest.mark.parametrize("mode", ["own", "colocate"])
def test_a_synchronous_step_is_the_sum_of_its_parts(mode):
    times = simulate(replace(PLAN, mode=mode), H100, steps=4)
    assert times.step_s == pytest.approx(sum(times.seconds.values()))
    assert 0 <= times.waiting_share < 1
    assert all(share >= 0 for share in times.waiting.values())


def test_who_waits_for_whom():
    even = simulate(replace(PLAN, lengths=Lengths(200, 0.0, 1024)), H100, steps=4)
    uneven = simulate(replace(PLAN, lengths=Lengths(200, 1.0, 1024)), H100, steps=4)
    assert even.waiting["longest completion"] == pytest.approx(0)
    assert uneven.waiting["longest completion"] > 0.1
    slow = simulate(PLAN, H100.with_values(reward_s=5.0), steps=4)
    assert slow.waiting["reward"] > 0.5
    assert simulate(replace(PLAN, parallel=8), H100, steps=4).waiting["longest completion"] == 0, "one engine waits for none"
    far = simulate(PLAN, H100.with_values(nvlink_rate=1e9), steps=4)
    assert max(far.waiting, key=far.waiting.get) == "network"


def test_servers_let_training_go_on():
    """With a lag of one update, writing and training overlap; without, they take turns."""
    plan = replace(PLAN, mode="server", n_rollout=4, job=replace(JOB, processes=4))
    turns, overlapped = (simulate(replace(plan, lag=lag), H100, steps=20) for lag in (0, 1))
    own = sum(turns.seconds.values())
    assert turns.step_s == pytest.approx(own)
    slower = max(turns.seconds["rollout"], own - turns.seconds["rollout"])
    assert overlapped.step_s == pytest.approx(slower, rel=0.15)
    assert overlapped.waiting_share < turns.waiting_share
    assert simulate(replace(plan, lag=3), H100, steps=20).step_s <= overlapped.step_s * 1.001


def test_the_split_between_training_and_writing_is_the_best_one():
    plan = replace(PLAN, mode="server", n_gpus=32, lag=1)
    best = balanced(plan, H100)
    assert 0 < best.n_rollout < 32
    other = replace(best, n_rollout=4, rows=16, job=replace(best.job, processes=28))
    assert simulate(best, H100, steps=3).tokens >= simulate(other, H100, steps=3).tokens
    with pytest.raises(ValueError, match="cannot be split"):
        balanced(replace(plan, n_gpus=8, parallel=8), H100)
    with pytest.raises(ValueError, match="none is left"):
        simulate(replace(plan, n_rollout=32), H100)


def test_decoding_by_hand():
    """Two completions of 10 and 30 tokens: 10 steps with both, 20 with one where finished ones leave, else 30 with both."""
    machine = replace(H100, memory_rate=1e30, peak_flops=1e30)
    assert decode_s(QWEN_3B, JOB, [30, 10], 1, machine, drops=True, step_s=0.01) == pytest.approx(0.3)
    weights = 2 * (QWEN_3B.n_text + QWEN_3B.n_embedding) / (H100.memory_rate * H100.memory_share)
    assert decode_s(
        QWEN_3B, replace(JOB, prompt_tokens=0, image_tokens=0), [1], 1, H100, drops=True, step_s=0
    ) == pytest.approx(weights, rel=1e-3)
    carried = decode_s(QWEN_3B, JOB, [1000, 1] * 64, 1, H100, drops=False, step_s=0)
    assert carried > decode_s(QWEN_3B, JOB, [1000, 1] * 64, 1, H100, drops=True, step_s=0)


def test_network_and_flops_by_hand():
    assert all_reduce_s(8e9, 1, H100) == 0
    assert all_reduce_s(8e9, 8, H100) == pytest.approx(2 * 7 / 8 * 8e9 / (450e9 * 0.8))
    assert all_gather_s(8e9, 64, H100) == pytest.approx(63 / 64 * 8e9 / (400e9 * 0.8))
    job = Job(image_tokens=1024, completion_tokens=256, checkpointing=False)
    packed, plain = (
        update_flops(QWEN_3B, one, group_work(QWEN_3B, one, [256] * 8)) for one in (job, replace(job, shared=False))
    )
    assert plain / 3e12 == pytest.approx(110, rel=0.05), "TFLOP of a plain forward pass"
    assert plain / packed == pytest.approx(4.31, rel=0.05)
