"""The VOC converter on small files in the official format: annotations, boxes, images, negatives."""

import json
from collections import Counter

import pytest
from PIL import Image
from voc_files import VocFolder, save_image, voc_object

pytestmark = pytest.mark.quick


@pytest.fixture
def folder(tmp_path):
    return VocFolder(tmp_path / "VOC2012")


@pytest.fixture
def pets(folder):
    folder.add_pets()
    return folder


def test_voc_one_sample_an_image_and_category(folder):
    folder.add("000001", voc_object("dog", (1, 11, 64, 48)), voc_object("person", (9, 10, 30, 40)))
    dog, person = folder.run()
    assert (dog.id, dog.task, dog.question) == ("VOC2012-000001-dog", "detection", "dog")
    # counted from 1 and inclusive -> counted from 0 and exclusive: the box touches the left, right and bottom edge
    assert dog.answer == [{"bbox_2d": [0, 10, 64, 48], "label": "dog"}]
    assert person.answer == [{"bbox_2d": [8, 9, 30, 40], "label": "person"}]
    assert dog.meta == {"categories": ["dog"], "image_size": [64, 48], "dataset": "VOC2012", "source_id": "000001"}
    row = json.loads(folder.out.read_text().splitlines()[0])
    assert row["images"] == ["../VOC2012/JPEGImages/000001.jpg"]


def test_voc_offset_0_takes_corners_as_they_are(folder, capsys):
    folder.add("a", voc_object("dog", (0, 10, 64, 48)))
    (sample,) = folder.run("--voc_offset", "0", "--strict")
    assert sample.answer[0]["bbox_2d"] == [0, 10, 64, 48]
    assert "offset" not in capsys.readouterr().err
    (sample,) = folder.run("--overwrite", "--strict")
    assert sample.answer[0]["bbox_2d"] == [0, 9, 64, 48]
    assert "1 objects have an xmin or ymin of 0" in capsys.readouterr().err


def test_voc_fractions_and_parts(folder):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    folder.add("a", voc_object("person", ("45.5", "10.25", "60", "40.70000076293945"), extra=part))
    (sample,) = folder.run("--strict")
    assert sample.answer == [{"bbox_2d": [44.5, 9.25, 60, 40.7], "label": "person"}]


def test_per_image_asks_for_all_categories(pets):
    samples = pets.run("--per", "image")
    assert len(samples) == 12
    assert {sample.question for sample in samples} == {"bird, cat, dog"}
    assert [item["label"] for item in samples[0].answer] == ["dog", "cat", "bird"]
    assert samples[5].meta["negatives"] == ["bird", "cat"]


def test_per_image_with_n_absent_categories(pets):
    samples = pets.run("--per", "image", "--negatives", "1", "--classes", "cat", "bird")
    assert samples[0].meta["categories"] == ["cat", "bird"]
    assert "negatives" not in samples[0].meta
    lone = samples[5]
    assert len(lone.meta["categories"]) == 1
    assert lone.meta["negatives"] == lone.meta["categories"]
    assert lone.answer == []


def test_negatives_per_category(pets, capsys):
    samples = pets.run("--negatives", "1")
    positives = [sample for sample in samples if sample.answer]
    negatives = [sample for sample in samples if not sample.answer]
    assert Counter(sample.question for sample in positives) == {"dog": 12, "cat": 6, "bird": 3}
    # images 0 and 2 show all three; every other one lacks at least one
    assert len(negatives) == 10
    for sample in negatives:
        assert sample.meta["negatives"] == [sample.question]
        shown = {s.question for s in positives if s.images == sample.images}
        assert sample.question not in shown
    assert "negatives  10 samples" in capsys.readouterr().out


def test_difficult_objects_are_neither_asked_nor_absent(folder):
    folder.add("a", voc_object("dog", (5, 5, 20, 20)), voc_object("cat", (5, 5, 30, 30), difficult=1))
    folder.add("b", voc_object("cat", (5, 5, 20, 20)), voc_object("cat", (25, 5, 30, 30), difficult=1))
    samples = {sample.id: sample for sample in folder.run("--negatives", "5")}
    assert list(samples) == ["VOC2012-a-dog", "VOC2012-b-cat", "VOC2012-b-dog"]
    assert samples["VOC2012-b-cat"].meta["crowd"] == ["cat"]
    assert len(samples["VOC2012-b-cat"].answer) == 1
    kept = {sample.id: sample for sample in folder.run("--keep_difficult", "--overwrite")}
    assert list(kept) == ["VOC2012-a-cat", "VOC2012-a-dog", "VOC2012-b-cat"]
    assert len(kept["VOC2012-b-cat"].answer) == 2
    assert "crowd" not in kept["VOC2012-b-cat"].meta


