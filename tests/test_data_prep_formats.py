"""Odd forms of the annotation formats that are text: what is read right, what becomes doubtful, what ends the program."""

import json

import annotation_files as files
import pytest
from annotation_files import BLUE, RED, write
from annotation_reading import PLAIN, R, one_image, told
from PIL import Image, ImageDraw

from data_prep import annotations
from data_prep.formats.gathering import Gathering, Options, Tree
from data_prep.report import Report

pytestmark = pytest.mark.quick

# YOLO -------------------------------------------------------------------------------------------------------------------------

LINE = {"red": files.yolo_line(0, RED), "blue": files.yolo_line(1, BLUE)}
KEYPOINTS = " 0.5 0.5 2 0.1 0.1 0"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        (" \n\t\n", ""),
        (f"{LINE['red']} \r\n{LINE['blue']}\t\r\n", PLAIN),
        ("\ufeff" + LINE["red"], R),
        ("0 2e-1 3.0E-1 .2 0.40", R),
        ("0.0 0.2 0.3 0.2 0.4", R),
        (LINE["red"] + " 17", R),
        (LINE["red"] + " 0.93", "red?"),
        (LINE["red"] + " 1.0", "red?"),
        (files.yolo_polygon(0, RED) + " 3", R),
        ("0 0.1 0.1 0.3 0.1 0.3 0.5", R),
        ("0 0.1 0.1 0.3 0.1 0.3", "red?"),
        ("0 0.1 0.1 0.3", "red?"),
        ("0 40 30 40 40", "red?"),
        ("0 20 10 60 10 60 50 20 50", "red?"),
        ("0 0.2 0.3 0 0.4", "red?"),
        ("0 0.2 0.3 nan 0.4", "red?"),
        ("0 0.2 0.3 0,2 0.4", "red?"),
        (f"2 0.2 0.3 0.2 0.4\n{LINE['red']}", f"{R}; ?"),
        ("-1 0.2 0.3 0.2 0.4", "?"),
        ("red 0.2 0.3 0.2 0.4", "?"),
    ],
)
def test_yolo_lines(tmp_path, text, found):
    one_image(tmp_path)
    write(tmp_path / "classes.txt", "red\nblue\n")
    write(tmp_path / "a.txt", text)
    assert told(tmp_path, "yolo") == {"a.jpg": found}


def test_yolo_labels_of_another_camera_are_not_taken(tmp_path):
    write(tmp_path / "data.yaml", "names: [red, blue]")
    for camera in ("one", "two"):
        files.pictures(tmp_path / "images" / camera, ["a.jpg"])
    write(tmp_path / "labels/one/a.txt", LINE["red"])
    files.pictures(tmp_path / "more", ["b.jpg"])
    write(tmp_path / "text/b.txt", LINE["blue"])
    found = {"images/one/a.jpg": R, "images/two/a.jpg": "-", "more/b.jpg": "blue 100,20,180,80"}
    assert told(tmp_path, "yolo") == found


