"""One record a held-out sample: what both models said of it, and which samples changed. The sums agree with the run's numbers."""

import pytest

from vlrl.schema import Prediction, Task
from vlrl.tasks import KNOWN, TASKS
from vlrl.tasks.evaluate import evaluate
from vlrl.tasks.sample_rows import before_and_after

pytestmark = pytest.mark.quick


def said(samples, texts):
    return [Prediction(sample.id, text, 5, False) for sample, text in zip(samples, texts, strict=True)]


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_that_became_right_changed_by_one(name):
    task = TASKS[name]
    samples = [task.synthetic(0, "heldout", i) for i in range(6)]
    oracle = [task.oracle(sample) for sample in samples]
    records = before_and_after({name: task}, samples, said(samples, ["?"] * 6), said(samples, oracle))
    assert [record["id"] for record in records] == [sample.id for sample in samples]
    for record in records:
        assert record["before"]["outcome"] in ("wrong", "unparsed")
        assert (record["before"]["value"], record["after"]["value"], record["change"]) == (0, 1, 1)
        assert record["after"]["outcome"] == "right"
        assert record["after"]["answer"]
        assert record["gold"]


def test_values_are_the_samples_shares_of_the_headline():
    task = TASKS["classification"]
    samples = [task.synthetic(0, "heldout", i) for i in range(8)]
    texts = [task.oracle(sample) if i % 3 else "?" for i, sample in enumerate(samples)]
    records = before_and_after({"classification": task}, samples, said(samples, texts), said(samples, texts))
    mean = sum(record["after"]["value"] for record in records) / 8
    assert evaluate({"classification": task}, samples, said(samples, texts)).metrics[task.headline].value == pytest.approx(mean)
    assert {record["change"] for record in records} == {0}


def test_rows_of_several_tasks_keep_their_order_and_an_own_task_has_answers_without_values():
    own = Task(**{**vars(TASKS["qa"]), "name": "mine"})
    tasks = {"grounding": KNOWN["grounding"], "mine": own}
    samples = [KNOWN["grounding"].synthetic(0, "heldout", 0), TASKS["qa"].synthetic(0, "heldout", 1)]
    samples[1] = type(samples[1])(**{**vars(samples[1]), "task": "mine"})
    records = before_and_after(tasks, samples, said(samples, ["a", "b"]), said(samples, ["c", "d"]))
    assert [record["task"] for record in records] == ["grounding", "mine"]
    assert records[0]["change"] == 0
    assert records[1]["before"] == {"value": None, "outcome": None, "answer": "b"}
    assert records[1]["change"] is None


def test_a_judge_over_a_network_is_not_asked_once_more():
    task = TASKS["qa"]
    sample = task.synthetic(0, "heldout", 0)
    sample.meta["rewards"] = ["llm_judge"]
    [record] = before_and_after({"qa": task}, [sample], said([sample], ["a"]), said([sample], ["b"]))
    assert (record["before"]["value"], record["after"]["answer"], record["change"]) == (None, "b", None)
