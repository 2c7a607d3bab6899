"""Numbers of a command line or a file that no run can have are refused before a library is loaded."""

import math

import pytest
import yaml

from vlrl.rewards import load_reward
from vlrl.training.command_line import Known, our_options, read_grpo_words, read_prm_words
from vlrl.training.library_options import library_options
from vlrl.training.number_ranges import NUMBER_RANGES, check_option_numbers, is_numeric
from vlrl.training.options import ConfigError
from vlrl.training.prm.options import prm_flags

pytestmark = pytest.mark.quick

GRPO = Known(our_options(), library_options("grpo", "model"))
PRM = Known(prm_flags(), library_options("training", "model"))
NUMERIC = sorted({name for known in (GRPO, PRM) for name, option in known.items() if is_numeric(option)})


def refused(words):
    with pytest.raises(ConfigError) as caught:
        (read_prm_words if "prm" in words else read_grpo_words)(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_numeric_option_has_a_range():
    """A new one, of ours or of a library, is to be thought about."""
    assert [name for name in NUMERIC if name not in NUMBER_RANGES] == []


def check(name, text):
    known = GRPO if name in GRPO else PRM
    check_option_numbers({name: known[name].value([text])}, known)


def test_no_option_takes_what_is_no_finite_number_or_outside_its_range():
    for name in NUMERIC:
        wanted = NUMBER_RANGES[name]
        outside = ["nan", "inf", "-inf", "1e999"] if "float" in (GRPO | PRM)[name].kind else []
        if wanted.low > -math.inf:
            outside.append(f"{wanted.low if wanted.open_low else math.floor(wanted.low) - 1:.0f}")
        if wanted.high < math.inf:
            outside.append(f"{wanted.high if wanted.open_high else math.ceil(wanted.high) + 1:.0f}")
        assert outside, name
        for text in outside:
            with pytest.raises(ConfigError) as caught:
                check(name, text)
            assert f"--{name} {text.replace('1e999', 'inf')}" in str(caught.value)
        for end, is_open in ((wanted.low, wanted.open_low), (wanted.high, wanted.open_high)):
            if math.isfinite(end) and not is_open and name not in ("max_steps", "reward_weights"):
                check(name, f"{end:.0f}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning_rate", "1e5"], "a minus sign may be missing, as in 1e-5"),
        (["--learning_rate", "-1e-6"], "must be at least 0 and at most 1"),
        (["--temperature", "0"], "must be above 0"),
        (["--top_p", "1.5"], "must be above 0 and at most 1"),
        (["--max_steps", "0"], "--max_steps 0: must be at least 1, or -1"),
        (["--max_steps", "-2"], "must be at least -1"),
        (["--num_generations", "1"], "an advantage needs at least 2 completions"),
        (["--reward_weights", "1", "nan"], "--reward_weights nan: must be a finite number"),
        (["--reward_weights", "0", "0"], "all are 0"),
        (["--generation_kwargs", '{"temperature": NaN}'], "--generation_kwargs: temperature=nan: must be a finite number"),
        (["--generation_kwargs", '{"top_p": 0}'], "top_p=0: must be above 0"),
        (["--lr_scheduler_kwargs", '{"a": [1, {"b": -Infinity}]}'], "b=-inf: must be a finite number"),
        (["--seed", "-1"], "must be at least 0 and at most 4294967295"),
        (["--gtr", "gamma=nan"], "not a finite number"),
        (["--curriculum", "ezpoints:nan"], "give a card game and its share"),
        (["--task", "prm", "--learning_rate", "inf"], "must be a finite number"),
        (["--task", "prm", "--pairwise_weight", "-1"], "must be at least 0"),
        (["--stop_on", "truncatd"], "did you mean 'truncated'"),
    ],
)
def test_what_is_said(words, said):
    assert said in refused(words)


@pytest.mark.parametrize("value", [math.nan, math.inf, "nan", "1e5", True])
def test_files_are_checked_alike(tmp_path, value):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"learning_rate": value}))
    assert "--learning_rate" in refused(["--config", str(path)])


@pytest.mark.parametrize(
    "words",
    [
        ["--learning_rate", "0"],
        ["--learning_rate", "1"],
        ["--max_steps", "-1"],
        ["--max_grad_norm", "0"],
        ["--reward_weights", "1", "-0.5"],
        ["--pad_to_multiple_of", "auto"],
        ["--warmup_steps", "0.1"],
        ["--save_steps", "0.25"],
        ["--epsilon_high", "5"],
        ["--generation_kwargs", '{"max_time": 3}'],
        ["--output_dir", "inf"],
    ],
)
def test_what_makes_sense_passes(words):
    read_grpo_words(words)


def test_options_of_rewards_are_finite_too():
    with pytest.raises(ValueError, match="timeout_s=nan must be float"):
        load_reward("llm_judge:timeout_s=nan")
