"""The LVIS converter on small files in the official format: federated annotation, named lists, bad ids."""

import json

import pytest
from PIL import Image

from data_prep import lvis
from vlrl.data.sample_files import read_samples

pytestmark = pytest.mark.quick

NAMES = {1: "acorn", 4: "stop_sign", 9: "horse_buggy", 12: "die", 1203: "zucchini"}


class LvisFile:
    """An lvis_v1_val.json in the making. Images lie in COCO's two folders."""

    def __init__(self, root):
        self.root, self.out = root, root / "lvis.jsonl"
        self.content = {
            "info": {},
            "images": [],
            "annotations": [],
            "categories": [{"id": key, "name": name, "frequency": "r"} for key, name in NAMES.items()],
        }

    def image(self, key, folder="val2017", negative=(), partial=(), save=True):
        path = self.root / "coco" / folder / f"{key:012}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if save:
            Image.new("RGB", (64, 48), (90, 120, 150)).save(path)
        self.content["images"].append(
            {
                "id": key,
                "width": 64,
                "height": 48,
                "coco_url": f"http://images.cocodataset.org/{folder}/{key:012}.jpg",
                "neg_category_ids": list(negative),
                "not_exhaustive_category_ids": list(partial),
            }
        )

    def box(self, image, category, bbox):
        number = len(self.content["annotations"]) + 1
        self.content["annotations"].append(
            {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 1.0}
        )

    def run(self, *options):
        (self.root / "lvis_v1_val.json").write_text(json.dumps(self.content))
        arguments = ["--instances", str(self.root / "lvis_v1_val.json"), "--images", str(self.root / "coco")]
        code = lvis.main([*arguments, "--out", str(self.out), "--overwrite", "--max_skipped", "1", *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def instances(tmp_path):
    return LvisFile(tmp_path)


def test_lvis_images_are_the_last_two_parts_of_the_url(instances):
    instances.image(9, folder="train2017")
    instances.box(9, 4, [10.5, 5, 20, 30])
    (sample,) = instances.run("--strict")
    assert sample.id == "lvis-9-stop_sign", "names keep their underscores"
    assert sample.answer == [{"bbox_2d": [10.5, 5, 30.5, 35], "label": "stop_sign"}]
    assert json.loads(instances.out.read_text())["images"] == ["coco/train2017/000000000009.jpg"]
    assert (sample.meta["dataset"], sample.meta["split"]) == ("lvis", "val")


def test_lvis_version_0_5_states_the_file_name(instances):
    instances.image(9)
    instances.box(9, 4, [10, 5, 20, 30])
    del instances.content["images"][0]["coco_url"]
    with pytest.raises(SystemExit, match="neither a 'coco_url' nor a 'file_name'"):
        instances.run()
    instances.content["images"][0]["file_name"] = "val2017/000000000009.jpg"
    assert len(instances.run("--strict")) == 1


def test_lvis_negatives_come_from_neg_category_ids_only(instances):
    instances.image(1, negative=[12, 1203])
    instances.box(1, 4, [5, 5, 9, 9])
    instances.image(2)
    instances.box(2, 12, [5, 5, 9, 9])
    samples = instances.run("--negatives", "9")
    assert [sample.id for sample in samples] == ["lvis-1-stop_sign", "lvis-1-die", "lvis-1-zucchini", "lvis-2-die"]
    assert [len(sample.answer) for sample in samples] == [1, 0, 0, 1]
    per_image = instances.run("--per", "image")
    assert [sample.question for sample in per_image] == ["stop_sign, die, zucchini", "die"]
    assert per_image[0].meta["negatives"] == ["die", "zucchini"]
    assert [sample.question for sample in instances.run("--per", "image", "--negatives", "0")] == ["stop_sign", "die"]


def test_lvis_categories_not_annotated_in_full_give_no_sample(instances, capsys):
    instances.image(1, negative=[12], partial=[4, 9])
    instances.box(1, 4, [5, 5, 9, 9])
    instances.box(1, 1, [5, 5, 9, 9])
    samples = instances.run("--negatives", "9", "--strict")
    assert [sample.question for sample in samples] == ["acorn", "die"]
    assert [sample.question for sample in instances.run("--per", "image")] == ["acorn, die"]
    assert "unasked    2 pairs" in capsys.readouterr().out


def test_lvis_an_annotated_category_is_no_negative_whatever_the_list_says(instances):
    instances.image(1, negative=[4])
    instances.box(1, 4, [5, 5, 9, 9])
    (sample,) = instances.run("--negatives", "9")
    assert len(sample.answer) == 1


def test_lvis_published_lists_and_few_shot(instances):
    for key in range(6):
        instances.image(key)
        instances.box(key, 9 if key % 2 else 12, [5, 5, 9, 9])
        instances.box(key, 1, [5, 5, 9, 9])
    chosen = instances.root / "chosen.txt"
    chosen.write_text("horse_buggy\nDie\n")
    samples = instances.run("--classes", str(chosen), "--shots", "2")
    assert [sample.question for sample in samples] == ["horse_buggy"] * 2 + ["die"] * 2
    with pytest.raises(SystemExit, match="no category 'kitchen_table'"):
        instances.run("--classes", "few6")
    with pytest.raises(SystemExit, match="no category 'casserole'"):
        instances.run("--classes", "open13")
    instances.content["categories"] += [
        {"id": 2000 + i, "name": name} for i, name in enumerate(lvis.FEW6) if name not in NAMES.values()
    ]
    assert {sample.question for sample in instances.run("--classes", "few6")} == {"horse_buggy", "die"}
    assert (len(lvis.FEW6), len(set(lvis.OPEN13))) == (6, 13)


def test_lvis_bad_annotations_are_reported_and_skipped(instances, capsys):
    instances.image(1, negative=[12, 777])
    instances.image(2, save=False)
    instances.box(1, 4, [5, 5, 9, 9])
    instances.box(2, 4, [5, 5, 9, 9])
    instances.image(3, negative=[12])
    instances.box(3, 5, [5, 5, 9, 9])
    instances.box(3, 4, [5, 5, 9, 9])
    instances.box(3, 4, [5, 5, None, 9])
    samples = instances.run("--negatives", "9")
    assert [sample.id for sample in samples] == ["lvis-1-stop_sign", "lvis-1-die"], "3: unread is neither there nor absent"
    captured = capsys.readouterr()
    for problem in (
        "no category with id 777",
        "no category with id 5",
        "image 2: no such image",
        "is not [x, y, width, height]",
    ):
        assert problem in captured.err
    assert "skipped    4 bad annotations" in captured.out
    assert captured.out.splitlines()[-1] == str(instances.out)
    with pytest.raises(SystemExit, match="no such image"):
        instances.run("--strict")


def test_lvis_excluded_images(instances, tmp_path):
    for key in (9, 25):
        instances.image(key)
        instances.box(key, 4, [5, 5, 9, 9])
    (tmp_path / "a.txt").write_text("COCO_train2014_000000000009.jpg\n")
    assert [sample.meta["source_id"] for sample in instances.run("--exclude_images", str(tmp_path / "a.txt"))] == ["25"]


def test_more_bad_annotations_than_a_few_per_cent_are_an_error(tmp_path, capsys):
    file = LvisFile(tmp_path)
    file.image(1)
    file.box(1, 4, [1, 1, 20, 20])
    for _ in range(4):
        file.box(1, 9, ["?", 1, 20, 20])
    assert file.run("--max_skipped", "0.03") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "nothing written: 4 of 5 annotations cannot be used" in said
    assert all(f"annotation {number}" in said for number in (2, 3, 4))
