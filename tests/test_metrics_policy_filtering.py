"""Which completions of a group are kept, and how well their reward follows a gold: by hand, and as properties."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.bench import main
from vlrl.bench.filter_report import usual
from vlrl.metrics.policy_filtering import Filtering, kept_rows, r_squared, read_filtering, strategy_numbers
from vlrl.training.command_line import check_command_line
from vlrl.training.options import ConfigError

pytestmark = pytest.mark.quick
REWARDS = [0.5, 0.9, 0.1, 0.5, 0.3, 0.7]


def keep(text, rewards=REWARDS, seed=0):
    kept = kept_rows(rewards, read_filtering(text), np.random.default_rng(seed))
    return [i for i, one in enumerate(kept) if one]


def test_strategies_on_numbers():
    assert keep("best:2") == [1, 5]
    assert keep("best:3") == [0, 1, 5], "of equal rewards the earlier"
    assert keep("best_worst:2") == [1, 2]
    assert keep("best_worst:4") == [1, 2, 4, 5]
    assert keep("best:1") == [1]
    assert keep("best:6") == keep("best:9") == list(range(6))
    found = {tuple(keep("best_random:2", seed=seed)) for seed in range(40)}
    assert found == {tuple(sorted((1, other))) for other in (0, 2, 3, 4, 5)}, "the best, and any of the others"
    assert {1, 5} <= set(keep("best_random:3")), "two of the best, and one drawn"
    assert keep("best_random:3", seed=5) == keep("best_random:3", seed=5)


@given(
    st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=12),
    st.sampled_from(["best:1", "best:3", "best_worst:2", "best_worst:4", "best_random:2", "best_random:5"]),
    st.integers(0, 99),
)
def test_as_many_are_kept_as_were_asked_for_and_none_without_a_reward(rewards, text, seed):
    kept = keep(text, rewards, seed)
    known = [i for i, one in enumerate(rewards) if not math.isnan(one)]
    assert len(kept) == min(len(known), read_filtering(text).n)
    assert set(kept) <= set(known)
    if known:
        assert max(rewards[i] for i in known) in [rewards[i] for i in kept]


@pytest.mark.parametrize(
    "text", ["best", "best:", "best:x", "best:-1", "worst:2", "best_worst:3", "best_worst:1", "best:0", "best:²", ""]
)
def test_what_names_no_strategy_is_refused(text):
    with pytest.raises(ValueError, match=r"write STRATEGY:N|keeps") as caught:
        read_filtering(text)
    assert "\n" not in str(caught.value)


def test_r_squared_by_hand():
    """Golds 1, 3, 2 on rewards 0, 1, 2: the line rises by 0.5, its residuals are -0.5, 1, -0.5; 1 - 1.5 / 2."""
    assert r_squared([0, 1, 2], [1, 3, 2]) == pytest.approx(0.25)
    assert r_squared([0, 1, 2, 3], [7, 5, 3, 1]) == pytest.approx(1)
    assert r_squared([0, 1], [1, 2]) is None
    assert r_squared([1, 1, 1], [1, 2, 3]) is None
    assert r_squared([1, 2, 3], [0.5, 0.5, 0.5]) is None


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=20))
def test_r_squared_is_that_of_the_line_that_fits_best(pairs):
    x, y = (np.array(one, dtype=float) for one in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert r_squared(x, y) is None
        return
    line = np.polyval(np.polyfit(x, y, 1), x)
    assert r_squared(x, y) == pytest.approx(1 - ((y - line) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-9)


def planted(n=60, size=8):
    """Groups whose reward is right at both ends and noise between."""
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(n):
        rewards = rng.permutation(np.linspace(0, 1, size))
        golds = [one if one < 0.2 or one > 0.8 else rng.random() for one in rewards]
        groups.append((rewards.tolist(), golds))
    return groups


def test_a_reward_that_is_right_at_both_ends_asks_for_best_and_worst():
    all_of_it, best, both = strategy_numbers(planted(), [None, Filtering("best", 4), Filtering("best_worst", 2)])
    assert both.r_squared > 0.95 > all_of_it.r_squared > best.r_squared
    assert (all_of_it.n, best.n, both.n) == (480, 240, 120)
    assert best.reward_mean > both.reward_mean
    (absent,) = strategy_numbers([([0.1, 0.9, math.nan], [0.0, math.nan, 1.0])], [None])
    assert (absent.n, absent.reward_mean) == (1, 0.1)
    with pytest.raises(ValueError, match="both a reward and a gold"):
        strategy_numbers([([math.nan], [1.0])], [None])


def run_folder(folder, weights=(1.0, 0.0), gold=False):
    (folder / "completions").mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"num_generations": 8, "reward_weights": list(weights)}))
    for number, (rewards, golds) in enumerate(planted(6)):
        lines = []
        for reward, worth in zip(rewards, golds, strict=True):
            row = {"id": "a", "rewards": {"rm": {"value": reward}, "exact_match": {"value": worth}}}
            lines.append(json.dumps(row | ({"gold": worth} if gold else {})) + "\n")
        (folder / "completions" / f"step_{number:06d}.jsonl").write_text("".join(lines))
    return str(folder)


def test_the_command_orders_strategies_by_what_they_keep(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    assert main(["filter", folder, "--gold", "exact_match"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.strip().startswith(("all", "best"))]
    assert names[0] == "all"
    assert names[1].startswith("best_worst:")
    assert len(names) == 1 + len(usual(8)) == 7
    assert lines[-1] == folder
    assert main(["filter", run_folder(tmp_path / "gold", gold=True), "--keep", "best:3", "best_worst:2"]) == 0
    assert "best:3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "states no gold; name a reward of weight 0 by --gold (exact_match)"),
        (["--gold", "exact"], "has no reward 'exact'"),
        (["--gold", "rm"], "the run was paid it (weight 1)"),
        (["--gold", "exact_match", "--keep", "best:8"], "groups have 8 completions; keep fewer"),
        (["--gold", "exact_match", "--keep", "worst:2"], "strategies are best, best_worst, best_random"),
    ],
)
def test_what_cannot_be_reported_is_one_line(words, said, tmp_path, capsys):
    assert main(["filter", run_folder(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert main(["filter", str(tmp_path / "none")]) == 2
    assert "is no run" in capsys.readouterr().err


MEASURED = ["--per_device_train_batch_size", "8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["best_worst"], "write STRATEGY:N"),
        (["best_worst:8"], "groups have 8 completions"),
        (["best:4", "--num_generations", "4"], "groups have 4 completions"),
        (["best:4", "--chi2_coef", "0.1"], "--keep_completions with --chi2_coef was not tried"),
        (["best:4", "--pairwise"], "with --pairwise was not tried"),
        (["best:4", "--cost", "repetition:-0.1"], "with --cost was not tried"),
        (["best:4", "--dynamic_sampling", "2"], "with --dynamic_sampling was not tried"),
        (["best:4", "--multi_objective_aggregation", "normalize_then_sum"], "ranked by the sum of their rewards"),
        (["best:4", "--entropy_coef", "0.01"], "with --entropy_coef was not tried"),
        (["best:4", "--stage", "sft"], "it is a part of GRPO"),
        (["best:4", "--task", "numberline", "--corrector", "none"], "with episodes was not tried"),
    ],
)
def test_where_it_does_not_go_it_is_refused_at_once(words, said):
    with pytest.raises(ConfigError, match=said) as caught:
        check_command_line([*MEASURED, "--keep_completions", *words])
    assert "\n" not in str(caught.value)
    check_command_line([*MEASURED, "--keep_completions", "best_worst:4"])
