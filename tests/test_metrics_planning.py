"""Numbers on driving plans, against counts made by hand and by a plain second implementation."""

import random

import pytest

from vlrl.answers.plans import PATHS, SPEEDS
from vlrl.metrics.bootstrap import wilson
from vlrl.metrics.planning import confusions
from vlrl.schema import Metric, Prediction, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import measure, numbers

pytestmark = pytest.mark.quick


def plan(i, speed, path):
    return Sample(f"p{i}", "planning", "plan", {"speed": speed, "path": path}, (f"{i}.jpg",))


def measured(truths, texts):
    samples = [plan(i, *truth) for i, truth in enumerate(truths)]
    predictions = [Prediction(s.id, t, 1, False) for s, t in zip(samples, texts, strict=True)]
    rows = measure(TASKS["planning"], samples, predictions)
    return numbers(TASKS["planning"], rows), sum(row.outcome == "unparsed" for row in rows), confusions(rows)


TRUTHS = [("KEEP", "STRAIGHT")] * 3 + [("STOP", "LEFT_TURN"), ("ACCELERATE", "STRAIGHT")]
TEXTS = [
    "<think>STOP</think><answer>KEEP, STRAIGHT</answer>",
    "keep, left turn",
    "<answer>KEEP, STOP, STRAIGHT</answer>",
    "<answer>KEEP, LEFT_TURN</answer>",
    "I will ACCELERATE and go STRAIGHT",
]


def test_the_numbers_of_a_small_set():
    metrics, n_unparsed, matrices = measured(TRUTHS, TEXTS)
    assert metrics["plan_accuracy"] == wilson(1, 5)
    assert metrics["speed_accuracy"] == wilson(2, 5)
    assert metrics["path_accuracy"] == wilson(3, 5)
    assert metrics["plan_accuracy[KEEP, STRAIGHT]"] == wilson(1, 3)
    assert metrics["plan_accuracy[STOP, LEFT_TURN]"] == wilson(0, 1)
    assert metrics["plan_accuracy[STOP, STRAIGHT]"] == Metric(None, None, 0)
    assert sum(name.startswith("plan_accuracy[") for name in metrics) == 20
    # The third names two speeds, the fifth no word of the vocabulary.
    assert n_unparsed == 2
    assert metrics["f1[KEEP]"].value == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["f1[KEEP]"].n == 3
    assert metrics["f1[STOP]"].value == metrics["f1[ACCELERATE]"].value == 0
    assert metrics["f1[DECELERATE]"].value is None
    assert metrics["f1[STRAIGHT]"].value == pytest.approx(2 * 2 / (2 + 4))
    assert metrics["f1[LEFT_TURN]"].value == pytest.approx(2 / 3)
    assert metrics["speed_macro_f1"].value == pytest.approx((2 / 3) / 3)
    assert metrics["path_macro_f1"].value == pytest.approx(2 / 3)
    assert metrics["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3 + 2 / 3) / 5)
    assert matrices["speed"]["KEEP"] == {"KEEP": 2, "ACCELERATE": 0, "DECELERATE": 0, "STOP": 0, "none": 1}
    assert matrices["speed"]["STOP"]["KEEP"] == 1
    assert matrices["path"]["STRAIGHT"] == {**dict.fromkeys(PATHS, 0), "STRAIGHT": 2, "LEFT_TURN": 1, "none": 1}


def test_words_of_the_thought_or_of_a_sentence_count_for_nothing():
    texts = ["<think>KEEP, STRAIGHT</think><answer>go</answer>", "<think>KEEP, STRAIGHT</think>", "we KEEP going STRAIGHT"]
    metrics, n_unparsed, _ = measured([("KEEP", "STRAIGHT")] * 3, texts)
    assert metrics["plan_accuracy"].value == metrics["macro_f1"].value == 0
    assert n_unparsed == 3


def test_f1_agrees_with_the_confusion_matrices():
    rng = random.Random(0)
    truths = [(rng.choice(SPEEDS), rng.choice(PATHS)) for _ in range(300)]
    texts = [f"{rng.choice([t[0], *SPEEDS, 'x'])}, {rng.choice([t[1], *PATHS, 'x'])}" for t in truths]
    metrics, n_unparsed, matrices = measured(truths, texts)
    found = []
    for key, words in (("speed", SPEEDS), ("path", PATHS)):
        matrix = matrices[key]
        assert sum(sum(row.values()) for row in matrix.values()) == 300
        right = sum(matrix[word][word] for word in words)
        assert metrics[f"{key}_accuracy"].value == pytest.approx(right / 300)
        f1s = []
        for word in words:
            precision = matrix[word][word] / sum(matrix[true][word] for true in words)
            recall = matrix[word][word] / sum(matrix[word].values())
            f1s.append(2 * precision * recall / (precision + recall))
            assert metrics[f"f1[{word}]"].value == pytest.approx(f1s[-1])
            low, high = metrics[f"f1[{word}]"].ci95
            assert low < f1s[-1] < high
        assert metrics[f"{key}_macro_f1"].value == pytest.approx(sum(f1s) / len(f1s))
        found += f1s
    assert metrics["macro_f1"].value == pytest.approx(sum(found) / 9)
    pairs = [m for name, m in metrics.items() if name.startswith("plan_accuracy[")]
    assert sum(m.n for m in pairs) == 300
    assert sum(m.value * m.n for m in pairs if m.n) == pytest.approx(metrics["plan_accuracy"].value * 300)
    assert n_unparsed == sum("x" in text for text in texts)


def test_nothing_to_measure():
    metrics, n_unparsed, matrices = measured([], [])
    assert set(metrics.values()) == {Metric(None, None, 0)}
    assert n_unparsed == 0
    assert matrices["path"]["STRAIGHT"]["none"] == 0
    assert set(metrics) == set(measured(TRUTHS, TEXTS)[0])
