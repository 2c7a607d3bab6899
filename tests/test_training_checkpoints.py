"""Runs that are interrupted, in every way a run can be: stopped, killed, out of disk. Each can go on."""

import errno
import json
import os
import shutil
import signal
import time
from functools import partial

import pytest
import torch
import warm_process
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from trl import GRPOTrainer

from vlrl.data.files import disk_is_full
from vlrl.training.checkpoints import PARTIAL, RunStopped, last_checkpoint, write_together


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_three_steps_and_three_more_are_six_steps(tmp_path, run_train, small):
    flags = [*small, "--max_steps", "6", "--save_steps", "3", "--save_total_limit", "5"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_train("--output_dir", whole, *flags)[0] == 0
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-6")
    shutil.rmtree(cut / "final")
    code, out, _ = run_train("--output_dir", cut, *flags, "--resume_from_checkpoint", "true")
    assert code == 0
    assert "checkpoint-3" in out
    first, again = weights(whole / "final"), weights(cut / "final")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)

    def steps(folder):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    a, b = steps(whole), steps(cut)
    assert [row["step"] for row in a] == [row["step"] for row in b]
    assert [row.get("reward") for row in a] == [row.get("reward") for row in b]
    ids = [[json.loads(line)["id"] for line in (f / "completions" / "step_000005.jsonl").open()] for f in (whole, cut)]
    assert ids[0] == ids[1], "data order"
    summaries = [json.loads((f / "summary.json").read_text()) for f in (whole, cut)]
    assert summaries[0]["before"] == summaries[1]["before"]
    assert summaries[0]["after"] == summaries[1]["after"]


KILL_WHILE_SAVING = """
import os, sys
import vlrl.training.guarded_trainer
from vlrl.train import main

calls = []
def die(folder):
    calls.append(folder)
    if len(calls) == 2:
        os.kill(os.getpid(), 9)
vlrl.training.guarded_trainer.sync = die
main(sys.argv[1:])
"""


@pytest.mark.long
def test_killed_while_saving_leaves_the_last_whole_checkpoint(tmp_path, run_train, small):
    folder = tmp_path / "run"
    flags = ["--output_dir", str(folder), *small, "--max_steps", "3", "--save_steps", "1"]
    done = warm_process.run("-c", KILL_WHILE_SAVING, *flags)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / PARTIAL / "checkpoint-2").is_dir(), "killed in the middle"
    assert last_checkpoint(folder) == str(folder / "checkpoint-1")
    AutoModelForImageTextToText.from_pretrained(last_checkpoint(folder))
    code, out, _ = run_train(*flags, "--resume_from_checkpoint", "true")
    assert code == 0
    assert "checkpoint-1" in out
    assert last_checkpoint(folder) == str(folder / "checkpoint-3")


@pytest.mark.long
def test_killed_at_any_moment_can_go_on(tmp_path, run_train, small):
    folder = tmp_path / "run"
    flags = ["--output_dir", str(folder), *small, "--max_steps", "40", "--save_steps", "1"]
    process = warm_process.Program("vlrl/train.py", *flags)
    deadline = time.monotonic() + 120
    while last_checkpoint(folder) is None and process.is_running and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    assert process.wait().returncode == -signal.SIGKILL
    step = int(last_checkpoint(folder).rsplit("-", 1)[1])
    for checkpoint in folder.glob("checkpoint-*"):
        AutoModelForImageTextToText.from_pretrained(checkpoint)
        assert (checkpoint / "trainer_state.json").is_file()
        assert (checkpoint / "optimizer.pt").is_file()
    flags[flags.index("--max_steps", 8) + 1] = str(step + 1)
    code, out, _ = run_train(*flags, "--max_steps", step + 1, "--resume_from_checkpoint", "true")
    assert code == 0
    assert f"checkpoint-{step}" in out


def test_a_full_disk_while_saving_loses_nothing_written_before(tmp_path, run_train, small, monkeypatch):
    save = GRPOTrainer._save_checkpoint

    def full(self, model, trial):
        save(self, model, trial)
        if self.state.global_step == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(GRPOTrainer, "_save_checkpoint", full)
    folder = tmp_path / "run"
    code, _, err = run_train("--output_dir", folder, *small, "--max_steps", "3", "--save_steps", "1")
    assert code == 1
    for word in ("no space left", "checkpoint-2", "Safe:", "checkpoint-1", "--resume_from_checkpoint true", "MiB free"):
        assert word in err
    assert not (folder / PARTIAL).exists()
    assert last_checkpoint(folder) == str(folder / "checkpoint-1")
    AutoModelForImageTextToText.from_pretrained(folder / "checkpoint-1")
    assert (folder / "metrics.jsonl").read_text()


def test_a_full_disk_leaves_no_half_folder(tmp_path):
    def half(name):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "checkpoint-2").mkdir()
    for name in ("final.partial", "start.partial", "adapter.partial", "sft/final.partial", ".partial/checkpoint-4"):
        with pytest.raises(RunStopped, match="checkpoint-2"):
            write_together(tmp_path, name, partial(half, name))
        left = {path.name for path in tmp_path.rglob("*")} - {"checkpoint-2", "sft"}
        assert not left


def test_what_counts_as_a_full_disk(tmp_path):
    assert disk_is_full(OSError(errno.ENOSPC, "x"), tmp_path)
    assert disk_is_full(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not disk_is_full(OSError(errno.EACCES, "x"), tmp_path)
    assert not disk_is_full(RuntimeError("shape mismatch"), tmp_path)
