"""`bench run`: nothing logged is lost, each sample is asked once, whoever answers; `score` needs no torch; `diff`."""

import base64
import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm_process
from PIL import Image

from vlrl.bench import main
from vlrl.bench.log import Log, read_log, to_line
from vlrl.bench.suite import json_round_trip
from vlrl.data.sample_json import sample_to_json
from vlrl.data.synthetic import draw
from vlrl.schema import ModelView, Prediction, SampleError
from vlrl.tasks import KNOWN, TASKS
from vlrl.tasks.evaluate import measure, numbers

ROOT = Path(__file__).resolve().parent.parent


def ids(folder):
    return [prediction.id for prediction in read_log(folder / "predictions.jsonl")]


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    """A run of the embedded model."""
    folder = tmp_path_factory.mktemp("detection")
    assert main(["run", "--task", "detection", "--limit", "12", "--output_path", str(folder)]) == 0
    return folder


def test_result_says_what_was_measured_and_how(detection):
    found = result(detection)
    values = found["results"]["detection"]
    assert 0 < values["f1@0.5,none"] < 1
    low, high = values["f1@0.5_ci95,none"]
    assert low <= values["f1@0.5,none"] <= high
    assert values["f1@0.5_stderr,none"] == pytest.approx((high - low) / 4, rel=0.5)
    assert found["n-samples"] == {"detection": {"original": 12, "effective": 12}}
    assert (found["n_unparsed"], found["n_truncated"], found["n_missing_image"]) == (0, 0, 0)
    assert found["headline"] == {"detection": "f1@0.5"}
    assert found["higher_is_better"]["detection"]["ap"] is True
    assert (found["model"], found["seed"], found["versions"]) == ("tiny", 0, {"detection": "1"})
    assert re.fullmatch("[0-9a-f]{64}", found["data"]["sha256"])
    assert found["config"]["decoding"] == "greedy"
    assert found["packages"]["torch"]
    assert "git_hash" in found
    assert "vlrl" in found["packages"]
    assert found["config"]["bootstrap_iters"] == 2000
    assert ids(detection) == [TASKS["detection"].synthetic(0, "heldout", i).id for i in range(12)]
    for row in read_log(detection / "predictions.jsonl"):
        assert row.meta["coords"] == "resized_px"
        assert "Find every:" in row.meta["prompt"]


def test_the_same_command_asks_nothing_again(detection, tmp_path, capsys):
    before = (detection / "predictions.jsonl").read_bytes()
    assert main(["run", "--task", "detection", "--limit", "12", "--output_path", str(detection)]) == 0
    out = capsys.readouterr().out
    assert "12 of 12 answers found, 0 to make" in out
    assert out.splitlines()[-1] == str(detection / "result.json")
    assert (detection / "predictions.jsonl").read_bytes() == before


def test_answers_of_other_settings_are_not_mixed(detection, capsys):
    words = ["run", "--task", "detection", "--limit", "12", "--output_path", str(detection)]
    assert main([*words, "--model_name_or_path", "tiny-random"]) == 2
    assert "model='tiny', this run has 'tiny-random'" in capsys.readouterr().err
    assert main([*words, "--seed", "1"]) == 2
    assert 'this run has "synthetic, seed 1' in capsys.readouterr().err


@pytest.mark.long
def test_a_killed_run_loses_nothing_and_goes_on(detection, tmp_path):
    """SIGKILL in the middle, the last line torn: the same answers as a run that was never killed."""
    folder = tmp_path / "killed"
    words = ["run", "--task", "detection", "--limit", "12", "--batch_size", "1", "--output_path", str(folder)]
    slow = (
        "import sys, time, vlrl.models.generate as g\nold = g.complete\n"
        "def complete(*a, **k):\n    time.sleep(0.15)\n    return old(*a, **k)\n"
        "g.complete = complete\nfrom vlrl.bench import main\nsys.exit(main(sys.argv[1:]))"
    )
    process = warm_process.Program("-c", slow, *words)
    log = folder / "predictions.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_bytes().count(b"\n") >= 3):
        assert process.is_running, process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait().returncode == -signal.SIGKILL
    kept = read_log(log)
    assert 3 <= len(kept) < 12
    with log.open("ab") as file:
        file.write(b'{"id": "half')
    assert main(words) == 0
    after = read_log(log)
    assert {p.id: p for p in after}.items() >= {p.id: p for p in kept}.items()
    assert ids(folder) == ids(detection), "all of them once, in the order of the samples"
    assert {p.id: p.completion for p in after} == {p.id: p.completion for p in read_log(detection / "predictions.jsonl")}
    assert result(folder)["n_found"] == len(kept)


