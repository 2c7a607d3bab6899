"""Odd forms of what annotation tools export in XML and JSON: CVAT, LabelMe, VIA, Label Studio, Supervisely."""

import json
import math
from pathlib import Path

import annotation_files as files
import pytest
from annotation_files import BLUE, RED, H, W, write
from annotation_reading import PLAIN, R, one_image, told

from data_prep import annotations
from data_prep.formats.gathering import Gathering, Options, Tree
from data_prep.report import Report

pytestmark = pytest.mark.quick

# CVAT -------------------------------------------------------------------------------------------------------------------------

SKELETON = '<skeleton label="red"><points label="1" points="1,2" outside="0"></points></skeleton>'
ROTATED = files.cvat_shape("red", (40, 40, 80, 60)).replace("z_order", 'rotation="90.00" z_order')
CUBOID = '<cuboid label="red" xtl1="20" ytl1="20" xbl1="20" ybl1="50" xtr1="50" ytr1="20" xbr1="50" ybr1="50" xtl2="30" ytl2="10" xbl2="30" ybl2="40" xtr2="60" ytr2="10" xbr2="60" ybr2="40"></cuboid>'  # fmt: skip
LOOSE_MASK = '<mask label="red" rle="6, 1, 8" left="20" top="10" width="5" height="3"></mask>'


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("", "-"),
        (files.cvat_shape("red", RED, "ellipse"), R),
        (ROTATED, "red 50,30,70,70"),
        (CUBOID, R),
        (LOOSE_MASK, "red 21,11,22,12"),
        (LOOSE_MASK.replace("6, 1, 8", "6, 1, 9"), "red?"),
        (LOOSE_MASK.replace("6, 1, 8", "15"), "red?"),
        (files.cvat_shape("red", RED, "polyline"), "red?"),
        (files.cvat_shape("red", RED, "points") + files.cvat_shape("blue", BLUE), "blue 100,20,180,80; red?"),
        (SKELETON, "red?"),
        ('<tag label="red"></tag>', "red?"),
        ('<blob label="red" points="1,2"></blob>', "red?"),
        ('<box label="red" xtl="1" ytl="2" xbr="nan" ybr="5"></box>', "red?"),
        ('<box label="red" xtl="9" ytl="2" xbr="1" ybr="5"></box>', "red?"),
        ('<box label="red" xtl="9" ytl="2" xbr="1"></box>', "red?"),
        ('<box xtl="1" ytl="2" xbr="9" ybr="5"></box>', "?"),
        (files.cvat_shape("red", RED).replace("></box>", '><attribute name="age">3</attribute></box>'), R),
        (files.cvat_shape("red", RED).replace("></box>", '><attribute name="ignore">true</attribute></box>'), "red~"),
        (files.cvat_shape("red", RED).replace("></box>", '><attribute name="Is crowd">0</attribute></box>'), R),
        (files.cvat_shape("red", RED).replace("></box>", '><attribute name="difficult">very</attribute></box>'), "red?"),
    ],
)  # fmt: skip
def test_cvat_shapes(tmp_path, body, found):
    one_image(tmp_path)
    files.cvat_file(tmp_path, files.cvat_image(0, "a.jpg", body), "job")
    assert told(tmp_path, "cvat") == {"a.jpg": found}


def test_cvat_tasks_of_a_project_may_use_an_id_twice(tmp_path):
    for name in ("images/Train/a.jpg", "images/Train/b.jpg", "images/Validation/a.jpg"):
        files.pictures((tmp_path / name).parent, [Path(name).name])
    body = [("a.jpg", "red", RED, "Train", 1), ("b.jpg", "blue", BLUE, "Train", 2), ("a.jpg", "blue", BLUE, "Validation", 3)]
    images = [files.cvat_image(0, image, files.cvat_shape(label, box), f' subset="{subset}" task_id="{task}"') for image, label, box, subset, task in body]  # fmt: skip
    files.cvat_file(tmp_path, "".join(images), "project")
    assert told(tmp_path, "cvat") == {
        "images/Train/a.jpg": R,
        "images/Train/b.jpg": "blue 100,20,180,80",
        "images/Validation/a.jpg": "blue 100,20,180,80",
    }


