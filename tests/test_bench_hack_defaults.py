"""Every default reward against the degenerate answers of `bench hack`, on drawn samples and on rows like those of data sets."""

import json
import random

import pytest

from vlrl.bench import main


@pytest.fixture
def hacked(tmp_path, capsys):
    """Run the command; returns exit code, what was written as JSON and standard error."""

    def run(task, rows=None, **flags):
        words = ["hack", "--task", task, "--output_path", str(tmp_path)]
        if rows is not None:
            (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            words += ["--data", str(tmp_path / "rows.jsonl")]
        code = main([*words, *(f"--{name}={value}" for name, value in flags.items())])
        return code, json.loads((tmp_path / "hack.json").read_text()), capsys.readouterr().err

    return run


@pytest.mark.parametrize("task", ["detection", "grounding", "classification", "planning", "qa", "cards"])
def test_the_default_rewards_pass_on_drawn_samples(hacked, task):
    code, made, err = hacked(task, limit=8, seed=1)
    assert code == 0, err
    assert made["hackable"] == []


def cells(rng):
    """A photograph with many cells of two kinds, as annotated blood smears have them."""
    boxes = []
    for _ in range(rng.randint(3, 20)):
        x, y, size = rng.randint(0, 580), rng.randint(0, 420), rng.randint(40, 110)
        boxes.append({"bbox_2d": [x, y, min(640, x + size), min(480, y + size)], "label": rng.choice(["rbc", "rbc", "wbc"])})
    return boxes


def test_the_default_rewards_pass_on_rows_like_those_of_data_sets(hacked):
    rng = random.Random(0)
    meta = {"categories": ["rbc", "wbc"], "image_size": [640, 480]}
    smears = [
        {
            "id": f"s{i}",
            "task": "detection",
            "images": ["synthetic:detection/train/0/1"],
            "question": "rbc, wbc",
            "answer": cells(rng),
        }
        | {"meta": meta}
        for i in range(6)
    ]
    code, _, err = hacked("detection", smears)
    assert code == 0, err
    answers = [
        "yes",
        "no",
        "yes",
        0,
        3,
        12,
        "rubber",
        "small",
        "dirtbike",
        "yes",
        "1,200",
        "no",
        "metal",
        "Yes.",
        "No.",
        2.5,
        "50%",
        "1/2",
    ]
    questions = [
        {"id": f"c{i}", "task": "qa", "question": f"What about the cyan bus {i}?", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    choices = ["30", "15", "Yes", "the Dominican Republic"]
    questions += [
        {"id": f"l{i}", "task": "qa", "question": "Which?", "choices": choices, "answer": "ABCD"[i % 4]} for i in range(8)
    ]
    code, _, err = hacked("qa", questions)
    assert code == 0, err


def test_a_calculation_is_not_answered_by_repeating_it(hacked):
    rows = [{"id": f"+{i}", "task": "qa", "question": f"What is {i} + {i * 3 + 2}?", "answer": 4 * i + 2} for i in range(2, 8)]
    code, made, err = hacked("qa", rows)
    assert code == 0, err
    assert {
        one["share"] for one in made["findings"] if one["attack"] == "echo of the question" and one["reward"] == "math_equal"
    } == {0}
