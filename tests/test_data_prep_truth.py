"""Ground truth of detection files: what was not read, joined or searched is refused or counted, and never asked as absent."""

import copy
import json
import random

import pytest
from coco_files import BLUE, BLUE_XYXY, RED, RED_XYXY, convert, draw, two_colours

from data_prep.box_units import Marks
from data_prep.report import Report
from vlrl.schema import Box

pytestmark = pytest.mark.quick

BOTH = {"red": [RED_XYXY], "blue": [BLUE_XYXY]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder whose img/ holds a.jpg and b.jpg, both 200x100."""
    root = tmp_path_factory.mktemp("truth")
    for name in ("a.jpg", "b.jpg"):
        draw(root / "img" / name)
    return root


def changed(change, **more):
    """Two colours in one image, with `change` applied to the annotation of red."""
    content = two_colours(**more)
    row = content["annotations"][0]
    for key, value in change.items():
        if value is ...:
            del row[key]
        else:
            row[key] = value
    return content


READ_ALL_THE_SAME = {
    "numbers as text": {"bbox": ["20", "10", " 40", "40.0"]},
    "a box as text": {"bbox": "[20, 10, 40, 40]"},
    "a box with names": {"bbox": {"x": 20, "y": 10, "width": 40, "height": 40}},
    "a box of named corners": {"bbox": {"xmin": 20, "ymin": 10, "xmax": 60, "ymax": "50"}},
    "ids as text": {"image_id": "1", "category_id": "7"},
    "ids as fractions": {"image_id": 1.0, "category_id": 7.0},
    "a polygon and no box": {"bbox": ..., "segmentation": [[20, 10, 60, 10, 60, 50, 20, 50]]},
    "a polygon of points": {"bbox": [], "segmentation": [[[20, 10], [60, 10], [60, 50]]]},
    "an empty box and a polygon": {"bbox": [0, 0, 0, 0], "segmentation": [["20", 10, 60, 10, 60, 50.0]]},
    "a mask": {"bbox": None, "segmentation": {"size": [100, 200], "counts": [2010, *([40, 60] * 39), 40, 14050]}},
    "turned by CVAT": {"bbox": [20, 10, 40, 40], "attributes": {"occluded": False, "rotation": 90.0}},
    "a flag as text": {"iscrowd": "0", "ignore": "false"},
}


@pytest.mark.parametrize("change", READ_ALL_THE_SAME.values(), ids=READ_ALL_THE_SAME)
def test_other_forms_of_an_annotation_are_read(root, change):
    code, asked, _ = convert(root, changed(change))
    assert (code, asked) == (0, {"a.jpg": BOTH})


NEITHER_THERE_NOR_ABSENT = {
    "a crowd": {"iscrowd": 1},
    "a crowd as text": {"iscrowd": "1"},
    "a crowd as truth value": {"iscrowd": True},
    "ignored": {"ignore": 1},
    "Ignore": {"Ignore": 1},
    "isDifficult": {"isDifficult": "yes"},
    "is_ignore": {"is_ignore": True},
    "an attribute": {"attributes": {"occluded": False, "Is-Crowd": "true"}},
    "a flag that is none": {"iscrowd": "maybe"},
    "no number": {"bbox": [20, 10, float("nan"), 40]},
    "three numbers": {"bbox": [20, 10, 40]},
    "two named boxes": {"bbox": {"x": 20, "y": 10, "width": 40, "height": 40, "w": 50, "h": 50}},
    "nothing": {"bbox": ...},
    "a mask whose runs do not add up": {"bbox": ..., "segmentation": {"size": [10, 20], "counts": [100, 50, 51]}},
    "a mask of another size": {"bbox": ..., "segmentation": {"size": [50, 100], "counts": [1010, 30, 3960]}},
    "a mask of swapped sides": {"bbox": None, "segmentation": {"size": [200, 100], "counts": [2010, 40, 17950]}},
    "swapped corners": {"bbox": [60, 50, -40, -40]},
    "no width": {"bbox": [20, 10, 0, 40]},
    "outside": {"bbox": [500, 10, 40, 40]},
}


@pytest.mark.parametrize("change", NEITHER_THERE_NOR_ABSENT.values(), ids=NEITHER_THERE_NOR_ABSENT)
def test_what_cannot_be_read_is_neither_there_nor_absent(root, change):
    """Image b has a sound red box, so that red is asked for as absent elsewhere."""
    content = changed(change, images=2)
    sound = {key: value for key, value in content["annotations"][0].items() if key not in change}
    content["annotations"].append(sound | {"id": 99, "bbox": [100, 60, 20, 20]})
    code, asked, _ = convert(root, content, "--max_skipped", "1", "--coords", "px")
    assert code == 0
    marks = {key for key in change if key not in ("bbox", "segmentation")}
    is_only_marked = (marks and change.get("iscrowd") != "maybe") or change.get("bbox") == [20, 10, 0, 40]
    kept = {"red": [[100, 60, 120, 80]]} if is_only_marked else {}
    assert asked["a.jpg"] == {"blue": [BLUE_XYXY]} | kept, "one of two reds is unread: the list of reds is not known"
    assert asked["b.jpg"] == BOTH


REGIONS = {
    "ignore": {"blue": [BLUE_XYXY]},
    "ignored regions": {"blue": [BLUE_XYXY]},
    "__ignore__": {"blue": [BLUE_XYXY]},
    "DontCare": {"blue": [BLUE_XYXY]},
    "_background_": {"blue": [BLUE_XYXY], "green": []},
}


@pytest.mark.parametrize(("name", "asked_of_a"), REGIONS.items(), ids=REGIONS)
def test_a_region_that_nobody_annotated_is_no_category_and_leaves_no_negative(root, name, asked_of_a):
    content = two_colours(images=2)
    content["categories"] = [{"id": 7, "name": name}, {"id": 900, "name": "blue"}, {"id": 8, "name": "green"}]
    content["annotations"][2] |= {"category_id": 8}
    _, asked, told = convert(root, content)
    assert asked == {"a.jpg": asked_of_a, "b.jpg": {"blue": [BLUE_XYXY], "green": [RED_XYXY]}}
    assert f"'{name}' is no category" in told


JOINS = {
    "no such category": ({"category_id": 5}, {"blue": [BLUE_XYXY]}),
    "no category": ({"category_id": None}, None),
    "no such image": ({"image_id": 77}, {"blue": [BLUE_XYXY]}),
}


@pytest.mark.parametrize(("change", "asked_of_a"), JOINS.values(), ids=JOINS)
def test_an_object_that_is_not_joined_leaves_no_negative(root, change, asked_of_a):
    content = changed(change, images=2)
    content["categories"].append({"id": 8, "name": "green"})
    content["annotations"].append({"id": 9, "image_id": 2, "category_id": 8, "bbox": [5, 60, 20, 20]})
    code, asked, told = convert(root, content, "--max_skipped", "1")
    assert code == 0
    if change.get("image_id") == 77:
        asked_of_a = asked_of_a | {"red": [], "green": []}  # a has objects of its own, so the lost one is not of it
        content["images"].append({"id": 3, "file_name": "c.jpg", "width": 200, "height": 100})
        draw(root / "img/c.jpg")
        _, more, _ = convert(root, content, "--max_skipped", "1", "--empty_images", "negative")
        assert more["c.jpg"] == {"blue": [], "green": []}, "the lost red object may be of the image without any"
    assert asked.get("a.jpg") == asked_of_a
    assert asked["b.jpg"] == BOTH | {"green": [[5, 60, 25, 80]]}
    assert "1 bad annotations" in told


def test_too_much_that_cannot_be_used_is_an_error_with_count_and_places(root):
    content = two_colours(images=2)
    before = copy.deepcopy(content)
    for row in content["annotations"][:3]:
        row["bbox"] = "?"
    code, asked, told = convert(root, content)
    assert (code, asked) == (1, {})
    assert "nothing written: 3 of 4 annotations cannot be used, more than the share of 0.03 that --max_skipped allows" in told
    assert all(f"annotation {n}: " in told for n in (1, 2, 3))
    # one of many is left out and counted
    before["annotations"] += [{"id": 50 + i, "image_id": 2, "category_id": 900, "bbox": [i, 1, 9, 9]} for i in range(40)]
    before["annotations"][0]["bbox"] = "?"
    code, asked, _ = convert(root, before)
    assert (code, asked["a.jpg"]) == (0, {"blue": [BLUE_XYXY]})


def test_a_kind_of_fault_is_said_three_times_and_counted(capsys):
    report = Report(strict=False)
    for i in range(500):
        report.bad(f"a.json: annotation {i}", f"dog: bbox [{i}, 1] is not four numbers")
        report.note(f"image {i}", f"'A{i}.jpg' is taken to be 'a{i}.jpg'")
    report.total("annotations", 20_000)
    report.summary()
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 8
    assert "skipped: dog: bbox ... is not ... numbers (500 in all, the first 3 are above)" in error or "(500 in all" in error
    assert report.too_many() is None
    report.total("annotations", -10_000)
    assert "500 of 10500 annotations" in report.too_many()
    assert "a.json: annotation 0: " in report.too_many()


def test_a_category_nobody_marked_is_not_asked_as_absent(root):
    parents = [{"id": 0, "name": "colours", "supercategory": "none"}, {"id": 8, "name": "green", "supercategory": "colours"}]
    colours = [{"id": 7, "name": "red", "supercategory": "colours"}, {"id": 900, "name": "blue", "supercategory": "colours"}]
    content = two_colours(categories=[*parents, *colours])
    _, asked, told = convert(root, content)
    assert asked == {"a.jpg": BOTH}
    assert "2 of 4 categories (colours, green)" in told
    _, asked, _ = convert(root, content, "--classes", "green", "colours", "red")
    assert asked == {"a.jpg": {"red": [RED_XYXY], "green": []}}, "the user vouches for green; red things are colours"


def test_a_kind_of_thing_leaves_the_thing_in_doubt(root):
    names = [("vehicle", "none"), ("bus", "vehicle"), ("dog", "animal"), ("person", "person")]
    content = two_colours(images=2, categories=[{"id": i, "name": n, "supercategory": s} for i, (n, s) in enumerate(names)])
    rows = [(1, 0, RED), (1, 2, BLUE), (2, 1, RED), (2, 3, BLUE)]
    content["annotations"] = [{"id": i, "image_id": a, "category_id": b, "bbox": c} for i, (a, b, c) in enumerate(rows)]
    _, asked, _ = convert(root, content)
    assert asked["a.jpg"] == {"vehicle": [RED_XYXY], "dog": [BLUE_XYXY], "person": []}, "the vehicle may be a bus"
    assert asked["b.jpg"] == {"bus": [RED_XYXY], "person": [BLUE_XYXY], "dog": []}, "the bus is a vehicle"


def test_an_image_that_is_only_listed_is_no_negative(root):
    content = two_colours(images=2)
    content["annotations"] = content["annotations"][:2]
    _, asked, told = convert(root, content)
    assert asked == {"a.jpg": BOTH}
    assert "only listed 1 images" in told
    assert convert(root, content, "--empty_images", "negative")[1]["b.jpg"] == {"red": [], "blue": []}


def test_one_file_under_two_ids_is_one_image(root):
    content = two_colours()
    content["images"].append(content["images"][0] | {"id": 2, "file_name": "./a.jpg"})
    content["annotations"][1]["image_id"] = 2
    _, asked, told = convert(root, content)
    assert asked == {"a.jpg": BOTH}
    assert "is the same file as" in told
    # both list reds, and not the same ones: which list is whole is not known
    content["annotations"].append({"id": 3, "image_id": 2, "category_id": 7, "bbox": [22, 11, 40, 40]})
    assert convert(root, content)[1] == {"a.jpg": {"blue": [BLUE_XYXY]}}


@pytest.mark.parametrize("other", ["traffic light", "Traffic-Light", "TRAFFIC  LIGHT"])
def test_names_that_differ_by_separators_or_case_are_one_category(root, other):
    content = two_colours(images=2)
    content["categories"] = [{"id": 7, "name": "traffic_light"}, {"id": 900, "name": other}]
    content["annotations"] = content["annotations"][1:3]
    _, asked, told = convert(root, content)
    assert asked == {"a.jpg": {"traffic_light": [BLUE_XYXY]}, "b.jpg": {"traffic_light": [RED_XYXY]}}
    assert "is taken as 'traffic_light'" in told
    assert convert(root, content, "--classes", "Traffic light")[1] == asked


def test_one_id_of_two_files_is_of_neither(root):
    content = two_colours(images=2)
    content["images"].append(content["images"][0] | {"file_name": "c.jpg"})
    draw(root / "img/c.jpg")
    code, asked, told = convert(root, content, "--max_skipped", "1")
    assert (code, asked) == (0, {"b.jpg": BOTH})
    assert told.count("so it is not known whose the annotations of this id are") == 2
    content["images"][2]["file_name"] = "./b.jpg"
    assert convert(root, content, "--max_skipped", "1")[1] == {}, "what is of id 1 may be of b.jpg, which is id 2 too"


def test_a_mask_has_the_size_of_its_image_also_where_that_is_not_stated(root):
    content = changed({"bbox": ..., "segmentation": {"size": [50, 100], "counts": [1010, 30, 3960]}})
    content["images"] = [{"id": 1, "file_name": "a.jpg"}]
    assert convert(root, content, "--max_skipped", "1")[1] == {"a.jpg": {"blue": [BLUE_XYXY]}}
    content["annotations"][0]["segmentation"] = READ_ALL_THE_SAME["a mask"]["segmentation"]
    assert convert(root, content)[1] == {"a.jpg": BOTH}


def test_predictions_are_no_annotations(root):
    content = two_colours()
    for row in content["annotations"]:
        row["score"] = 0.9
    assert "have a score; predictions are no annotations" in convert(root, content)[0]
    content["annotations"][0]["score"] = content["annotations"][1]["score"] = 1.0
    assert convert(root, content)[1] == {"a.jpg": BOTH}


def test_ids_of_two_parts_of_a_set_do_not_collide(tmp_path):
    ids = {}
    for part in ("train", "valid"):
        draw(tmp_path / "cups" / part / "img" / f"{part}_1.jpg.rf.0a.jpg")
        content = two_colours()
        content["images"][0] |= {"id": 0, "file_name": f"{part}_1.jpg.rf.0a.jpg", "extra": {"name": "IMG.jpg"}}
        for row in content["annotations"]:
            row["image_id"] = 0
        assert convert(tmp_path / "cups" / part, content, name="_annotations.coco.json")[0] == 0
        rows = [json.loads(line) for line in (tmp_path / "cups" / part / "out.jsonl").read_text().splitlines()]
        ids[part] = {row["id"] for row in rows}
        assert {(row["meta"]["dataset"], row["meta"]["split"]) for row in rows} == {("cups", part)}
        assert {row["meta"]["group"] for row in rows} == {"cups/IMG.jpg"}
    assert not ids["train"] & ids["valid"]


REFUSED = {
    "shares": ([[0.1, 0.1, 0.2, 0.4], [0.5, 0.2, 0.4, 0.6]], ("--coords", "norm1"), "lie within 0..1"),
    "corners": ([RED_XYXY, BLUE_XYXY], ("--bbox_format", "xyxy"), "as corners x1, y1, x2, y2 all fit"),
    "thousandths": ([[100, 100, 200, 400], [500, 200, 400, 600]], ("--coords", "norm1000"), "stick out of their images"),
}


@pytest.mark.parametrize(("boxes", "option", "message"), REFUSED.values(), ids=REFUSED)
def test_other_units_are_refused_with_the_option_that_reads_them(root, boxes, option, message):
    content = two_colours()
    for row, box in zip(content["annotations"], boxes, strict=True):
        row["bbox"] = box
    code, asked, _ = convert(root, content)
    assert message in code
    assert asked == {}
    assert " ".join(option) in code
    assert convert(root, content, "--max_skipped", "1")[1].get("a.jpg") != BOTH or message == REFUSED["thousandths"][2]
    code, asked, _ = convert(root, content, *option)
    assert (code, asked) == (0, {"a.jpg": BOTH})


def test_areas_and_polygons_tell_corners_where_the_image_does_not(root):
    content = two_colours()
    content["annotations"] = [content["annotations"][0] | {"bbox": RED_XYXY, "area": 1600}]
    assert "pass --bbox_format xyxy" in convert(root, content)[0]
    content["annotations"][0] |= {"area": 800, "segmentation": [[20, 10, 60, 10, 60, 50]]}
    assert "pass --bbox_format xyxy" in convert(root, content)[0]
    content["annotations"][0] |= {"bbox": RED}
    assert convert(root, content)[1] == {"a.jpg": {"red": [RED_XYXY]}}


@pytest.mark.parametrize(
    ("scale", "stride", "problem"),
    [(1, 1, None), (1000 / 1920, 1, "thousandths"), (0.4, 1, "upper left quarter"), (0.4, 50, None)],
)
def test_boxes_of_a_set_show_their_unit_by_where_they_never_lie(scale, stride, problem):
    draw_number = random.Random(0)
    marks = Marks()
    for index in range(0, 400, stride):
        x, y = draw_number.uniform(0, 1700), draw_number.uniform(0, 1700)
        box = Box(x * scale, y * scale, (x + draw_number.uniform(5, 219)) * scale, (y + 100) * scale, "dog")
        marks.add([box], (1920, 1920), lambda _, index=index: str(index))
    found = marks.problem(0.03, coords_are_stated=False, is_xywh=False)
    assert (problem in found) if problem else (found is None)
    assert marks.problem(0.03, coords_are_stated=True, is_xywh=False) is None
