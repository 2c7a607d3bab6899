"""The RefCOCO converter on small files in the official format: Python 2 pickles of refs beside instances.json."""

import json
import pickle

import pytest
from PIL import Image

from data_prep import coco, refcoco
from vlrl.data.sample_files import read_samples
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick


class Python2Pickler(pickle._Pickler):
    """Writes text as Python 2's byte strings, as the published pickles have it."""

    def save_text(self, text):
        raw = text.encode("latin-1")
        self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: save_text}


class Refs:
    """A folder of refs and instances in the making."""

    def __init__(self, root):
        self.root, self.out = root, root / "out.jsonl"
        self.refs = []
        self.content = {
            "info": {},
            "licenses": [],
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "person"}],
        }

    def image(self, key, save=True, size=(64, 48)):
        name = f"COCO_train2014_{key:012}.jpg"
        (self.root / "train2014").mkdir(exist_ok=True)
        if save:
            Image.new("RGB", size, (90, 120, 150)).save(self.root / "train2014" / name)
        self.content["images"].append({"id": key, "file_name": name, "width": 64, "height": 48})

    def ref(self, image, bbox, *texts, split="train", **more):
        number = len(self.refs)
        self.content["annotations"].append(
            {"id": 7000 + number, "image_id": image, "category_id": 1, "bbox": bbox, "iscrowd": 0}
        )
        first = 10 * number
        ref = {
            "ref_id": number,
            "ann_id": 7000 + number,
            "category_id": 1,
            "image_id": image,
            "file_name": f"COCO_train2014_{image:012}_{number}.jpg",
            "split": split,
            "sent_ids": [first + i for i in range(len(texts))],
            "sentences": [
                {"tokens": text.split(), "raw": text, "sent_id": first + i, "sent": text} for i, text in enumerate(texts)
            ],
        }
        self.refs.append(ref | more)

    def run(self, *options, dataset="refcoco", split_by="unc"):
        folder = self.root / "data" / dataset
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"refs({split_by}).p").open("wb") as file:
            Python2Pickler(file, protocol=2).dump(self.refs)
        (folder / "instances.json").write_text(json.dumps(self.content))
        arguments = ["--root", str(self.root / "data"), "--dataset", dataset, "--images", str(self.root / "train2014")]
        code = refcoco.main([*arguments, "--out", str(self.out), "--overwrite", "--max_skipped", "1", *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def refs(tmp_path):
    return Refs(tmp_path)


def test_refcoco_one_sample_a_sentence(refs):
    refs.image(581857)
    refs.ref(581857, [10.5, 5, 20.25, 30], "the lady with the blue shirt", " lady in café ")
    first, second = refs.run("--split", "train", "--strict")
    assert (first.id, first.task, first.question) == ("refcoco-train-0", "grounding", "the lady with the blue shirt")
    assert first.answer == {"bbox_2d": [10.5, 5, 30.75, 35]}
    assert second.question == "lady in café", "Python 2's text is Latin-1"
    assert second.answer == first.answer
    assert first.meta == {"image_size": [64, 48], "dataset": "refcoco", "split": "train", "source_id": "581857", "ref_id": 0}
    row = json.loads(refs.out.read_text().splitlines()[0])
    assert row["images"] == ["train2014/COCO_train2014_000000581857.jpg"], "not the file name inside the ref"
    assert TASKS["grounding"].check(first) is None


def test_refcoco_splits(refs, capsys):
    refs.image(1)
    for split in ("train", "val", "testA", "testB"):
        refs.ref(1, [5, 5, 9, 9], f"left {split}", split=split)
    assert [sample.question for sample in refs.run("--split", "testA")] == ["left testA"]
    captured = capsys.readouterr()
    assert "note: 1 expressions in testA, published: 5657" in captured.err
    assert "sentences  1 in testA" in captured.out
    assert captured.out.splitlines()[-1] == str(refs.out)
    assert [sample.id for sample in refs.run("--split", "val", "testB")] == ["refcoco-val-10", "refcoco-testB-30"]
    with pytest.raises(SystemExit, match=r"no 'test' in .* it has testA, testB, train, val"):
        refs.run("--split", "test")


def test_refcoco_who_split_what(refs):
    refs.image(1)
    refs.ref(1, [5, 5, 9, 9], "left", split="val")
    assert refs.run("--split", "val", dataset="refcocog", split_by="umd")[0].id == "refcocog-val-0"
    assert len(refs.run("--split", "val", "--splitBy", "google", dataset="refcocog", split_by="google")) == 1
    assert len(refs.run("--split", "val", dataset="refcoco+")) == 1
    for options in (["--splitBy", "umd"], ["--splitBy", "google"]):
        with pytest.raises(SystemExit) as stop:
            refs.run("--split", "val", *options)
        assert stop.value.code == 2


def test_refcoco_bad_refs_are_reported_and_skipped(refs, capsys):
    refs.image(1)
    refs.image(2, save=False)
    refs.image(3, size=(640, 480))
    refs.ref(1, [5, 5, 9, 9], "good")
    refs.ref(2, [5, 5, 9, 9], "no image", "twice")
    refs.ref(3, [5, 5, 9, 9], "other size")
    refs.ref(1, [500, 5, 9, 9], "outside")
    refs.ref(1, [5, 5, 9], "three numbers")
    refs.ref(1, [5, 5, 9, 9], "no annotation", ann_id=1)
    refs.ref(1, [5, 5, 9, 9], "wrong annotation", ann_id=7001)
    refs.ref(1, [5, 5, 9, 9], "no image", image_id=77)
    refs.ref(1, [5, 5, 9, 9], "used id", sentences=[{"sent_id": 0, "sent": "again"}, {"sent_id": 91, "sent": "fine"}])
    refs.ref(1, [5, 5, 9, 9], "empty", sentences=[{"sent_id": 92, "sent": " "}, {"sent": "no id"}, "text"])
    refs.ref(1, [5, 5, 0.4, 9], "tiny")
    assert [sample.question for sample in refs.run("--split", "train")] == ["good", "fine"]
    captured = capsys.readouterr()
    for problem in (
        "instances.json: image 2: no such image",
        "stated size is 64x48 but",
        "refs(unc).p: ref 3: box [500, 5, 509, 14] lies outside",
        "annotation 7004: bbox [5, 5, 9] is not",
        "has no annotation with id 1",
        "its annotation 7001 is of image 2, the ref of 1",
        "has no image with id 77",
        "sentence id 0 was used before",
        "sentence number 0 lacks 'sent' or 'sent_id'",
    ):
        assert problem in captured.err
    assert captured.err.count("no such image") == 1
    assert "skipped    11 bad annotations" in captured.out
    assert "tiny       1 boxes" in captured.out
    with pytest.raises(SystemExit, match="no such image"):
        refs.run("--split", "train", "--strict")


def test_refcoco_limit_and_seed(refs):
    refs.image(1)
    for i in range(12):
        refs.ref(1, [5, 5, 9, 9], f"thing {i}")
    everything = [sample.id for sample in refs.run("--split", "train")]
    five = [sample.id for sample in refs.run("--split", "train", "--limit", "5", "--seed", "3")]
    assert len(five) == 5
    assert five == [key for key in everything if key in five]
    assert any(five != [s.id for s in refs.run("--split", "train", "--limit", "5", "--seed", str(i))] for i in range(3))


def test_refcoco_keeps_evaluation_images_out_of_training(refs, tmp_path, capsys):
    for key in (1, 2, 3):
        refs.image(key)
        refs.ref(key, [5, 5, 9, 9], f"thing {key}", split="val" if key == 2 else "train")
    refs.run("--split", "val")
    validation = refs.out.rename(tmp_path / "val.jsonl")
    assert len(refs.run("--split", "train", "--exclude_images", str(validation))) == 2
    (tmp_path / "ids.txt").write_text("3\n")
    kept = refs.run("--split", "train", "--exclude_images", str(validation), str(tmp_path / "ids.txt"))
    assert [sample.question for sample in kept] == ["thing 1"]
    assert "excluded   1 refs by their image" in capsys.readouterr().out
    # and out of COCO training files, whose images have other names
    Image.new("RGB", (64, 48)).save(tmp_path / "000000000002.jpg")
    Image.new("RGB", (64, 48)).save(tmp_path / "000000000004.jpg")
    images = [{"id": key, "file_name": f"{key:012}.jpg"} for key in (2, 4)]
    boxes = [{"id": key, "image_id": key, "category_id": 1, "bbox": [5, 5, 9, 9]} for key in (2, 4)]
    (tmp_path / "i.json").write_text(json.dumps(refs.content | {"images": images, "annotations": boxes}))
    arguments = ["--instances", str(tmp_path / "i.json"), "--images", str(tmp_path), "--out", str(tmp_path / "coco.jsonl")]
    assert coco.main([*arguments, "--exclude_images", str(validation)]) == 0
    assert [sample.meta["source_id"] for sample in read_samples(tmp_path / "coco.jsonl")] == ["4"]


def test_refcoco_files_that_are_none(refs, tmp_path):
    refs.image(1)
    refs.ref(1, [5, 5, 9, 9], "x")
    del refs.refs[0]["ann_id"]
    with pytest.raises(SystemExit, match=r"refs\(unc\)\.p: ref number 0 lacks"):
        refs.run("--split", "train")
    refs.refs = {"a": 1}
    with pytest.raises(SystemExit, match="a dict, not the list of refs"):
        refs.run("--split", "train")
    with pytest.raises(SystemExit) as stop:
        refcoco.main(
            ["--dataset", "refcoco", "--split", "train", "--images", str(tmp_path), "--out", str(tmp_path / "o.jsonl")]
        )
    assert stop.value.code == 2


def test_refcoco_never_runs_what_a_pickle_holds(refs, tmp_path):
    refs.image(1)
    refs.ref(1, [5, 5, 9, 9], "x")
    refs.run("--split", "train")
    path = tmp_path / "data/refcoco/refs(unc).p"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "touched").encode() + b"'\ntR.")
    arguments = [
        "--root",
        str(tmp_path / "data"),
        "--dataset",
        "refcoco",
        "--images",
        str(tmp_path / "train2014"),
        "--split",
        "train",
    ]
    with pytest.raises(SystemExit, match=r"it asks for os\.system"):
        refcoco.main([*arguments, "--out", str(tmp_path / "new.jsonl")])
    assert not (tmp_path / "touched").exists()


def test_more_bad_refs_than_a_few_per_cent_are_an_error(tmp_path, capsys):
    refs = Refs(tmp_path)
    refs.image(1)
    refs.image(2, save=False)
    refs.ref(1, [5, 5, 20, 20], "the dog", "a dog")
    for number in range(4):
        refs.ref(2, [5, 5, 20, 20], f"number {number}")
    assert refs.run("--split", "train", "--max_skipped", "0.03") == 1
    assert "nothing written: 4 of 5 refs cannot be used" in capsys.readouterr().err
    assert len(refs.run("--split", "train", "--max_skipped", "0.8")) == 2
