import pytest

from vlrl.schema import box_problem

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
