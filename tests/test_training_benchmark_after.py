"""`--bench`: names and data are checked before training, both models get the same questions, a failure loses nothing."""

import contextlib
import io
import json
import subprocess

import pytest

from vlrl import bench
from vlrl.bench.suites import SUITES
from vlrl.training import benchmark_after as before_after
from vlrl.training.benchmark_flags import BENCH_FAMILIES
from vlrl.training.config import parse

BENCHED = ["--stage", "grpo", "--model_name_or_path", "tiny", "--bench", "detection,autotrust/factuality", "--bench_limit", "4"]


@pytest.fixture
def in_process(monkeypatch):
    """The benchmark's commands, run in this process; returns what was asked for. `broken`: a word whose commands fail."""
    asked = []
    broken = []

    def run(words, n_processes=1, capture=False):
        asked.append(words)
        if "--dry_run" not in words and any(word in part for part in words for word in broken):
            return subprocess.CompletedProcess(words, 3, "", "error: it broke")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = bench.main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    monkeypatch.setattr(before_after, "_bench", run)
    run.asked, run.broken = asked, broken
    return run


def flag(words, name):
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


@pytest.mark.long
def test_a_run_ends_in_the_benchmark(tmp_path, run_train, small, in_process):
    folder = tmp_path / "run"
    code, out, err = run_train("--output_dir", folder, *small, *BENCHED)
    assert code == 0, err
    assert out.rstrip().splitlines()[-1] == str(folder / "summary.json")
    for side in ("before", "after"):
        for name in ("detection", "autotrust-factuality"):
            assert (folder / "bench" / side / name / "result.json").is_file()
    told = json.loads((folder / "summary.json").read_text())["bench"]
    assert told["failed"] == {}
    numbers = {(one["benchmark"], one["metric"]): one for one in told["differences"]}
    f1 = numbers["detection", "f1@0.5"]
    sides = [json.loads((folder / "bench" / side / "detection" / "result.json").read_text()) for side in ("before", "after")]
    assert [f1["a"], f1["b"]] == pytest.approx([side["results"]["detection"]["f1@0.5,none"] for side in sides])
    assert f1["difference"] == pytest.approx(f1["b"] - f1["a"])
    assert [side["model"] for side in sides] == ["tiny", str(folder / "final")]
    assert ("autotrust/factuality", "factuality/accuracy") in numbers
    assert "| detection " in out
    assert "95 % interval" in out
    runs = [words for words in in_process.asked if words[0] == "run" and "--dry_run" not in words]
    for before, after in (runs[:2], runs[2:]):
        for name in ("task", "max_new_tokens", "coords", "limit"):
            assert flag(before, name) == flag(after, name) is not None, name


@pytest.mark.long
def test_a_benchmark_that_fails_loses_neither_the_run_nor_the_others(tmp_path, run_train, small, in_process):
    in_process.broken.append("after/autotrust-factuality")
    folder = tmp_path / "run"
    code, out, _ = run_train("--output_dir", folder, *small, *BENCHED)
    assert code == 1
    assert (folder / "final" / "model.safetensors").is_file()
    assert out.rstrip().splitlines()[-1] == str(folder / "summary.json")
    assert "autotrust/factuality was not measured: after training it ended with exit code 3; repeat it: vlrl-bench run" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["bench"]["failed"]) == ["autotrust/factuality"]
    assert {one["benchmark"] for one in summary["bench"]["differences"]} == {"detection"}
    assert summary["after"]["f1@0.5"]["n"] == 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bench", "autotrst"], ["unknown benchmark 'autotrst'", "did you mean 'autotrust'"]),
        (["--bench", "vilbensh"], ["did you mean 'vilbench'"]),
        (["--bench", "detection,detectoin"], ["'detectoin'", "did you mean 'detection'"]),
        (["--bench", "gone.py"], ["gone.py does not exist"]),
        (["--bench", "qa,qa"], ["names qa twice"]),
        (["--bench", "qa", "--bench_limit", "0"], ["--bench_limit 0"]),
        (["--bench", "qa", "--bench_flags", "autotrust=--data x"], ["--bench_flags autotrust", "known: qa"]),
    ],
)
def test_what_cannot_be_measured_is_refused_at_parse_time(flags, words, run_train, small, tmp_path):
    code, _, err = run_train("--output_dir", tmp_path / "run", *small, *flags)
    assert code == 2
    assert not (tmp_path / "run").exists()
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bench", "qa", "--bench_flags", "qa=--data gone.jsonl"], ["--bench qa: ", "gone.jsonl"]),
        (["--bench", "autotrust/privcy"], ["--bench autotrust/privcy: ", "did you mean 'autotrust/privacy'"]),
    ],
)
def test_what_a_benchmark_refuses_ends_the_run_before_training(flags, words, run_train, small, tmp_path, in_process):
    code, _, err = run_train("--output_dir", tmp_path / "run", *small, *flags)
    assert code == 2
    for word in words:
        assert word in err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_names_of_benchmarks_are_those_of_the_bench():
    """The training room may not import the bench, so it holds the names once more."""
    assert tuple(SUITES) == BENCH_FAMILIES


def test_random_weights_are_drawn_again_as_the_run_drew_them(tmp_path):
    config = parse(["--model_name_or_path", "tiny-random", "--seed", "7", "--bench", "qa", "--output_dir", str(tmp_path)])
    around = before_after.Around(config, tmp_path, "resized_px", 1)
    assert flag(around.words("qa", "before"), "seed") == "7"
    config = parse(["--seed", "7", "--bench", "qa", "--output_dir", str(tmp_path)])
    assert flag(before_after.Around(config, tmp_path, "resized_px", 1).words("qa", "before"), "seed") is None


def test_the_command_stands_apart_from_the_launcher(tmp_path, monkeypatch):
    """Under torchrun the first process alone asks; what the launcher told it must not reach the command."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    words = ["run", "--task", "qa", "--limit", "2", "--output_path", str(tmp_path / "out"), "--dry_run"]
    done = before_after._bench(words, capture=True)
    assert done.returncode == 0, done.stderr
    assert "2 samples" in done.stdout
    assert not (tmp_path / "out").exists()