def test_yolo_keypoints_are_no_polygons(tmp_path):
    one_image(tmp_path)
    write(tmp_path / "data.yaml", "kpt_shape: [2, 3]\nnames: [red]")
    write(tmp_path / "a.txt", f"{LINE['red']}{KEYPOINTS}\n{LINE['red']}{KEYPOINTS} 4\n{LINE['red']}\n{LINE['red']} 0.1 0.1")
    assert told(tmp_path, "yolo") == {"a.jpg": f"{R}; {R}; {R}; red?"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [no, 'on', 1e3]", ["no", "on", "1e3"]),
        ("names: {2: c, 0: 'a  b'}", ["a b", "c"]),
        ('names: {"0": a, "1": b}\nnc: 2', ["a", "b"]),
        ("names: a, b", ["a", "b"]),
        ("nc: 3\nnames: [a, b]", "nc is 3, but 2 names are given"),
        ("names: ('a', 'b')", ["a", "b"]),
        ("names: names.txt", "names is the file names.txt, and there is none"),
        ("names: []", "names must be a list"),
        ("names: {a: 0}", "names must be a list"),
        ("names: [a, '']", "names must be a list"),
        ("names: [a", "not YAML"),
        ("names: [a]\nkpt_shape: 17", "kpt_shape must be two whole numbers"),
    ],
)
def test_yolo_names(tmp_path, text, names):
    one_image(tmp_path)
    write(tmp_path / "a.txt", "")
    write(tmp_path / "data.yaml", text)
    tree = Tree(tmp_path, None, Options(), Report(False))
    gathering = Gathering(tree)
    if isinstance(names, str):
        with pytest.raises(SystemExit, match=names):
            annotations.FORMATS["yolo"].read(tree, gathering)
    else:
        annotations.FORMATS["yolo"].read(tree, gathering)
        assert list(gathering.names) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [("0 red\n1 blue\n", ["red", "blue"]), ("0: red\n1: blue", ["red", "blue"]), ("1 red\n2 blue", ["1 red", "2 blue"])],
)
def test_numbers_before_names_are_no_part_of_them(tmp_path, text, names):
    one_image(tmp_path)
    write(tmp_path / "a.txt", "")
    write(tmp_path / "classes.txt", text)
    gathering = Gathering(Tree(tmp_path, None, Options(), Report(False)))
    annotations.FORMATS["yolo"].read(gathering.tree, gathering)
    assert list(gathering.names) == names


def test_yolo_names_must_be_certain(tmp_path, capsys):
    one_image(tmp_path)
    write(tmp_path / "a.txt", LINE["red"])
    with pytest.raises(SystemExit, match="no class names"):
        told(tmp_path, "yolo")
    write(tmp_path / "names/mine.txt", "cat\ndog")
    assert told(tmp_path, "yolo", names=tmp_path / "names/mine.txt") == {"a.jpg": "cat 20,10,60,50"}
    write(tmp_path / "classes.txt", "red\n\nblue")
    with pytest.raises(SystemExit, match="line 2 is empty"):
        told(tmp_path, "yolo")
    write(tmp_path / "classes.txt", "0\n1")
    assert told(tmp_path, "yolo") == {"a.jpg": "0 20,10,60,50"}
    assert "class names are numbers (0, 1)" in capsys.readouterr().err
    write(tmp_path / "obj.names", "red\nblue")
    with pytest.raises(SystemExit, match="give different class names"):
        told(tmp_path, "yolo")


def test_yolo_files_and_images_are_joined_within_their_split(tmp_path, capsys):
    write(tmp_path / "data.yaml", "names: [red, blue]")
    for split, line in (("train", LINE["red"]), ("val", LINE["blue"])):
        files.pictures(tmp_path / split / "images", ["a.jpg"])
        write(tmp_path / split / "labels/a.txt", line)
    files.pictures(tmp_path / "test/images", ["a.jpg"])
    write(tmp_path / "train/labels/gone.txt", LINE["red"])
    write(tmp_path / "__MACOSX/train/labels/._a.txt", "junk")
    write(tmp_path / "train/labels/notes.txt", "what we did")
    found = told(tmp_path, "yolo")
    assert found == {"train/images/a.jpg": R, "val/images/a.jpg": "blue 100,20,180,80", "test/images/a.jpg": "-"}
    assert "gone.txt: no image for this file of labels" in capsys.readouterr().err


def test_one_file_of_labels_for_two_images_is_of_neither(tmp_path, capsys):
    write(tmp_path / "data.yaml", "names: [red, blue]")
    files.pictures(tmp_path, ["a.jpg", "a.png", "b.jpg"])
    write(tmp_path / "a.txt", LINE["red"])
    write(tmp_path / "b.txt", LINE["blue"])
    assert told(tmp_path, "yolo") == {"b.jpg": "blue 100,20,180,80"}
    assert "it is the file of labels of a.jpg and of a.png: it is not known whose they are" in capsys.readouterr().err


