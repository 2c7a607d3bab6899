"""Ground truth of detection files: what was not read, joined or searched is refused or counted, and never asked as absent."""

import copy
import dataclasses
import io
import json
import os
import random
from pathlib import Path

import pytest
from coco_files import BLUE, BLUE_XYXY, RED, RED_XYXY, convert, draw, two_colours
from PIL import Image

from data_prep import box_values, json_stream, orientation, voc
from data_prep.annotated import Annotated
from data_prep.box_units import Marks
from data_prep.excluding import Excluded
from data_prep.image_finding import ImageFinder, NotFound
from data_prep.image_headers import read_header
from data_prep.report import Report
from vlrl.data.images import open_image
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
    "a flag that is none": {"iscrowd": "maybe"},
    "no number": {"bbox": [20, 10, float("nan"), 40]},
    "three numbers": {"bbox": [20, 10, 40]},
    "two named boxes": {"bbox": {"x": 20, "y": 10, "width": 40, "height": 40, "w": 50, "h": 50}},
    "nothing": {"bbox": ...},
    "a mask of another size": {"bbox": ..., "segmentation": {"size": [10, 20], "counts": [100, 50, 51]}},
    "swapped corners": {"bbox": [60, 50, -40, -40]},
    "no width": {"bbox": [20, 10, 0, 40]},
    "outside": {"bbox": [500, 10, 40, 40]},
}


@pytest.mark.parametrize("change", NEITHER_THERE_NOR_ABSENT.values(), ids=NEITHER_THERE_NOR_ABSENT)
def test_what_cannot_be_read_is_neither_there_nor_absent(root, change):
    """Image b has a sound red box, so that red is asked for as absent elsewhere."""
    content = changed(change, images=2)
    content["annotations"].append(content["annotations"][0] | {"id": 99, "bbox": [100, 60, 20, 20], "iscrowd": 0, "ignore": 0})
    code, asked, _ = convert(root, content, "--max_skipped", "1", "--coords", "px")
    assert code == 0
    is_only_marked = change.get("iscrowd") in (1, "1") or change.get("ignore") == 1 or change.get("bbox") == [20, 10, 0, 40]
    kept = {"red": [[100, 60, 120, 80]]} if is_only_marked else {}
    assert asked["a.jpg"] == {"blue": [BLUE_XYXY]} | kept, "one of two reds is unread: the list of reds is not known"
    assert asked["b.jpg"] == BOTH


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


def photograph(turned):
    """A red square at [40, 30, 120, 110] of what is shown, 400x300, stored with an EXIF orientation; its box as stored."""
    shown = Image.new("RGB", (400, 300), "white")
    shown.paste((255, 0, 0), (40, 30, 120, 110))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of the turn, as Image.Transpose
    stored = shown if turned == 1 else shown.transpose(Image.Transpose(back[turned]))
    exif = Image.Exif()
    exif[0x0112] = turned
    reds = stored.point(lambda value: 255 if value > 128 else 0).split()[1].point(lambda value: 255 - value)
    return stored, exif, Box(*reds.getbbox(), "red")


@pytest.mark.parametrize("turned", range(1, 9))
def test_boxes_in_stored_pixels_are_turned_with_the_photograph(tmp_path, turned):
    stored, exif, box = photograph(turned)
    stored.save(tmp_path / "p.png", exif=exif)
    header = read_header(tmp_path / "p.png")
    assert (header.orientation, header.stored_wh, header.shown_wh) == (turned, stored.size, (400, 300))
    assert orientation.turned(box, header.stored_wh, turned).xyxy == (40, 30, 120, 110)
    assert open_image(str(tmp_path / "p.png")).getpixel((80, 70)) == (255, 0, 0)
    one = Annotated(tmp_path / "p.png", "p", "x", stored.size, (box,), ("o",))
    undecided = turned in (2, 3, 4)
    assert orientation.frame_of(one, header, "auto") == (None if undecided else "shown" if turned == 1 else "stored")
    assert orientation.frame_of(one, header, "stored") == ("shown" if turned == 1 else "stored")
    if turned > 4:
        outside = dataclasses.replace(one, boxes=(Box(340, 10, 390, 20, "red"),))
        assert orientation.frame_of(outside, header, "auto") == "contradicted", "the box fits what is shown only"
        careless = dataclasses.replace(one, size_wh=None, boxes=(Box(10, 10, 303, 20, "red"),))
        assert orientation.frame_of(careless, header, "auto") is None, "3 px over the edge decide nothing"


