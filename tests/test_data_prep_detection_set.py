"""What all detection converters share, on VOC files: splits, shots, limits, categories, output files."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from voc_files import VocFolder, save_image, voc_object

from data_prep import detection_set, writing
from data_prep.annotated import CheckedImage
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_json import sample_to_json
from vlrl.schema import Box

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    return VocFolder(tmp_path / "VOC2012")


@pytest.fixture
def pets(folder):
    folder.add_pets()
    return folder


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
    with pytest.raises(SystemExit, match=r"dog_val\.txt:4"):
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
    box = Box(0, 0, 90, 10, "dog")
    image = detection_set.CheckedImage(tmp_path / "a.jpg", "a", (64, 48), (box,), frozenset(), frozenset())
    samples = detection_set.build_samples([image], plan)
    with pytest.raises(ValueError, match=r"sample 'd-a-dog': box \[0, 0, 90, 10\] lies outside"):
        writing.write_samples(samples, writing.Target(tmp_path / "out.jsonl"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg"]


@pytest.mark.parametrize(("per", "split"), [("category", None), ("image", "v\u00e4l")])
def test_lines_are_the_json_of_the_samples(per, split):
    names = ('5" pipe', "caf\u00e9, \u72d0\n", "dog", "x\u2028y")
    plan = detection_set.Plan(names, per, 2, None, None, 0, 'a "set"', split)
    boxes = [
        Box(0, 10.5, 64.00001, 48, names[0]),
        Box(473.07, 395.93, 473.07 + 38.65, 1e5 / 3, names[1]),
        Box(0, 0, 1e-7 + 7, 1.0, "dog"),
    ]
    images = [
        CheckedImage(Path("/a b/\u72d0.jpg"), "1", (640, 480), tuple(boxes), frozenset({"dog"}), group="g"),
        CheckedImage(
            Path("/a/2.jpg"), "2", (9, 9), (), frozenset(names[:1]), frozenset({"dog"}), split="train", id_part="x/2.jpg"
        ),
        CheckedImage(Path("/a/3.jpg"), "3", (9, 9), tuple(boxes[:1] * 2)),
    ]
    drawn = detection_set.Drawn(detection_set.draw_questions(images, plan), plan)
    assert len(drawn) == len(list(drawn)) >= 3
    expected = [json.dumps(sample_to_json(sample), ensure_ascii=False) + "\n" for sample in drawn]
    assert [line for _, _, line in drawn.lines(lambda path: path)] == expected
    assert [sample.id for sample in drawn] == [sample_id for sample_id, _, _ in drawn.lines(str)]


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
