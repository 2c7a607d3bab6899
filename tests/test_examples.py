"""The examples of the README: each runs as shown there, is short, and its mistakes would be one line."""

import asyncio
import contextlib
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tiny_clip import clip_folder

from vlrl.bench import main
from vlrl.data.files import write_json_lines
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.models.inputs import open_images, target
from vlrl.tasks import TASKS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TASK, ROWS = EXAMPLES / "own_task.py", EXAMPLES / "own_task.jsonl"
OWN = ["--task", str(TASK), "--data", str(ROWS)]
REWARD = f"{EXAMPLES / 'own_reward.py'}:short_answer"


@pytest.mark.quick
def test_examples_are_short_and_their_images_small():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path
    for path in (EXAMPLES / "images").iterdir():
        assert path.stat().st_size < 3000, path
    assert 12 <= len(ROWS.read_text().splitlines()) <= 16


@pytest.mark.quick
def test_the_rows_of_the_own_task_are_good(capsys):
    assert main(["check", *OWN]) == 0
    assert "12 of 12 rows are good" in capsys.readouterr().out
    assert main(["check", "--data", str(ROWS)]) == 1
    assert "no task is named 'counting'; give the file that defines it" in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.parametrize(("reward", "values"), [(REWARD, [1, 1, 0]), ("exact_match", [None, 1, 0])])
def test_completions_of_any_task_are_graded_by_own_and_built_in_rewards(tmp_path, reward, values):
    out = tmp_path / "scores.jsonl"
    assert main(["grade", "--reward", reward, "--cases", str(EXAMPLES / "own_reward.jsonl"), "--out", str(out)]) == 0
    assert [json.loads(line)["value"] for line in out.read_text().splitlines()] == values


AGREEMENT = f"{EXAMPLES / 'own_model_reward.py'}:agreement"


