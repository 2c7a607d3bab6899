import pytest

from vlrl.answers.geometry import box_problem
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.schema import ModelView, Sample, SampleError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ([0, 0, 10, 10], None),
        ([-1, 0, 101, 50], None),  # one pixel of slack
        ([0.5, 0.5, 1.5, 1.5], None),
        ([0, 0, 102, 50], "outside the 100x50 image"),
        ([-2, 0, 10, 10], "outside"),
        ([10, 0, 10, 10], "no area"),
        ([10, 10, 5, 20], "no area"),
        ([0, 0, float("nan"), 1], "finite"),
        ([0, 0, True, 1], "finite"),
        ([0, 0, 1], "x1, y1, x2, y2"),
        ("0,0,1,1", "x1, y1, x2, y2"),
    ],
)
def test_box_problem(box, word):
    problem = box_problem(box, (100, 50))
    assert problem is None if word is None else word in problem


def test_facts_of_a_model_are_not_facts_of_a_row(tmp_path):
    """In JSON they stand in `meta`; in a sample they have a place and types of their own."""
    row = {"id": "1", "task": "detection", "question": "dog", "answer": [], "images": ["a.jpg"]}
    row["meta"] = {"categories": ["dog"], "coords": "resized_px", "input_size": [56, 84]}
    sample = sample_from_json(row, "x:1", tmp_path)
    assert sample.view == ModelView("resized_px", (56, 84))
    assert sample.meta == {"categories": ["dog"]}
    assert sample_to_json(sample, tmp_path) == row
    assert Sample("1", "qa", "q", "a").coords == "px"
    with pytest.raises(ValueError, match="facts of a model"):
        Sample("1", "qa", "q", "a", meta={"coords": "px"})
    for wrong in ([1], "56x84", [0, 3], [1, float("inf")]):
        with pytest.raises(SampleError, match="input_size must be"):
            sample_from_json({**row, "meta": {"input_size": wrong}}, "x:1", tmp_path)
