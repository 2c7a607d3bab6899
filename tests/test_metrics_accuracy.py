"""Shares of right answers: classification and questions, their intervals and what is left out."""

import dataclasses

import pytest

from vlrl.metrics import accuracy
from vlrl.metrics.accuracy import half_of
from vlrl.metrics.bootstrap import wilson
from vlrl.rewards import REWARDS, load_reward
from vlrl.schema import Metric, Prediction, Reward, Sample, Score
from vlrl.tasks import TASKS, qa
from vlrl.tasks.evaluate import measure

pytestmark = pytest.mark.quick


def label(name, i, images=None, **meta):
    return Sample(f"c{i}", "classification", "what", name, images or (f"{i}.jpg",), meta=meta)


def said(samples, texts):
    return [Prediction(sample.id, text, len(text), False) for sample, text in zip(samples, texts, strict=True)]


def measured(task, samples, predictions):
    rows = measure(task, samples, predictions)
    return task.aggregate(rows), sum(row.outcome == "unparsed" for row in rows)


def classification_metrics(samples, predictions):
    return measured(TASKS["classification"], samples, predictions)


def qa_metrics(samples, predictions, reward_of):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qa, "reward_of", reward_of)
        return measured(TASKS["qa"], samples, predictions)


def test_strict_and_lenient_accuracy():
    samples = [label("great_pyrenees", i) for i in range(6)]
    texts = [
        "<answer>Great Pyrenees</answer>",
        "a great pyrenees",
        "<answer>pug</answer>",
        "<think>great pyrenees</think>",
        "",
        "<answer></answer>",
    ]
    metrics, n_unparsed = classification_metrics(samples, said(samples, texts))
    assert metrics == {"accuracy": wilson(1, 6), "accuracy_lenient": wilson(2, 6)}
    assert n_unparsed == 3


def test_part_of_the_label_is_not_lenient_and_an_empty_label_matches_nothing():
    samples = [label("great_pyrenees", 0), label("", 1)]
    metrics, _ = classification_metrics(samples, said(samples, ["great", "x"]))
    assert metrics["accuracy_lenient"].value == 0


def test_base_new_and_their_harmonic_mean():
    halves = ["base"] * 4 + ["new"] * 4 + [None]
    samples = [label("pug", i, half=half) if half else label("pug", i) for i, half in enumerate(halves)]
    texts = ["pug", "pug", "pug", "x", "pug", "x", "x", "x", "x"]
    metrics, _ = classification_metrics(samples, said(samples, texts))
    assert metrics["accuracy"].value == pytest.approx(4 / 9)
    assert (metrics["accuracy_base"], metrics["accuracy_new"]) == (wilson(3, 4), wilson(1, 4))
    h = metrics["accuracy_h"]
    assert h.value == pytest.approx(2 * 0.75 * 0.25)
    assert h.n == 8
    assert 0 <= h.ci95[0] < h.value < h.ci95[1] <= 1
    wrong, _ = classification_metrics(samples, said(samples, ["x"] * 9))
    assert wrong["accuracy_h"].value == 0


def test_halves_are_read_from_half_or_split():
    assert [
        half_of(label("x", 0, **meta)) for meta in ({"half": "new"}, {"split": "base"}, {"half": "all", "split": "test"}, {})
    ] == [
        "new",
        "base",
        None,
        None,
    ]
    only, _ = classification_metrics([label("pug", 0, split="base")], said([label("pug", 0)], ["pug"]))
    assert set(only) == {"accuracy", "accuracy_lenient", "accuracy_base"}


def test_shared_pictures_widen_the_interval():
    apart = [label("pug", i) for i in range(40)]
    shared = [dataclasses.replace(sample, images=(f"{i // 10}.jpg",)) for i, sample in enumerate(apart)]
    texts = ["pug"] * 20 + ["x"] * 20
    widths = []
    for samples in (apart, shared):
        metric = classification_metrics(samples, said(samples, texts))[0]["accuracy"]
        assert metric.value == 0.5
        widths.append(metric.ci95[1] - metric.ci95[0])
    assert widths[1] > 1.5 * widths[0]


def test_nothing_to_measure():
    assert accuracy.classification_metrics([])["accuracy"] == Metric(None, None, 0)
    assert accuracy.qa_metrics([]) == {"accuracy": Metric(None, None, 0)}


QUESTIONS = [
    Sample("q0", "qa", "which", "B", choices=("x", "y")),
    Sample("q1", "qa", "which", "A", choices=("x", "y")),
    Sample("q2", "qa", "is it", "yes"),
    Sample("q3", "qa", "how many", 12),
]
KINDS = {"q0": "mcq", "q1": "mcq", "q2": "yes_no", "q3": "math_equal"}


def test_each_question_by_its_own_reward():
    texts = ["B", "or", "yes, it is", "11"]
    metrics, n_unparsed = qa_metrics(QUESTIONS, said(QUESTIONS, texts), lambda sample: REWARDS[KINDS[sample.id]])
    assert metrics["accuracy"] == wilson(2, 4)
    assert metrics["accuracy[mcq]"] == wilson(1, 2)
    assert metrics["accuracy[yes_no]"] == wilson(1, 1)
    assert metrics["accuracy[math_equal]"] == wilson(0, 1)
    assert n_unparsed == 1
    one, _ = qa_metrics(QUESTIONS[:2], said(QUESTIONS[:2], texts[:2]), lambda sample: REWARDS["mcq"])
    assert set(one) == {"accuracy"}


def test_graded_values_are_averaged_and_missing_ones_left_out():
    def half(text, sample):
        return Score(None, None, "no reply") if text == "?" else Score(0.5, text)

    reward = Reward("half", half, 0, 1)
    metrics, n_unparsed = qa_metrics(QUESTIONS, said(QUESTIONS, ["a", "b", "?", "?"]), lambda sample: reward)
    assert metrics["accuracy"] == Metric(0.5, (0.5, 0.5), 2)
    assert n_unparsed == 0
    fuzzy = load_reward("fuzzy_match:min_ratio=0.2")
    metrics, _ = qa_metrics(QUESTIONS[2:3], said(QUESTIONS[2:3], ["yet"]), lambda sample: fuzzy)
    assert metrics["accuracy"].value == pytest.approx(2 / 3)
