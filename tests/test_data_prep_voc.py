"""The VOC converter and what all detection converters share, on small files in the official format."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import detection_set, voc, writing
from vlrl.schema import read_samples

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[1]
OBJECT = """
  <object>
    <name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
    {extra}
  </object>"""


def save_image(path, size=(64, 48), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path, **options)


def voc_object(name, box, difficult=0, extra=""):
    return OBJECT.format(name=name, box=box, difficult=difficult, extra=extra)


class VocFolder:
    """A Pascal VOC folder in the making."""

    def __init__(self, root):
        self.root = root
        self.out = root.parent / "out" / "samples.jsonl"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)

    def add(self, key, *objects, size=(64, 48), stated=None, image=True, filename=None):
        width, height = stated or size
        if image:
            save_image(self.root / f"JPEGImages/{key}.jpg", size)
        (self.root / f"Annotations/{key}.xml").write_text(
            f"<annotation><folder>VOC2012</folder><filename>{filename or key + '.jpg'}</filename>"
            f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
        )

    def run(self, *options):
        code = voc.main(["--root", str(self.root), "--out", str(self.out), *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def folder(tmp_path):
    return VocFolder(tmp_path / "VOC2012")


@pytest.fixture
def pets(folder):
    """Twelve images: dogs in all, cats in every second, a bird in the first three."""
    for i in range(12):
        objects = [voc_object("dog", (1, 1, 20 + i, 20))]
        objects += [voc_object("cat", (30, 5, 50, 30))] * (i % 2 == 0)
        objects += [voc_object("bird", (5, 25, 15, 45))] * (i < 3)
        folder.add(f"2008_{i:06}", *objects)
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
    assert [sample.id for sample in samples] == ["VOC2012-good-dog", "VOC2012-mixed-cat"]
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


def test_split_files(pets, capsys):
    main = pets.root / "ImageSets/Main"
    (main / "train.txt").write_text("2008_000003\n2008_000001\n\n")
    (main / "dog_val.txt").write_text("2008_000004  1\n2008_000006 -1\n2008_000004  1\n2008_999999  1\n")
    samples = pets.run("--split", "ImageSets/Main/train.txt", "--classes", "dog")
    assert [sample.meta["source_id"] for sample in samples] == ["2008_000003", "2008_000001"]
    assert {sample.meta["split"] for sample in samples} == {"train"}
    samples = pets.run("--split", str(main / "dog_val.txt"), "--classes", "dog", "--overwrite")
    assert [sample.meta["source_id"] for sample in samples] == ["2008_000004", "2008_000006"]
    error = capsys.readouterr().err
    assert "dog_val.txt:3: id 2008_000004 was listed on line 1" in error
    assert "dog_val.txt:4: no annotation" in error
    with pytest.raises(SystemExit, match=r"dog_val\.txt:3"):
        pets.run("--split", str(main / "dog_val.txt"), "--overwrite", "--strict")


def test_k_shot_draws_by_seed_and_takes_no_image_twice(pets, capsys):
    def drawn(*options):
        return [(s.question, s.meta["source_id"]) for s in pets.run("--shots", "2", "--overwrite", *options)]

    first = drawn("--seed", "3")
    assert Counter(category for category, _ in first) == {"bird": 2, "cat": 2, "dog": 2}
    assert len({source for _, source in first}) == 6
    assert first == drawn("--seed", "3")
    assert any(first != drawn("--seed", str(seed)) for seed in range(4, 8))
    birds = [f"2008_{i:06}" for i in range(3)]
    random.Random("3:bird").shuffle(birds)
    assert [source for _, source in first[:2]] == birds[:2]
    # dropping the last category leaves the draws of those before it unchanged
    assert drawn("--seed", "3", "--classes", "bird", "cat") == first[:4]
    capsys.readouterr()
    pets.run("--shots", "5", "--classes", "bird", "--overwrite")
    assert "bird: only 3 of 5 images" in capsys.readouterr().err


def test_k_shot_answers_hold_only_the_drawn_category(pets):
    for sample in pets.run("--shots", "2"):
        assert {item["label"] for item in sample.answer} == {sample.question}


def test_limit_draws_by_seed_and_keeps_the_order(pets):
    everything = [sample.id for sample in pets.run()]
    five = [sample.id for sample in pets.run("--limit", "5", "--overwrite")]
    assert len(five) == 5
    assert five == [key for key in everything if key in five]
    assert five == [sample.id for sample in pets.run("--limit", "5", "--overwrite")]
    assert any(five != [s.id for s in pets.run("--limit", "5", "--seed", str(i), "--overwrite")] for i in range(1, 4))
    assert len(pets.run("--limit", "5000", "--overwrite")) == len(everything)


def test_same_options_same_bytes(pets):
    options = ("--negatives", "1", "--limit", "9", "--seed", "4", "--overwrite")
    pets.run(*options)
    first = pets.out.read_bytes()
    pets.run(*options)
    assert pets.out.read_bytes() == first


def test_refuses_to_overwrite(pets):
    pets.out.parent.mkdir()
    pets.out.write_text("precious")
    with pytest.raises(SystemExit, match="exists; choose another --out or add --overwrite"):
        pets.run()
    assert pets.out.read_text() == "precious"
    assert len(pets.run("--overwrite")) == 21


def test_categories_by_name_by_file_and_misspelt(pets, tmp_path):
    assert {sample.question for sample in pets.run("--classes", "CAT")} == {"cat"}
    names = tmp_path / "names.txt"
    names.write_text("bird\n\ndog\n")
    samples = pets.run("--classes", str(names), "--per", "image", "--overwrite")
    assert samples[0].question == "bird, dog"
    with pytest.raises(SystemExit, match="no category 'dgo' in the annotations; did you mean 'dog'"):
        pets.run("--classes", "dgo", "--overwrite")


def test_labels_that_differ_by_case_are_one_category(folder):
    folder.add("a", voc_object("Dog", (5, 5, 20, 20)), voc_object("dog ", (25, 5, 40, 20)))
    (sample,) = folder.run()
    assert [item["label"] for item in sample.answer] == ["Dog", "Dog"]


def test_no_samples_is_an_error_and_writes_nothing(folder, capsys):
    folder.add("a", voc_object("dog", (10, 10, 10, 20)))
    assert folder.run() == 1
    assert "no samples: 1 usable images" in capsys.readouterr().err
    assert not folder.out.exists()


@pytest.mark.parametrize(
    "options", [["--shots", "2", "--per", "image"], ["--limit", "-3"], ["--split", "no.txt"], ["--voc_offset", "2"]]
)
def test_wrong_options_exit_with_2(pets, options):
    with pytest.raises(SystemExit) as stop:
        pets.run(*options)
    assert stop.value.code == 2


def test_a_box_that_does_not_fit_is_never_written(tmp_path):
    save_image(tmp_path / "a.jpg")
    plan = detection_set.Plan(("dog",), "category", None, None, None, 0, "d", None)
    box = detection_set.Box(0, 0, 90, 10, "dog")
    image = detection_set.CheckedImage(tmp_path / "a.jpg", "a", (64, 48), (box,), frozenset(), frozenset())
    samples = detection_set.build_samples([image], plan)
    with pytest.raises(ValueError, match=r"sample 'd-a-dog': box \[0, 0, 90, 10\] lies outside"):
        writing.write_samples(samples, writing.Target(tmp_path / "out.jsonl"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg"]


def test_exported_images_are_copies_beside_the_file(pets, tmp_path):
    samples = pets.run("--classes", "bird", "--export_images")
    folder = pets.out.parent / "samples_images"
    assert sorted(path.name for path in folder.iterdir()) == [f"2008_{i:06}.jpg" for i in range(3)]
    assert json.loads(pets.out.read_text().splitlines()[0])["images"] == ["samples_images/2008_000000.jpg"]
    original = pets.root / "JPEGImages/2008_000000.jpg"
    assert Path(samples[0].images[0]).read_bytes() == original.read_bytes()
    original.unlink()
    moved = pets.out.parent.rename(tmp_path / "elsewhere")
    assert len(read_samples(moved / pets.out.name)) == 3, "the folder stands on its own"


def test_images_are_not_copied_unless_asked(pets):
    pets.run()
    assert [path.name for path in pets.out.parent.iterdir()] == [pets.out.name]
    pets.run("--overwrite", "--export_images", str(pets.out.parent / "."), "--limit", "1")
    assert len(list(pets.out.parent.glob("*.jpg"))) == 1, "a folder that is named is that folder"


def test_scripts_run_from_anywhere_and_end_with_the_path(pets, tmp_path):
    command = [sys.executable, str(ROOT / "data_prep/voc.py"), "--root", "VOC2012", "--out", "new/pets.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "new/pets.jsonl"
    assert done.stdout.splitlines()[:6] == [
        "images     12",
        "samples    21",
        "usable     12 images",
        "boxes      3 bird",
        "boxes      6 cat",
        "boxes      12 dog",
    ]
    assert len(read_samples(tmp_path / "new/pets.jsonl")) == 21


def test_a_file_that_exists_stops_the_script_before_it_reads(pets):
    pets.run()
    with pytest.raises(SystemExit, match="exists; choose another --out or add --overwrite"):
        pets.run()