def test_photographs_that_nothing_decides_are_left_out_until_the_user_does(tmp_path):
    for name, turned in (("a", 6), ("b", 6), ("c", 1)):
        stored, exif, box = photograph(turned)
        (tmp_path / "img").mkdir(exist_ok=True)
        stored.save(tmp_path / f"img/{name}.jpg", exif=exif)
    box = photograph(6)[2]
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("abc")],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": bbox}
            for i, bbox in enumerate(([100, 100, 20, 20], [100, 100, 20, 20], [40, 30, 80, 80]))
        ],
        "categories": [{"id": 7, "name": "red"}],
    }
    code, _, told = convert(tmp_path, content)
    assert code == 1
    assert "2 of 3 images cannot be used" in told
    assert "--boxes_in stored or --boxes_in shown" in told
    as_shown = convert(tmp_path, content, "--boxes_in", "shown")[1]
    assert as_shown["a.jpg"] == {"red": [[100, 100, 120, 120]]}
    assert convert(tmp_path, content, "--boxes_in", "stored")[1]["a.jpg"] == {"red": [[280, 100, 300, 120]]}
    # a box that fits the stored picture only decides for its image, and for the rest of the set
    content["annotations"][1]["bbox"] = [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]
    code, asked, told = convert(tmp_path, content)
    assert asked["b.jpg"] == {"red": [[40, 30, 120, 110]]}
    assert asked["a.jpg"] == {"red": [[280, 100, 300, 120]]}
    assert "taken as stored pixels, like those of 1 other images" in told


NAMES = {
    "a.jpg": "a.jpg",
    "images\\c d.jpg": "images/c d.jpg",
    "C:\\data\\images\\c d.jpg": "images/c d.jpg",
    "/datasets/img/a.jpg": "a.jpg",
    "img/a.jpg": "a.jpg",
    "http://images.cocodataset.org/val2017/a.jpg?x=1": "a.jpg",
    "images/c%20d.jpg": "images/c d.jpg",
    "A.JPG": "a.jpg",
    "a": "a.jpg",
    "c d.jpg": "images/c d.jpg",
    "gro\u0308\u00dfe.png": "gr\u00f6\u00dfe.png",
    "../a.jpg": "leads out",
    "images/../../secret.jpg": "leads out",
    "..\\a.jpg": "leads out",
    "twice.jpg": "2 files could be meant",
    "one/twice.jpg": "one/twice.jpg",
    "three/twice.jpg": "2 files could be meant",
    "train/v.jpg": "no such image",
    "none.jpg": "no such image",
}


def test_file_names_of_other_machines_find_their_image_and_no_other(tmp_path):
    for path in (
        "a.jpg",
        "images/c d.jpg",
        "gr\u00f6\u00dfe.png",
        "one/twice.jpg",
        "two/twice.jpg",
        "val/v.jpg",
        "../secret.jpg",
    ):
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    wrong = []
    for name, expected in NAMES.items():
        try:
            found = os.path.relpath(ImageFinder(tmp_path / "root").find(name), tmp_path / "root")
        except NotFound as problem:
            found = str(problem)
        if expected not in found or (found != expected and "/" in expected):
            wrong.append((name, expected, found))
    assert not wrong
    finder = ImageFinder(tmp_path / "root")
    finder.find("a.jpg")
    with pytest.raises(NotFound, match=r"is 'a\.jpg' already"):
        finder.find("other/a.jpg")


