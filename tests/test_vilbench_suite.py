"""ViLBench's protocol from the command line: built-in set, files, a model that is asked, a trained one, stored scores."""

import json
import threading

import pytest
from chat_server import Server

from vlrl import bench
from vlrl.data.best_of_n import Item
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.metrics.selection import random_choice
from vlrl.models.load import load_model
from vlrl.models.value_head import StepValueModel, hidden_size, save_head


def run(*words):
    return bench.main([str(word) for word in words])


def result(folder):
    return json.loads((folder / "result.json").read_text())["results"]["vilbench"]


def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def prm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prm")
    loaded = load_model("tiny")
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    save_head(StepValueModel(loaded.model, hidden_size(loaded.model)), folder, {})
    return folder


@pytest.fixture
def files(tmp_path):
    """Items and candidates of the built-in set as files."""
    items, candidates = fixture.items(0, 6), fixture.candidates(0, 6)
    rows = [{"id": i.id, "source": i.source, "image": i.image, "question": i.question, "answer": i.answer} for i in items]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in candidates))
    return ["--data", tmp_path / "items.jsonl", "--candidates", tmp_path / "candidates.jsonl"]


def test_a_model_that_is_asked(tmp_path, capsys):
    folder = tmp_path / "out"
    words = ["run", "--task", "vilbench", "--model_name_or_path", "tiny", "--limit", "1", "--max_new_tokens", "2"]
    assert run(*words, "--output_path", folder) == 0
    told = report(folder)
    assert told["benchmark"] == "ViLBench protocol, own items"
    assert told["unknown"]
    assert {row["mode"] for row in told["results"]} == {"prm", "orm"}
    assert "not ViLBench" in capsys.readouterr().out
    found = result(folder)
    assert found["n_unparsed"] > 0, "two tokens are no score"
    assert found["best_of_8,none"] == pytest.approx(found["random,none"]), "without scores every candidate is as good"
    first = (folder / "report.json").read_bytes()
    assert run(*words, "--output_path", folder) == 0
    assert (folder / "report.json").read_bytes() == first, "a finished run asks nothing again"
    again = tmp_path / "again"
    assert run("score", "--task", "vilbench", "--predictions", folder / "predictions.jsonl", "--output_path", again) == 0
    assert report(again)["results"] == told["results"]


def test_a_trained_model_goes_on_where_it_stopped(prm, files, tmp_path):
    folder = tmp_path / "out"
    words = ["run", "--task", "vilbench", "--model_name_or_path", prm, *files, "--output_path", folder]
    assert run(*words) == 0
    whole = report(folder)
    log = folder / "predictions.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 48, "a line a candidate"
    log.write_text("".join(lines[:20]))
    assert run(*words) == 0
    assert report(folder) == whole
    assert log.read_text() == "".join(lines)
    assert {row["aggregation"] for row in whole["results"]} >= {"mean", "last_2", "min", "product"}
    assert all(row["accuracy"] == pytest.approx(row["random"]) for row in whole["results"]), "this head says a half of all"
    assert len((folder / "step_scores.jsonl").read_text().splitlines()) == 48
    assert (folder / "tables.md").read_text().count("careless") == 3
    other = tmp_path / "other.jsonl"
    other.write_text(files[3].read_text().replace("The answer is", "So it is", 1))
    assert run(*words[:-4], "--candidates", other, "--output_path", folder) == 2, "other candidates, other folder"