@pytest.mark.long
def test_two_processes_ask_each_sample_once(detection, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    # A process of a run before was killed: its part is taken up.
    settings = json.loads((detection / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(settings))
    old = read_log(detection / "predictions.jsonl")[4]
    (folder / "predictions.part5.jsonl").write_text(to_line(old) + '{"id": "ha')
    words = ["-m", "vlrl.bench", "run", "--task", "detection", "--limit", "12", "--batch_size", "2", "--output_path", folder]
    done = warm_process.run(*words, n=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 of 12 answers found, 11 to make" in done.stdout
    assert ids(folder) == ids(detection)
    assert not list(folder.glob("*part*"))
    one, two = result(detection)["results"]["detection"], result(folder)["results"]["detection"]
    assert two["f1@0.5,none"] == one["f1@0.5,none"]


def test_score_needs_no_torch_and_says_the_same(detection, tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from vlrl.bench import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["score", "--predictions", detection / "predictions.jsonl", "--task", "detection", "--limit", "12"]
    command = [sys.executable, "-c", code, *map(str, words), "--output_path", str(tmp_path / "scored")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scored" / "scores.jsonl").read_bytes() == (detection / "scores.jsonl").read_bytes()
    assert result(tmp_path / "scored")["results"] == result(detection)["results"]
    assert result(tmp_path / "scored")["model"] == "tiny"


def test_several_tasks_take_turns_and_score_as_they_ran(tmp_path):
    words = ["--task", "detection,qa", "--limit", "12"]
    assert main(["run", *words, "--device", "cpu", "--batch-size", "5", "--output_path", str(tmp_path / "r")]) == 0
    found = result(tmp_path / "r")
    assert found["n-samples"] == {name: {"original": 6, "effective": 6} for name in ("detection", "qa")}
    log = str(tmp_path / "r" / "predictions.jsonl")
    assert main(["score", "--predictions", log, *words, "--output_path", str(tmp_path / "s")]) == 0
    assert result(tmp_path / "s")["results"] == found["results"]


def test_an_answer_is_read_in_the_dialect_it_was_logged_with(tmp_path):
    sample = json_round_trip(TASKS["detection"].synthetic(0, "heldout", 0))
    meta = {"coords": "norm1000", "image_size": [112, 112]}
    seen = dataclasses.replace(sample, meta={**sample.meta, "image_size": [112, 112]}, view=ModelView("norm1000"))
    text = TASKS["detection"].oracle(seen)
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"id": sample.id, "completion": text, "meta": meta}) + "\n")
    words = ["score", "--predictions", str(path), "--task", "detection", "--limit", "1"]
    assert main([*words, "--output_path", str(tmp_path / "out")]) == 0
    assert result(tmp_path / "out")["results"]["detection"]["f1@0.5,none"] == 1


@pytest.mark.parametrize("line", ['{"completion": "x"}', "[]", "nonsense"])
def test_bad_predictions_are_named_with_their_line(tmp_path, capsys, line):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "1", "completion": "x"}\n' + line + "\n{}\n")
    words = ["--task", "detection", "--limit", "3", "--output_path", str(tmp_path / "s")]
    assert main(["score", "--predictions", str(path), *words]) == 2
    assert f"{path}:2: " in capsys.readouterr().err


def test_games_are_played_and_scored_from_their_transcripts(tmp_path):
    words = ["--task", "numberline", "--limit", "3"]
    asked = [*words, "--model_name_or_path", "tiny-cards-random", "--max_new_tokens", "3", "--batch_size", "2"]
    assert main(["run", *asked, "--output_path", str(tmp_path / "r")]) == 0
    values = result(tmp_path / "r")["results"]["numberline"]
    assert {"success,none", "return,none", "legal,none"} <= values.keys()
    log = tmp_path / "r" / "predictions.jsonl"
    assert main(["score", "--predictions", str(log), *words, "--output_path", str(tmp_path / "s")]) == 0
    assert result(tmp_path / "s")["results"]["numberline"] == values
    rows = [json.loads(line) for line in (tmp_path / "s" / "scores.jsonl").read_text().splitlines()]
    assert all(set(row["answer"].split()) <= {"+", "-"} and row["answer"] for row in rows)


def test_score_of_answers_that_do_not_belong(detection, tmp_path, capsys):
    words = ["score", "--task", "detection", "--limit", "3", "--output_path", str(tmp_path / "x")]
    assert main([*words, "--predictions", str(detection / "predictions.jsonl")]) == 2
    assert "9 ids are not among the 3" in capsys.readouterr().err
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"id": "synthetic-detection-heldout-0-0", "completion": "None"}) + "\n")
    assert main([*words, "--predictions", str(path)]) == 0
    told = capsys.readouterr()
    assert "boxes of 1 answers are read as pixels of the original image" in told.err
    assert "2 of 3 samples have no prediction" in told.out
    assert result(tmp_path / "x")["n_not_predicted"] == 2
    assert main([*words, "--predictions", str(path), "--coords", "px"]) == 0
    assert not capsys.readouterr().err
    assert main([*words, "--predictions", str(detection / "predictions.jsonl"), "--limit", "12", "--coords", "norm1"]) == 0
    assert "12 answers were logged with coords resized_px; they are read as norm1" in capsys.readouterr().err
    assert result(tmp_path / "x")["results"]["detection"]["f1@0.5,none"] < 0.1
    assert main([*words, "--predictions", str(detection / "predictions.jsonl"), "--limit", "12"]) == 0
    assert result(tmp_path / "x")["results"] == result(detection)["results"]
    path.write_text('{"id": "a", "completion": "b"}\nnonsense\n{"id": "c", "completion": "d"}\n')
    assert main([*words, "--predictions", str(path)]) == 2
    assert "p.jsonl:2: not a line" in capsys.readouterr().err


