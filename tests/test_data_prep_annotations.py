"""Every annotation format: recognised, read, and written as the same samples; what cannot be read is counted and not asked."""

import json
import subprocess
import sys
from pathlib import Path

import annotation_files as files
import pytest
from annotation_files import BLUE, RED, THIRD, TRUTH

from data_prep import annotations
from data_prep.formats.gathering import Gathering, Options, Tree
from data_prep.report import Report
from vlrl.data.sample_files import read_samples

pytestmark = pytest.mark.quick

WRITTEN = [(name, writer) for name, writers in files.WRITERS.items() for writer in writers]


def gathered(root, name=None, **options):
    """The records of a folder, read as the format it is recognised as (or `name`)."""
    tree = Tree(root, None, Options(**options), Report(False))
    gathering = Gathering(tree)
    annotations.FORMATS[name or annotations.recognise(tree, root)[0]].read(tree, gathering)
    assert gathering.read.total() == gathering.converted.total() + gathering.left_out.total(), (
        "every annotation is accounted for"
    )
    return gathering


def two_lists(root, name):
    """Two files of one format, each of which looks for one colour; image `both.jpg` is in both."""
    files.pictures(root, ["red.jpg", "both.jpg", "blue.jpg"])
    for colour, box in (("red", RED), ("blue", BLUE)):
        (root / colour).mkdir()
        listed = [f"{colour}.jpg", "both.jpg"]
        if name == "coco":
            x1, y1, x2, y2 = box
            rows = [{"id": i, "file_name": image, "width": 200, "height": 100} for i, image in enumerate(listed)]
            found = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}]
            if colour == "red":
                found.append(found[0] | {"id": 2, "image_id": 1})
            content = {"images": rows, "annotations": found, "categories": [{"id": 1, "name": colour}]}
            files.write(root / f"{colour}.json", json.dumps(content))
        else:
            shape = files.cvat_shape(colour, box)
            body = files.cvat_image(0, listed[0], shape) + files.cvat_image(1, "both.jpg", shape if colour == "red" else "")
            files.cvat_file(root, body)
            text = (root / "annotations.xml").read_text().replace("<label><name>red</name><type>any</type><attributes></attributes></label>", "" if colour == "blue" else "<label><name>red</name></label>")  # fmt: skip
            if colour == "red":
                text = text.replace("<label><name>blue</name><type>any</type><attributes></attributes></label>", "")
            (root / "annotations.xml").unlink()
            files.write(root / f"{colour}.xml", text)


@pytest.mark.parametrize("name", ["coco", "cvat"])
def test_a_category_is_absent_only_where_a_file_that_lists_the_image_looks_for_it(tmp_path, name):
    two_lists(tmp_path / "set", name)
    samples = run(tmp_path / "set", tmp_path, "--negatives", "5")
    asked = {(Path(str(sample.images[0])).name, sample.question, bool(sample.answer)) for sample in samples}
    assert asked == {
        ("red.jpg", "red", True),
        ("both.jpg", "red", True),
        ("both.jpg", "blue", False),
        ("blue.jpg", "blue", True),
    }


def voc_set(root):
    files.pictures(root / "JPEGImages")
    for name, objects in TRUTH.items():
        inside = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
            for label, (x1, y1, x2, y2) in objects
        )
        files.write(root / f"Annotations/{name.removesuffix('.jpg')}.xml", f"<annotation>{inside}</annotation>")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "writer", "file", "text", "problem"),
    [
        ("voc", voc_set, "Annotations/a.xml", "", "the file is empty"),
        ("voc", voc_set, "Annotations/a.xml", "<annot", "not well-formed XML"),
        ("voc", voc_set, "Annotations/a.xml", LFS, "Git LFS pointer"),
        ("labelme", files.labelme, "a.json", " \n", "the file is empty"),
        ("labelme", files.labelme, "a.json", '{"vers', "not JSON"),
        ("labelme", files.labelme, "a.json", LFS, "Git LFS pointer"),
        ("yolo", files.yolo, "labels/train/a.txt", LFS, "Git LFS pointer"),
    ],
)
def test_files_that_hold_nothing_are_lost_images(tmp_path, capsys, name, writer, file, text, problem):
    writer(tmp_path / "set")
    assert (tmp_path / "set" / file).is_file()
    files.write(tmp_path / "set" / file, text)
    assert run(tmp_path / "set", tmp_path, "--format", name) == 1
    err = capsys.readouterr().err
    assert f"skipped: {tmp_path / 'set' / file}" in err
    assert problem in err
    rest = run(tmp_path / "set", tmp_path, "--format", name, "--max_skipped", "1")
    assert {Path(str(sample.images[0])).name for sample in rest} == {THIRD}