def test_an_image_that_git_lfs_has_not_fetched_is_named_as_such(root):
    (root / "img/b.jpg").rename(root / "img/kept")
    (root / "img/b.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    code, _, told = convert(root, two_colours(images=2))
    (root / "img/kept").rename(root / "img/b.jpg")
    assert code == 1
    assert "is a Git LFS pointer, not the file itself; run `git lfs pull`" in told
    assert "Git LFS pointer" in convert(root, "version https://git-lfs.github.com/spec/v1\n")[0]


LISTS = {
    "000002.jpg": {"000002.jpg"},
    "2": {"val/000009.jpg"},
    "val/000009.jpg": {"val/000009.jpg"},
    "000009.jpg": {"val/000009.jpg", "train/000009.jpg"},
    "COCO_train2014_000000000034.jpg": {"000000000034.jpg"},
    "34": {"000000000034.jpg"},
    "202011271530.jpg": set(),
    "9": set(),
}


def test_a_list_excludes_what_it_names_and_nothing_else(tmp_path, capsys):
    images = {
        "1": "000002.jpg",
        "2": "val/000009.jpg",
        "3": "train/000009.jpg",
        "4": "000000000034.jpg",
        "5": "x/202011271531.jpg",
    }
    for line, expected in LISTS.items():
        (tmp_path / "list.txt").write_text(line + "\n")
        excluded = Excluded.read([tmp_path / "list.txt"])
        assert {name for key, name in images.items() if excluded.has(key, name, tmp_path)} == expected, line
        excluded.report(len(expected))
    told = capsys.readouterr().err
    assert "1 of 1 listed images stand for no image of this set: 9" in told
    assert "stand for several images each, all left out: 000009.jpg" in told


def test_a_few_shot_file_keeps_its_images_and_their_copies_out_of_the_test_set(tmp_path):
    names = ["p0_jpg.rf.a.jpg", "p0_jpg.rf.b.jpg", "p1_jpg.rf.a.jpg", "p1_jpg.rf.b.jpg"]
    for number, name in enumerate(names):
        draw(tmp_path / "img" / name, size=(200, 100 + number))
    content = two_colours(images=4)
    for number, (row, name) in enumerate(zip(content["images"], names, strict=True)):
        row |= {"file_name": name, "height": 100 + number}
    _, drawn, _ = convert(tmp_path, content, "--shots", "1", "--classes", "red")
    (tmp_path / "out.jsonl").rename(tmp_path / "few.jsonl")
    (kept,) = drawn
    _, rest, told = convert(tmp_path, content, "--exclude", str(tmp_path / "few.jsonl"))
    assert set(rest) == {name for name in names if name[:2] != kept[:2]}
    assert "excluded   2 images, 1 of them copies of listed photographs" in told


def test_large_json_files_are_read_as_json_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 7)
    content = {
        "a": [{"x": [1, 2.5e-3, ']}\\"é']}, 12345678901234567890, None, []],
        "b": {"c": [1]},
        "d": [],
        "e": -1.25,
        "f": [[[]]],
    }
    for indent in (None, 1):
        (tmp_path / "x.json").write_text("\ufeff" + json.dumps(content, indent=indent) + " \n", encoding="utf-8")
        found = {}
        for key, is_entry, value in json_stream.entries(tmp_path / "x.json"):
            if is_entry:
                found[key].append(value)
            else:
                found[key] = value
        assert found == content
    for text in (
        '{"a": [1,]}',
        '{"a": [1 2]}',
        '{"a": 1',
        '{"a": [1, 2}',
        '{"a" 1}',
        "{} x",
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        "{1: 2}",
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SystemExit, match="not JSON"):
            list(json_stream.entries(tmp_path / "x.json"))


def test_masks_have_the_box_that_pycocotools_gives():
    import numpy as np
    from pycocotools import mask as masks

    generator = np.random.default_rng(0)
    for _ in range(100):
        height, width = (int(side) for side in generator.integers(1, 90, 2))
        pixels = np.asfortranarray((generator.random((height, width)) < generator.random() ** 3).astype(np.uint8))
        encoded = masks.encode(pixels)
        x, y, w, h = masks.toBbox(encoded)
        found = box_values.shape_box({"size": [height, width], "counts": encoded["counts"].decode()}, (width, height))
        assert found == ((x, y, x + w, y + h) if pixels.any() else None)
    for broken in ("zzz", "", "\x01", "0" * 9, [1, 2], [-1, 201], [200.0], None):
        assert box_values.shape_box({"size": [10, 20], "counts": broken}) is None


