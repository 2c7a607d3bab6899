"""What a user of the main command sees: nothing on standard error, a short banner, one plain line a step."""

import re

import pytest
import warm_process
import yaml

SHORT = ["--max_steps", "2", "--eval_limit", "4", "--per_device_train_batch_size", "8", "--num_generations", "4", "--logging_steps", "1"]  # fmt: skip


@pytest.mark.long
def test_the_default_run_prints_no_warning_on_two_processes(tmp_path):
    """As in a terminal whose output goes to a file, with everything but the length of the run at its default, and a step of
    the supervised stage, which the bundled start leaves out. The command on one process, as a user starts it, is in
    `test_end_to_end.py` and in `.ci/run`."""
    words = ["--task", "detection", *SHORT, "--sft_steps", "1", "--sft_batch_size", "2", "--output_dir", tmp_path / "run"]
    done = warm_process.run("vlrl/train.py", *words, n=2)
    assert done.returncode == 0, done.stderr
    prints_no_warning(done)
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/2", "2/2"]
    assert done.stdout.rstrip().splitlines()[-1] == str(tmp_path / "run" / "summary.json")
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert values["num_generations"] == 4
    assert values["lr_scheduler_type"] == "linear", "defaults of the embedded model are written too"


@pytest.mark.long
def test_a_process_reward_model_on_two_processes_prints_no_warning(tmp_path):
    words = ["--task", "prm", *SHORT[:2], "--per_device_train_batch_size", "2", "--limit", "8", "--eval_limit", "1"]
    done = warm_process.run("vlrl/train.py", *words, "--report_to", "none", "--output_dir", tmp_path / "run", n=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def prints_no_warning(done):
    """Asserts that a finished default run (its `stdout` and `stderr`) wrote nothing to standard error, and began with its
    banner."""
    assert done.stderr == ""
    assert not re.search("warning|deprecated|%\\|", done.stdout, re.IGNORECASE)
    lines = re.split("(?:^|\n)step [0-9]+/", done.stdout)[0].splitlines()
    banner = [line for line in lines if not line.startswith("sft 1/1")]
    names = [line.split()[0] for line in banner if line[:1].strip()]
    assert names == ["task", "model", "attention", "data", "rewards", "prompt", "answer", "steps", "memory", "config", "sft", "sharing"]  # fmt: skip
    assert len(banner) <= 20
