import contextlib
import io
import os

# Before torch starts: two cores, and tests beside each other must not fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def tiny():
    from vlrl.models.load import load_model

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


@pytest.fixture(autouse=True)
def written_data_passes_the_check(request, monkeypatch):
    """Whatever a converter writes in a test passes `bench check`: rows valid, images open, right answers earn full marks."""
    if not request.module.__name__.startswith("test_data_prep") or request.module.__name__ == "test_data_prep_writing":
        yield
        return
    from data_prep import writing
    from vlrl import bench

    files, write = {}, writing.write_samples

    def noted(samples, target):
        write(samples, target)
        files[target.out] = None

    monkeypatch.setattr(writing, "write_samples", noted)
    yield
    for path in files:
        if path.exists():
            with contextlib.redirect_stderr(io.StringIO()) as told:
                assert bench.main(["check", "--data", str(path)]) == 0, told.getvalue()