# tables -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("file,x1,y1,x2,y2,label\na.jpg,20,10,60,50,red\na.jpg,100,20,180,80,blue\n", {}, PLAIN),
        ("a.jpg,20,10,60,50,red\n", {}, R),
        ("a.jpg,20,10,60,50,red,200,100\n", {}, R),
        ('"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",20,10,60,50,"red"\n', {}, R),
        ("Image Name;X_min;Y_min;X_max;Y_max;Class Name\na.jpg;20,0;10,0;60,0;50,0;red\n", {}, R),
        ("filename\tleft\ttop\twidth\theight\tlabel\na.jpg\t20\t10\t40\t40\tred\n", {}, R),
        ("filename,x_center,y_center,width,height,label\na.jpg,40,30,40,40,red\n", {}, R),
        ("file|x1|y1|x2|y2|label\na.jpg|20|10|60|50|red\n", {}, R),
        ("file,x1,y1,x2,y2,class,name\na.jpg,20,10,60,50,0,red\n", {}, R),
        ("file,x1,y1,x2,y2,class_id,class_name\na.jpg,20,10,60,50,0,red\n", {}, R),
        ("file,x1,y1,x2,y2,class,name\na.jpg,20,10,60,50,red,rex\n", {}, "--label_key class, --label_key name"),
        ("file,x1,y1,x2,y2,class,name\na.jpg,20,10,60,50,rex,red\n", {"label_key": "name"}, R),
        ("file,x1,y1,x2,y2,class,name\na.jpg,20,10,60,50,red,red\n", {}, R),
        ("filename,x,y,w,h,label\na.jpg,20,10,40,40,red\n", {}, "the headings do not say what x, y, w, h are"),
        ("filename,x,y,w,h,label\na.jpg,20,10,40,40,red\n", {"boxes": "xywh"}, R),
        ("filename,x,y,w,h,label\na.jpg,40,30,40,40,red\n", {"boxes": "cxcywh"}, R),
        ('image_id,width,height,bbox,source\na,200,100,"[20.0, 10.0, 40.0, 40.0]",u\n', {"boxes": "xywh"}, "no column of labels"),
        ('image_id,width,height,bbox,source\na,200,100,"[20.0, 10.0, 40.0, 40.0]",u\n', {"boxes": "xywh", "label": "red"}, R),
        ("file,x1,y1,x2,y2,label\na.jpg,,,,,\n", {}, ""),
        ("file,x1,y1,x2,y2,label\na.jpg,,,,,red\n", {}, "red?"),
        ("file,x1,y1,x2,y2,label\na.jpg,20,10,60,,red\n", {}, "red?"),
        ("file,x1,y1,x2,y2,label\na.jpg,20,10,60,x,red\n", {}, "red?"),
        ("file,x1,y1,x2,y2,label\na.jpg,60,50,20,10,red\n", {}, "red?"),
        ("file,x1,y1,x2,y2,label\na.jpg,20,10,60,50,\n", {}, "?"),
        ("file,x1,y1,x2,y2,label\na.jpg,20,10,60,50,nan\n", {}, "?"),
        ("file,x1,y1,x2,y2,label\na.jpg,NaN,NaN,NaN,NaN,NaN\n", {}, ""),
        ("file,x1,y1,x2,y2,label\na.jpg,nan,nan,nan,nan,red\n", {}, "red?"),
        ("file,x1,y1,x2,y2,label,score\na.jpg,20,10,60,50,red,0.9\n", {}, "a column of scores"),
        ("file,x1,y1,x2,y2,label,score\na.jpg,20,10,60,50,red,1.0\n", {}, R),
        ("file,x1,y1,x2,y2,label,is_crowd\na.jpg,20,10,60,50,red,1\na.jpg,100,20,180,80,blue,0\n", {}, "blue 100,20,180,80; red~"),
        ("file,x1,y1,x2,y2,label,Difficult\na.jpg,20,10,60,50,red,some\n", {}, "red?"),
        ("file,x1,y1,x2,y2,label\na.jpg,20,10,60,50,Größe\n", {}, "Größe 20,10,60,50"),
    ],
)  # fmt: skip
def test_tables(tmp_path, text, options, found):
    one_image(tmp_path)
    write(tmp_path / "boxes.csv", text)
    assert annotations.recognise(Tree(tmp_path, None, Options(), Report(False)), tmp_path)[0] == "csv"
    if " " in found and not found[-1].isdigit() and found[-1] not in "?~":
        with pytest.raises(SystemExit, match=found):
            told(tmp_path, "csv", **options)
    else:
        assert told(tmp_path, "csv", **options) == {"a.jpg": found}