VOC = """<annotation>{head}<object><name>{name}</name>{shape}</object>
<object><name>blue</name><bndbox><xmin>101</xmin><ymin>21</ymin><xmax>180</xmax><ymax>80</ymax></bndbox></object></annotation>"""
BNDBOX = "<bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>"
ROTATED = "<robndbox><cx>40</cx><cy>30</cy><w>40</w><h>40</h><angle>{}</angle></robndbox>"
POINTS = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((21, 11), (60, 11), (60, 50)))
VOC_FORMS = {
    "gbk": (VOC.format(head="", name="\u72d0", shape=BNDBOX), "gbk", '<?xml version="1.0" encoding="GBK"?>', "\u72d0"),
    "utf-16": (VOC.format(head="", name="\u72d0", shape=BNDBOX), "utf-16", "", "\u72d0"),
    "latin-1": (
        VOC.format(head="", name="caf\u00e9", shape=BNDBOX),
        "latin-1",
        '<?xml version="1.0" encoding="ISO-8859-1"?>',
        "caf\u00e9",
    ),
    "gb2312 that is gbk": (
        VOC.format(head="", name="\u9555", shape=BNDBOX),
        "gbk",
        '<?xml version="1.0" encoding="gb2312"?>',
        "\u9555",
    ),
    "utf-16 that is utf-8": (
        VOC.format(head="", name="\u72d0", shape=BNDBOX),
        "utf-8",
        '<?xml version="1.0" encoding="utf-16"?>',
        "\u72d0",
    ),
    "objects in one more element": (
        VOC.format(head="", name="red", shape=BNDBOX)
        .replace("<annotation>", "<annotation><objects>")
        .replace("</annot", "</objects></annot"),
        *("utf-8", "", "red"),
    ),
    "a deleted object": (
        VOC.format(
            head=f"<object><name>red</name><deleted>1</deleted>{BNDBOX.replace('21', '5')}</object>", name="red", shape=BNDBOX
        ),
        *("utf-8", "", "red"),
    ),
    "an ampersand": (VOC.format(head="", name="nuts & bolts &lt;3", shape=BNDBOX), "utf-8", "", "nuts & bolts <3"),
    "one more element": ("<x>" + VOC.format(head="", name="red", shape=BNDBOX) + "</x>", "utf-8", "", "red"),
    "numbered points": (
        VOC.format(
            head="", name="red", shape="<polygon><x1>21</x1><y1>11</y1><x2>60</x2><y2>11</y2><x3>60</x3><y3>50</y3></polygon>"
        ),
        *("utf-8", "", "red"),
    ),
    "points": (VOC.format(head="", name="red", shape=f"<polygon>{POINTS}</polygon>"), "utf-8", "", "red"),
    "rotated by nothing": (VOC.format(head="", name="red", shape=ROTATED.format(0)), "utf-8", "", "red"),
    "rotated by a quarter": (VOC.format(head="", name="red", shape=ROTATED.format(1.5707963267948966)), "utf-8", "", "red"),
}


def convert_voc(root, *options):
    with pytest.MonkeyPatch.context() as patch:
        errors, printed = io.StringIO(), io.StringIO()
        patch.setattr("sys.stderr", errors)
        patch.setattr("sys.stdout", printed)
        try:
            code = voc.main(
                ["--root", str(root), "--out", str(root / "out.jsonl"), "--overwrite", "--negatives", "5", *options]
            )
        except SystemExit as stop:
            code = stop.code
    rows = [json.loads(line) for line in (root / "out.jsonl").read_text().splitlines()] if code == 0 else []
    return code, {row["question"]: [item["bbox_2d"] for item in row["answer"]] for row in rows}, errors.getvalue()


@pytest.mark.parametrize(("text", "encoding", "declaration", "name"), VOC_FORMS.values(), ids=VOC_FORMS)
def test_voc_as_tools_write_it(tmp_path, text, encoding, declaration, name):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_bytes((declaration + text).encode(encoding))
    code, asked, _ = convert_voc(tmp_path)
    assert (code, asked) == (0, {name: [RED_XYXY], "blue": [BLUE_XYXY]})


