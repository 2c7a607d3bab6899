"""`--task rm`: rows of preferences, losses and metrics by hand, options, and whole runs that pay GRPO (marked long)."""

import json
import math
import shutil

import pytest
import torch
from value_head_folders import head_folder

from vlrl.data.preference_pairs import read_dpo_pairs
from vlrl.data.preferences import PreferenceRecord, read_preferences, synthetic_preference
from vlrl.data.value_head_files import PREFERENCES, read_head
from vlrl.rewards import load_reward
from vlrl.schema import SampleError
from vlrl.training.command_line import check_command_line
from vlrl.training.options import ConfigError
from vlrl.training.reward_models import door
from vlrl.training.reward_models.measuring import preference_metrics
from vlrl.training.reward_models.trainer import head_of, preference_loss, rating_loss


def pair(name="1", key="q", **fields):
    return PreferenceRecord(name, key, (), "Which?", "good", "bad", **fields)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def log_sigmoid(value):
    return -math.log1p(math.exp(-value))


def test_losses_by_hand():
    gaps, margins = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([0.5, math.nan, 0.5])
    ties = torch.tensor([False, False, True])
    draw = -(log_sigmoid(2) + log_sigmoid(-2)) / 2
    plain = [-log_sigmoid(2), -log_sigmoid(2), draw]
    assert preference_loss(gaps, margins, ties).tolist() == pytest.approx(plain)
    shifted = [-log_sigmoid(1.5), -log_sigmoid(2), draw]
    assert preference_loss(gaps, margins, ties, "shift").tolist() == pytest.approx(shifted)
    scaled = [-0.5 * log_sigmoid(2), -log_sigmoid(2), draw]
    assert preference_loss(gaps, margins, ties, "scale").tolist() == pytest.approx(scaled)
    zero = torch.zeros(1, requires_grad=True)
    preference_loss(zero, torch.tensor([math.nan]), torch.tensor([True])).sum().backward()
    assert zero.grad.item() == 0, "a tie pulls nowhere where both answers score the same"
    ratings, wanted = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, math.nan]])
    assert rating_loss(ratings, wanted).item() == 4
    assert rating_loss(ratings, torch.full((1, 2), math.nan)).item() == 0


def test_metrics_by_hand():
    records = [pair("1", "a", subset="maths"), pair("2", "b", subset="maths"), pair("3", "c"), pair("4", "d", is_tie=True)]
    logits = [(2.0, 0.0), (0.0, 1.0), (1.0, 1.0), (5.0, 0.0)]
    found = preference_metrics(logits, records)
    assert found["accuracy"].value == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["accuracy"].n == 3
    assert found["accuracy/maths"].value == 0.5
    assert found["gap"].value == pytest.approx((2 - 1 + 0) / 3)
    sure = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1)), 0.5]
    assert found["ece"].value == pytest.approx((abs(sure[0] - 1) + abs(sure[1] - 0) + abs(sure[2] - 0.5)) / 3)
    assert preference_metrics([(1.0, 0.0)], [pair(is_tie=True)])["accuracy"].value is None


def test_rows_of_either_form_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    rows = [
        {"image": "a.png", "question": "How many?", "chosen": "2", "rejected": "3", "margin": 1, "subset": "count"},
        {"images": ["a.png"], "prompt": messages, "chosen": [{"role": "assistant", "content": "2"}], "rejected": "4"},
        {"question": "text?", "chosen": "same", "rejected": "same", "tie": True, "ratings": {"chosen": {"help": 4}}},
    ]
    first, second, third = read_preferences(write(tmp_path / "p.jsonl", rows))
    assert first.images == second.images == (str(tmp_path / "a.png"),)
    assert (first.question, first.chosen, first.margin, first.subset) == (second.question, second.chosen, 1.0, "count")
    assert first.question_key == second.question_key
    assert (third.images, third.is_tie, third.ratings) == ((), True, ({"help": 4.0}, {}))
    assert head_of([third], ["help"]) == 1
    with pytest.raises(ValueError, match="no row rates it \\(rated: help\\)"):
        head_of([third], ["helpful"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": None}, "'chosen' must be text"),
        ({"rejected": "2"}, "are the same text"),
        ({"margin": -1}, "'margin' must be a number, 0 or more"),
        ({"margin": math.nan}, "'margin' must be"),
        ({"tie": 1}, "'tie' must be true or false"),
        ({"image": "none.png"}, "is missing"),
        ({"images": [3]}, "a list of paths"),
        ({"ratings": {"best": {}}}, "'ratings' must hold"),
        ({"video": "a.mp4"}, "pairs about videos are not supported"),
        ({"chosen": "\ud800"}, "surrogate"),
        ({"chosen": [{"role": "assistant", "content": text} for text in "ab"]}, "holds 2 messages of the assistant"),
        ({"chosen": [{"role": "user", "content": "2"}]}, "'chosen' must be text or messages"),
        ({"ratings": {"chosen": {"a": "b"}}}, "numbers by attribute"),
    ],
)
def test_rows_that_cannot_be_used_are_named(change, said, tmp_path):
    row = {"question": "How many?", "chosen": "2", "rejected": "3", **change}
    with pytest.raises(SampleError, match=said) as caught:
        read_preferences(write(tmp_path / "p.jsonl", [row]))
    assert "p.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_system_prompt_is_not_left_out_in_silence(tmp_path):
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How many?"}]
    row = {"prompt": asked, "chosen": "2", "rejected": "3"}
    path = write(tmp_path / "p.jsonl", [row])
    with pytest.raises(SampleError, match="has a system prompt"):
        read_preferences(path)
    assert [(one.system, one.prompt) for one in read_dpo_pairs(path)] == [("Be short.", "How many?")]