def test_tables_in_other_encodings(tmp_path):
    one_image(tmp_path)
    text = "file,x1,y1,x2,y2,label\na.jpg,20,10,60,50,红色\n"
    for encoding, options in (("utf-8-sig", {}), ("utf-16", {}), ("gbk", {"encoding": "gbk"})):
        write(tmp_path / "boxes.csv", text, encoding)
        assert told(tmp_path, "csv", **options) == {"a.jpg": "红色 20,10,60,50"}
    with pytest.raises(SystemExit, match=r"boxes\.csv: not utf-8 text .*; name its encoding with --encoding"):
        told(tmp_path, "csv")


@pytest.mark.parametrize(
    "text", ["a.jpg,cat\n", "class,id\ncat,0\n", "file,label\na.jpg,cat\n", "", "a,b,c,d,e,f\n1,2,3,4,5,6\n"]
)
def test_what_is_no_table_of_boxes(tmp_path, text):
    write(tmp_path / "boxes.csv", text)
    assert annotations.FORMATS["csv"].recognise(Tree(tmp_path, None, Options(), Report(False))) is None


# the others -------------------------------------------------------------------------------------------------------------------


def test_kitti_regions_that_nobody_annotated_leave_no_negatives(tmp_path):
    files.kitti(tmp_path)
    label = tmp_path / "training/label_2/a.txt"
    label.write_text(label.read_text() + "DontCare -1 -1 -10 0.00 0.00 9.00 9.00 -1 -1 -1 -1000 -1000 -1000 -10\n")
    (tmp_path / "training/label_2/neg.txt").write_text(label.read_text().splitlines()[0] + " 0.97\n")
    found = told(tmp_path, "kitti")
    assert found["training/image_2/a.png"] == f"{PLAIN}; ~"
    assert found["training/image_2/neg.png"] == "red?", "a score: a prediction"
    (tmp_path / "training/image_2/a.png").unlink()
    files.pictures(tmp_path / "testing/image_2", ["a.png"])
    assert "testing/image_2/a.png" not in told(tmp_path, "kitti"), "training and testing use the same numbers"


def test_dota_lines(tmp_path):
    files.pictures(tmp_path / "images", ["a.png"])
    lines = ["20 10 60 10 60 50 20 50 red 0", "100 20 180 30 180 80 100 70 small vehicle 0", "1 2 3 4 5 6 7 8 blue 1", "1 2 3"]
    write(tmp_path / "labelTxt/a.txt", "\n".join(["gsd:0.1", *lines]))
    assert told(tmp_path, "dota") == {"images/a.png": "red 20,10,60,50; small vehicle 100,20,180,80; blue~; ?"}


def test_open_images_says_what_was_looked_for(tmp_path, capsys):
    files.open_images(tmp_path)
    boxes = tmp_path / "annotations/train-annotations-bbox.csv"
    group = "a,xclick,/m/01g5v,1,0.1,0.2,0.1,0.2,0,0,1,0,0\nelsewhere,xclick,/m/01g5v,1,0.1,0.2,0.1,0.2,0,0,0,0,0\n"
    boxes.write_text(boxes.read_text() + group + "a,xclick,/m/unknown,1,0.1,0.2,0.1,0.2,0,0,0,0,0\n")
    (tmp_path / "annotations/bbox_labels_600_hierarchy.json").write_text(json.dumps({"LabelName": "/m/01g5v", "Subcategory": [{"LabelName": "/m/06fvc"}]}))  # fmt: skip
    found = told(tmp_path, "open_images")
    assert found["images/train/a.jpg"] == f"{PLAIN}; blue?; blue~; ?", "red is a kind of blue here"
    assert found["images/train/neg.jpg"] == "blue!; red!"
    assert "1 boxes are of images that are not below" in capsys.readouterr().err
    (tmp_path / "annotations/class-descriptions-boxable.csv").unlink()
    with pytest.raises(SystemExit, match=r"no class-descriptions\*\.csv"):
        told(tmp_path, "open_images")


