import os

# Before torch starts: two cores, and tests beside each other must not fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def tiny():
    from vlrl.model import load_model

    return load_model("tiny")


@pytest.fixture
def run_train(capfd):
    """Run `vlrl/train.py` in this process; returns exit code, standard output and standard error."""

    def run(*argv):
        from vlrl.train import main

        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return code, out, err

    return run


SMALL = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4", "--eval_limit", "4", "--logging_steps", "1", "--report_to", "none"]  # fmt: skip


@pytest.fixture
def small():
    """Flags of a GRPO run of seconds."""
    return list(SMALL)
