"""Tasks of users: what is optional may be missing, and what is wrong is one line that names it, before a model is loaded."""

import json
import re
from pathlib import Path

import pytest

from vlrl.bench import main
from vlrl.schema import Prediction, Sample, Task, TaskError
from vlrl.tasks import default_model, load_task, load_tasks
from vlrl.tasks.evaluate import evaluate, measure, numbers
from vlrl.tasks.rubric import answer_problem_of, choose, try_once

pytestmark = pytest.mark.quick
HEAD = "from vlrl.schema import Prediction, Result, Sample, Task\n"
FINE = {"name": "'mine'", "prompt": "lambda sample: sample.question", "rewards": "['exact_match']"}
FINE["metric"] = "lambda sample, prediction: prediction.completion == sample.answer"
SAMPLE = Sample("a", "mine", "what?", "x")


@pytest.fixture
def write(tmp_path):
    def _write(head="", **fields):
        named = {key: value for key, value in {**FINE, **fields}.items() if value is not None}
        path = tmp_path / "mine.py"
        path.write_text(f"{HEAD}{head}\nTASK = Task({', '.join(f'{key}={value}' for key, value in named.items())})\n")
        return str(path)

    return _write


@pytest.fixture
def rows(tmp_path):
    def _rows(*answers, **more):
        path = tmp_path / "rows.jsonl"
        made = [{"id": str(i), "task": "mine", "question": "what?", "answer": one, **more} for i, one in enumerate(answers)]
        path.write_text("".join(json.dumps(row) + "\n" for row in made))
        return str(path)

    return _rows


def predicted(*texts):
    return [Prediction(str(i), text, 1, False) for i, text in enumerate(texts)]


def asked(*answers):
    return [Sample(str(i), "mine", "what?", answer) for i, answer in enumerate(answers)]


def test_four_fields_are_enough(write):
    task = load_task(write())
    assert task.headline == "metric"
    found = evaluate({"mine": task}, asked("x", "y"), predicted("x", "x"))
    assert found.metrics["metric"].value == 0.5
    assert [row.outcome for row in found.rows["mine"]] == ["right", "wrong"]
    assert (task.sft_target, task.boxes, task.synthetic) == (None, None, None)
    assert default_model([task]) == "tiny"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metric": None}, ["missing 1 required", "'metric'", "line 3"]),
        ({"prompt": None, "rewards": None}, ["missing 2 required", "'prompt' and 'rewards'"]),
        ({"name": "''"}, ["name must be a non-empty string"]),
        ({"name": "'a/b'"}, ["letters, digits", "'a/b'"]),
        ({"name": "'a,b'"}, ["letters, digits"]),
        ({"metric": "'accuracy'"}, ["metric must be a function", "'accuracy'"]),
        ({"rewards": "'iou_f1'"}, ["rewards must be a list", "'iou_f1'"]),
        ({"oracle": "3"}, ["oracle must be a function or None"]),
        ({"thought_format": "'xml'"}, ["thought_format must be tags or json"]),
        ({"colour": "3"}, ["unexpected keyword argument 'colour'"]),
        ({"head": "import nowhere"}, ["line 2", "nowhere"]),
        ({"head": "x = = 1"}, ["line 2", "SyntaxError"]),
        ({"head": "1 / 0"}, ["line 2", "ZeroDivisionError"]),
    ],
)
def test_a_task_file_that_cannot_be_used_is_one_line(write, fields, words):
    path = write(**fields)
    with pytest.raises(ValueError, match=path) as error:
        load_task(path)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["mine", "my task", "Zählen", "数える", "v1.2-b"])
def test_names_are_open(write, name):
    assert load_task(write(name=repr(name))).name == name


def test_a_task_may_use_dataclasses_and_files_beside_it(write, tmp_path):
    (tmp_path / "beside_mine.py").write_text("WORD = 'beside'\n")
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_mine import WORD\n"
    path = write("@dataclass\nclass A:\n    word: str = WORD\n", prompt="lambda sample: A().word")
    Path(path).write_text(head + Path(path).read_text())
    assert load_task(path).prompt(SAMPLE) == "beside"


def test_two_tasks_of_one_name_are_refused_but_one_may_stand_twice(write):
    own = write(name="'detection'")
    assert load_task(own).name == "detection"
    with pytest.raises(ValueError, match="two different tasks are named 'detection'"):
        load_tasks(f"detection,{own}")
    assert len(load_tasks(f"{own},{own}")) == len(load_tasks("detection,detection")) == 2
    assert [task.name for task in load_tasks(f"detection,{write()}")] == ["detection", "mine"]