def turned_ellipse_box(degrees):
    """The box of an ellipse with half axes 40 and 10 about (100, 50), turned, found by drawing it ten times larger."""
    big = Image.new("L", (2000, 1000))
    ImageDraw.Draw(big).ellipse((600, 400, 1400, 600), fill=255)
    return tuple(v / 10 for v in big.rotate(-degrees).getbbox())


def test_a_turned_ellipse_is_measured_as_drawn():
    from data_prep.formats.shapes import of_ellipse

    assert of_ellipse(100, 50, 40, 10, 30) == pytest.approx(turned_ellipse_box(30), abs=0.3)


# VisDrone, and what looks like something ------------------------------------------------------------------------------------

DRONE = "20,10,40,40,1,4,0,0\n100,20,80,60,1,1,0,1,\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (DRONE, "car 20,10,60,50; pedestrian 100,20,180,80"),
        (DRONE + "0,0,9,9,0,0,0,0\n", "car 20,10,60,50; pedestrian 100,20,180,80; ~"),
        (DRONE + "0,0,9,9,0,11,0,0\n", "car 20,10,60,50; pedestrian 100,20,180,80; ~"),
        (DRONE.replace("40,40,1", "40,40,0"), "pedestrian 100,20,180,80; car~"),
        (DRONE.replace(",4,0,0", ",12,0,0"), "pedestrian 100,20,180,80; ?"),
        (DRONE.replace("40,40", "0,40"), "pedestrian 100,20,180,80; car?"),
    ],
)
def test_visdrone(tmp_path, text, found):
    files.pictures(tmp_path / "images", ["a.jpg"])
    write(tmp_path / "annotations/a.txt", text)
    assert told(tmp_path, "visdrone") == {"images/a.jpg": found}
    columns = "image,bbox_left,bbox_top,bbox_width,bbox_height,score,object_category,truncation,occlusion\n"
    write(tmp_path / "b.csv", columns + "".join(f"a.jpg,{line}\n" for line in text.splitlines()))
    assert told(tmp_path, "csv") == {"images/a.jpg": found}


def test_labels_of_yolo_made_of_visdrone_are_told_from_its_own(tmp_path):
    files.pictures(tmp_path / "images", ["a.jpg"])
    write(tmp_path / "annotations/a.txt", DRONE)
    write(tmp_path / "labels/a.txt", LINE["red"])
    write(tmp_path / "v.yaml", "names: [red]")
    tree = Tree(tmp_path, None, Options(), Report(False))
    assert [name for name, one in annotations.FORMATS.items() if one.recognise(tree)] == ["yolo", "visdrone"]
    assert told(tmp_path, "yolo") == {"images/a.jpg": R}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gt.txt", "1,3,10,20,40,40,1,1,0.8\n", "gt.txt looks like tracks"),
        ("a.txt", "0,0.5,0.5,0.2,0.2\n", "YOLO's lines with commas"),
        ("a.txt", "red 0.5 0.5 0.2 0.2\n", "with names in place of the numbers"),
        ("a.txt", "20 10 60 50\n", "four bare numbers a line"),
        ("train.txt", "a.jpg 20,10,60,50,0 9,20,80,80,1\n", "keras-yolo3"),
        ("r.json", '[{"image_id":1,"category_id":2,"bbox":[1,2,3,4],"score":0.5}]', "predictions in COCO's form"),
        ("annotations/uav_1.txt", "1,0,593,43,174,190,1,4,0,0\n", "tracks of VisDrone's videos"),
        ("q.json", '{"foo": 1}', "q.json begins '{"),
    ],
)
def test_what_has_no_reader_is_named(tmp_path, monkeypatch, capsys, name, text, message):
    monkeypatch.setattr(annotations.datumaro_sets, "candidates", lambda tree: [])
    one_image(tmp_path)
    write(tmp_path / name, text)
    with pytest.raises(SystemExit) as stop:
        annotations.recognise(Tree(tmp_path, None, Options(), Report(False)), tmp_path)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
