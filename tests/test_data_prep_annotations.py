"""Every annotation format: recognised, read, and written as the same samples; what cannot be read is counted and not asked."""

import json
import sys
from pathlib import Path

import annotation_files as files
import pytest
from annotation_files import BLUE, RED, THIRD, TRUTH

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        ("_annotations.coco.json", '{"images": [], "annotations": [], "categories": []}', "coco.py --instances"),
        (
            "lvis_v1_val.json",
            '{"images": [{"neg_category_ids": []}], "annotations": [], "categories": []}',
            "lvis.py --instances",
        ),
        ("Annotations/a.xml", "<annotation><object/></annotation>", "voc.py --annotations"),
    ],
)
def test_formats_with_a_script_of_their_own_are_named_with_the_command(tmp_path, capsys, name, content, command):
    files.write(tmp_path / "set" / name, content)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "set", tmp_path)
    assert stop.value.code == 2
    assert f"python data_prep/{command} " in capsys.readouterr().err


def test_nothing_is_recognised(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(annotations.datumaro_sets, "candidates", lambda tree: [])
    files.write(tmp_path / "set/captions.txt", "a dog on a mat")
    files.pictures(tmp_path / "set")
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "set", tmp_path)
    assert stop.value.code == 2
    assert "no format of annotations is recognised in 4 files (3 .jpg, 1 .txt)" in capsys.readouterr().err


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