@pytest.mark.parametrize(
    ("name", "writer", "file"),
    [
        ("cvat", files.cvat, "annotations.xml"),
        ("via", files.via, "via_export_json.json"),
        ("label_studio", files.label_studio, "project-1-at-2024.json"),
        ("create_ml", files.create_ml, "_annotations.createml.json"),
    ],
)
def test_a_file_of_many_images_that_is_cut_short_ends_the_program(tmp_path, name, writer, file):
    writer(tmp_path)
    write(tmp_path / file, (tmp_path / file).read_text(encoding="utf-8")[:-20])
    with pytest.raises(SystemExit, match="not JSON" if file.endswith("json") else "not well-formed XML"):
        told(tmp_path, name)


def test_cvat_video(tmp_path):
    files.cvat_video(tmp_path)
    assert told(tmp_path, "cvat") == {
        "images/frame_000000.png": PLAIN,
        "images/frame_000001.png": "-",
        "images/frame_000002.png": R,
    }
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_name(f"shot{path.name[-5:]}"))
    with pytest.raises(SystemExit, match=r"no files frame_000000\.\*"):
        told(tmp_path, "cvat")


def test_cvat_labels_that_are_never_boxes_are_not_categories(tmp_path):
    one_image(tmp_path)
    files.cvat_file(tmp_path, files.cvat_image(0, "a.jpg", files.cvat_shape("red", RED)))
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace("</labels>", "<label><name>good</name><type>tag</type></label><label><name>1</name><type>points</type><parent>s</parent></label></labels>"))  # fmt: skip
    tree = Tree(tmp_path, None, Options(), Report(False))
    gathering = Gathering(tree)
    annotations.FORMATS["cvat"].read(tree, gathering)
    assert list(gathering.names) == ["red", "blue"]


# LabelMe ----------------------------------------------------------------------------------------------------------------------

RED_SHAPE = files.labelme_shape("red", RED)


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([], ""),
        ([RED_SHAPE | {"points": [[60, 50], [20, 10]]}], R),
        ([RED_SHAPE | {"points": [["20", "10"], ["60.0", "50"]]}], R),
        ([{"label": "red", "points": [[20, 10], [60, 10], [60, 50]]}], R),
        ([RED_SHAPE | {"shape_type": "circle", "points": [[40, 30], [40, 10]]}], R),
        ([files.labelme_shape("red", (20, 10, 40, 50), group_id=1), files.labelme_shape("red", (50, 10, 60, 20), group_id=1)], R),
        ([files.labelme_shape("red", (20, 10, 40, 50), group_id=1), files.labelme_shape("blue", BLUE, group_id=1)], "red 20,10,40,50; blue 100,20,180,80"),
        ([files.labelme_shape("red", RED, "mask") | {"mask": "!!"}], "red?"),
        ([RED_SHAPE | {"shape_type": "point", "points": [[1, 2]]}, files.labelme_shape("blue", BLUE)], "blue 100,20,180,80; red?"),
        ([RED_SHAPE | {"shape_type": "linestrip"}], "red?"),
        ([RED_SHAPE | {"shape_type": "blob"}], "red?"),
        ([RED_SHAPE | {"points": [[20, 10]]}], "red?"),
        ([RED_SHAPE | {"points": None}], "red?"),
        ([RED_SHAPE | {"difficult": True}], "red~"),
        ([RED_SHAPE | {"difficult": False}], R),
        ([RED_SHAPE | {"flags": {"occluded": True, "ignore": True}}], "red~"),
        ([RED_SHAPE | {"attributes": {"ignored": "1"}}], "red~"),
        ([RED_SHAPE | {"label": 7}], "7 20,10,60,50"),
        ([RED_SHAPE | {"label": " "}], "?"),
        (["red"], "?"),
    ],
)  # fmt: skip
def test_labelme_shapes(tmp_path, shapes, found):
    one_image(tmp_path)
    files.labelme_file(tmp_path / "a.json", shapes, "a.jpg")
    assert told(tmp_path, "labelme") == {"a.jpg": found}


