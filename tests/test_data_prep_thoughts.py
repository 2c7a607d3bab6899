"""Thoughts written by a larger model: what it is shown, the budget, going on, replies that cannot be used; several right plans."""

import json
import threading

import pytest
from chat_server import Server
from PIL import Image

from data_prep import questions, thoughts
from vlrl.data.sample_files import read_samples
from vlrl.rewards.chat_client import EndpointError
from vlrl.schema import Prediction, Sample
from vlrl.tasks import KNOWN
from vlrl.tasks.evaluate import measure, numbers

pytestmark = pytest.mark.quick


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    rows = []
    for i in range(4):
        meta = {"speed_mps": 4.2, "navigation": "turn left", "scene": f"s{i // 2}"} | ({"thinking": "own"} if i == 3 else {})
        row = {"id": f"p{i}", "task": "planning", "images": ["a.png"], "question": "plan the next seconds"}
        rows.append({**row, "answer": {"speed": "STOP", "path": "LEFT_TURN"}, "meta": meta})
    (tmp_path / "plans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def asked(folder, replies, *words):
    server = Server(replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        words = [
            "--data",
            folder / "plans.jsonl",
            "--out",
            folder / "out.jsonl",
            "--model",
            "big",
            "--base_url",
            address,
            *words,
        ]
        code = thoughts.main([str(word) for word in [*words, "--n_parallel", 1]])
    finally:
        server.shutdown()
        server.server_close()
    return code, server.seen


def test_each_row_gets_a_thought_that_knows_the_answer(data, capsys):
    code, seen = asked(data, ["<think>The light\nis red.</think>"])
    assert code == 0
    assert [sample.meta["thinking"] for sample in read_samples(data / "out.jsonl")] == ["The light is red."] * 3 + ["own"]
    content = seen[0][1]["messages"][0]["content"]
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert "Right answer: speed STOP, path LEFT_TURN" in content[1]["text"]
    assert "speed_mps: 4.2" in content[1]["text"]
    assert len(seen) == 3
    sample = read_samples(data / "out.jsonl")[0]
    assert KNOWN["planning"].sft_target(sample) == "<think>The light is red.</think><answer>STOP, LEFT_TURN</answer>"
    # the same command asks nothing again
    assert asked(data, ["other"])[1] == []
    assert "0 of 4 rows; 3 replies found" in capsys.readouterr().out


def test_a_budget_ends_it_and_it_goes_on(data, capsys):
    code, seen = asked(data, ["It is red."], "--max_calls", 2)
    assert (code, len(seen)) == (1, 2)
    assert "1 rows without a thought; the same command goes on" in capsys.readouterr().out
    assert len(read_samples(data / "out.jsonl")) == 3
    code, seen = asked(data, ["It is red."], "--max_calls", 3)
    assert (code, len(seen)) == (0, 1)


def test_replies_that_cannot_be_used_are_counted(data):
    with pytest.raises(EndpointError, match="empty"):
        thoughts.checked_thought(" <think></think> ")
    with pytest.raises(EndpointError, match="characters"):
        thoughts.checked_thought("x" * 900)
    with pytest.raises(SystemExit):
        thoughts.main(["--data", str(data / "plans.jsonl"), "--out", "o.jsonl", "--model", "m", "--max_cost", "1"])


# ---- several right plans, by scene


def plan(i, **meta):
    answer = {"speed": "KEEP", "path": "STRAIGHT"}
    return Sample(f"p{i}", "planning", "plan", answer, meta={"other_plans": [{"speed": "STOP", "path": "LEFT_TURN"}], **meta})


def test_any_of_several_plans_is_right_and_halves_of_two_are_not():
    task = KNOWN["planning"]
    words = ["KEEP, STRAIGHT", "STOP, LEFT_TURN", "STOP, STRAIGHT", "ACCELERATE, LEFT_TURN"]
    samples = [plan(i) for i in range(4)]
    made = [Prediction(s.id, f"<think>t</think><answer>{w}</answer>", 1, False) for s, w in zip(samples, words, strict=True)]
    found = numbers(task, measure(task, samples, made))
    assert found["plan_accuracy"].value == 0.5
    assert (found["speed_accuracy"].value, found["path_accuracy"].value) == (0.5, 1.0)
    assert task.check(samples[0]) is None
    assert "other_plans" in task.check(plan(0, other_plans=[{"speed": "FLY", "path": "STRAIGHT"}]))
    assert "other_plans" in task.check(plan(0, other_plans="STOP"))


# ---- steps of a search agent


def test_steps_of_visual_arft(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    rows = [
        {"image_path": "a.png", "problem": "How high?\n<think>..</think><search>x</search> found: ..",
         "solution": "<think>I need it</think><search>height of the tower</search>"},
        {"image_path": "a.png", "problem": "How high?", "solution": "<answer> 330 m </answer>"},
        {"image_path": "a.png", "problem": "How high?", "solution": "330 m"},
    ]  # fmt: skip
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = ["--format", "visual_arft", "--data", tmp_path / "rows.json", "--out", tmp_path / "o.jsonl", "--max_skipped", "1"]
    assert questions.main([str(word) for word in words]) == 0
    search, answer = read_samples(tmp_path / "o.jsonl")
    assert [(s.meta["step"], s.answer) for s in (search, answer)] == [("search", "height of the tower"), ("answer", "330 m")]
    assert "found: .." in search.question
    task = KNOWN["qa"]
    assert task.oracle(search).endswith("<search>height of the tower</search>")
    made = [Prediction(s.id, task.oracle(s), 1, False) for s in (search, answer)]
    assert numbers(task, measure(task, [search, answer], made))["accuracy"].value == 1