def test_stored_scores_of_two_reward_models_are_compared(files, tmp_path):
    candidates = [json.loads(line) for line in files[3].read_text().splitlines()]
    truth = {json.loads(line)["id"]: json.loads(line)["answer"] for line in files[1].read_text().splitlines()}
    rows = []
    for one in candidates:
        right = one["response"].endswith(f" {truth[one['id']]}.")
        key = {name: one[name] for name in ("id", "generator", "index")}
        rows.append({**key, "rm": "knows", "mode": "orm", "score": float(right)})
        rows.append({**key, "rm": "steps", "mode": "prm", "context": "step", "step_scores": [3, None, 3]})
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    assert run("score", "--task", "vilbench", "--predictions", path, *files, "--output_path", folder) == 0
    found = {
        (row["rm"], row["aggregation"]): row for row in report(folder)["results"] if row["N"] == 8 and row["source"] == "all"
    }
    assert found["knows", "orm"]["accuracy"] == found["knows", "orm"]["oracle"]
    assert found["steps", "mean"]["accuracy"] == pytest.approx(found["steps", "mean"]["random"])
    assert found["steps", "mean"]["n_unparsed_scores"] == 48
    assert ("steps", "product") not in found, "scores from 1 to 5 are not multiplied"
    pairs = {(row["a"], row["b"]) for row in report(folder)["differences"]}
    assert ("knows (orm)", "steps (mean, step)") in pairs
    rows[0]["id"] = "nobody"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("score", "--task", "vilbench", "--predictions", path, *files, "--output_path", folder) == 2


def test_a_judge_on_a_server(files, tmp_path):
    """Four of five for every step, but 2 where the judge did not end as asked."""
    server = Server(["Reasoning: fine.\nOverall Score: 4", "I cannot tell.", "Overall Score: 2"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path / "out"
    words = ["run", "--task", "vilbench", "--model_name_or_path", "a-judge", *files, "--limit", "1", "--api_nproc", "1"]
    assert run(*words, "--base_url", f"http://127.0.0.1:{server.server_port}/v1", "--output_path", folder) == 0
    server.shutdown()
    asked = [body["messages"][0]["content"][-1]["text"] for _, body in server.seen]
    assert all(body["temperature"] == 0 for _, body in server.seen)
    assert "Step to rate:\nStep 1:" in asked[0]
    assert "Steps before it:\nStep 1:" in asked[1]
    assert any("Solution to rate:" in text for text in asked)
    scores = [json.loads(line) for line in (folder / "step_scores.jsonl").read_text().splitlines()]
    assert scores[0]["step_scores"][:2] == [4.0, None]
    assert scores[0]["rm"] == "a-judge"
    assert scores[0]["raw"][1] == "I cannot tell."
    assert result(folder)["n_unparsed"] == 1
    assert report(folder)["results"][0]["n_unparsed_scores"] <= 1


def test_a_model_writes_candidates_which_are_then_chosen_from(prm, files, tmp_path):
    folder = tmp_path / "made"
    words = ["run", "--task", "vilbench/candidates", "--model_name_or_path", "tiny", *files[:2], "--n_candidates", "4"]
    words += ["--limit", "3", "--max_new_tokens", "12"]
    assert run(*words, "--output_path", folder) == 0
    made = [json.loads(line) for line in (folder / "candidates.jsonl").read_text().splitlines()]
    assert [(row["index"], row["sampling"]["temperature"]) for row in made] == [(i, 1.0) for i in range(4)] * 3
    assert len({row["response"] for row in made if row["id"] == made[0]["id"]}) > 1, "they are sampled"
    again = tmp_path / "again"
    assert run(*words, "--output_path", again) == 0
    assert (again / "candidates.jsonl").read_bytes() == (folder / "candidates.jsonl").read_bytes()
    chosen = ["--candidates", folder / "candidates.jsonl", "--limit", "3", "--output_path", tmp_path / "chosen"]
    assert run("run", "--task", "vilbench", "--model_name_or_path", prm, *files[:2], *chosen) == 0
    assert {row["N"] for row in report(tmp_path / "chosen")["results"]} == {2, 4}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "vilbench/steps"], "unknown part"),
        (["--task", "vilbench", "--data", __file__], "belong together"),
    ],
)
def test_what_cannot_work(words, said, tmp_path, capsys):
    assert run("run", *words, "--model_name_or_path", "tiny", "--output_path", tmp_path / "out") == 2
    assert said in capsys.readouterr().err


def test_it_is_listed(capsys):
    assert run("list") == 0
    assert "vilbench/candidates" in capsys.readouterr().out
    assert random_choice([True, False]) == 0.5
    assert Item("1", "s", "q", "a").question_with_choices == "q"