@pytest.mark.parametrize("path", ["a.jpg", "..\\images\\a.jpg", "../images/a.jpg", "C:\\me\\a.jpg", "/home/me/a.jpg"])
def test_labelme_images_lie_where_their_file_says_or_below_the_root(tmp_path, path):
    one_image(tmp_path / "images")
    files.labelme_file(tmp_path / "json/a.json", [RED_SHAPE], path)
    assert told(tmp_path, "labelme") == {"images/a.jpg": R}


def test_labelme_files_that_name_the_image_of_another_file_are_refused_with_it(tmp_path, capsys):
    files.pictures(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    for name, image in (("a", "b.jpg"), ("b", "b.jpg"), ("c", "c.jpg")):
        files.labelme_file(tmp_path / f"{name}.json", [RED_SHAPE], image)
    assert told(tmp_path, "labelme") == {"c.jpg": R}
    err = capsys.readouterr().err
    assert "a.json: its imagePath is 'b.jpg', and beside it lies a.jpg" in err
    assert "b.jpg: the file of another image names it too" in err


def test_labelme_files_may_begin_with_the_image(tmp_path):
    one_image(tmp_path)
    files.labelme_file(tmp_path / "a.json", [RED_SHAPE], "a.jpg")
    content = json.loads((tmp_path / "a.json").read_text())
    write(tmp_path / "a.json", json.dumps({"imageData": "A" * 9000, **{k: v for k, v in content.items() if k != "imageData"}}))
    assert told(tmp_path, "labelme") == {"a.jpg": R}


def test_labelme_files_without_an_image_or_shapes_are_reported(tmp_path, capsys):
    one_image(tmp_path)
    files.labelme_file(tmp_path / "b.json", [RED_SHAPE], "b.jpg", imageData="/9j/4AAQSkZJRg")
    write(tmp_path / "c.json", '{"shapes": {}, "imagePath": "a.jpg"}')
    write(tmp_path / "d.json", '{"shapes": [')
    assert told(tmp_path, "labelme") == {}
    err = capsys.readouterr().err
    assert "b.json: no such image" in err
    assert "c.json: no list 'shapes'" in err
    assert "d.json: not JSON" in err


# VIA --------------------------------------------------------------------------------------------------------------------------


def via_file(root, regions):
    one_image(root)
    write(
        root / "via.json", json.dumps({"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": regions, "file_attributes": {}}})
    )


def region(attributes, **shape):
    return {
        "shape_attributes": shape or {"name": "rect", "x": 20, "y": 10, "width": 40, "height": 40},
        "region_attributes": attributes,
    }


