"""What a user of the main command sees: nothing on standard error, a short banner, one plain line a step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm_process
import yaml

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--max_steps", "2", "--eval_limit", "4", "--per_device_train_batch_size", "8", "--num_generations", "4", "--logging_steps", "1"]  # fmt: skip


def started(words, n_processes):
    """`vlrl/train.py`: on one process as a user starts it, on two in processes that have everything imported."""
    if n_processes > 1:
        return warm_process.run("vlrl/train.py", *words, n=n_processes)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONWARNINGS", None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "vlrl/train.py", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_the_default_run_prints_no_warning(n_processes, tmp_path):
    """As in a terminal whose output goes to a file, with everything but the length of the run at its default. On two processes
    with a step of the supervised stage too, which the bundled start leaves out."""
    sft = ["--sft_steps", "1", "--sft_batch_size", "2"] if n_processes > 1 else []
    done = started(["--task", "detection", *SHORT, *sft, "--output_dir", str(tmp_path / "run")], n_processes)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not re.search("warning|deprecated|%\\|", done.stdout, re.IGNORECASE)
    banner = [line for line in done.stdout.split("step 1/2")[0].splitlines() if not line.startswith("sft 1/1")]
    names = [line.split()[0] for line in banner if line[:1].strip()]
    assert names == ["task", "model", "attention", "data", "rewards", "prompt", "answer", "steps", "memory", "config", "sft", "sharing"]  # fmt: skip
    assert len(banner) <= 20
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/2", "2/2"]
    assert done.stdout.rstrip().splitlines()[-1] == str(tmp_path / "run" / "summary.json")
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert values["num_generations"] == 4
    assert values["lr_scheduler_type"] == "linear", "defaults of the embedded model are written too"


def test_a_process_reward_model_on_two_processes_prints_no_warning(tmp_path):
    words = ["--task", "prm", *SHORT[:2], "--per_device_train_batch_size", "2", "--limit", "8", "--eval_limit", "1"]
    done = started([*words, "--report_to", "none", "--output_dir", str(tmp_path / "run")], 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