WRONG = [
    ({"prompt": "lambda sample: 3"}, "its prompt must return text, got 3 for sample 'a'"),
    ({"prompt": "lambda sample: sample.meta['x']"}, "its prompt failed on sample 'a': KeyError: 'x' (mine.py:3)"),
    ({"oracle": "lambda sample: None"}, "its oracle must return text, got None"),
    ({"oracle": "lambda sample: 1 / 0"}, "its oracle failed on sample 'a': ZeroDivisionError"),
    ({"metric": "lambda sample, prediction: 'yes'"}, "its metric failed on sample 'a'"),
    ({"metric": "lambda sample, prediction: float('nan')"}, "its metric failed on sample 'a'"),
    ({"metric": "lambda sample: 1"}, "takes 1 positional argument but 2 were given"),
    ({"metric": "lambda sample, prediction: 1 / 0"}, "ZeroDivisionError: division by zero (mine.py:3)"),
    ({"metric": "lambda sample, prediction: Result({})"}, "returned a Result without parts"),
    ({"metric": "lambda sample, prediction: Result({'a': 1})"}, "a must be a finite number"),
    ({"metric": "lambda sample, prediction: Result({'a': (1, 1)})"}, "its headline 'metric' is not among its metrics: a"),
    ({"aggregate": "lambda rows: 3"}, "aggregate must return {name: Metric}, got 3"),
    ({"aggregate": "lambda rows: 1 / 0"}, "its aggregate failed on 1 rows: ZeroDivisionError"),
    ({"extra": "lambda rows: {'a': {1, 2}}"}, "its extra failed on 1 rows: TypeError"),
    ({"boxes": "lambda sample, prediction: [[1, 2, 3, 4]]"}, "boxes must return (true boxes, predicted boxes or None)"),
    ({"rewards": "lambda sample: 'exact_match'"}, "the rewards of sample 'a' must be a list"),
    ({"rewards": "lambda sample: sample.x"}, "its rewards failed on sample 'a': AttributeError"),
    ({"rewards": "['exact_match', 3]"}, "reward int: it is a value of type int, not a function"),
    ({"rewards": "['exact_matsch']"}, "did you mean 'exact_match'"),
    ({"rewards": "[]"}, "no reward of this run () applies to sample 'a'"),
    ({"rewards": "['iou_f1']"}, "no reward of this run (iou_f1) applies to sample 'a' of task mine"),
    ({"rewards": "[lambda text, sample: 1, lambda text, sample: 2]"}, "two different rewards are named '<lambda>'"),
    ({"rewards": "[lambda text, sample: 'good']"}, "reward <lambda> returned the text 'good' for sample 'a'"),
    ({"check": "lambda sample: True"}, "its check must return what is wrong as text, or None, got True"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG, ids=[" ".join(fields) + str(i) for i, (fields, _) in enumerate(WRONG)])
def test_what_a_task_does_wrong_is_one_line(write, fields, words):
    task = load_task(write(**fields))

    def tried():
        answer_problem_of(task, SAMPLE)
        try_once(choose(None, [SAMPLE], {"mine": task}), [SAMPLE])

    with pytest.raises(ValueError, match=re.escape(words)) as error:
        tried()
    assert "\n" not in str(error.value)


def test_a_run_without_data_is_refused(write, tmp_path, capsys):
    assert main(["run", "--task", write(), "--output_path", str(tmp_path / "bench")]) == 2
    assert capsys.readouterr().err == "error: task mine draws no samples of its own; give a file of samples (--data)\n"


def test_check_says_that_no_reference_answer_was_scored(write, rows, capsys):
    assert main(["check", "--task", write(), "--data", rows("x", "y")]) == 0
    assert "2 of 2 rows are good: valid, images open, mine has no oracle" in capsys.readouterr().out


def test_check_finds_a_reference_answer_that_is_wrong(write, rows, capsys):
    path = write(oracle="lambda sample: sample.answer[:1]")
    assert main(["check", "--task", path, "--data", rows("x", "yes")]) == 1
    err = capsys.readouterr().err
    assert "(id '1'): the reference answer 'y' is wrong by the task's metric" in err


@pytest.mark.parametrize("answer", [None, 3, True, [], ["a", 1], {"a": [1, {"b": None}]}, "x" * 5000])
def test_an_answer_may_be_any_json_value(write, rows, answer, tmp_path, capsys):
    path = write(
        metric="lambda sample, prediction: None if prediction.completion == '?' else 0.5", rewards="['think_answer_format']"
    )
    data = rows(answer, answer, answer)
    assert main(["check", "--task", path, "--data", data]) == 0
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"id": str(i), "completion": text}) + "\n" for i, text in enumerate(["?", "b", "c"])))
    words = ["score", "--predictions", str(log), "--task", path, "--data", data, "--output_path", str(tmp_path / "out")]
    assert main(words) == 0
    assert main(["diff", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["results"]["mine"]["metric,none"], result["results"]["mine"]["metric_n,none"]) == (0.5, 2)
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_nothing_to_measure_is_no_number(write):
    task = load_task(write(metric="lambda sample, prediction: None"))
    assert measure(task, asked("x"), predicted("x")) == []
    assert numbers(task, [])["metric"].value is None


def test_built_in_rewards_score_answers_of_their_shape_in_any_task(write):
    box = [{"bbox_2d": [1, 2, 30, 40], "label": "dog"}]
    task = load_task(write(rewards="lambda sample: ['iou_f1'] if isinstance(sample.answer, list) else ['exact_match']"))
    samples = [Sample("b", "mine", "dog", box), Sample("t", "mine", "?", "x")]
    rubric = choose(None, samples, {"mine": task})
    applies = [[reward.name for reward in rubric.rewards if rubric.applies(reward, sample)] for sample in samples]
    assert applies == [["iou_f1"], ["exact_match"]]
    try_once(rubric, samples)
    with pytest.raises(ValueError, match="cannot score"):
        choose(None, [Sample("b", "mine", "dog", "maybe", meta={"rewards": ["yes_no"]})], {"mine": task})


def test_synthetic_samples_carry_the_tasks_name():
    task = Task("mine", lambda s: "?", ("exact_match",), lambda s, p: True, synthetic=lambda *_: Sample("a", "other", "?", 1))
    with pytest.raises(TaskError, match="synthetic must return a Sample with task='mine'"):
        task.draw(0, "train", 0)