def test_a_set_of_pointers_is_named_as_such(tmp_path, capsys):
    files.pictures(tmp_path / "set")
    files.write(tmp_path / "set/_annotations.coco.json", LFS)
    with pytest.raises(SystemExit):
        run(tmp_path / "set", tmp_path)
    assert "_annotations.coco.json is a Git LFS pointer" in capsys.readouterr().err


def in_pixels(box, coords):
    scale = (*files.SIZE, *files.SIZE) if coords == "norm1" else (1, 1, 1, 1)
    return (box.label, tuple(round(value * by, 3) for value, by in zip(box.xyxy, scale, strict=True)))


def run(root, tmp_path, *options):
    out = tmp_path / "samples.jsonl"
    code = annotations.main(["--root", str(root), "--out", str(out), "--overwrite", *map(str, options)])
    return read_samples(out) if code == 0 else code


@pytest.mark.parametrize(("name", "writer"), WRITTEN, ids=[writer.__name__ for _, writer in WRITTEN])
def test_each_format_gives_the_same_boxes(tmp_path, name, writer):
    writer(tmp_path)
    tree = Tree(tmp_path, None, Options(), Report(False))
    assert annotations.recognise(tree, tmp_path)[0] == name
    gathering = gathered(tmp_path)
    found = {one.path.name.removeprefix("0123abcd-").replace(".png", ".jpg"): one for one in gathering.images}
    boxes = {image: sorted(in_pixels(box, one.coords) for box in one.boxes) for image, one in found.items()}
    truth = {image: sorted(objects) for image, objects in TRUTH.items()}
    if writer is files.table_tensorflow:
        del truth["neg.jpg"]
    assert boxes == truth
    assert not any(one.doubtful or one.crowd or one.unnamed for one in found.values())
    if "neg.jpg" in found:
        assert found["neg.jpg"].searched == (writer.__name__ in files.EMPTY_IS_SAID)
    assert sorted(gathering.names) == ["blue", "red"]
    assert not gathering.left_out


def test_samples_ask_and_answer(tmp_path, capsys):
    files.yolo(tmp_path / "set")
    samples = run(tmp_path / "set", tmp_path, "--per", "image")
    assert [sample.answer for sample in samples] == [
        [{"bbox_2d": list(RED), "label": "red"}],
        [{"bbox_2d": list(RED), "label": "red"}, {"bbox_2d": list(BLUE), "label": "blue"}],
        [],
    ]
    assert {sample.question for sample in samples} == {"red, blue"}
    assert samples[0].images[0].endswith(THIRD)
    assert {sample.meta["split"] for sample in samples} == {"train"}
    out = capsys.readouterr().out
    assert "format     yolo: 3 text files beside images, names in data.yaml" in out
    assert "read       3 annotations of 3 images: 3 box\nconverted  3 to boxes: 3 box\n" in out


def test_an_image_that_nobody_annotated_is_no_negative(tmp_path, capsys):
    """An empty file is a true negative; no file is not."""
    files.yolo(tmp_path / "set")
    (tmp_path / "set/labels/train/neg.txt").unlink()
    files.pictures(tmp_path / "set/images/train", ["new.jpg"])
    samples = run(tmp_path / "set", tmp_path, "--per", "image")
    assert [Path(sample.images[0]).name for sample in samples] == [THIRD, "a.jpg"]
    assert len(run(tmp_path / "set", tmp_path, "--per", "image", "--empty_images", "negative")) == 4


def test_splits_stay_apart(tmp_path, capsys):
    files.yolo(tmp_path / "set")
    files.yolo(tmp_path / "set", images="images/val", labels="labels/val")
    samples = run(tmp_path / "set", tmp_path)
    assert sorted(sample.meta["split"] for sample in samples) == ["train"] * 3 + ["val"] * 3
    assert "several splits go into one file (3 train, 3 val)" in capsys.readouterr().err
    assert {sample.meta["split"] for sample in run(tmp_path / "set", tmp_path, "--split", "validation")} == {"val"}
    with pytest.raises(SystemExit, match="--split test: no image is of this split; the splits are: train, val"):
        run(tmp_path / "set", tmp_path, "--split", "test")


