"""Runs that are asked to stop, go on, and are not trained further once they are done."""

import copy
import errno
import json
import os
import shutil
import signal

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from vlrl.training import metrics_log, run_folder
from vlrl.training.run_lock import LOCK_FILE, RunLock
from vlrl.training.sft import MuonWithAdamW
from vlrl.training.stop_callback import StopAtStepEnd
from vlrl.training.stopping import EXIT_TIME_UP, StopRequests, process_age_s
from vlrl.training.trackers import Guarded


@pytest.fixture
def signalling(tmp_path):
    """A reward that sends SIGTERM to its own process in the second step, if a file says so."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import os, pathlib\nARMED = pathlib.Path(__file__).with_name('armed')\nCALLS = []\n"
        "def letters(text, sample):\n    CALLS.append(1)\n"
        "    if len(CALLS) > 12 and ARMED.exists():\n        ARMED.unlink()\n        os.kill(os.getpid(), 15)\n"
        "    return sum(map(ord, text)) % 17 / 17\n"
    )
    return f"{path}:letters"


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_a_run_that_is_asked_to_stop_goes_on_and_ends_once(tmp_path, run_train, small, signalling):
    folder = tmp_path / "run"
    flags = ["--output_dir", folder, *small, "--max_steps", "3", "--save_steps", "9", "--rewards", signalling]
    flags += ["--reward_weights", "1"]
    (tmp_path / "armed").touch()
    code, _, err = run_train(*flags)
    assert code == 128 + signal.SIGTERM
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"stopped by SIGTERM; {folder}/checkpoint-2 is whole. Go on with: ")
    assert last.endswith(f"--output_dir {folder} --resume_from_checkpoint true")
    assert not (folder / "run.lock").exists()
    (folder / "config.yaml").unlink()  # as of a run that was killed before it was written
    code, out, err = run_train(*flags, "--resume_from_checkpoint", "true")
    assert code == 0, err
    assert "checkpoint-2" in out
    assert (folder / "config.yaml").is_file()
    assert [row["step"] for row in logged(folder)] == [1, 2, 3], "each step once"
    weights = (folder / "final" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "final")
    (folder / "predictions_after.jsonl").unlink()
    (folder / "held_out.jsonl").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    code, out, err = run_train(*flags, "--learning_rate", "1e-3", "--resume_from_checkpoint", "true")
    assert code == 0, err
    assert "step 3/3" not in out
    assert "has all steps: nothing is trained" in " ".join(out.split())
    assert "--learning_rate is 0.001 now" in out
    assert (folder / "final" / "model.safetensors").read_bytes() == weights
    again = json.loads((folder / "summary.json").read_text())
    assert {key: again[key] for key in ("after", "steps", "train_seconds")} == {
        key: summary[key] for key in ("after", "steps", "train_seconds")
    }
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    code, _, err = run_train(*flags, "--max_steps", "5", "--resume_from_checkpoint", "true")
    assert code == 2
    assert "has ended after 3 steps and holds no checkpoint" in err


@pytest.mark.long
def test_the_supervised_stage_stops_too_and_time_is_a_reason(tmp_path, run_train, small, monkeypatch):
    from vlrl.training.sft import _Trainer

    flags = [*small, "--model_name_or_path", "tiny-random", "--stage", "sft", "--sft_steps", "4", "--sft_batch_size", "4"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_train("--output_dir", whole, *flags)[0] == 0
    log = _Trainer.log

    def stop(self, logs, start_time=None):
        log(self, logs, start_time)
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "log", stop)
        code, _, err = run_train("--output_dir", cut, *flags)
    assert code == 128 + signal.SIGUSR1, "as SLURM sends it before the time is over"
    assert f"{cut}/sft/checkpoint-2 is whole" in err
    code, _, err = run_train("--output_dir", cut, *flags, "--resume_from_checkpoint", "true", "--max_hours", "1e-5")
    assert code == EXIT_TIME_UP, "before anything else is done"
    assert "stopped by --max_hours 1e-05" in err
    assert run_train("--output_dir", cut, *flags, "--resume_from_checkpoint", "true")[0] == 0
    a, b = ((folder / "final" / "model.safetensors").read_bytes() for folder in (whole, cut))
    assert a == b, "Muon's state is part of the checkpoint"
    assert [row["step"] for row in logged(cut / "sft")] == [1, 2, 3, 4]
    assert not list((cut / "sft").glob("checkpoint-*"))


def test_a_disk_that_fills_while_a_step_is_logged(tmp_path, run_train, small, monkeypatch):
    append = metrics_log.append_whole

    def full(file, line):
        if b'"step": 2' in line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        append(file, line)

    monkeypatch.setattr(metrics_log, "append_whole", full)
    folder = tmp_path / "run"
    code, _, err = run_train("--output_dir", folder, *small, "--save_steps", "1")
    assert code == 1
    (line,) = err.strip().splitlines()
    for words in ("no space left for", "metrics.jsonl", "MiB free", "Safe:", "checkpoint-1", "--resume_from_checkpoint true"):
        assert words in line
    assert [row["step"] for row in logged(folder)] == [1]


def test_a_folder_in_use_is_refused_before_anything_is_loaded(tmp_path, run_train, small, capfd):
    from vlrl.bench import main as bench

    lock = RunLock(tmp_path / LOCK_FILE, "--output_dir")
    lock.take()
    try:
        for extra in ([], ["--resume_from_checkpoint", "true"]):
            code, _, err = run_train("--output_dir", tmp_path, *small, *extra)
            assert code == 2
            assert f"--output_dir {tmp_path} is in use by process {os.getpid()} on " in err
        assert bench(["run", "--task", "qa", "--limit", "2", "--output_path", str(tmp_path)]) == 2
        assert f"--output_path {tmp_path} is in use" in capfd.readouterr().err
    finally:
        lock.release()
    assert not list(tmp_path.iterdir())


def test_going_on_from_an_earlier_checkpoint_forgets_what_came_later(tmp_path):
    for name in ("checkpoint-2", "checkpoint-4", "final", "completions", "bench/after"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("predictions_before.jsonl", "predictions_after.jsonl", "summary.json"):
        (tmp_path / name).write_text("{}\n")
    for step in (1, 3):
        (tmp_path / "completions" / f"step_{step:06d}.jsonl").touch()
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 4)))
    said = []
    run_folder.forget_later(run_folder.RunFolder(tmp_path, str(tmp_path / "checkpoint-2"), True, is_named=True), said.append)
    assert [row["step"] for row in logged(tmp_path)] == [1, 2]
    left = {"checkpoint-2", "replaced-checkpoint-4", "completions", "bench", "predictions_before.jsonl", "metrics.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert [path.name for path in (tmp_path / "completions").iterdir()] == ["step_000001.jsonl"]
    assert not list((tmp_path / "bench").iterdir())
    assert "checkpoint-4 is later than where the run goes on" in said[0]


def test_minutes_and_hours_are_kept_at_the_end_of_a_step():
    stop, control, state = StopRequests(), TrainerControl(), TrainerState(global_step=1, max_steps=5)
    callback = StopAtStepEnd(stop, save_minutes=0.2)
    callback.on_train_begin(None, state, control)
    callback.on_step_begin(None, state, control)
    callback.on_step_end(None, state, control)
    assert not control.should_save
    callback._saved_at -= 13
    callback.on_step_end(None, state, control)
    assert control.should_save
    assert not control.should_training_stop
    stop.limit(process_age_s() + 60, "--max_hours 9")
    callback.on_step_end(None, state, control)
    assert not control.should_training_stop
    callback._began_at -= 50  # the next step could end beyond it
    callback.on_step_end(None, state, control)
    assert control.should_training_stop
    assert (stop.request.why, stop.request.code) == ("--max_hours 9", EXIT_TIME_UP)


def test_a_tracker_that_fails_is_left_out(capsys):
    class Broken(TrainerCallback):
        def on_log(self, *_args, **_context):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guarded, control = Guarded(Broken()), TrainerControl()
    for _ in range(2):
        assert guarded.on_log(None, None, control, logs={}) is control
        assert guarded.on_step_end(None, None, control) in (None, control)
    assert capsys.readouterr().out.count("Broken has failed and is left out from now on; training goes on: OSError") == 1


def test_muon_goes_on_with_its_momentum():
    def made():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        return model, MuonWithAdamW(model, 0.1, (0.9, 0.95))

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()

    (one, first), (other, second) = made(), made()
    step(one, first)
    kept = copy.deepcopy(first.state_dict())
    assert len(kept["state"]) == 4
    other.load_state_dict(one.state_dict())
    second.load_state_dict(kept)
    step(one, first)
    step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