BAD_OBJECTS = [
    (voc_object("dog", (10, 10, 10, 20)), "no area"),
    (voc_object("dog", (20, 10, 10, 20)), "no area"),
    (voc_object("dog", (100, 10, 120, 20)), "outside the 64x48 image"),
    (voc_object("dog", ("x", 10, 20, 20)), "not four finite numbers"),
    (voc_object("dog", ("nan", 10, 20, 20)), "not four finite numbers"),
    (voc_object("dog", ("", 10, 20, 20)), "not four finite numbers"),
    ("<object><name>dog</name></object>", "not four finite numbers"),
    (voc_object(" ", (10, 10, 20, 20)), "no <name>"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_OBJECTS)
def test_voc_bad_object_is_reported_with_its_place_and_skipped(folder, capsys, bad, message):
    folder.add("good", voc_object("dog", (5, 5, 20, 20)))
    folder.add("mixed", voc_object("cat", (5, 5, 20, 20)), bad)
    samples = folder.run()
    kept = ["VOC2012-good-dog", *(["VOC2012-mixed-cat"] if "name" not in message else [])]
    assert [sample.id for sample in samples] == kept, "an object without a name may be a cat too"
    captured = capsys.readouterr()
    assert f"{folder.root / 'Annotations/mixed.xml'}: object 2" in captured.err
    assert message in captured.err
    assert "skipped    1 bad annotations" in captured.out
    folder.out.unlink()
    with pytest.raises(SystemExit) as stop:
        folder.run("--strict")
    assert "mixed.xml: object 2" in stop.value.code
    assert not folder.out.exists()
    assert list(folder.out.parent.iterdir()) == []


def test_a_category_with_an_unusable_box_is_not_a_negative(folder):
    folder.add("a", voc_object("dog", (10, 10, 10, 20)), voc_object("cat", (1, 1, 5, 5)))
    folder.add("b", voc_object("dog", (10, 10, 20, 20)))
    assert [sample.id for sample in folder.run("--negatives", "9")] == [
        "VOC2012-a-cat",
        "VOC2012-b-dog",
        "VOC2012-b-cat",
    ]
    per_image = folder.run("--per", "image", "--overwrite")
    assert [sample.question for sample in per_image] == ["cat", "cat, dog"]


def break_xml(folder):
    (folder.root / "Annotations/bad.xml").write_text("<annotation><object>")


def wrong_root(folder):
    (folder.root / "Annotations/bad.xml").write_text("<html/>")


def broken_image(folder):
    folder.add("bad", voc_object("dog", (5, 5, 20, 20)))
    (folder.root / "JPEGImages/bad.jpg").write_bytes(b"not an image")


BAD_FILES = [
    (break_xml, "not well-formed XML"),
    (wrong_root, "not <annotation>"),
    (broken_image, "cannot read image"),
    (lambda folder: folder.add("bad", voc_object("dog", (5, 5, 20, 20)), image=False), "no such image"),
    (lambda folder: folder.add("bad", voc_object("dog", (5, 5, 20, 20)), stated=(640, 480)), "stated size is 640x480"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES)
def test_voc_bad_file_is_reported_and_skipped(folder, capsys, spoil, message):
    folder.add("good", voc_object("dog", (5, 5, 20, 20)))
    spoil(folder)
    assert [sample.id for sample in folder.run()] == ["VOC2012-good-dog"]
    captured = capsys.readouterr()
    assert "bad.xml" in captured.err
    assert message in captured.err
    with pytest.raises(SystemExit, match=r"bad\.xml"):
        folder.run("--strict", "--overwrite")


def test_boxes_that_stick_out_are_cut(folder, capsys):
    folder.add("a", voc_object("dog", (40, 10, 65, 49)), voc_object("cat", (1, 1, 80, 20)))
    dog, cat = (sample.answer[0]["bbox_2d"] for sample in reversed(folder.run()))
    assert dog == [39, 9, 64, 48]
    assert cat == [0, 0, 64, 20]
    captured = capsys.readouterr()
    assert "clipped    2 boxes" in captured.out
    assert captured.err.count("clipped:") == 1, "one pixel is rounding, sixteen are worth a line"
    assert "object 2: cat: box [0.0, 0.0, 80.0, 20.0] lies outside" in captured.err
    with pytest.raises(SystemExit, match="object 2"):
        folder.run("--strict", "--overwrite")


def test_equal_boxes_are_written_once(folder, capsys):
    folder.add("a", *[voc_object("dog", (5, 5, 20, 20))] * 2, voc_object("cat", (5, 5, 20, 20)))
    samples = folder.run()
    assert [len(sample.answer) for sample in samples] == [1, 1]
    assert "object 2: dog [4, 4, 20, 20] is the same box and label as" in capsys.readouterr().err


def test_size_0x0_means_not_stated(folder):
    folder.add("a", voc_object("dog", (5, 5, 20, 20)), stated=(0, 0))
    assert folder.run("--strict")[0].meta["image_size"] == [64, 48]


def test_image_size_is_as_shown_when_a_camera_turned_the_image(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.add("a", voc_object("dog", (5, 5, 20, 60)), stated=(48, 64))
    save_image(folder.root / "JPEGImages/a.jpg", (64, 48), exif=exif)
    assert folder.run("--strict")[0].meta["image_size"] == [48, 64]


def test_filename_in_the_xml_is_used_where_the_id_has_no_image(folder):
    folder.add("a", voc_object("dog", (5, 5, 20, 20)), image=False, filename="photo 1.png")
    save_image(folder.root / "JPEGImages/photo 1.png")
    assert folder.run("--strict")[0].images[0].endswith("photo 1.png")
