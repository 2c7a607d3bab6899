"""What a set says against itself: boxes in a corner of their images, segmentations elsewhere, names in several spellings."""

import pytest
from coco_files import BLUE_XYXY, RED_XYXY, convert, draw, two_colours

from data_prep import instances_file
from data_prep.box_units import Marks
from data_prep.class_folders import say_alike
from vlrl.schema import Box

pytestmark = pytest.mark.quick

BOTH = {"red": [RED_XYXY], "blue": [BLUE_XYXY]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("evidence")
    draw(root / "img/a.jpg")
    return root


def changed(change):
    content = two_colours()
    content["annotations"][0] |= change
    return content


def marks_of(boxes, size_wh):
    marks = Marks()
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        marks.add([Box(x1, y1, x2, y2, "dog")], size_wh, lambda _, index=index: str(index))
    return marks


PERCENT = [(10, 20, 35.5, 80), (40, 5, 99, 30), (1.5, 60, 20, 97.25)]


@pytest.mark.parametrize(
    ("boxes", "size_wh", "problem"),
    [
        (PERCENT, (640, 480), "--coords norm100"),
        (PERCENT, (300, 300), None),
        (PERCENT * 20, (300, 300), None),
        (PERCENT, (199, 5000), None),
        ([*PERCENT, (10, 10, 140, 50)], (640, 480), None),
        (PERCENT[:2], (640, 480), None),
        ([PERCENT[0]] * 30, (640, 480), None),
        ([(1, 1, 20, 20), (5, 9, 30, 30), (2, 2, 40, 12)], (640, 480), None),
        ([(x * 10, y * 10, x2 * 10, y2 * 10) for x, y, x2, y2 in [*PERCENT, (5, 5, 9, 9)]], (4000, 3000), "--coords norm1000"),
        ([(x * 10, y * 10, x2 * 10, y2 * 10) for x, y, x2, y2 in [*PERCENT, (5, 5, 9, 9)]], (1100, 1100), None),
    ],
)
def test_few_boxes_in_one_corner_are_per_cent_or_thousandths(boxes, size_wh, problem):
    marks = marks_of(boxes, size_wh)
    found = marks.problem(0.03, coords_are_stated=False, is_xywh=True)
    assert (problem in found) if problem else (found is None)
    assert marks.problem(0.03, coords_are_stated=True, is_xywh=True) is None


def test_per_cent_is_read_where_it_is_named_and_remarked_where_it_may_be(tmp_path):
    content = two_colours()
    content["images"][0] |= {"width": 800, "height": 400}
    content["annotations"][0]["bbox"], content["annotations"][1]["bbox"] = [10, 10, 20, 40], [50, 20, 40, 60]
    draw(tmp_path / "img/a.jpg", (800, 400))
    code, asked, said = convert(tmp_path, content)
    assert (code, asked["a.jpg"]["red"], "--coords norm100 if they are per cent" in said) == (0, [[10, 10, 30, 50]], True)
    content["annotations"].append({"id": 3, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]})
    code, asked, _ = convert(tmp_path, content)
    assert ("pass --coords norm100" in code, asked) == (True, {})
    code, asked, _ = convert(tmp_path, content, "--coords", "norm100")
    assert (code, asked["a.jpg"]) == (0, {"red": [[80, 40, 240, 200], [8, 8, 32, 24]], "blue": [[400, 80, 720, 320]]})


FAR = [100, 20, 180, 20, 180, 80, 100, 80]


@pytest.mark.parametrize(
    ("segmentation", "is_apart"),
    [
        ([FAR], True),
        ([[20, 10, 60, 10, 60, 50, 20, 50]], False),
        ([[20, 10, 60, 10, 60, 36]], False),
        ([[20, 10, 60, 10, 60, 28]], True),
        ({"size": [100, 200], "counts": [2010, *([40, 60] * 39), 40, 14050]}, False),
        ({"size": [100, 200], "counts": [10020, *([60, 40] * 79), 60, 2020]}, True),
        ({"size": [100, 200], "counts": [1, 2]}, False),
        ([], False),
        ([[1, 2]], False),
    ],
)
def test_a_segmentation_in_another_place_than_its_box_is_a_contradiction(root, segmentation, is_apart):
    code, asked, said = convert(root, changed({"segmentation": segmentation}), "--max_skipped", "1")
    assert (code, asked) == (0, {"a.jpg": {"blue": [BLUE_XYXY]} if is_apart else BOTH})
    assert ("its segmentation lies elsewhere" in said) == is_apart
    if is_apart:
        assert convert(root, changed({"segmentation": segmentation}))[:2] == (1, {})
    assert convert(root, changed({"segmentation": segmentation}), "--bbox_format", "xywh")[1] == {"a.jpg": BOTH}


def test_boxes_of_a_large_file_are_compared_in_part(root, monkeypatch):
    monkeypatch.setattr(instances_file, "_N_PLACED", 10)
    content = two_colours()
    content["annotations"] += [
        {"id": 9 + i, "image_id": 1, "category_id": 7, "bbox": [i % 150, 5, 9, 9], "segmentation": [FAR] if i > 200 else []}
        for i in range(600)
    ]
    code, asked, _ = convert(root, content)
    assert (asked, "4 of 4 boxes that were compared with their segmentations lie elsewhere" in code) == ({}, True)


def test_names_that_may_be_one_class_are_said(capsys):
    names = [
        "Cat",
        "cats",
        "hot-dog",
        "hot_dog",
        "Caf\u00e9",
        "Cafe\u0301",
        "bus",
        "buses",
        "fly",
        "flies",
        "dog",
        "class 1",
        "class 11",
    ]
    say_alike([*names, "as", "a", "grass", "gras"])
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" may be")[0] for line in said] == [
        "note: 'Cat', 'cats'",
        "note: 'hot-dog', 'hot_dog'",
        "note: 'Caf\u00e9' ('Caf\\xe9'), 'Cafe\u0301' ('Cafe\\u0301')",
        "note: 'bus', 'buses'",
        "note: 'fly', 'flies'",
    ]


@pytest.mark.parametrize(
    "mark",
    [
        {"attributes": [{"name": "difficult", "value": True}]},
        {"attributes": [{"key": "ignore"}]},
        {"extra": {"ignore": 1}},
        {"flags": {"crowd": True}},
        {"flags": ["Is-Crowd"]},
        {"tags": ["difficult"]},
        {"tags": "far, difficult"},
        {"deleted": True},
    ],
)
def test_marks_count_wherever_a_tool_puts_them(root, mark):
    assert convert(root, changed(mark))[:2] == (0, {"a.jpg": {"blue": [BLUE_XYXY]}})
    off = {key: {"crowd": False} if isinstance(value, dict) else ["far"] for key, value in mark.items() if key != "deleted"}
    assert convert(root, changed(off))[1] == {"a.jpg": BOTH}


@pytest.mark.parametrize(("mark", "is_used"), [({"ignore": 1}, False), ({"deleted": "true"}, False), ({"difficult": 1}, True)])
def test_an_image_that_is_marked_as_not_to_be_used_is_left_out(root, mark, is_used):
    content = two_colours(images=2)
    draw(root / "img/b.jpg")
    content["images"][1] |= mark
    code, asked, said = convert(root, content)
    assert (code, "b.jpg" in asked, "is marked as not to be used" in said) == (0, is_used, not is_used)
