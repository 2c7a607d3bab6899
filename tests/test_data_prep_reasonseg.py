"""The ReasonSeg converter on small files in the official format: labelled polygons, cp1252 text, void shapes."""

import json

import pytest
from PIL import Image

from data_prep import reasonseg
from vlrl.data.sample_files import read_samples
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick

SQUARE = [[10, 10], [20, 10.5], [20, 20], [10, 20]]
SLOPE = [[30.25, 5], [40, 30], [35, 44]]


def shape(points, label="target"):
    return {"label": label, "labels": [label], "shape_type": "polygon", "image_name": "a.jpg", "points": points}


class Folder:
    """ReasonSeg in the making."""

    def __init__(self, root):
        self.root, self.out = root / "ReasonSeg", root / "out.jsonl"

    def add(self, name, *shapes, text=("the thing to sit on",), split="train", encoding="utf-8", image=True, **more):
        folder = self.root / split
        folder.mkdir(parents=True, exist_ok=True)
        if image:
            Image.new("RGB", (64, 48), (90, 120, 150)).save(folder / f"{name}.jpg")
        content = {"text": list(text), "is_sentence": True, "shapes": list(shapes)} | more
        (folder / f"{name}.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))

    def run(self, *options):
        code = reasonseg.main(["--root", str(self.root), "--out", str(self.out), "--overwrite", "--max_skipped", "1", *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_reasonseg_one_sample_an_instruction(folder, capsys):
    folder.add("b", shape(SQUARE), shape(SLOPE), shape([[0, 0], [5, 0], [5, 5]], "ignore"), text=("first", "second  one"))
    folder.add("a", shape(SQUARE), is_sentence=False)
    other, first, second = folder.run("--strict")
    assert (first.id, first.task) == ("ReasonSeg-train-b-0", "grounding")
    assert (first.question, second.question) == ("first", "second one")
    assert first.answer == {"bbox_2d": [10, 5, 40, 44]}, "around all target points"
    assert first.meta["polygons"] == [SQUARE, SLOPE]
    assert first.meta["ignore_polygons"] == [[[0, 0], [5, 0], [5, 5]]]
    assert first.meta["is_sentence"] is True
    assert other.meta["is_sentence"] is False
    assert first.meta["image_size"] == [64, 48]
    assert json.loads(folder.out.read_text().splitlines()[1])["images"] == ["ReasonSeg/train/b.jpg"]
    assert TASKS["grounding"].check(first) is None
    out = capsys.readouterr().out
    assert "several    1 images with more than one instruction" in out
    assert out.splitlines()[-1] == str(folder.out)


def test_reasonseg_first_polygon_only(folder):
    folder.add("a", shape([[0, 0], [5, 0], [5, 5]], "flag"), shape(SLOPE), shape(SQUARE))
    (sample,) = folder.run("--box", "first")
    assert sample.answer == {"bbox_2d": [30.25, 5, 40, 44]}
    assert sample.meta["polygons"] == [SLOPE, SQUARE], "shapes labelled flag are void, masks keep every target"


def test_reasonseg_labels(folder):
    folder.add("a", shape(SQUARE), shape(SLOPE, "Flag"), shape(SLOPE, "Ignore this"))
    (sample,) = folder.run("--strict")
    assert sample.meta["polygons"] == [SQUARE]
    assert sample.meta["ignore_polygons"] == [SLOPE]


def test_reasonseg_splits_and_encodings(folder):
    folder.add("a", shape(SQUARE), text=("the café’s sign",), split="val", encoding="cp1252")
    folder.add("b", shape(SQUARE), text=("the café’s sign",), split="val", encoding="utf-8")
    samples = folder.run("--split", "val", "--strict")
    assert [sample.question for sample in samples] == ["the café’s sign"] * 2
    assert samples[0].meta["split"] == "val"
    with pytest.raises(SystemExit) as stop:
        folder.run("--split", "test")
    assert stop.value.code == 2


BAD = [
    ({"shapes": []}, "no target among its shapes"),
    ({"shapes": [shape(SQUARE, "ignore")]}, "no target among its shapes"),
    ({"shapes": None}, "not a list of polygons"),
    ({"shapes": [shape(SQUARE), shape([[1, "2"]])]}, "shape 2 (target): points"),
    ({"shapes": [shape([[1, float("nan")], [2, 2]])]}, "finite numbers"),
    ({"shapes": [shape([])]}, "finite numbers"),
    ({"shapes": [{"points": SQUARE}]}, "shape 1 has no label"),
    ({"text": []}, "not a list of instructions"),
    ({"text": ["a", " "]}, "not a list of instructions"),
    ({"shapes": [shape([[500, 500], [600, 600]])]}, "outside the 64x48 image"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_reasonseg_bad_annotations_are_reported_and_skipped(folder, capsys, bad, message):
    folder.add("good", shape(SQUARE))
    folder.add("spoilt", shape(SQUARE), **bad)
    assert [sample.id for sample in folder.run()] == ["ReasonSeg-train-good-0"]
    captured = capsys.readouterr()
    assert "spoilt.json" in captured.err
    assert message in captured.err
    assert "skipped    1 bad annotations" in captured.out
    with pytest.raises(SystemExit, match=r"spoilt\.json"):
        folder.run("--strict")


def test_reasonseg_files_without_their_partner(folder, capsys):
    folder.add("good", shape(SQUARE))
    folder.add("lone", shape(SQUARE), image=False)
    (folder.root / "train/picture.jpg").write_bytes((folder.root / "train/good.jpg").read_bytes())
    folder.add("broken", shape(SQUARE))
    (folder.root / "train/broken.jpg").write_bytes(b"no image")
    (folder.root / "train/good2.jpg").write_bytes((folder.root / "train/good.jpg").read_bytes())
    (folder.root / "train/good2.json").write_bytes(b"{\x81")
    assert len(folder.run()) == 1
    error = capsys.readouterr().err
    assert "lone.json: no lone.jpg beside it" in error
    assert "picture.jpg: no picture.json beside it" in error
    assert "broken.json: cannot read image" in error
    assert "good2.json: not JSON" in error


def test_reasonseg_without_samples_is_an_error(folder, capsys):
    folder.add("a", shape(SQUARE, "flag"))
    assert folder.run() == 1
    assert "no samples: 1 images in" in capsys.readouterr().err
    assert not folder.out.exists()


def test_more_bad_images_than_a_few_per_cent_are_an_error(folder, capsys):
    folder.add("a", shape(SQUARE))
    for name in "bcde":
        folder.add(name, text=("the lamp",))
    assert folder.run("--max_skipped", "0.03") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "nothing written: 4 of 5 images cannot be used" in said
    assert all(f"{name}.json: no target" in said for name in "bcd")