def test_one_annotation_file_instead_of_a_folder(tmp_path):
    files.via(tmp_path / "set")
    (tmp_path / "set/other.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    samples = run(tmp_path / "set/via_export_json.json", tmp_path, "--images", tmp_path / "set")
    assert [sample.question for sample in samples] == ["red", "blue", "red"]
    assert samples[0].meta["dataset"] == "via_export_json"


def test_files_of_the_same_kind_that_hold_something_else_are_named(tmp_path, capsys):
    files.labelme(tmp_path / "set")
    files.write(tmp_path / "set/notes.json", "{}")
    assert len(run(tmp_path / "set", tmp_path)) == 3
    assert "1 other .json files hold no annotations of labelme: notes.json" in capsys.readouterr().err


def test_large_sets_are_recognised_by_some_of_their_files(tmp_path):
    files.pictures(tmp_path, ["a.jpg"])
    for i in range(1100):
        files.labelme_file(tmp_path / f"{i}.json", [], "a.jpg")
    tree = Tree(tmp_path, None, Options(), Report(False))
    why = "367 JSON files with 'shapes' and 'imagePath' (of 368 files looked at)"
    assert annotations.recognise(tree, tmp_path) == ("labelme", why)
    assert len(tree.files) == 1101


def test_two_formats_in_one_folder_are_listed_and_none_is_taken(tmp_path, capsys):
    files.yolo_labelimg(tmp_path / "set")
    files.labelme(tmp_path / "set")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "set", tmp_path)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "several formats fit; choose one:" in err
    assert "--format yolo    3 text files beside images, names in classes.txt" in err
    assert "--format labelme    3 JSON files" in err
    assert not (tmp_path / "samples.jsonl").exists()
    assert len(run(tmp_path / "set", tmp_path, "--format", "labelme")) == 3


def coco_file(images, boxes):
    """`boxes`: (number of the image, name, box)."""
    return json.dumps(
        {
            "images": [{"id": i, "file_name": name, "width": files.W, "height": files.H} for i, name in enumerate(images)],
            "annotations": [
                {
                    "id": i,
                    "image_id": image,
                    "category_id": files.NAMES.index(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
                for i, (image, label, (x1, y1, x2, y2)) in enumerate(boxes)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(files.NAMES)],
        }
    )


def test_coco_files_of_several_splits_are_one_set(tmp_path, capsys):
    """As Roboflow exports them: equal image ids, equal file names."""
    for split, label, box in (("train", "red", RED), ("valid", "blue", BLUE)):
        files.pictures(tmp_path / "set" / split, ["a.jpg"])
        files.write(tmp_path / "set" / split / "_annotations.coco.json", coco_file(["a.jpg"], [(0, label, box)]))
    samples = run(tmp_path / "set", tmp_path)
    assert [(sample.meta["split"], sample.answer[0]["label"], sample.answer[0]["bbox_2d"]) for sample in samples] == [
        ("train", "red", list(RED)),
        ("val", "blue", list(BLUE)),
    ]
    assert len({sample.id for sample in samples}) == 2
    assert [Path(sample.images[0]).parent.name for sample in samples] == ["train", "valid"]
    assert "read       2 annotations of 2 images: 2 box\nconverted  2 to boxes: 2 box\n" in capsys.readouterr().out


def test_cocos_own_files_lie_in_a_folder_of_their_own(tmp_path):
    for year, label, box in (("train2017", "red", RED), ("val2017", "blue", BLUE)):
        name = f"{len(year):012d}.jpg"
        files.pictures(tmp_path / "set" / year, [name])
        for kind in ("instances", "person_keypoints"):
            files.write(tmp_path / f"set/annotations/{kind}_{year}.json", coco_file([name], [(0, label, box)]))
    samples = run(tmp_path / "set", tmp_path)
    assert [(sample.meta["split"], sample.answer[0]["label"]) for sample in samples] == [("train", "red"), ("val", "blue")]


VOC_OBJECT = "<object><name>{0}</name><difficult>{2}</difficult><bndbox><xmin>{1[0]}</xmin><ymin>{1[1]}</ymin><xmax>{1[2]}</xmax><ymax>{1[3]}</ymax></bndbox></object>"  # fmt: skip


def test_voc_folders_are_read_as_their_own_script_does(tmp_path, capsys):
    for folder, images in (("Annotations", "JPEGImages"), ("valid", "valid")):
        files.pictures(tmp_path / "set" / images, ["a.jpg"])
        objects = VOC_OBJECT.format("red", (21, 11, 60, 50), 0) + VOC_OBJECT.format("blue", BLUE, int(folder == "valid"))
        files.write(tmp_path / f"set/{folder}/a.xml", f"<annotation><filename>a.jpg</filename>{objects}</annotation>")
    samples = run(tmp_path / "set", tmp_path)
    assert [(sample.meta.get("split"), sample.question) for sample in samples] == [
        (None, "blue"),
        (None, "red"),
        ("val", "red"),
    ]
    assert samples[1].answer[0]["bbox_2d"] == list(RED)
    assert "left out   1: 1 difficult or ignored object" in capsys.readouterr().out


def test_lvis_is_named_with_its_command(tmp_path, capsys):
    content = '{"images": [{"neg_category_ids": []}], "annotations": [], "categories": []}'
    files.write(tmp_path / "set/lvis_v1_val.json", content)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "set", tmp_path)
    assert stop.value.code == 2
    assert f"python data_prep/lvis.py --instances {tmp_path}/set/lvis_v1_val.json" in capsys.readouterr().err


def test_nothing_is_recognised(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(annotations.datumaro_sets, "candidates", lambda tree: [])
    files.write(tmp_path / "set/captions.txt", "a dog on a mat")
    files.pictures(tmp_path / "set")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "set", tmp_path)
    assert stop.value.code == 2
    assert "no format of annotations is recognised in 4 files (3 .jpg, 1 .txt)" in capsys.readouterr().err


def test_archives_and_folders_of_classes_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(annotations.datumaro_sets, "candidates", lambda tree: [])
    for name, hint in (("set/cat/a.jpg", "data_prep/image_folder.py"), ("zipped/task.zip", "unpack the archive first")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        with pytest.raises(SystemExit) as stop:
            run(tmp_path / name.split("/")[0], tmp_path)
        assert stop.value.code == 2
        assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--format", "voc2"], "no format 'voc2'"),
        (["--images", "nowhere"], "no such folder nowhere"),
        (["--names", "nowhere"], "no such file nowhere"),
        (["--encoding", "utf-9"], "no encoding 'utf-9'"),
    ],
)
def test_wrong_options_exit_with_2(tmp_path, capsys, options, why):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, tmp_path, *options)
    assert stop.value.code == 2
    assert why in capsys.readouterr().err


