"""One record a held-out sample: what both models said of it, and which samples changed. The sums agree with the run's numbers."""

import threading

import pytest

from vlrl.schema import Prediction, Reward, Sample, Score, Task
from vlrl.tasks import TASKS, qa
from vlrl.tasks.evaluate import before_and_after, evaluate


def said(samples, texts):
    return [Prediction(sample.id, text, 5, False) for sample, text in zip(samples, texts, strict=True)]


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_that_became_right_changed_by_one(name):
    task = TASKS[name]
    samples = [task.synthetic(0, "heldout", i) for i in range(6)]
    oracle = [task.oracle(sample) for sample in samples]
    made = said(samples, ["?"] * 6), said(samples, oracle)
    records = before_and_after(samples, *(evaluate({name: task}, samples, one) for one in made), made)
    assert [record["id"] for record in records] == [sample.id for sample in samples]
    for record in records:
        assert record["before"]["outcome"] in ("wrong", "unparsed")
        assert (record["before"]["value"], record["after"]["value"], record["change"]) == (0, 1, 1)
        assert record["after"]["outcome"] == "right"
        assert record["after"]["answer"]
        assert record["ground_truth"]


def test_values_are_the_samples_shares_of_the_headline():
    task = TASKS["classification"]
    samples = [task.synthetic(0, "heldout", i) for i in range(8)]
    made = said(samples, [task.oracle(sample) if i % 3 else "?" for i, sample in enumerate(samples)])
    found = evaluate({"classification": task}, samples, made)
    records = before_and_after(samples, found, found, (made, made))
    mean = sum(record["after"]["value"] for record in records) / 8
    assert found.metrics[task.headline].value == pytest.approx(mean)
    assert {record["change"] for record in records} == {0}


def test_a_sample_without_a_value_keeps_its_answer():
    own = Task(
        "mine", lambda sample: "?", ("exact_match",), lambda sample, prediction: None if prediction.completion == "b" else 0.5
    )
    samples = [TASKS["grounding"].synthetic(0, "heldout", 0), Sample("q", "mine", "?", "x")]
    tasks = {"grounding": TASKS["grounding"], "mine": own}
    made = said(samples, ["a", "b"]), said(samples, ["c", "d"])
    records = before_and_after(samples, *(evaluate(tasks, samples, one) for one in made), made)
    assert [record["task"] for record in records] == ["grounding", "mine"]
    assert records[0]["change"] == 0
    assert records[1]["before"] == {"value": None, "outcome": None, "answer": "b"}
    assert records[1]["after"] == {"value": 0.5, "outcome": "partly", "answer": "d"}
    assert records[1]["change"] is None


def test_a_judge_over_a_network_is_asked_side_by_side_and_once(monkeypatch):
    together, asked = threading.Barrier(4, timeout=10), []

    def judge(text, sample):
        together.wait()
        asked.append(text)
        return Score(1.0, text)

    reward = Reward("judge", judge, 0, 1, frozenset({"network"}))
    monkeypatch.setattr(qa, "reward_of", lambda sample: reward)
    samples = [Sample(f"q{i}", "qa", "?", "x") for i in range(4)]
    made = said(samples, list("abcd"))
    found = evaluate({"qa": TASKS["qa"]}, samples, made)
    assert [row.completion for row in found.rows["qa"]] == list("abcd")
    before_and_after(samples, found, found, (made, made))
    assert sorted(asked) == list("abcd")
