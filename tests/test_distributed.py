"""Two processes (gloo, CPU) do the same as one on the same global batch."""

import json
import shutil

import pytest
import warm_process
from PIL import Image


def run(n, *words):
    done = warm_process.run(*words, n=n)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "mine.py"
    path.write_text("def letters(text, sample):\n    return sum(map(ord, text)) % 17 / 17\n")
    return f"{path}:letters"


def one_step(n, reward, folder, *more):
    per_device = 16 // n
    words = ["--output_dir", folder, "--max_steps", 1, "--per_device_train_batch_size", per_device, "--num_generations", 4]
    words += ["--rewards", reward, "--reward_weights", "1", "--warmup_steps", 0, "--loss_type", "dapo"]
    words += ["--logging_steps", 1, "--report_to", "none"]
    out = run(n, "tests/one_grpo_step.py", *words, "--save_strategy", "no", *more).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT "))[7:])


@pytest.mark.long
def test_grpo_step_is_the_same_on_one_and_two_processes(tmp_path, reward):
    one, two = one_step(1, reward, tmp_path / "one"), one_step(2, reward, tmp_path / "two")
    assert one["reward"] == pytest.approx(two["reward"], rel=1e-5)
    assert one["reward"] != 0
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-6)
    assert one["grad_norm"] > 1e-3
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["dapo", "grpo"])
def test_the_same_completions_are_kept_on_two_processes(tmp_path, reward, loss):
    """Half of each group; a loss that divides by tokens, and one that divides by rows."""
    kept = ["--keep_completions", "best_random:2", "--loss_type", loss]
    one, two = (one_step(n, reward, tmp_path / str(n), *kept) for n in (1, 2))
    whole = one_step(1, reward, tmp_path / "whole", "--loss_type", loss)
    assert one["grad_norm"] != pytest.approx(whole["grad_norm"], rel=1e-2)
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-6)
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-5)


