"""The contract of every task: the right answer earns full marks, anything broken earns less, nothing raises."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.answers.span import is_in_format, is_think_answer
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.data.synthetic import IMAGE_SIDE_PX
from vlrl.rewards import REWARDS, load_reward, score_rows
from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, ModelView, Prediction
from vlrl.tasks import TASKS, load_task
from vlrl.tasks.evaluate import measure, numbers

pytestmark = pytest.mark.quick

SIDES = {"image_size": [IMAGE_SIDE_PX] * 2}
SAMPLES = {
    name: [
        dataclasses.replace(s, meta={**s.meta, **SIDES}, view=ModelView(coords, (IMAGE_SIDE_PX, IMAGE_SIDE_PX)))
        for i, coords in enumerate(["px", "resized_px", "norm1000", "norm1"] * 6)
        for s in [task.synthetic(0, "test", i)]
    ]
    for name, task in TASKS.items()
}


def measured(task, samples, predictions):
    rows = measure(task, samples, predictions)
    return numbers(task, rows), sum(row.outcome == "unparsed" for row in rows)


def value(name, text, sample):
    return score_rows(load_reward(name), [text], [sample], 0, None)[0].value


def earned(task, text, sample):
    return sum(value(name, text, sample) for name in task.rewards(sample))


def full(task, sample):
    """The most a completion can earn. AlphaDrive's weights and diversity keep even the right plan below 1."""
    if task.name == "planning":
        return earned(task, task.oracle(sample), sample)
    return sum(REWARDS[name].high for name in task.rewards(sample))


@pytest.mark.parametrize("name", TASKS)
def test_the_oracle_earns_full_marks_in_every_dialect(name, tmp_path):
    task = TASKS[name]
    assert task.name == name
    for sample in SAMPLES[name]:
        assert task.check(sample) is None
        # The dialect's rounding costs at most a pixel a side.
        slack = 0.2 if sample.coords == "norm1000" and name in ("detection", "grounding") else 1e-3
        assert earned(task, task.oracle(sample), sample) >= full(task, sample) - slack
        assert is_think_answer(task.oracle(sample))
        assert is_think_answer(task.sft_target(sample))
        assert sample_from_json(json.loads(json.dumps(sample_to_json(sample))), "x", tmp_path) == sample


FORMS = [("detection", layout, box) for layout in ANSWER_FORMATS for box in BOX_FORMATS]
FORMS += [("grounding", layout, box) for layout in ANSWER_FORMATS for box in BOX_FORMATS]
FORMS += [(name, layout, None) for name in ("classification", "planning", "qa") for layout in ANSWER_FORMATS]


@pytest.mark.parametrize(("name", "layout", "box"), FORMS)
def test_every_form_is_asked_for_written_and_read(name, layout, box):
    task = TASKS[name]
    forms = {"answer_format": layout} | ({"box_format": box} if box else {})
    drawn = [task.synthetic(0, "test", index) for index in range(12)]
    samples = [dataclasses.replace(one, meta={**one.meta, **SIDES, **forms}, view=ModelView("px")) for one in drawn]
    for sample in samples:
        right = task.oracle(sample)
        assert is_in_format(right, layout), right
        assert is_in_format(task.sft_target(sample), layout)
        assert value("think_answer_format", right, sample) == 1
        # The pattern that ends the prompt is itself in the form, and is no answer.
        pattern = task.prompt(sample).split("\n", 1)[1].partition(".\n")[2]
        assert is_in_format(pattern[pattern.find("<") :] if layout != "none" else pattern, layout), pattern
    rows = measure(task, samples, [Prediction(sample.id, task.oracle(sample), 1, False) for sample in samples])
    assert {row.outcome for row in rows} == {"right"}, [row.completion for row in rows if row.outcome != "right"]


@pytest.mark.parametrize("name", TASKS)
def test_broken_answers_earn_less(name):
    task = TASKS[name]
    for sample in SAMPLES[name]:
        right = task.oracle(sample)
        for text in ("", task.prompt(sample), right + right, right[:-1], right[: len(right) // 2], "yes", "[]", right + "x"):
            assert earned(task, text, sample) < full(task, sample), text


@pytest.mark.parametrize("name", TASKS)
def test_any_text_is_scored_and_measured(name):
    task = TASKS[name]
    sample = next(s for s in SAMPLES[name] if s.answer)

    @given(st.text())
    def check(text):
        assert 0 <= earned(task, text, sample) < full(task, sample)

    check()
    texts = ["", "<answer>", "[" * 5000, "\ud800", task.oracle(sample)]
    samples = [dataclasses.replace(sample, id=str(i)) for i in range(len(texts))]
    metrics, n_unparsed = measured(task, samples, [Prediction(str(i), t, 1, False) for i, t in enumerate(texts)])
    # Bare text is an answer where a name or a short text is asked for, only a wrong one.
    assert n_unparsed == 4 if name in ("detection", "grounding", "planning") else 1 <= n_unparsed <= 4
    assert 0 < metrics[task.headline].value < 1
    for metric in metrics.values():
        if metric.value is not None and metric.ci95 is not None:
            low, high = metric.ci95
            assert low <= high
            assert metric.n > 0


@pytest.mark.parametrize("name", TASKS)
def test_all_right_is_one_on_the_headline(name):
    task = TASKS[name]
    samples = [s for s in SAMPLES[name] if s.coords in ("px", "resized_px")]
    metrics, n_unparsed = measured(task, samples, [Prediction(s.id, task.oracle(s), 1, False) for s in samples])
    assert n_unparsed == 0
    assert metrics[task.headline].value == 1
    if name == "detection":
        assert metrics["ap"].value == pytest.approx(1)
        assert metrics["negatives_accuracy"].value == 1


def test_own_tasks_by_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom vlrl.tasks.detection import TASK as base\nTASK = dataclasses.replace(base, name='mine')\n"
    )
    assert load_task(str(path)).name == "mine"
    path.write_text("TASK = 3\n")
    with pytest.raises(ValueError, match="no TASK"):
        load_task(str(path))
    with pytest.raises(ValueError, match="did you mean 'detection'"):
        load_task("detecton")


@pytest.mark.parametrize("name", ["detection", "grounding"])
def test_boxes_may_refer_to_a_video_but_not_to_nothing(name):
    task = TASKS[name]
    sample = SAMPLES[name][0]
    film = dataclasses.replace(sample, images=(), video="a.mp4")
    assert task.check(film) is None
    metrics, n_unparsed = measured(task, [film], [Prediction(film.id, task.oracle(film), 1, False)])
    assert n_unparsed == 0
    assert metrics[task.headline].n == 1
    assert "needs an image or a video" in task.check(dataclasses.replace(sample, images=()))