def test_a_model_of_ones_own_pays_a_run(tmp_path, run_train, small):
    folder = clip_folder(tmp_path / "clip")
    code, _, err = run_train(
        "--task", "detection", "--rewards", "iou_f1", f"{AGREEMENT}:folder={folder}", *small, "--output_dir", tmp_path / "run"
    )
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    paid = [row["rewards/agreement/mean"] for row in rows if "reward" in row]
    assert paid
    assert all(-1 <= value <= 1 for value in paid)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "it needs the option folder; write"),
        (":device=cpu", "it needs the option folder; write"),
        (":foldr=x", "there is no option 'foldr'; did you mean 'folder'?"),
        (":folder=/nowhere", "reward agreement failed on sample '1'"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(words, said, tmp_path, capsys):
    row = json.loads((EXAMPLES / "own_reward.jsonl").read_text().splitlines()[0])
    row["sample"]["images"] = [str(EXAMPLES / "images" / "1.png")]
    cases = tmp_path / "cases.jsonl"
    write_json_lines(cases, [row])
    assert main(["grade", "--reward", AGREEMENT + words, "--cases", str(cases), "--out", str(tmp_path / "out.jsonl")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "bench"
    assert main(["run", *OWN, "--limit", "6", "--output_path", str(folder)]) == 0
    return folder


def test_the_own_task_is_trained_and_the_code_of_its_card_runs(tmp_path, run_train, small, monkeypatch):
    folder = tmp_path / "run"
    code, out, err = run_train(*OWN, "--rewards", "think_answer_format", REWARD, *small, "--output_dir", folder, curves=True)
    assert code == 0, err
    assert "defaults of configs/own_task.yaml" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["task"], summary["stage"], summary["headline"]) == ("counting", "grpo", "exact")
    assert summary["rewards"] == ["think_answer_format", "short_answer"]
    assert set(summary["after"]) == {"exact", "n_tokens"}
    held_out = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    assert all(row["task"] == "counting" and row["change"] is not None for row in held_out)
    for name in ("samples.png", "curves.png", "final/config.json", "final/samples.png"):
        assert (folder / name).is_file()
    card = (folder / "final" / "README.md").read_text()
    assert card == (folder / "README.md").read_text()
    assert "`short_answer`" in card
    (program,) = re.findall("```python\n(.*?)\n```", card, re.DOTALL)
    shutil.copyfile(EXAMPLES / "images" / "1.png", folder / "final" / "image.png")
    monkeypatch.chdir(folder / "final")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(program, "README.md", "exec"), {})
    assert printed.getvalue().strip(), "the code of the card writes a completion"


BAD = """
from vlrl.schema import Task
def later(text, sample):
    return 1.0 if "I count" in text else text
def latest(text, sample):
    return text if text.startswith("<think>") and "I count" not in text else 1.0
def sooner(text, sample):
    return {}["x"]
def prompt(sample):
    return 3
def exact(sample, prediction):
    return True
"""


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--rewards", "bad.py:sooner"], 2, "error: reward sooner failed on sample '0-red', completion '<think>"),
        (["--task", "no_prompt.py"], 2, "error: task counting: its prompt must return text, got 3 for sample '0-red'"),
        (["--task", "bare.py", "--stage", "sft+grpo"], 2, "(id '0-red'): task counting has no oracle and no sft_target"),
        (["--task", "bare.py", "--data", "detection.jsonl"], 2, "detection.jsonl (id 'd'): its task is 'detection'"),
        (["--rewards", "bad.py:later"], 2, "error: reward later returned the text ''"),
        (["--rewards", "bad.py:latest"], 1, "stopped: reward latest returned the text"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, run_train, small, monkeypatch, flags, code, words):
    """Before a model is loaded (2), or in the first step (1)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(BAD)
    for name, prompt in (("no_prompt", "prompt"), ("bare", "lambda sample: 'count'")):
        task = f"TASK = Task('counting', {prompt}, ['think_answer_format'], exact)\n"
        (tmp_path / f"{name}.py").write_text(BAD + task)
    row = {"id": "d", "task": "detection", "question": "dog", "answer": [], "meta": {"categories": ["dog"]}}
    (tmp_path / "detection.jsonl").write_text(json.dumps(row) + "\n")
    if code == 2 and "detection" not in flags[-1]:
        monkeypatch.setattr("vlrl.train.load", lambda *_: pytest.fail("a model was loaded"))
    found, _, err = run_train(*OWN, *flags, *small, "--output_dir", tmp_path / "run")
    lines = [line for line in err.splitlines() if line.startswith(("error", "stopped"))]
    assert (found, len(lines)) == (code, 1), err
    assert words in lines[0]
    assert "Traceback" not in err


def test_rows_of_an_own_task_and_a_built_in_one_are_mixed(tmp_path, capsys):
    row = {"id": "c", "task": "classification", "question": "what is it?", "answer": "a disc"}
    own = json.loads(ROWS.read_text().splitlines()[0])
    own["images"] = [str(EXAMPLES / own["images"][0])]
    data = tmp_path / "mixed.jsonl"
    data.write_text(json.dumps(row) + "\n" + json.dumps(own) + "\n")
    task, out = f"classification,{TASK}", tmp_path / "out"
    assert main(["check", "--task", str(TASK), "--data", str(data)]) == 0
    assert main(["run", "--task", task, "--data", str(data), "--output_path", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["headline"] == {"classification": "accuracy", "counting": "exact"}


def test_the_own_task_is_measured_scored_again_and_compared(benched, tmp_path, capsys):
    result = json.loads((benched / "result.json").read_text())
    assert result["headline"] == {"counting": "exact"}
    assert result["results"]["counting"]["exact_n,none"] == 6
    rows = [json.loads(line) for line in (benched / "scores.jsonl").read_text().splitlines()]
    assert [row["ground_truth"] for row in rows[:2]] == ["2", "1"]
    assert "How many red discs" in (benched / "report.html").read_text()
    again = tmp_path / "again"
    log = str(benched / "predictions.jsonl")
    assert main(["score", "--predictions", log, *OWN, "--limit", "6", "--output_path", str(again)]) == 0
    assert (again / "scores.jsonl").read_text() == (benched / "scores.jsonl").read_text()
    capsys.readouterr()
    assert main(["diff", str(benched), str(again)]) == 0
    assert "| counting | exact " in capsys.readouterr().out


def test_verl_reads_our_rows_and_scores_by_our_rewards(tmp_path):
    """Rows of two tasks in verl's form, and its reward function: the reference answer earns all, an empty one nothing."""
    spec = importlib.util.spec_from_file_location("verl_reward", EXAMPLES / "verl_reward.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    data, out = tmp_path / "train.jsonl", tmp_path / "train.parquet"
    drawn = [TASKS[name].draw(3, "train", number) for name in ("detection", "qa") for number in range(2)]
    write_json_lines(data, [sample_to_json(sample) for sample in drawn])
    Dataset.from_list(list(example.rows(str(data), "tiny"))).to_parquet(out)
    for row, sample in zip(Dataset.from_parquet(str(out)), read_samples(data), strict=True):
        assert [turn["content"].count("<image>") for turn in row["prompt"] if turn["role"] == "user"] == [len(sample.images)]
        assert row["images"][0].size == open_images(sample)[0].size
        given = (row["reward_model"]["ground_truth"], row["extra_info"])
        seen = sample_from_json(json.loads(row["extra_info"]["vlrl"]), "row", tmp_path)
        right = target(seen, TASKS[sample.task])
        assert example.compute_score(row["data_source"], right, *given)["score"] == 1, right
        assert example.compute_score(row["data_source"], "", *given)["score"] == 0


def test_verifiers_loads_our_tasks_and_scores_by_our_rewards(tmp_path):
    """Run with verifiers 0.4.0: the reference answer earns 1 in all, an empty one 0; images go along in the prompt."""
    pytest.importorskip("verifiers.v1", reason="verifiers is not installed (pip install verifiers)")
    spec = importlib.util.spec_from_file_location("verifiers_tasks", EXAMPLES / "verifiers_tasks.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    data = tmp_path / "train.jsonl"
    drawn = [TASKS[name].draw(3, "train", number) for name in ("detection", "qa") for number in range(2)]
    write_json_lines(data, [sample_to_json(sample) for sample in drawn])
    loaded = list(example.Verifiables(example.Config(data=data)))
    assert [task.data.id for task in loaded] == [sample.id for sample in drawn]
    for task, sample in zip(loaded, drawn, strict=True):
        seen = sample_from_json(task.data.row, "row", tmp_path)
        parts = task.data.prompt[-1].content
        assert [part.type for part in parts] == [*["image_url"] * len(sample.images), "text"]
        for reply, total in ((target(seen, TASKS[sample.task]), 1), ("", 0)):
            assert sum(asyncio.run(task.rewards(SimpleNamespace(last_reply=reply))).values()) == total