@pytest.mark.long
def test_whole_run_on_two_processes(tmp_path):
    def train(n, folder):
        words = ["--output_dir", folder, "--stage", "sft+grpo", "--model_name_or_path", "tiny-random", "--sft_steps", 3]
        words += ["--sft_learning_rate", "1e-3"]
        words += ["--sft_batch_size", 8 // n, "--max_steps", 2, "--num_generations", 4, "--per_device_train_batch_size", 8 // n]
        run(n, "vlrl/train.py", *words, "--eval_limit", 5, "--logging_steps", 1, "--report_to", "none")
        logged = [json.loads(line) for line in (folder / "sft" / "metrics.jsonl").read_text().splitlines()]
        return [(row["loss"], row.get("grad_norm")) for row in logged], json.loads((folder / "summary.json").read_text())

    one, two = train(1, tmp_path / "one"), train(2, tmp_path / "two")
    assert one[0][0][0] == pytest.approx(two[0][0][0], rel=1e-5), "supervised loss on the same global batch"
    assert one[0][0][1] == pytest.approx(two[0][0][1], rel=1e-4), "and its gradient"
    # Muon works in bfloat16 inside, and Adam's first step is the gradient's sign: rounding shows from then on.
    assert one[0][2][0] == pytest.approx(two[0][2][0], rel=2e-2)
    for summary in (one[1], two[1]):
        assert summary["after"]["f1@0.5"]["n"] == 5
    assert one[1]["before"]["mean_iou"]["value"] == pytest.approx(two[1]["before"]["mean_iou"]["value"], abs=0.05)
    predicted = [json.loads(line)["id"] for line in (tmp_path / "two" / "predictions_after.jsonl").open()]
    assert len(set(predicted)) == len(predicted) == 5, "each sample exactly once, in order"


def test_a_wrong_run_ends_with_an_honest_exit_code():
    done = warm_process.run("vlrl/train.py", "--task", "detectoin", n=2)
    assert done.returncode == 2
    assert done.stderr.count("unknown task 'detectoin'") == 1, "said once, by the first process"


def test_samples_are_checked_by_the_first_process_for_all(tmp_path):
    """A box outside of its image is found by the first one alone, and ends both."""
    row = {"id": "a", "task": "detection", "images": ["a.png"], "question": "cat", "answer": [{"bbox_2d": [1, 2, 300, 40]}]}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "b", "answer": []}) + "\n")
    words = ["--data", tmp_path / "rows.jsonl", "--eval_data", tmp_path / "rows.jsonl", "--output_dir", tmp_path / "run"]
    done = warm_process.run("vlrl/train.py", "--model_name_or_path", "tiny-random", *words, n=2)
    assert done.returncode == 2
    assert done.stderr.count("id 'a'") == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_episodes_on_two_processes_and_their_resumed_half(tmp_path):
    """Episodes of unequal length on each process, so that the numbers of steps with an advantage differ; each process keeps
    its own corrections, and its own rest of a generation."""
    words = ["vlrl/train.py", "--task", "numberline", "--max_steps", 2, "--per_device_train_batch_size", 8, "--seed", 3]
    words += ["--num_generations", 4, "--eval_limit", 4, "--logging_steps", 1, "--report_to", "none", "--save_steps", 1]
    words += ["--save_total_limit", 9, "--steps_per_generation", 2]  # saved inside the generation
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(2, *words, "--output_dir", whole)
    kept = [
        (whole / "checkpoint-2" / "corrections" / f"rank-{rank}" / "records.jsonl").read_text().splitlines() for rank in (0, 1)
    ]
    assert kept[0]
    assert kept[1]
    assert {json.loads(line)["id"] for line in kept[0]}.isdisjoint({json.loads(line)["id"] for line in kept[1]})
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["gtr/active_share"] >= 0
    assert json.loads((whole / "summary.json").read_text())["after"]["success"]["n"] == 4
    shutil.copytree(whole, cut)
    for done in ("checkpoint-2", "final"):
        shutil.rmtree(cut / done)
    run(2, *words, "--output_dir", cut, "--resume_from_checkpoint", "true")
    first, again = ((folder / "final" / "model.safetensors").read_bytes() for folder in (whole, cut))
    assert first == again


NAN_ON_ONE = """
import os
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_training_finite import toy
from vlrl.training.checkpoints import RunStopped

rank = os.environ["RANK"]
trainer = toy(Path(sys.argv[1]) / rank, faulty=7 if rank == "1" else None)
try:
    trainer.train()
except RunStopped as stopped:
    print(trainer.state.global_step, stopped, file=sys.stderr)
    sys.exit(3)
"""


def test_a_loss_that_is_nan_on_one_process_stops_both_in_one_step(tmp_path):
    for rank in "01":
        (tmp_path / rank).mkdir()
    done = warm_process.run("-c", NAN_ON_ONE, tmp_path, n=2)
    assert done.returncode == 3, done.stderr
    first, second = (line for line in done.stderr.splitlines() if "the loss is nan" in line)
    assert first.partition(". ")[0] == second.partition(". ")[0] == "1 the loss is nan in step 2 (samples row 6, row 7)"


@pytest.mark.long
def test_what_holds_a_policy_back_is_the_same_on_one_and_two_processes(tmp_path, reward):
    """Groups of eight are split between the processes; the second step is the first that χ² acts on."""
    held_back = ["--chi2_coef", "5", "--cost", "repetition:-0.5", "vlm_r1_odlength:0.2", "--pairwise"]
    held_back += ["--max_steps", "3", "--num_generations", "16", "--learning_rate", "1e-3"]
    one, two = (one_step(n, reward, tmp_path / str(n), *held_back) for n in (1, 2))
    assert one["chi2"] > 1e-4
    for name in ("chi2", "reward", "grad_norm", "cost/repetition/multiplier", "cost/vlm_r1_odlength/multiplier"):
        assert one[name] == pytest.approx(two[name], rel=2e-2), name
    assert one["cost/repetition/multiplier"] > 1
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-3)
