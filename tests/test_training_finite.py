"""Numbers that are not finite end a run before they are saved: on a model of two weights, and in whole runs."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainingArguments
from trl import GRPOTrainer

from vlrl.models.load import load_model
from vlrl.training.checkpoints import RunStopped
from vlrl.training.events import EventLog, read_events
from vlrl.training.finite import LARGEST, MAX_SKIPPED, largest_weight, sound_checkpoint, unsound_weights
from vlrl.training.guarded_trainer import GuardedTrainer
from vlrl.training.progress import VALUE_COLUMNS, StepLog
from vlrl.training.run_history import RunFacts


class Line(nn.Module):
    """y = a x + b. `faulty`: the x for which the loss is NaN."""

    def __init__(self, faulty=None):
        super().__init__()
        self.line, self.faulty = nn.Linear(1, 1), faulty

    def forward(self, x, y):
        loss = (self.line(x.float()[:, None]) - y[:, None]).square().mean()
        return {"loss": loss * (math.nan if self.faulty in x.tolist() else 1)}


class Recorded(GuardedTrainer):
    def __init__(self, *args, **kwargs):
        self.steps = StepLog("step", VALUE_COLUMNS)
        super().__init__(*args, **kwargs)

    def sample_ids(self, inputs):
        return [f"row {x}" for x in inputs["x"].tolist()]

    def log(self, logs, start_time=None):
        super().log(logs, start_time)
        self.record({"step": self.state.global_step, **logs})
        self.end_if_asked()


def toy(folder, faulty=None, stop_on=(), **options):
    options = {"max_steps": 12, "learning_rate": 0.1, "per_device_train_batch_size": 2} | options
    options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    arguments = TrainingArguments(str(folder), train_sampling_strategy="sequential", **options)
    rows = [{"x": x, "y": 1.0 * x} for x in range(64)]
    trainer = Recorded(model=Line(faulty), args=arguments, train_dataset=rows)
    events = EventLog(folder, stop_on)
    events.begin("prm")
    trainer.record_to(events, RunFacts("prm"))
    return trainer


def stopped(trainer):
    with pytest.raises(RunStopped) as caught:
        trainer.train()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_largest_weight_is_finite_if_all_are():
    weights = [torch.ones(2, dtype=torch.bfloat16), torch.full((2, 2), -60000.0, dtype=torch.float16), torch.ones(0)]
    whole = [torch.tensor([3]), torch.tensor(4.0)]
    assert largest_weight([*weights, *whole]) == pytest.approx(60000, rel=1e-3)
    assert largest_weight([]) == largest_weight([torch.tensor([2**40])]) == 0
    for bad in (math.nan, math.inf, -math.inf):
        for at in range(2):
            tried = [weight.clone() for weight in weights]
            tried[at].view(-1)[-1] = bad
            assert not math.isfinite(largest_weight(tried))
            assert unsound_weights(zip("abc", tried, strict=True)) == ["abc"[at]]


def test_a_loss_that_is_nan_stops_before_a_weight_changes(tmp_path):
    trainer = toy(tmp_path, faulty=7, learning_rate=0.01, max_grad_norm=5.0)  # the fourth batch holds row 7
    before = []
    trainer.model.line.weight.register_hook(lambda _grad: before.append(trainer.model.line.weight.item()))
    message = stopped(trainer)
    assert "the loss is nan in step 4 (samples row 6, row 7)" in message
    assert "--learning_rate (now 0.01)" in message
    assert "--max_grad_norm 1 (now 5)" in message
    assert trainer.model.line.weight.item() == before[-1], "the weight of three steps"
    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["event"], event["step"], event["samples"]) == ("non_finite", 4, ["row 6", "row 7"])
    assert event["values"]["loss"] == "nan"


def test_micro_batches_that_are_nan_are_named_alone(tmp_path):
    assert "in step 2 (samples row 12, row 13)" in stopped(toy(tmp_path, faulty=13, gradient_accumulation_steps=4))


def test_a_weight_that_overflows_stops_the_step(tmp_path):
    trainer = toy(tmp_path, learning_rate=1e38, max_grad_norm=1e9, optim="sgd", lr_scheduler_type="constant")
    assert "the model has weights that are not finite: line.weight and 1 more in step 1." in stopped(trainer)
    with pytest.raises(RunStopped):
        trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def test_a_gradient_whose_square_overflows_counts_too(tmp_path):
    trainer = toy(tmp_path, max_grad_norm=0.0)
    trainer.model.line.weight.register_hook(lambda grad: grad * 1e20)
    assert "the norm of the gradient is" in stopped(trainer)


def test_fp16_may_skip_some_steps_in_a_row_but_not_many(tmp_path, monkeypatch):
    trainer = toy(tmp_path)
    monkeypatch.setattr(Accelerator, "mixed_precision", property(lambda _self: "fp16"))
    for _ in range(3):
        for _ in range(MAX_SKIPPED):
            trainer.finite.check_gradient(torch.tensor(math.inf))
        trainer.finite.check_gradient(torch.tensor(1.0))
    assert [row["event"] for row in read_events(tmp_path / "events.jsonl")] == ["skipped_steps"]
    for _ in range(MAX_SKIPPED):
        trainer.finite.check_gradient(math.inf)
    with pytest.raises(RunStopped, match="as in the 20 steps before"):
        trainer.finite.check_gradient(math.inf)


def test_healthy_steps_pass_and_leave_no_event(tmp_path):
    trainer = toy(tmp_path)
    trainer.finite.check_gradient(None)
    trainer.finite.check_gradient(LARGEST)
    trainer.train()
    assert not read_events(tmp_path / "events.jsonl")


def test_an_event_ends_a_run_that_asks_for_it(tmp_path, capsys):
    trainer = toy(tmp_path, stop_on=["learning_rate_zero"], learning_rate=0.0, max_steps=40)
    assert "event learning_rate_zero ended the run in step 10 (--stop_on)" in stopped(trainer)
    assert trainer.state.global_step == 10
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("event")]
    assert "learning_rate_zero (prm step 10)" in line
    other = toy(tmp_path / "other", stop_on=["kl_runaway"], learning_rate=0.0)
    other.train()
    assert other.state.global_step == 12, "another event ends nothing"


def test_checkpoints_are_sound_if_their_weights_are_finite_and_readable(tmp_path):
    for step, value in ((2, 1.0), (10, 2.0), (9, math.nan), (30, math.inf)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"a": torch.ones(2), "b": torch.tensor([value])}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-20" / "model.safetensors").write_bytes(b"\x05half")
    (tmp_path / "checkpoint-x").mkdir()
    assert sound_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sound_checkpoint(tmp_path, before=10) == tmp_path / "checkpoint-2", "not 9: it holds NaN"
    assert sound_checkpoint(tmp_path, before=2) is None


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_that_meets_nan_saves_nothing_of_it_and_a_nan_checkpoint_is_refused(tmp_path, run_train, small, monkeypatch):
    compute, folder = GRPOTrainer._compute_loss, tmp_path / "run"

    def faulty(self, model, inputs):
        loss = compute(self, model, inputs)
        return loss * math.nan if self.state.global_step == 2 else loss

    flags = ["--output_dir", folder, *small, "--max_steps", "4", "--save_steps", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(GRPOTrainer, "_compute_loss", faulty)
        code, _, err = run_train(*flags)
    assert code == 1
    assert err.startswith("stopped: the loss is nan in step 3 (samples synthetic-detection-train-")
    assert err.count("\n") == 1
    assert "go on from checkpoint-2 with: " in err
    assert not (folder / "checkpoint-3").exists()
    assert not (folder / "final").exists()
    assert [row["event"] for row in read_events(folder / "events.jsonl")] == ["non_finite"]
    path = folder / "checkpoint-2" / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights[name].view(-1)[0] = math.nan
    save_file(weights, path, metadata={"format": "pt"})
    code, _, err = run_train(*flags, "--resume_from_checkpoint", "true")
    assert code != 0
    assert f"checkpoint {folder}/checkpoint-2 has weights that are not finite" in err
    assert f"go on with --resume_from_checkpoint {folder}/checkpoint-1" in err
    assert not (folder / "checkpoint-3").exists()
    code, _, err = run_train("--output_dir", tmp_path / "new", *small, "--model_name_or_path", folder / "checkpoint-2")
    assert code == 2
    assert "has weights that are not finite" in err


def test_rewards_too_large_for_32_bits_stop_with_their_samples(tmp_path, run_train, small):
    path = tmp_path / "mine.py"
    path.write_text("def huge(text, sample):\n    return 1e39 if sample.id.endswith('1') else 0.5\n")
    words = ["--rewards", f"{path}:huge", "--reward_weights", "1"]
    code, _, err = run_train(
        "--output_dir", tmp_path / "run", *small, *words, "--limit", "3", "--per_device_train_batch_size", 12
    )
    assert code == 1
    assert (
        "reward huge is inf (larger than advantages can be computed with) in step 1 (samples synthetic-detection-train-" in err
    )
    assert "scale that reward" in err


def test_probabilities_that_are_not_finite_are_one_line(tmp_path, run_train, small, monkeypatch):
    def nothing(self, *args, **kwargs):
        torch.multinomial(torch.tensor([math.nan, 1.0]), 1)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", nothing)
    code, _, err = run_train("--output_dir", tmp_path / "run", *small)
    assert code == 1
    assert "next-token probabilities are not finite" in err
    assert err.count("\n") == 1
    assert json.loads((tmp_path / "run" / "events.jsonl").read_text())["event"] == "non_finite"


def test_a_batch_without_any_reward_is_an_event_and_may_end_the_run(tmp_path, run_train, small):
    path = tmp_path / "mine.py"
    path.write_text("CALLS = []\ndef none(text, sample):\n    CALLS.append(1)\n    return 0.5 if len(CALLS) < 3 else None\n")
    words = ["--rewards", f"{path}:none", "--reward_weights", "1", "--stop_on", "no_rewards", "--save_steps", "50"]
    folder = tmp_path / "run"
    code, out, err = run_train("--output_dir", folder, *small, "--max_steps", "5", *words)
    assert code == 1
    assert "event no_rewards ended the run in step" in err
    assert "--resume_from_checkpoint true" in err
    assert out.count("\nevent     no_rewards") == 1
    assert list(folder.glob("checkpoint-*")), "a whole checkpoint is written"
    assert not (folder / "final").exists()
    load_model(str(next(folder.glob("checkpoint-*"))))
