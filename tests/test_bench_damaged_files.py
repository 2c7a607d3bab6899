"""Result folders that are damaged, old or cannot be written: one clear line and exit code 2."""

import json
import subprocess
import sys

import pytest

from vlrl.bench import main
from vlrl.bench.suites import SUITES, entry_of
from vlrl.tasks import TASKS


def scored(folder, completion="<think>t</think><answer>KEEP, STRAIGHT</answer>", n=6):
    """A folder with the scores of one completion on `n` samples."""
    folder.mkdir()
    samples = [TASKS["planning"].synthetic(0, "heldout", i) for i in range(n)]
    log = folder / "predictions.jsonl"
    log.write_text("".join(json.dumps({"id": s.id, "completion": completion}) + "\n" for s in samples))
    words = ["score", "--task", "planning", "--limit", n, "--predictions", log, "--output_path", folder]
    assert main([str(word) for word in words]) == 0
    return folder


def change_rows(folder, change):
    path = folder / "scores.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def cut(name, n):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n])


def older(row):
    row["gold"], row["picture"] = row.pop("ground_truth"), row.pop("image")


DAMAGES = {
    "half a result": (cut("result.json", 300), "result.json: not JSON"),
    "half a row": (cut("scores.jsonl", 700), "not a line of JSON"),
    "no rows": (cut("scores.jsonl", 0), "holds no rows"),
    "not UTF-8": (lambda f: (f / "scores.jsonl").write_bytes(b"\xff\xfe"), "scores.jsonl: cannot be read: 'utf-8'"),
    "a list": (lambda f: (f / "result.json").write_text("[]"), "a JSON object is needed, got list"),
    "another file": (lambda f: (f / "result.json").write_text("{}"), "has no 'results'"),
    "NaN": (lambda f: change_rows(f, lambda row: row["parts"].update(plan_accuracy=[float("nan"), 1])), "two finite numbers"),
    "no parts": (lambda f: change_rows(f, lambda row: row.pop("parts")), "'parts' must be an object"),
    "a number as id": (lambda f: change_rows(f, lambda row: row.update(id=3)), "'id' must be text, got 3"),
    "one id for all": (lambda f: change_rows(f, lambda row: row.update(id="x")), "id 'x' of task planning occurs twice"),
    "other samples": (lambda f: change_rows(f, lambda row: row.update(id="x" + row["id"])), "share no sample (6 and 6 rows)"),
    "older keys": (lambda f: change_rows(f, older), "written by an older version of vlrl; score it again"),
    "other ground truth": (lambda f: change_rows(f, lambda row: row.update(ground_truth="y")), "another ground truth"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_one_line(kind, tmp_path, capsys):
    good, bad = scored(tmp_path / "a"), scored(tmp_path / "b")
    damage, message = DAMAGES[kind]
    damage(bad)
    capsys.readouterr()
    assert main(["diff", str(good), str(bad)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_ids_of_any_text_keep_to_their_line(tmp_path, capsys):
    a, b = scored(tmp_path / "a"), scored(tmp_path / "b")
    for folder in (a, b):
        change_rows(folder, lambda row: row.update(id=row["id"] + "\nforged\x1b[31m\ud800"))
    change_rows(a, lambda row: row["parts"].update(plan_accuracy=[0, 1]))
    change_rows(b, lambda row: row["parts"].update(plan_accuracy=[1, 1]))
    capsys.readouterr()
    assert main(["diff", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "\\nforged\\x1b[31m\\ud800" in out
    assert not any(line.startswith("forged") for line in out.splitlines())


@pytest.mark.parametrize("command", ["run", "score"])
def test_a_folder_that_cannot_be_written_is_found_first(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ["--predictions", str(tmp_path / "gone")] if command == "score" else []
    assert main([command, "--task", "qa", *flags, "--output_path", str(tmp_path / "file" / "out")]) == 2
    assert f"{tmp_path / 'file'} is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("detectoin", "unknown task 'detectoin'; did you mean 'detection'?"),
        ("autotrst", "did you mean 'autotrust'?"),
        ("autotrust/privcy", "unknown part; did you mean 'autotrust/privacy'?"),
        ("vilbench/candidate", "did you mean 'vilbench/candidates'?"),
        ("detection,autotrust", "autotrust is a benchmark of its own; run it alone"),
        ("gone.py", "gone.py does not exist"),
    ],
)
def test_a_misspelt_benchmark_is_answered_with_the_nearest(task, message, tmp_path, capsys):
    assert main(["run", "--task", task, "--output_path", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_entries_are_found_by_name():
    assert entry_of("autotrust/ego:attribute=driver_race") is SUITES["autotrust"]
    assert entry_of("detection,qa") is None


@pytest.mark.parametrize(
    "words", [["list"], ["diff", "x", "y"], ["grade"], ["check"], ["score"], ["run", "--task", "detectoin"]]
)
def test_commands_without_a_model_import_no_torch(words, tmp_path):
    flags = {
        "grade": ["--reward", "iou_f1", "--cases", "gone", "--out", "x"],
        "check": ["--data", "gone"],
        "score": ["--task", "qa", "--predictions", "gone"],
    }.get(words[0], [])
    out = ["--output_path", str(tmp_path)] if words[0] in ("score", "run") else []
    code = (
        "import sys\nfrom vlrl.bench import main\nmain(sys.argv[1:])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib', 'datasets')))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words, *flags, *out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
