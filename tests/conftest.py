import contextlib
import gc
import io
import os
import sys

# As on a user's machine: what is compiled once is read by every process after that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Before torch starts: the models are so small that a second thread costs more than it gives, and tests run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings
from small_run import SMALL

sys.dont_write_bytecode = False
settings.register_profile("usual", max_examples=200, deadline=None)
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=3000, deadline=None)


def pytest_configure(config):
    """`pytest -m quick` draws fewer examples; plain `pytest` runs the same tests with all of them."""
    usual = "quick" if config.option.markexpr == "quick" else "usual"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", usual))


SLOWEST = ["end_to_end", "demo_browser", "families", "recipes", "distributed", "episode_runs", "models_tiny", "prefix_step"]
"""Files that take longest start first, so that no process is left alone with one at the end (`-n`, `--dist loadfile`)."""


def pytest_xdist_auto_num_workers(config):
    """Two processes for all tests and for the quick ones; for single files or tests one, as each process imports torch, and for
    engines, which take the machine by themselves."""
    if config.args_source is config.ArgsSource.ARGS or config.option.markexpr == "engines":
        return 0
    return 2


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.module.__name__, len(place)))


def pytest_collection_finish():
    """What was imported stays: a collection of garbage need not look at it again (trainers collect several times a run)."""
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path, config):
    """With `-m quick`, `-m long` and `-m engines`, files without such a test are not even read: most import torch."""
    if config.option.markexpr == "engines" and collection_path.name.startswith("test_"):
        return collection_path.parent.name != "engines" or None
    if config.option.markexpr in ("quick", "long") and collection_path.name.startswith("test_"):
        return f"mark.{config.option.markexpr}" not in collection_path.read_text() or None
    return None


@pytest.fixture(scope="session")
def tiny():
    from vlrl.models.load import load_model

    return load_model("tiny")


@pytest.fixture
def run_train(capfd, monkeypatch):
    """Run `vlrl/train.py` in this process; returns exit code, standard output and standard error. A run of two steps spends a
    third of its time on `curves.png`, so that is drawn only where a test asks for it."""

    def run(*argv, curves=False):
        from vlrl.train import main
        from vlrl.training import curves as drawing

        with monkeypatch.context() as patch:
            if not curves:
                patch.setattr(drawing, "draw_curves", lambda *_: None)
            code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return code, out, err

    return run


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
        counts = write(samples, target)
        files[target.out] = None
        return counts

    monkeypatch.setattr(writing, "write_samples", noted)
    yield
    for path in files:
        if path.exists():
            with contextlib.redirect_stderr(io.StringIO()) as told:
                assert bench.main(["check", "--data", str(path)]) == 0, told.getvalue()