def test_voc_in_an_encoding_that_nothing_states_is_refused_until_it_is_named(tmp_path):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_bytes(VOC.format(head="", name="caf\u00e9", shape=BNDBOX).encode("cp1252"))
    code, _, told = convert_voc(tmp_path)
    assert code == 1
    assert "name its encoding with --encoding" in told
    assert convert_voc(tmp_path, "--encoding", "cp1252")[1] == {"caf\u00e9": [RED_XYXY], "blue": [BLUE_XYXY]}


@pytest.mark.parametrize(
    ("xml", "image", "filename"),
    [
        ("annotations/a.xml", "images/a.jpg", "a.jpg"),
        ("train/a.xml", "train/a.jpg", "a.jpg"),
        ("Annotations/s1/a.xml", "JPEGImages/s1/a.jpg", "a.jpg"),
        ("Annotations/a.xml", "JPEGImages/a.Jpg", "a.jpg"),
        ("Annotations/1.xml", "JPEGImages/photo 1.jpg", "D:\\x\\photo 1.jpg"),
    ],
)
def test_voc_in_other_folders(tmp_path, xml, image, filename):
    draw(tmp_path / image, format="JPEG")
    (tmp_path / xml).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / xml).write_text(VOC.format(head=f"<filename>{filename}</filename>", name="red", shape=BNDBOX))
    assert convert_voc(tmp_path)[1] == BOTH


def test_voc_with_boxes_outside_objects_is_no_image_without_objects(tmp_path):
    for name, text in (
        ("a", VOC.format(head="", name="red", shape=BNDBOX)),
        ("b", f"<annotation><item>{BNDBOX}</item></annotation>"),
    ):
        draw(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.xml").write_text(text)
    code, _, told = convert_voc(tmp_path)
    assert code == 1
    assert "no <object> around them" in told
    assert set(convert_voc(tmp_path, "--max_skipped", "1")[1]) == {"red", "blue"}


def test_voc_never_takes_the_image_of_another_file_and_never_mixes_parts(tmp_path):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    for name in "ab":
        text = VOC.format(head="<filename>a.jpg</filename>", name="red", shape=BNDBOX)
        (tmp_path / f"Annotations/{name}.xml").write_text(text)
    code, _, told = convert_voc(tmp_path)
    assert code == 1
    assert "its <filename> 'a.jpg' is the image of" in told
    for part in ("train", "valid"):
        draw(tmp_path / f"mixed/{part}/a.jpg")
        (tmp_path / f"mixed/{part}/a.xml").write_text(VOC.format(head="", name="red", shape=BNDBOX))
    assert "several parts of a set (train, valid)" in convert_voc(tmp_path / "mixed")[0]


REAL = Path(os.environ.get("VLRL_REAL_DATA", "/nowhere"))


@pytest.mark.skipif(not REAL.is_dir(), reason="VLRL_REAL_DATA names no folder of real sets")
def test_real_sets_have_the_boxes_of_an_independent_reading(tmp_path):
    from xml.etree import ElementTree

    from data_prep import coco

    for part in ("train", "valid", "test"):
        source = REAL / "rbc" / part / "_annotations.coco.json"
        content = json.loads(source.read_text())
        file_of = {row["id"]: row["file_name"] for row in content["images"]}
        names = {row["id"]: row["name"] for row in content["categories"]}
        expected = sorted(
            (file_of[a["image_id"]], names[a["category_id"]], x, y, round(x + w, 4), round(y + h, 4))
            for a in content["annotations"]
            for x, y, w, h in [a["bbox"]]
        )
        out = tmp_path / f"{part}.jsonl"
        assert (
            coco.main(["--instances", str(source), "--images", str(source.parent), "--out", str(out), "--negatives", "9"]) == 0
        )
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert sorted((Path(r["images"][0]).name, b["label"], *b["bbox_2d"]) for r in rows for b in r["answer"]) == expected
        assert {row["question"] for row in rows} == {"rbc", "wbc"}, "the parent category is not asked for"
    files = sorted((REAL / "bccd/Annotations").glob("*.xml"))
    objects = [o for file in files for o in ElementTree.parse(file).getroot().findall("object")]
    values = [[float(o.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
    out = tmp_path / "bccd.jsonl"
    assert voc.main(["--root", str(REAL / "bccd"), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(len(row["answer"]) for row in rows) == sum(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in values) == 4886
