"""`bench check` sees rows that are valid but say something else than their author meant."""

import json

import pytest
from PIL import Image

from vlrl.bench import main

pytestmark = pytest.mark.quick

DOG = {"bbox_2d": [10, 20, 110, 220], "label": "dog"}
"""A true box; the image is 640 by 480 pixels."""


@pytest.fixture
def checked(tmp_path, capsys):
    def run(*rows, **flags):
        Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"id": str(i), "question": "dog", **row}) + "\n" for i, row in enumerate(rows)))
        code = main(["check", "--data", str(path), *(f"--{name}={value}" for name, value in flags.items())])
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def boxes(answer, *categories):
    return {"task": "detection", "images": ["a.png"], "answer": answer} | (
        {"meta": {"categories": list(categories)}} if categories else {}
    )


def qa(answer, *choices, rewards=None):
    row = {"task": "qa", "answer": answer} | ({"choices": list(choices)} if choices else {})
    return row | ({"meta": {"rewards": rewards}} if rewards else {})


def label(answer, *choices):
    return {"task": "classification", "images": ["a.png"], "answer": answer, "choices": list(choices)}


BAD = [
    (qa("B", "Red", "red.", "blue"), "two choices are the same to the reader: 'Red' and 'red.'"),
    (qa("C", "red", "red!", "blue"), "'red' and 'red!'"),
    (qa("A", "ｒｅｄ", "red", "blue"), "'red'; case"),
    (qa("A", "red", "red", "blue"), "two choices are the same: 'red'"),
    (label("dog", "dog", "Dog", "bird"), "'dog' and 'Dog'"),
    (label("bird", "dog", "dog.", "bird"), "'dog' and 'dog.'"),
    (boxes([DOG], "dog", "Dog"), "two names in meta.categories are the same to the reader: 'dog' and 'Dog'"),
    (boxes([DOG], "dog", "cat", "cat"), "two names in meta.categories are the same: 'cat'"),
    (qa("A", "only one"), "'only one' is the only choice"),
    (label("dog", "dog"), "'dog' is the only choice"),
    (qa("B", "", "green", "blue"), "choice A is empty"),
    (qa("x^{2"), "'x^{2' looks like LaTeX but cannot be read (a bracket that is not closed)"),
    (qa("\\foo{3}+\\bar"), "looks like LaTeX but cannot be read (\\foo is not known)"),
    (qa(["3", "\\frac{1}{"]), "looks like LaTeX but cannot be read"),
    (qa("\\foo{3}", rewards=["math_equal"]), "looks like LaTeX but cannot be read"),
    (qa("42 or 43"), "'42 or 43' names several answers"),
    (qa("3 or 4 dogs"), "write a list: ['3', '4 dogs']"),
    (qa("1/2 或 1/3"), "names several answers"),
    (qa("yes or no"), "names several answers"),
    (boxes([{**DOG, "bbox_2d": [0.1, 0.2, 0.3, 0.4]}]), "in 0..1, as [0.1, 0.2, 0.3, 0.4]: these are shares of the image"),
    (boxes([{**DOG, "bbox_2d": [0, 0, 1, 1]}, {**DOG, "bbox_2d": [0.5, 0.5, 1, 1]}]), "lies in 0..1"),
    ({"task": "grounding", "images": ["a.png"], "answer": {"bbox_2d": [0.1, 0.2, 0.3, 0.4]}}, "lies in 0..1"),
    (boxes([DOG, {**DOG, "bbox_2d": [1, 2, 30, 40]}, DOG]), "the true box [10, 20, 110, 220] of 'dog' is given 2 times"),
    (boxes([DOG, {"bbox_2d": [10.0, 20, 110, 220], "label": "Dog"}]), "is given 2 times"),
    (boxes([{**DOG, "label": ""}]), "a label is empty"),
    (boxes([{**DOG, "label": "none"}], "none"), "a label is 'none', which says that there is no object"),
    (boxes([{**DOG, "label": "None."}]), "a label is 'None.'"),
    (boxes([DOG], "dog", "none"), "a name in meta.categories is 'none'"),
    (boxes([DOG], "dog", " "), "a name in meta.categories is empty"),
]


@pytest.mark.parametrize(("row", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_a_row_that_says_something_else_is_bad(checked, row, words):
    code, out, err = checked(row)
    assert code == 1
    assert words in err
    assert "(id '0')" in err
    assert "0 of 1 rows are good" in out


def test_rows_that_look_like_those_but_are_sound(checked):
    rows = [
        qa("B", "C", "C++", "C#"), qa("B", "5", "-5", "5.5"), qa("B", "2", "2.0", "3"), qa("A", "both A and B", "B", "neither"),
        qa("A", "$x^2$", "$\\frac{1}{2}$", "0.5"), qa("B", "(1, 2)", "(1, 2]"), label("dog", "dog", "hot dog", "dogs"),
        qa("\\int_0^1 x dx"), qa("C:\\Users\\me"), qa("$x=3$"), qa("x=1"), qa("a red or blue bus"), qa("and/or"), qa("oregon"),
        qa("x^{2", rewards=["exact_match"]), qa("1 or more"), qa(["42", "43"]), qa("a^2"), qa("C"),
        boxes([DOG, {**DOG, "label": "cat"}], "dog", "cat"), boxes([{**DOG, "label": "no entry sign"}], "no entry sign"),
        boxes([{**DOG, "label": "person without helmet"}], "person with helmet", "person without helmet"),
        boxes([], "dog"), boxes([{**DOG, "bbox_2d": [0, 0, 1, 2]}]), boxes([{**DOG, "label": "dog."}], "dog."),
    ]  # fmt: skip
    code, out, err = checked(*rows)
    assert (code, err) == (0, "")
    assert f"{len(rows)} of {len(rows)} rows are good" in out


def test_shares_are_named_in_every_convention_of_completions(checked):
    row = boxes([{**DOG, "bbox_2d": [0.1, 0.2, 0.3, 0.4]}])
    assert all("lies in 0..1" in checked(row, coords=coords)[2] for coords in ("px", "norm1", "norm1000"))


def test_one_row_is_one_row(checked):
    code, out, _ = checked(qa("42"))
    assert code == 0
    assert "1 of 1 rows is good" in out
    assert "qa               1 row\n" in out
    assert "images           1 in 1 size, most often 640x480 (1)" in checked(boxes([DOG]))[1]
