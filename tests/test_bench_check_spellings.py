"""`bench check` sees a reward that pays for the spelling of an answer, or for a wrong one."""

import dataclasses
import json

import pytest

from vlrl.bench import check_spellings, main
from vlrl.bench.check import ROUNDING
from vlrl.bench.check_spellings import other_spellings
from vlrl.rewards import REWARDS
from vlrl.schema import Sample, Score
from vlrl.tasks import KNOWN

pytestmark = pytest.mark.quick

TEXTS = [
    "42", 42, -3, "0.5", "1/2", "$x=3$", "2\\sqrt{3}", "\\frac{\\sqrt{3}}{2}", "10 cm", "50%", "(1,2)", "[0,1)", "\\{1,2\\}",
    "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "1,234", "1e3", 0.1, 1e-05, 0.1 + 0.2, "\\pi", [3, "$\\frac{7}{2}$"], "2^{10}", "x=3",
    "1.2\\times 10^3", "3:4", "90^\\circ", "√2", "$x^2+1$", 10**20, "-0.5", "\\boxed{7}", "yes", "No", "a red bus", "2024-01", "737-200",
    "twelve", "e.g. this", "a", "level", "C",
]  # fmt: skip


def rows():
    samples = [{"task": "qa", "question": "q", "answer": answer} for answer in TEXTS]
    samples += [
        {"task": "qa", "question": "q", "answer": answer, "choices": ["cat", "dog", "I"]} for answer in ("B", "dog", ["A", "C"])
    ]
    samples += [
        {"task": "planning", "question": "plan", "answer": {"speed": "KEEP", "path": "LEFT_TURN"}, "meta": {"speed_mps": 4}}
    ]
    return [{"id": str(i), **sample} for i, sample in enumerate(samples)]


def checked(tmp_path, capsys, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = main(["check", "--data", str(path)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_the_default_rewards_pass(tmp_path, capsys):
    code, out, err = checked(tmp_path, capsys, rows())
    assert (code, err) == (0, "")
    assert f"{len(rows())} of {len(rows())} rows are good" in out


def spoiled(monkeypatch, name, function):
    monkeypatch.setitem(REWARDS, name, dataclasses.replace(REWARDS[name], function=function))


def test_a_reward_that_reads_a_part_of_a_formula_is_named(tmp_path, capsys, monkeypatch):
    spoiled(
        monkeypatch,
        "math_equal",
        lambda text, sample: Score(float("<answer>2" in text or "{2" in text or "2\\sqrt" in text), 2, "a 2"),
    )
    code, _, err = checked(tmp_path, capsys, [{"id": "1", "task": "qa", "question": "q", "answer": "2\\sqrt{3}"}])
    assert code == 1
    assert "(id '1'): the wrong answer '" in err or "spelled as" in err


def test_a_reward_that_refuses_a_box_is_named(tmp_path, capsys, monkeypatch):
    right = REWARDS["math_equal"].function
    spoiled(monkeypatch, "math_equal", lambda text, sample: Score(0.0, None, "no") if "boxed" in text else right(text, sample))
    code, _, err = checked(tmp_path, capsys, [{"id": "1", "task": "qa", "question": "q", "answer": "2\\sqrt{3}"}])
    assert code == 1
    assert "the reference answer spelled as" in err
    assert "\\\\boxed{2\\\\sqrt{3}}" in err


def test_a_reward_that_pays_every_letter_is_named(tmp_path, capsys, monkeypatch):
    spoiled(monkeypatch, "mcq", lambda text, sample: Score(1.0, "B", "anything"))
    code, _, err = checked(tmp_path, capsys, [{"id": "1", "task": "qa", "question": "q", "answer": "B", "choices": ["x", "y"]}])
    assert code == 1
    assert "the wrong answer '" in err
    assert "earns 1.0 of 1 from mcq: anything" in err


BOXES = [{"bbox_2d": [10, 10, 60, 60], "label": "dog"}, {"bbox_2d": [60, 10, 110, 60], "label": "dog"}]


@pytest.mark.parametrize(
    "sample",
    [
        Sample("d", "detection", "dog", BOXES, ("a.jpg",), meta={"categories": ["dog"], "image_size": [200, 200]}),
        Sample("n", "detection", "dog", [], ("a.jpg",), meta={"categories": ["dog"], "image_size": [200, 200]}),
        Sample("g", "grounding", "the dog", {"bbox_2d": [10, 10, 60, 60]}, ("a.jpg",), meta={"image_size": [200, 200]}),
        Sample("c", "classification", "what", "pug", ("a.jpg",), choices=("pug", "beagle")),
        Sample("c", "classification", "what", "pug", ("a.jpg",)),
    ],
)
def test_shifted_boxes_and_other_labels_earn_less(sample):
    task = KNOWN[sample.task]
    spellings = other_spellings(sample, task.oracle(sample))
    assert spellings.changed
    assert spellings.same or sample.answer == []
    name = task.rewards_for(sample)[0]
    for text in spellings.same:
        assert REWARDS[name].function(text, sample).value >= REWARDS[name].high - ROUNDING["px"], text
    for text in spellings.changed:
        assert REWARDS[name].function(text, sample).value < 0.9, text


def test_nothing_is_tried_where_nothing_is_known():
    assert other_spellings(Sample("g", "cards", "q", {"env": "points24"}), "x").same == []
    assert other_spellings(Sample("q", "qa", "q", "42"), "<think>no answer").same == []
    assert check_spellings.Spellings().changed == []