def test_ids_are_unique(tmp_path):
    row = {"id": "a", "question": "How many?", "chosen": "2", "rejected": "3"}
    with pytest.raises(SampleError, match="ids must be unique"):
        read_preferences(write(tmp_path / "p.jsonl", [row, row]))


def test_drawn_pairs_prefer_the_right_solution():
    for index in range(20):
        record = synthetic_preference(0, "pairs", index)
        assert record == synthetic_preference(0, "pairs", index)
        assert record.chosen != record.rejected
        assert record.ratings[0]["right_answer"] > record.ratings[1]["right_answer"]
        assert 0 <= record.margin <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pair_margin", "much"], "--pair_margin much: must be one of none, shift, scale"),
        (["--ties", "lose"], "--ties lose"),
        (["--gate"], "name two or more"),
        (["--gate", "--attributes", "a"], "name two or more"),
        (["--attributes", "a", "a"], "named twice"),
        (["--attribute_weight", "2"], "weighs the ratings of --attributes"),
        (["--loss_type", "bce"], "--loss_type has no meaning for --task rm"),
        (["--num_generations", "4"], "--task rm has no option"),
    ],
)
def test_options_that_cannot_work(words, said):
    with pytest.raises(ConfigError, match=said):
        check_command_line(["--task", "rm", *words])


def test_options_of_one_task_have_no_meaning_for_the_other():
    with pytest.raises(ConfigError, match="--gate has no meaning for --task prm"):
        check_command_line(["--task", "prm", "--gate"])


def test_what_a_run_cannot_do_with_step_pay_is_refused(tmp_path):
    spec = f"rm:{head_folder(tmp_path / 'a')},refine=clip"
    check_command_line(["--task", "qa", "--rewards", "exact_match", spec])
    for words, said in ((["--dynamic_sampling", "2"], "replaces groups of equal totals"),
                        (["--multi_objective_aggregation", "normalize_then_sum"], "scales each reward's totals")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            check_command_line(["--task", "qa", "--rewards", "exact_match", spec, *words])


def test_models_that_do_not_fit_and_devices_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    folder = head_folder(tmp_path / "a")
    reward = load_reward(f"rm:{folder}")
    assert door.memory_problem(reward, torch.device("cpu")) is None
    monkeypatch.setattr(door, "free_bytes", lambda device: 10.0)
    with pytest.raises(ConfigError, match="its models take at least") as caught:
        door.holding([reward], "cpu")
    assert "\n" not in str(caught.value)
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=f"device={device}") as caught:
            door.holding([load_reward(f"rm:{folder},device={device}")], "cpu")
        assert "\n" not in str(caught.value)


QUICK = [
    "--logging_steps",
    "1",
    "--limit",
    "24",
    "--eval_limit",
    "4",
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "4",
    "--report_to",
    "none",
]
PAID = ["--task", "qa", "--stage", "grpo", "--max_steps", "2", "--num_generations", "4", "--per_device_train_batch_size", "8",
        "--logging_steps", "1", "--eval_limit", "4", "--report_to", "none", "--save_steps", "1"]  # fmt: skip


def trained(run_train, *words):
    code, _, err = run_train(*words)
    assert code == 0, err


@pytest.mark.long
def test_a_model_of_preferences_is_trained_and_pays_a_run(tmp_path, run_train):
    words = ["--task", "rm", *QUICK, "--attributes", "right_steps", "right_answer", "--gate", "--output_dir", tmp_path / "rm"]
    trained(run_train, *words)
    summary = json.loads((tmp_path / "rm" / "summary.json").read_text())
    assert (summary["task"], summary["headline"], summary["steps"]) == ("rm", "accuracy", 2)
    assert {"accuracy", "ece", "gap"} <= summary["after"].keys()
    head = read_head(tmp_path / "rm" / "final")
    assert (head.kind, head.n_outputs, head.gated) == (PREFERENCES, 2, True)
    assert head.std > 0
    trained(run_train, *words, "--resume_from_checkpoint", "true")
    spec = f"rm:{tmp_path}/rm/final,normalise=trained"
    trained(run_train, *PAID, "--rewards", "exact_match", spec, "--use_peft", "--output_dir", tmp_path / "paid")
    rows = [json.loads(line) for line in (tmp_path / "paid" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["rewards/rm/time_share"] < 1 for row in rows if "reward" in row)


@pytest.mark.long
def test_a_run_that_pays_steps_goes_on_with_the_same_weights(tmp_path, run_train):
    trained(run_train, "--task", "prm", *QUICK, "--output_dir", tmp_path / "prm")
    paid = [*PAID, "--rewards", "math_equal", f"rm:{tmp_path}/prm/final,refine=clip+delta,eta=0.51"]
    trained(run_train, *paid, "--output_dir", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("final", "checkpoint-2"):
        shutil.rmtree(tmp_path / "cut" / name)
    trained(run_train, *paid, "--output_dir", tmp_path / "cut", "--resume_from_checkpoint", "true")
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
