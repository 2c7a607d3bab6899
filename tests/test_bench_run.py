"""`bench run | score | diff`: what is logged survives a kill, is asked once, and is scored the same with and without a model."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vlrl import bench, evaluation, generate
from vlrl.metrics.stats import paired_p_value
from vlrl.schema import sample_to_json
from vlrl.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent


def run(folder, *words, task="detection", n=12):
    asked = ["--task", task, "--model_name_or_path", "tiny", "--limit", str(n), "--output_path", str(folder)]
    return bench.main(["run", *asked, "--max_new_tokens", "80", "--device", "cpu", *map(str, words)])


def result(folder):
    return json.loads((folder / "result.json").read_text())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_numbers_with_errors_and_a_page(tmp_path, capsys):
    assert run(tmp_path / "r", "--batch_size", "5") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(tmp_path / "r" / "result.json")
    made = result(tmp_path / "r")
    flat = made["results"]["detection"]
    assert flat["alias"] == "detection"
    for name, metric in made["metrics"].items():
        assert flat[f"{name},none"] == ("N/A" if metric["value"] is None else metric["value"])
        assert f"{name}_stderr,none" in flat
    assert made["metrics"]["f1@0.5"]["stderr"] > 0
    assert made["n-samples"] == {"detection": {"original": 12, "effective": 12}}
    assert made["versions"] == {"detection": 1}
    assert {made["n_missing_image"], made["n_failed"]} == {0}
    assert [row["id"] for row in lines(tmp_path / "r" / "predictions.jsonl")] == [
        TASKS["detection"].synthetic(0, "heldout", i).id for i in range(12)
    ]
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count("class='card ") == 12
    assert "http" not in page.replace("http-equiv", "")


def test_scores_need_no_model_and_are_the_same(tmp_path, capsys):
    assert run(tmp_path / "r", task="detection,qa") == 0
    words = ["--task", "detection,qa", "--limit", "12", "--output_path", str(tmp_path / "s")]
    assert bench.main(["score", "--predictions", str(tmp_path / "r" / "predictions.jsonl"), *words]) == 0
    assert result(tmp_path / "s")["metrics"] == result(tmp_path / "r")["metrics"]
    assert lines(tmp_path / "s" / "samples.jsonl") == lines(tmp_path / "r" / "samples.jsonl")


def test_what_was_answered_is_not_asked_again(tmp_path, monkeypatch, capsys):
    asked = []
    complete = generate._complete

    def counted(loaded, tasks, batch, model, config):
        asked.extend(sample.id for sample in batch)
        if len(asked) > 8:
            raise KeyboardInterrupt
        return complete(loaded, tasks, batch, model, config)

    monkeypatch.setattr(generate, "_complete", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", "--batch_size", 4)
    assert len(lines(tmp_path / "r" / "predictions.part-0.jsonl")) == 8
    with (tmp_path / "r" / "predictions.part-0.jsonl").open("a") as file:
        file.write('{"id": "half a li')
    monkeypatch.setattr(generate, "_complete", complete)
    assert run(tmp_path / "r", "--batch_size", 4) == 0
    assert "8 answered before" in capsys.readouterr().out
    assert run(tmp_path / "whole", "--batch_size", 4) == 0
    for name in ("predictions.jsonl", "samples.jsonl"):
        assert lines(tmp_path / "r" / name) == lines(tmp_path / "whole" / name)


def test_a_folder_of_other_answers_is_refused(tmp_path, capsys):
    assert run(tmp_path / "r", n=4) == 0
    assert run(tmp_path / "r", n=5) == 2
    assert "limit: 4 there, 5 now" in capsys.readouterr().err


def test_killed_and_gone_on_by_two_processes(tmp_path):
    """SIGKILL in the middle loses nothing that was logged; two processes ask each sample exactly once."""
    words = ["--task", "planning", "--model_name_or_path", "tiny", "--limit", "60", "--output_path", str(tmp_path / "r")]
    words = ["-m", "vlrl.bench", "run", *words, "--max_new_tokens", "40", "--batch_size", "2", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    part = tmp_path / "r" / "predictions.part-0.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not part.exists() or part.read_bytes().count(b"\n") < 6):
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    before = {row["id"]: row for row in lines(part) if row}
    assert 6 <= len(before) < 60
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{len(before)} answered before" in done.stdout
    after = lines(tmp_path / "r" / "predictions.jsonl")
    assert len({row["id"] for row in after}) == len(after) == 60
    assert all(row == before.get(row["id"], row) for row in after)
    assert not list((tmp_path / "r").glob("*.part-*"))


def test_missing_pictures_are_counted_and_left_out(tmp_path, capsys):
    rows = [sample_to_json(TASKS["classification"].synthetic(0, "test", i)) for i in range(4)]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows[1]["images"] = ["bad.png"]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "r", "--data", tmp_path / "d.jsonl", task="classification") == 0
    made = result(tmp_path / "r")
    assert made["n_missing_image"] == 1
    assert made["n-samples"]["classification"] == {"original": 4, "effective": 3}
    assert len(made["config"]["data_sha256"]) == 64
    told = capsys.readouterr()
    assert "bad.png" in told.err
    assert "1 without a readable picture" in told.out


def written(folder, values, clusters=None):
    folder.mkdir()
    rows = [
        {"id": str(i), "task": "qa", "cluster": str((clusters or range(len(values)))[i]), "value": value}
        | {"completion": f"c{value}", "target": ""}
        for i, value in enumerate(values)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_two_results_are_compared_in_pairs(tmp_path, capsys):
    a, b = written(tmp_path / "a", [0.0] * 30 + [1.0] * 30), written(tmp_path / "b", [1.0] * 25 + [0.0] * 5 + [1.0] * 30)
    assert bench.main(["diff", a, b, "--n", "1"]) == 0
    out = capsys.readouterr().out
    assert "b - a     +0.4167 [" in out
    assert "25 better, 0 worse, 35 equal" in out
    assert "p         0.0001" in out
    assert bench.main(["diff", a, a]) == 0
    assert "p         1.0000" in capsys.readouterr().out
    (tmp_path / "c").mkdir()
    assert bench.main(["diff", a, str(tmp_path / "c")]) == 2


def test_p_values_are_uniform_where_nothing_differs_and_know_of_clusters():
    rng = np.random.default_rng(0)
    found = [paired_p_value(rng.normal(size=40), n_resamples=400, seed=i) for i in range(200)]
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    one_picture = np.repeat(rng.normal(size=4), 25)
    alone, together = (paired_p_value(one_picture + 0.3, clusters=c) for c in (None, list(np.repeat(range(4), 25))))
    assert together > alone
    assert paired_p_value([1.0]) is None
    assert paired_p_value([]) is None


@pytest.mark.parametrize("line", ['{"completion": "x"}', "[]", "nonsense"])
def test_bad_predictions_are_named_with_their_line(tmp_path, capsys, line):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "1", "completion": "x"}\n' + line + "\n{}\n")
    words = ["--task", "detection", "--limit", "3", "--output_path", str(tmp_path / "s")]
    assert bench.main(["score", "--predictions", str(path), *words]) == 2
    assert f"{path}:2: not a prediction" in capsys.readouterr().err


def test_answers_to_no_sample_are_an_error(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "stranger", "completion": "x"}\n')
    words = ["--task", "detection", "--limit", "3", "--output_path", str(tmp_path / "s")]
    assert bench.main(["score", "--predictions", str(path), *words]) == 2
    assert "'stranger'" in capsys.readouterr().err


def test_an_answer_says_how_it_was_asked(tmp_path):
    """Scored without the model, boxes are still read in the dialect they were written in."""
    sample = TASKS["detection"].synthetic(0, "heldout", 0)
    asked = {**sample.meta, "coords": "norm1000", "image_size": [112, 112]}
    text = TASKS["detection"].oracle(dataclasses.replace(sample, meta=asked))
    row = {"id": sample.id, "completion": text, "meta": {"coords": "norm1000", "image_size": [112, 112]}}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    items = evaluation.Items([sample])
    scored = evaluation.score({"detection": TASKS["detection"]}, items, evaluation.read_file(tmp_path / "p.jsonl"))
    assert scored.evaluation.metrics["f1@0.5"].value in (None, 1.0)
    assert scored.values[sample.id] > 0.95