def test_the_report_is_one_file_with_pictures_and_boxes(detection):
    page = (detection / "report.html").read_text()
    assert not re.search(r"""\b(src|href)=""", page.split('<script type="application/json"')[0]), "nothing is loaded"
    assert "://" not in page.split("<body>")[0]
    data, images = page_data(page)
    assert len(images) == len(data["rows"]) == 12
    for row in data["rows"]:
        width, height, encoded = images[row["p"][0]]
        assert Image.open(io.BytesIO(base64.b64decode(encoded))).format == "JPEG"
        assert max(width, height) == 480
    truths = [TASKS["detection"].synthetic(0, "heldout", i).answer for i in range(12)]
    assert [len(row["true"]) for row in data["rows"]] == [len(truth) for truth in truths]

    assert data["tasks"][0]["headline"] == "f1@0.5"
    assert "Find every" not in data["tasks"][0]["end"], "what is asked stands with each answer"
    assert all(row["q"].startswith("Find every") for row in data["rows"])
    assert "f1@0.5" in page


def page_data(page):
    """The answers and images that a page's script reads."""
    return [
        json.loads(re.search(rf'<script type="application/json" id="{name}-data">(.*?)</script>', page)[1])
        for name in ("answers", "images")
    ]


def test_diff_pairs_the_samples_and_lists_what_changed(tmp_path, capsys):
    task = TASKS["planning"]
    samples = [json_round_trip(task.synthetic(0, "heldout", i)) for i in range(20)]
    for name, n_right in (("a", 5), ("b", 15)):
        texts = [
            task.oracle(s) if i < n_right else "<think>x</think><answer>STOP, STOP</answer>" for i, s in enumerate(samples)
        ]
        rows = [{"id": s.id, "completion": text} for s, text in zip(samples, texts, strict=True)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = [
            "score",
            "--predictions",
            str(path),
            "--task",
            "planning",
            "--limit",
            "20",
            "--output_path",
            str(tmp_path / name),
        ]
        assert main(words) == 0
    capsys.readouterr()
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--output_path", str(tmp_path / "d")]) == 0
    out = capsys.readouterr().out
    assert "10 samples are better in B" in out
    assert "0 samples are worse in B" in out
    assert "... and 5 more" in out
    assert "A unparsed: '<think>x</think><answer>STOP, STOP</answer>'" in out
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--n", "10"]) == 0
    assert " more\n" not in capsys.readouterr().out
    told = json.loads((tmp_path / "d" / "diff.json").read_text())
    (plan,) = [row for row in told["differences"] if row["metric"] == "plan_accuracy"]
    assert (plan["a"], plan["b"], plan["difference"], plan["n"]) == (0.25, 0.75, 0.5, 20)
    assert plan["ci95"][0] > 0.2
    assert plan["p_value"] < 0.01
    assert [row["id"] for row in told["changed"]["better"]] == [s.id for s in samples[5:15]]
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert "1.0000" in capsys.readouterr().out, "a run does not differ from itself: p = 1"
    confusion = result(tmp_path / "b")["results"]["planning"]["confusion"]["speed"]
    assert sum(map(sum, (row.values() for row in confusion.values()))) == 20
    assert "f1[KEEP],none" in result(tmp_path / "b")["results"]["planning"]
    assert main(["diff", str(tmp_path / "a"), str(tmp_path)]) == 2


@pytest.mark.parametrize("name", [*TASKS, "numberline", "blackjack"])
def test_rows_add_up_to_the_headline(name):
    """The paired comparison resamples rows; the table shows the task's metric: one number."""
    task = KNOWN[name]
    samples = [json_round_trip(task.synthetic(3, "heldout", i)) for i in range(40)]
    texts = [task.oracle(samples[i - i % 3]) if i % 4 else "<think>no idea</think>" for i in range(40)]
    if name != "planning":
        texts = [task.oracle(samples[i]) if i % 5 == 1 else text for i, text in enumerate(texts)]
    predictions = [Prediction(s.id, text, 3, False) for s, text in zip(samples, texts, strict=True)]
    rows = measure(task, samples, predictions)
    metrics = numbers(task, rows)
    assert any(row.outcome == "unparsed" for row in rows)
    for metric in rows[0].parts:
        parts = [row.parts[metric] for row in rows]
        assert metrics[metric].value == pytest.approx(sum(top for top, _ in parts) / sum(bottom for _, bottom in parts))
    assert next(iter(rows[0].parts)) == task.headline


def test_a_task_of_the_users_own(tmp_path):
    path = tmp_path / "shouting.py"
    path.write_text(
        "import dataclasses\nfrom vlrl.tasks.qa import TASK as QA\n"
        "def loud(sample, prediction):\n    return '!' in prediction.completion\n"
        "TASK = dataclasses.replace(QA, metric=loud, headline='loud', aggregate=None)\n"
    )
    log = tmp_path / "p.jsonl"
    log.write_text(
        "".join(json.dumps({"id": f"synthetic-qa-heldout-0-{i}", "completion": "!" * (i % 2)}) + "\n" for i in range(4))
    )
    words = ["score", "--predictions", str(log), "--task", str(path), "--limit", "4", "--output_path", str(tmp_path / "out")]
    assert main(words) == 0
    assert result(tmp_path / "out")["results"]["qa"]["loud,none"] == 0.5
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [row["parts"]["loud"] for row in rows] == [[0, 1], [1, 1]] * 2


# ---- pictures that are not there


def test_missing_pictures_stop_the_run_unless_they_are_allowed(tmp_path, capsys):
    rows = []
    for i in range(4):
        row = sample_to_json(json_round_trip(TASKS["planning"].synthetic(0, "heldout", i)))
        row["images"] = [f"{i}.png"]
        rows.append(row)
        if i != 2:
            draw(f"synthetic:planning/heldout/0/{i}").save(tmp_path / f"{i}.png")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", "--task", "planning", "--data", str(data), "--output_path", str(tmp_path / "out")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "1 of 4 samples have no image" in err
    assert str(tmp_path / "2.png") in err
    assert main([*words, "--allow_missing", "1"]) == 0
    found = result(tmp_path / "out")
    assert found["n_missing_image"] == found["results"]["planning"]["n_missing_image"] == 1
    assert found["n-samples"]["planning"] == {"original": 4, "effective": 3}
    assert found["missing_images"] == [str(tmp_path / "2.png")]
    assert found["data"]["path"] == str(data)
    draw("synthetic:planning/heldout/0/2").save(tmp_path / "2.png")
    (tmp_path / "1.png").write_bytes(b"not a picture")
    (tmp_path / "out" / "predictions.jsonl").unlink()
    assert main(words) == 0, "a file that is there and cannot be read is counted and left out"
    assert "cannot read image" in capsys.readouterr().err
    found = result(tmp_path / "out")
    assert (found["n_missing_image"], found["missing_images"]) == (1, [str(tmp_path / "1.png")])
    assert found["n-samples"]["planning"] == {"original": 4, "effective": 3}
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"not a picture")
    assert main([*words[:-1], str(tmp_path / "none")]) == 2
    assert "none of the 4 samples has an image that can be read" in capsys.readouterr().err
    assert not (tmp_path / "none" / "result.json").exists()


# ---- the log


def test_the_log_keeps_whole_lines_and_refuses_nonsense(tmp_path):
    log = Log(tmp_path)
    log.settle({"model": "m"})
    one, two = Prediction("1", "a\u2028b\n", 2, False), Prediction("2", "ü", 1, True, {"coords": "px"})
    with log:
        log.add([one])
        log.add([two])
    assert list(log.read().values()) == [one, two]
    log.sort(["2", "1"])
    assert list(log.read()) == ["2", "1"]
    with pytest.raises(SampleError, match="model='m', this run has 'n'"):
        Log(tmp_path).settle({"model": "n"})
    with log.path.open("a") as file:
        file.write(to_line(one))
    with pytest.raises(SampleError, match="'1' was used on line 2"):
        log.read()
    with pytest.raises(RuntimeError):
        log.add([one])