def test_too_much_that_cannot_be_read_writes_nothing(tmp_path, capsys):
    files.yolo(tmp_path / "set")
    files.write(tmp_path / "set/labels/train/a.txt", "0 0.2 0.3\n1 0.7 0.5 0.4 0.6 0.93\n")
    assert run(tmp_path / "set", tmp_path) == 1
    assert "2 of 3 annotations cannot be used" in capsys.readouterr().err
    samples = run(tmp_path / "set", tmp_path, "--max_skipped", "1", "--per", "image")
    assert [Path(sample.images[0]).name for sample in samples] == [THIRD, "neg.jpg"], "nothing is asked about a.jpg"


def test_datumaro_reads_the_rest_and_nothing_is_asked_as_absent(tmp_path):
    pytest.importorskip("datumaro", reason="the extra [data] is not installed")
    folder = tmp_path / "set/WIDER_train/images/0--Parade"
    files.pictures(folder, ["a.jpg", "neg.jpg"])
    lines = (
        "0--Parade/a.jpg\n2\n20 10 40 40 0 0 0 0 0 0 \n100 20 80 60 0 0 0 1 0 0 \n0--Parade/neg.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
    )
    files.write(tmp_path / "set/wider_face_split/wider_face_train_bbx_gt.txt", lines)
    # as a script: its folder comes first then, and must not hide the library's own libraries
    words = ["--root", tmp_path / "set", "--out", tmp_path / "samples.jsonl", "--per", "image"]
    script = Path(annotations.__file__)
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (sample,) = read_samples(tmp_path / "samples.jsonl")
    assert [item["bbox_2d"] for item in sample.answer] == [list(RED), list(BLUE)]
    assert sample.question == "face"
    assert "format     datumaro:wider_face: datumaro recognises it" in done.stdout
    assert "nothing is asked as absent" in done.stderr
    with pytest.raises(SystemExit, match="datumaro has no such format"):
        run(tmp_path / "set", tmp_path, "--format", "datumaro:nothing")


def test_pandas_stays_what_it_was_beside_datumaro():
    code = (
        "import pandas\n"
        "from data_prep.formats.datumaro_sets import available\n"
        "available()\n"
        "import pandas as later\n"
        "assert later is pandas and later.DataFrame([1]).to_json()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_datumaro_its_formats_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datumaro", None)
    (tmp_path / "set").mkdir()
    with pytest.raises(SystemExit, match=r"needs the library datumaro; pip install -e '\.\[data\]'"):
        run(tmp_path / "set", tmp_path, "--format", "datumaro:wider_face")
