"""Runs that are interrupted, in every way a run can be."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import vlrl.trainer
from vlrl.model import vision_token_ids
from vlrl.trainer import PARTIAL, disk_is_full, last_checkpoint

ROOT = Path(__file__).resolve().parent.parent


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
import vlrl.trainer
from vlrl.train import main

calls = []
def die(folder):
    calls.append(folder)
    if len(calls) == 2:
        os.kill(os.getpid(), 9)
vlrl.trainer._sync = die
main(sys.argv[1:])
"""


def test_killed_while_saving_leaves_the_last_whole_checkpoint(tmp_path, run_train, small):
    folder = tmp_path / "run"
    flags = ["--output_dir", str(folder), *small, "--max_steps", "3", "--save_steps", "1"]
    done = subprocess.run([sys.executable, "-c", KILL_WHILE_SAVING, *flags], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (folder / PARTIAL / "checkpoint-2").is_dir(), "killed in the middle"
    assert last_checkpoint(folder) == str(folder / "checkpoint-1")
    AutoModelForImageTextToText.from_pretrained(last_checkpoint(folder))
    code, out, _ = run_train(*flags, "--resume_from_checkpoint", "true")
    assert code == 0
    assert "checkpoint-1" in out
    assert last_checkpoint(folder) == str(folder / "checkpoint-3")


def test_killed_at_any_moment_can_go_on(tmp_path, run_train, small):
    folder = tmp_path / "run"
    flags = ["--output_dir", str(folder), *small, "--max_steps", "40", "--save_steps", "1"]
    process = subprocess.Popen(
        [sys.executable, "vlrl/train.py", *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while last_checkpoint(folder) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.wait()
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
    save = vlrl.trainer.GRPOTrainer._save_checkpoint

    def full(self, model, trial):
        save(self, model, trial)
        if self.state.global_step == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(vlrl.trainer.GRPOTrainer, "_save_checkpoint", full)
    folder = tmp_path / "run"
    code, _, err = run_train("--output_dir", folder, *small, "--max_steps", "3", "--save_steps", "1")
    assert code == 1
    for word in ("no space left", "checkpoint-2", "Safe:", "checkpoint-1", "--resume_from_checkpoint true", "MiB free"):
        assert word in err
    assert not (folder / PARTIAL).exists()
    assert last_checkpoint(folder) == str(folder / "checkpoint-1")
    AutoModelForImageTextToText.from_pretrained(folder / "checkpoint-1")
    assert (folder / "metrics.jsonl").read_text()


def test_what_counts_as_a_full_disk(tmp_path):
    assert disk_is_full(OSError(errno.ENOSPC, "x"), tmp_path)
    assert disk_is_full(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not disk_is_full(OSError(errno.EACCES, "x"), tmp_path)
    assert not disk_is_full(RuntimeError("shape mismatch"), tmp_path)


def test_a_sampled_vision_token_stops_the_run(tmp_path, run_train, small, monkeypatch):
    generate = vlrl.trainer.GRPOTrainer._generate_single_turn

    def sample_an_image(self, *args, **kwargs):
        ids, logps = generate(self, *args, **kwargs)
        ids[1][0] = self._banned[0]
        return ids, logps

    monkeypatch.setattr(vlrl.trainer.GRPOTrainer, "_generate_single_turn", sample_an_image)
    code, _, err = run_train("--output_dir", tmp_path / "run", *small)
    assert code == 1
    assert "vision tokens" in err
    assert "synthetic-detection-train" in err


def test_vision_tokens_cannot_be_sampled(tmp_path, small, tiny, monkeypatch):
    """Even a model that wants nothing else never says them."""
    from vlrl.config import parse
    from vlrl.run import load_data
    from vlrl.tasks.detection import TASK
    from vlrl.trainer import Trainer

    config = parse([*small, "--output_dir", str(tmp_path), "--num_generations", "2", "--per_device_train_batch_size", "2"])
    trainer = Trainer(tiny, TASK, config.rewards, load_data(config, tiny).train, config.grpo)
    banned = vision_token_ids(tiny)
    names = tiny.tokenizer.convert_ids_to_tokens(banned)
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"} <= set(names)
    head = trainer.model.lm_head
    bias = torch.zeros(head.out_features)
    bias[banned] = 1e4
    handle = head.register_forward_hook(lambda _m, _i, out: out + bias)
    row = trainer.train_dataset[0]
    prompt_ids, images, fields = trainer._tokenize_prompts(
        [[{"role": "user", "content": [{"type": "image", "image": row["images"][0]}, row["prompt"][0]["content"][1]]}]] * 2
    )
    ids, _ = trainer._generate_single_turn(prompt_ids, images, fields, 2)
    handle.remove()
    assert not set(banned) & {token for row in ids for token in row}
