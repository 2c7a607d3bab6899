"""The benchmark command: scoring without a model, checking data, what rewards cost."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from vlrl.bench import main
from vlrl.data.sample_json import sample_to_json
from vlrl.data.synthetic import draw
from vlrl.tasks import TASKS

SAMPLE = {
    "id": "1", "task": "detection", "images": ["a.jpg"], "question": "dog",
    "answer": [{"bbox_2d": [10, 10, 110, 110], "label": "dog"}],
}  # fmt: skip
RIGHT = '<think>t</think><answer>[{"bbox_2d":[10,10,110,110],"label":"dog"}]</answer>'


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def graded(tmp_path, reward, rows):
    out = tmp_path / "scores.jsonl"
    code = main(["grade", "--reward", reward, "--cases", write(tmp_path / "cases.jsonl", rows), "--out", str(out)])
    return code, [json.loads(line) for line in out.read_text().splitlines()] if code == 0 else None


def test_grade_scores_text_and_says_why(tmp_path, capsys):
    code, scores = graded(tmp_path, "iou_f1", [{"sample": SAMPLE, "completion": text} for text in (RIGHT, "no idea")])
    assert code == 0
    assert [score["value"] for score in scores] == [1.0, 0.0]
    assert scores[0]["answer"] == [{"bbox_2d": [10, 10, 110, 110], "label": "dog"}]
    assert scores[1]["answer"] is None
    assert scores[1]["why"]
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "scores.jsonl")


def test_grade_takes_groups_steps_and_options(tmp_path):
    plan = {
        "id": "p",
        "task": "planning",
        "images": ["a.jpg"],
        "question": "plan",
        "answer": {"speed": "ACCELERATE", "path": "STRAIGHT"},
    }
    right = "<think>t</think><answer>ACCELERATE, STRAIGHT</answer>"
    rows = [
        {"sample": plan, "completions": [right, right]},
        {"sample": plan, "completions": [right, right], "variant": "released"},
    ]
    code, scores = graded(tmp_path, "alphadrive_speed", rows)
    assert code == 0
    assert scores[0]["values"] == pytest.approx([0.72, 0.72])
    assert scores[1]["values"] == pytest.approx([1.3, 0.5], abs=1e-4)
    shifted = RIGHT.replace("10,10,110,110", "30,10,130,110")
    rows = [{"sample": SAMPLE, "completion": shifted, "adaptive": True, "step": step} for step in (0, 1500)]
    assert [s["value"] for s in graded(tmp_path, "vision_r1_precision", rows)[1]] == pytest.approx([0.6667, 0], abs=1e-4)
    rows = [{"sample": SAMPLE, "completion": RIGHT, "n_tokens": 512, "base": base} for base in (1.0, 0.0)]
    assert [s["value"] for s in graded(tmp_path, "cosine_length", rows)[1]] == pytest.approx([0.75, -0.25])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "cases.jsonl:1: not a line of JSON"),
        ("[]", "cases.jsonl:1: a JSON object is needed"),
        (json.dumps({"sample": SAMPLE}), "cases.jsonl:1: a case is"),
        (json.dumps({"sample": {**SAMPLE, "task": ""}, "completion": ""}), "'task' must be a non-empty string"),
        (json.dumps({"sample": SAMPLE, "completion": 3}), "completions must be text"),
        (
            json.dumps({"sample": SAMPLE, "completion": "", "power": 2}),
            "cases.jsonl:1: unknown key 'power'; reward iou_f1 has no option",
        ),
        (json.dumps({"sample": SAMPLE, "compltion": ""}), "cases.jsonl:1: unknown key 'compltion'; did you mean 'completion'?"),
        (json.dumps({"sample": SAMPLE, "completion": "", "steps": 2}), "unknown key 'steps'; did you mean 'step'?"),
        (json.dumps({"sample": SAMPLE, "completions": []}), "cases.jsonl:1: completions is an empty list"),
        (
            json.dumps({"sample": SAMPLE, "completion": ""})[:-1] + ', "completion": "b"}',
            "cases.jsonl:1: the key 'completion' is given twice",
        ),
        (
            json.dumps({"completion": ""})[:-1] + ', "sample": {"id": "1", "id": "2"}}',
            "cases.jsonl:1: the key 'id' is given twice",
        ),
        (
            json.dumps({"sample": SAMPLE, "completion": "", "step": "3"}),
            "cases.jsonl:1: step must be a whole number, 0 or more, got '3'",
        ),
        (json.dumps({"sample": SAMPLE, "completion": "", "step": True}), "step must be a whole number"),
        (json.dumps({"sample": SAMPLE, "completion": "", "step": [1]}), "step must be a whole number"),
        (json.dumps({"sample": SAMPLE, "completion": "", "step": -1}), "step must be a whole number"),
        (json.dumps({"sample": SAMPLE, "completion": "", "n_tokens": 1.5}), "n_tokens must be a whole number"),
        (json.dumps({"sample": SAMPLE, "completion": "", "base": "1"}), "base must be a number"),
        (
            json.dumps({"sample": SAMPLE, "completion": "", "reward": "mcq"}),
            "the case is one of reward 'mcq', but --reward is iou_f1",
        ),
    ],
)
def test_a_malformed_case_stops_with_its_line(tmp_path, capsys, line, words):
    (tmp_path / "cases.jsonl").write_text(line + "\n")
    out = tmp_path / "scores.jsonl"
    assert main(["grade", "--reward", "iou_f1", "--cases", str(tmp_path / "cases.jsonl"), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_grade_takes_cases_with_their_reward_and_expected_value(tmp_path):
    row = {"reward": "iou_f1", "sample": SAMPLE, "completion": RIGHT, "expected": 1, "note": "from a log"}
    code, scores = graded(tmp_path, "iou_f1", [row])
    assert code == 0
    assert [score["value"] for score in scores] == [1.0]


@pytest.mark.parametrize("kind", ["same", "other spelling", "symbolic link", "hard link", "partial"])
def test_grade_never_replaces_its_cases(tmp_path, capsys, kind):
    cases = tmp_path / ("out.jsonl.partial" if kind == "partial" else "cases.jsonl")
    text = json.dumps({"sample": SAMPLE, "completion": RIGHT}) + "\n"
    cases.write_text(text)
    out = tmp_path / "out.jsonl"
    if kind == "symbolic link":
        out.symlink_to(cases)
    elif kind == "hard link":
        out.hardlink_to(cases)
    elif kind != "partial":
        out = cases if kind == "same" else tmp_path / "." / ".." / tmp_path.name / "cases.jsonl"
    assert main(["grade", "--reward", "iou_f1", "--cases", str(cases), "--out", str(out)]) == 2
    assert "would replace the cases" in capsys.readouterr().err
    assert cases.read_text() == text
    assert main(["grade", "--reward", "nosuch", "--cases", str(cases), "--out", str(cases)]) == 2
    assert "would replace the cases" in capsys.readouterr().err


def test_grade_of_an_unknown_reward_or_file(tmp_path, capsys):
    assert main(["grade", "--reward", "iou_f2", "--cases", "x", "--out", "y"]) == 2
    assert "did you mean 'iou_f1'" in capsys.readouterr().err
    assert main(["grade", "--reward", "iou_f1", "--cases", str(tmp_path / "gone"), "--out", "y"]) == 2


@pytest.fixture
def rows(tmp_path):
    """Two rows of every task, pictures beside the file."""
    found = []
    for task in TASKS.values():
        for index in range(2):
            sample = task.synthetic(0, "test", index)
            row = sample_to_json(sample)
            row["images"] = []
            for number, address in enumerate(sample.images):
                name = f"{sample.id}-{number}.png"
                draw(address).save(tmp_path / name)
                row["images"].append(name)
            found.append(row)
    return found


@pytest.mark.parametrize("coords", ["px", "norm1000", "norm1"])
def test_check_passes_good_rows_of_every_task(tmp_path, rows, coords, capsys):
    path = write(tmp_path / "data.jsonl", rows)
    assert main(["check", "--data", path, "--coords", coords]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "10 of 10 rows are good" in out
    assert "detection        2 rows" in out
    assert out.splitlines()[-1] == path


def test_check_names_every_bad_row(tmp_path, rows, capsys):
    rows[0]["answer"] = [{"bbox_2d": [0, 0, 500, 20], "label": rows[0]["meta"]["categories"][0]}]
    rows[2]["meta"]["image_size"] = [50, 50]
    rows[4]["answer"] = "no such label"
    (tmp_path / rows[6]["images"][0]).write_bytes(b"not a picture")
    path = write(tmp_path / "data.jsonl", rows)
    assert main(["check", "--data", path]) == 1
    found = capsys.readouterr()
    for index, word in (
        (0, "outside the 112x112 image"),
        (2, "meta.image_size is [50, 50]"),
        (4, "no such label"),
        (6, "cannot read image"),
    ):
        assert any(repr(rows[index]["id"]) in line and word in line for line in found.err.splitlines()), word
    assert "6 of 10 rows are good" in found.out


def test_check_finds_a_right_answer_that_cannot_earn_full_marks(tmp_path, capsys):
    Image.new("RGB", (112, 112)).save(tmp_path / "a.png")
    row = {"id": "1", "task": "classification", "images": ["a.png"], "question": "What?", "answer": "</answer>x"}
    assert main(["check", "--data", write(tmp_path / "data.jsonl", [row])]) == 1
    assert "earns 0.0 of 1 from cls_rl_accuracy" in capsys.readouterr().err


def test_list_names_all(capsys):
    from vlrl.rewards import REWARDS

    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in [*TASKS, *REWARDS]:
        assert f" {name} " in out


def test_speed_reports_rewards_beside_pycocotools(tmp_path, monkeypatch, capsys):
    from vlrl.bench.speed import rewards as reward_speed

    monkeypatch.setattr(reward_speed, "N_REPEATS", 1)
    monkeypatch.setattr(reward_speed, "N_TEXTS", 20)
    assert main(["speed", "--what", "rewards", "--json", str(tmp_path / "speed.json")]) == 0
    found = {row["what"]: row for row in json.loads((tmp_path / "speed.json").read_text())}
    assert found["iou_f1, json, px"]["per_second"] > found["AP of one completion through pycocotools"]["per_second"]
    assert "in a running pool of two" in capsys.readouterr().out


def test_it_needs_no_torch():
    code = "import vlrl.bench, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