@pytest.mark.parametrize(
    ("regions", "found"),
    [
        ([], "-"),
        ({"0": region({"type": "red"})}, R),
        ([region({"type": {"red": True, "blue": False}})], R),
        ([region({"type": {"red": True, "blue": True}})], "?"),
        ([region({"type": "red"}, name="circle", cx=40, cy=30, r=20)], R),
        ([region({"type": "red"}, name="ellipse", cx=40, cy=30, rx=20, ry=10)], "red 20,20,60,40"),
        ([region({"type": "red"}, name="ellipse", cx=40, cy=30, rx=20, ry=10, theta=math.pi / 2)], "red 30,10,50,50"),
        ([region({"type": "red"}, name="polyline", all_points_x=[1, 2], all_points_y=[1, 2])], "red?"),
        ([region({"type": "red"}, name="point", cx=1, cy=2)], "red?"),
        ([region({"type": "red"}, name="polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2])], "red?"),
        ([region({"type": "red"}, name="star")], "red?"),
        ([region({"type": "red", "ignore": "1"})], "red~"),
        ([region({"type": "red", "ignore": ""})], R),
        ([region({"type": "red"}), region({})], f"{R}; ?"),
        ([region({"kind": "red", "species": "red"})], R),
    ],
)
def test_via_regions(tmp_path, regions, found):
    via_file(tmp_path, regions)
    assert told(tmp_path, "via") == {"a.jpg": found}


def test_via_labels_are_named_where_they_are_not_clear(tmp_path):
    via_file(tmp_path, [region({"name": "Tom", "type": "cat"}), region({"name": "Rex", "type": "dog"})])
    with pytest.raises(SystemExit, match="--label_key name: Rex, Tom; --label_key type: cat, dog"):
        told(tmp_path, "via")
    box = "20,10,60,50"
    assert told(tmp_path, "via", label_key="type") == {"a.jpg": f"cat {box}; dog {box}"}
    with pytest.raises(SystemExit, match="no region has an attribute 'kind'; there are: name, type"):
        told(tmp_path, "via", label_key="kind")
    via_file(tmp_path, [region({})])
    assert told(tmp_path, "via", label="balloon") == {"a.jpg": f"balloon {box}"}


# Label Studio -----------------------------------------------------------------------------------------------------------------

LS_RED = files.label_studio_region("red", RED)
LS_BLUE = files.label_studio_region("blue", BLUE)


def said(*regions, **more):
    return files.label_studio_annotation(list(regions), **more)


TWO_PARTS = [LS_RED | {"type": "rectangle", "value": {k: v for k, v in LS_RED["value"].items() if not k.endswith("labels")}}, LS_RED | {"type": "labels", "value": {"labels": ["red"]}}]  # fmt: skip


@pytest.mark.parametrize(
    ("annotations_", "found"),
    [
        ([], "-"),
        ([said()], ""),
        ([said(LS_RED, was_cancelled=True)], "-"),
        ([said(LS_RED, was_cancelled=True), said(LS_BLUE)], "blue 100,20,180,80"),
        ([said(LS_RED), said(LS_RED)], R),
        ([said(LS_RED), said(LS_BLUE)], None),
        ([said(LS_RED), said(LS_BLUE, ground_truth=True)], "blue 100,20,180,80"),
        ([said(*TWO_PARTS)], R),
        ([said(LS_RED | {"value": LS_RED["value"] | {"rectanglelabels": []}})], "?"),
        ([said(LS_RED | {"value": LS_RED["value"] | {"rectanglelabels": ["red", "blue"]}})], "red 20,10,60,50; blue 20,10,60,50"),
        ([said(LS_RED | {"value": LS_RED["value"] | {"rotation": 90, "height": 20}})], "red 0,10,20,50"),
        ([said(LS_RED | {"image_rotation": 90})], "red?"),
        ([said({k: v for k, v in LS_RED.items() if k != "original_width"})], "red?"),
        ([said(LS_RED | {"type": "brushlabels", "value": {"format": "rle", "rle": [0, 1], "brushlabels": ["red"]}})], "red?"),
        ([said(LS_RED | {"type": "keypointlabels", "value": {"x": 1, "y": 2, "width": 0.3, "keypointlabels": ["red"]}})], "red?"),
        ([said({"type": "choices", "value": {"choices": ["sunny"]}, "id": "c"}, LS_RED)], R),
        ([said({"type": "choices", "from_name": "state", "value": {"choices": ["Ignore"]}, "id": LS_RED["id"]}, LS_RED)], "red~"),
        ([said({"type": "choices", "from_name": "crowd", "value": {"choices": ["yes"]}, "id": LS_RED["id"]}, LS_RED)], "red~"),
        ([said({"type": "choices", "from_name": "state", "value": {"choices": ["new"]}, "id": LS_RED["id"]}, LS_RED)], R),
        ([said({"type": "relation", "from_id": "a", "to_id": "b"}, LS_RED)], R),
    ],
)  # fmt: skip
def test_label_studio_annotations(tmp_path, annotations_, found):
    one_image(tmp_path)
    write(tmp_path / "p.json", json.dumps([files.label_studio_task(1, "https://host/x/a.jpg?token=1", *annotations_)]))
    assert told(tmp_path, "label_studio") == ({} if found is None else {"a.jpg": found})


# Supervisely ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([], "-"),
        ([{k: v for k, v in files.supervisely_object("red", RED).items() if k != "geometryType"}], R),
        ([files.supervisely_object("red", RED) | {"geometryType": "point", "points": {"exterior": [[1, 2]]}}], "red?"),
        ([files.supervisely_object("red", RED, "bitmap") | {"bitmap": {"data": "eJw=", "origin": [1, 2]}}], "red?"),
        ([files.supervisely_object("red", RED) | {"geometryType": "cuboid_3d"}], "red?"),
        ([files.supervisely_object(None, RED)], "?"),
        ([files.supervisely_object("red", RED) | {"tags": [{"name": "is_crowd", "value": None}]}], "red~"),
        ([files.supervisely_object("red", RED) | {"tags": [{"name": "ignore", "value": "no"}, {"name": "new"}]}], R),
        ([files.supervisely_object("neutral", RED), files.supervisely_object("blue", BLUE)], "blue 100,20,180,80; ~"),
    ],
)
def test_supervisely_objects(tmp_path, objects, found):
    files.supervisely(tmp_path)
    for path in (tmp_path / "ds0/ann").iterdir():
        path.unlink()
    write(
        tmp_path / "ds0/ann/a.jpg.json",
        json.dumps({"tags": [{"name": "val"}], "size": {"width": W, "height": H}, "objects": objects}),
    )
    assert told(tmp_path, "supervisely") == {"ds0/img/a.jpg": found}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"tags": ["red", "difficult"]}, "red~"),
        ({"tags": ["Is_Crowd", "red"]}, "red~"),
        ({"tags": ["ignore"]}, "~"),
        ({"tags": ["red"], "ignore": True}, "red~"),
        ({"tags": ["red"], "attributes": {"difficult": "1"}}, "red~"),
        ({"tags": ["red"], "iscrowd": "?"}, "red?"),
        ({"tags": "red"}, R),
        ({"tags": [{"name": "red"}]}, R),
        ({"tags": ["crowd"]}, "~"),
    ],
)
def test_vott_marks(tmp_path, change, found):
    files.vott(tmp_path)
    content = json.loads((tmp_path / "p-export.json").read_text(encoding="utf-8"))
    content["assets"]["0"]["regions"][1:] = []
    content["assets"]["0"]["regions"][0] |= change
    write(tmp_path / "p-export.json", json.dumps(content))
    assert told(tmp_path, "vott")["a.jpg"] == found


def test_images_that_a_tool_marks_as_not_to_be_used_are_left_out(tmp_path):
    files.via(tmp_path / "via")
    content = files.via_images()
    content["a.jpg-1"]["file_attributes"] = {"ignore": "1"}
    write(tmp_path / "via/via_export_json.json", json.dumps(content))
    assert "a.jpg" not in told(tmp_path / "via", "via")
    files.cvat(tmp_path / "cvat")
    xml = (tmp_path / "cvat/annotations.xml").read_text(encoding="utf-8")
    write(tmp_path / "cvat/annotations.xml", xml.replace('<image id="0"', '<image deleted="1" id="0"'))
    assert "images/a.jpg" not in told(tmp_path / "cvat", "cvat")
    one_image(tmp_path / "labelme")
    files.labelme_file(tmp_path / "labelme/a.json", [], "a.jpg", flags={"ignore": True})
    assert told(tmp_path / "labelme", "labelme") == {}
    files.labelme_file(tmp_path / "labelme/a.json", [], "a.jpg", flags={"ignore": False, "difficult": True})
    assert told(tmp_path / "labelme", "labelme") == {"a.jpg": ""}
