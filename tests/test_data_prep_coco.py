"""The COCO converter on small files in the official format: what it writes, what it refuses, and how loudly."""

import json

import pytest
from PIL import Image

from data_prep import coco
from vlrl.data.sample_files import read_samples

pytestmark = pytest.mark.quick


class CocoFile:
    """A COCO instances file in the making; category ids have a gap, as in the official one."""

    def __init__(self, root):
        self.root, self.out = root, root / "coco.jsonl"
        self.content = {
            "info": {},
            "images": [],
            "annotations": [],
            "categories": [
                {"id": 11, "name": "fire hydrant"},
                {"id": 13, "name": "stop sign"},
                {"id": 18, "name": "dog"},
            ],
        }

    def image(self, key, size=(64, 48), stated=None, name=None, save=True):
        name = name or f"{key:012}.jpg"
        if save:
            (self.root / "val2017").mkdir(exist_ok=True)
            Image.new("RGB", size, (90, 120, 150)).save(self.root / "val2017" / name)
        width, height = stated or size
        self.content["images"].append({"id": key, "file_name": name, "width": width, "height": height})

    def box(self, image, category, bbox, iscrowd=0, **more):
        number = len(self.content["annotations"]) + 501
        self.content["annotations"].append(
            {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 1, "iscrowd": iscrowd} | more
        )

    def run(self, *options):
        (self.root / "instances_val2017.json").write_text(json.dumps(self.content))
        arguments = ["--instances", str(self.root / "instances_val2017.json"), "--images", str(self.root / "val2017")]
        # in files of two or three annotations a bad one is half of them
        code = coco.main([*arguments, "--out", str(self.out), "--overwrite", "--max_skipped", "1", *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def instances(tmp_path):
    return CocoFile(tmp_path)


def test_coco_maps_categories_by_id_and_boxes_to_corners(instances):
    instances.image(139)
    instances.box(139, 18, [10.5, 5, 20.25, 30])
    instances.box(139, 13, [0, 0, 64.004, 48])
    dog, sign = sorted(instances.run("--strict"), key=lambda sample: sample.question)
    assert dog.id == "coco-139-dog"
    assert dog.answer == [{"bbox_2d": [10.5, 5, 30.75, 35], "label": "dog"}]
    assert sign.answer == [{"bbox_2d": [0, 0, 64, 48], "label": "stop sign"}], "a float's rounding outside is cut, silently"
    assert dog.meta == {
        "categories": ["dog"],
        "image_size": [64, 48],
        "dataset": "coco",
        "split": "val2017",
        "source_id": "139",
    }
    row = json.loads(instances.out.read_text().splitlines()[0])
    assert row["images"] == ["val2017/000000000139.jpg"]


def test_coco_float_noise_is_rounded_away(instances):
    instances.image(1, size=(640, 480))
    instances.box(1, 18, [473.07, 395.93, 38.65, 28.67])
    assert instances.run()[0].answer[0]["bbox_2d"] == [473.07, 395.93, 511.72, 424.6]


def test_coco_crowd_is_neither_answer_nor_negative(instances):
    instances.image(1)
    instances.box(1, 18, [1, 1, 9, 9])
    instances.box(1, 18, [20, 20, 30, 20], iscrowd=1)
    instances.box(1, 13, [20, 20, 30, 20], iscrowd=1)
    samples = instances.run("--negatives", "5", "--classes", "fire hydrant", "stop sign", "dog")
    assert [sample.id for sample in samples] == ["coco-1-dog", "coco-1-fire hydrant"]
    assert len(samples[0].answer) == 1
    assert samples[0].meta["crowd"] == ["dog"]
    (per_image,) = instances.run("--per", "image", "--classes", "fire hydrant", "stop sign", "dog")
    assert per_image.question == "fire hydrant, dog"
    assert per_image.meta["negatives"] == ["fire hydrant"]


def test_coco_boxes_under_1_px_are_dropped_and_counted(instances, capsys):
    instances.image(1)
    for bbox in ([5, 5, 0.9, 20], [5, 5, 20, 0], [5, 5, 1, 1]):
        instances.box(1, 18, bbox)
    instances.box(1, 13, [5, 5, 0.5, 0.5])
    samples = instances.run("--strict", "--negatives", "3", "--classes", "fire hydrant", "stop sign", "dog")
    assert [(sample.question, len(sample.answer)) for sample in samples] == [("dog", 1), ("fire hydrant", 0)]
    assert "3 boxes under 1 px" in capsys.readouterr().out


BAD_ANNOTATIONS = [
    ({"image_id": 1, "category_id": 18, "bbox": [5, 5, -9, 9]}, "no area"),
    ({"image_id": 1, "category_id": 18, "bbox": [500, 5, 9, 9]}, "outside the 64x48 image"),
    ({"image_id": 1, "category_id": 18, "bbox": [5, 5, 9]}, "four finite numbers"),
    ({"image_id": 1, "category_id": 18, "bbox": [5, 5, 9, float("nan")]}, "four finite numbers"),
    ({"image_id": 1, "category_id": 18, "bbox": [5, 5, 9, "9px"]}, "four finite numbers"),
    ({"image_id": 1, "category_id": 18}, "four finite numbers"),
    ({"image_id": 1, "category_id": 12, "bbox": [5, 5, 9, 9]}, "no category with id 12"),
    ({"image_id": 77, "category_id": 18, "bbox": [5, 5, 9, 9]}, "no image with id 77"),
]


@pytest.mark.parametrize(("annotation", "message"), BAD_ANNOTATIONS)
def test_coco_bad_annotation_is_reported_and_skipped(instances, capsys, annotation, message):
    instances.image(1)
    instances.box(1, 13, [5, 5, 9, 9])
    instances.content["annotations"].append({"id": 900, "iscrowd": 0} | annotation)
    assert [sample.id for sample in instances.run()] == ["coco-1-stop sign"]
    captured = capsys.readouterr()
    assert "instances_val2017.json: " in captured.err
    assert "annotation 900" in captured.err
    assert message in captured.err
    assert "skipped    1 bad annotations" in captured.out
    with pytest.raises(SystemExit, match="annotation 900"):
        instances.run("--strict")
    before = instances.out.read_bytes()
    capsys.readouterr()
    assert instances.run("--max_skipped", "0.03", "--coords", "px") == 1
    error = capsys.readouterr().err
    assert "1 of 2 annotations cannot be used, more than the share of 0.03 that --max_skipped allows" in error
    assert error.count("annotation 900") == 2
    assert instances.out.read_bytes() == before, "nothing is written"


def test_coco_bad_images_are_reported_and_skipped(instances, capsys):
    for key in (1, 2, 3, 1):
        instances.image(key, stated=(640, 480) if key == 2 else None, save=key != 3)
        instances.box(key, 18, [5 + len(instances.content["annotations"]), 5, 9, 9])
    assert [sample.id for sample in instances.run()] == ["coco-1-dog"]
    error = capsys.readouterr().err
    assert "image 2: stated size is 640x480" in error
    assert "image 3: no such image" in error
    assert "image 1: the id occurs twice" in error


def test_coco_published_category_subsets(instances):
    instances.image(1)
    for category in (11, 13, 18):
        instances.box(1, category, [5, 5, 9, 9])
    assert [sample.question for sample in instances.run("--classes", "base65")] == [
        "fire hydrant",
        "stop sign",
        "dog",
    ]
    with pytest.raises(SystemExit, match="no category 'bus'"):
        instances.run("--classes", "few8")
    assert len(coco.FEW8) == 8
    assert len(set(coco.NOVEL15)) == 15


def test_coco_excluded_images(instances, tmp_path, capsys):
    for key in (9, 25, 30, 34):
        instances.image(key)
        instances.box(key, 18, [5, 5, 9, 9])
    listed = tmp_path / "exclude.txt"
    listed.write_text("9\nCOCO_train2014_000000000025.jpg\n000000000030.jpg\n\n")
    assert [sample.id for sample in instances.run("--exclude_images", str(listed))] == ["coco-34-dog"]
    assert "excluded   3 images" in capsys.readouterr().out
    samples = tmp_path / "refs.jsonl"
    samples.write_text(json.dumps({"id": "r", "images": ["x/COCO_train2014_000000000034.jpg"]}) + "\n")
    kept = instances.run("--exclude_images", str(samples))
    assert [sample.meta["source_id"] for sample in kept] == ["9", "25", "30"]


@pytest.fixture
def crowded(instances):
    """Image 1: 11 dogs and a sign; 2: a dog and a sign; 3: two dogs; 4: ten dogs; 5: nothing; 6: 11 dogs."""
    for key, n_dogs, n_signs in ((1, 11, 1), (2, 1, 1), (3, 2, 0), (4, 10, 0), (5, 0, 0), (6, 11, 0)):
        instances.image(key)
        for i in range(n_dogs):
            instances.box(key, 18, [i, 5, 9, 9])
        for _ in range(n_signs):
            instances.box(key, 13, [5, 5, 9, 9])
    # without an object of it anywhere nothing says that images were searched for it
    instances.image(7)
    for i in range(11):
        instances.box(7, 11, [i, 5, 9, 9])
    return instances


def test_coco_evaluation_subset_pos_1_leaves_out_categories_of_more_than_10_boxes(crowded):
    samples = crowded.run("--subset", "pos_1", "--per", "image")
    assert [sample.meta["source_id"] for sample in samples] == ["1", "2", "3", "4"]
    assert samples[0].question == "fire hydrant, stop sign", "dogs are asked neither as present nor as absent"
    assert [len(sample.answer) for sample in samples] == [1, 2, 2, 10]
    assert samples[1].question == "fire hydrant, stop sign, dog"


def test_coco_evaluation_subsets_pos_2_and_pos_3(crowded):
    assert [sample.meta["source_id"] for sample in crowded.run("--subset", "pos_2", "--per", "image")] == ["2"]
    assert [sample.meta["source_id"] for sample in crowded.run("--subset", "pos_3", "--per", "image")] == ["2", "3", "4"]
    assert [sample.id for sample in crowded.run("--subset", "pos_2")] == ["coco-2-stop sign", "coco-2-dog"]


def test_coco_prompt_modes_all_names_or_those_present(crowded):
    everything = crowded.run("--per", "image")
    assert {sample.question for sample in everything} == {"fire hydrant, stop sign, dog"}
    assert [sample.meta["source_id"] for sample in everything] == ["1", "2", "3", "4", "6", "7"], "5 is only listed"
    searched = crowded.run("--per", "image", "--empty_images", "negative")
    assert [sample.meta["source_id"] for sample in searched] == ["1", "2", "3", "4", "5", "6", "7"]
    present = crowded.run("--per", "image", "--negatives", "0")
    assert [sample.question for sample in present] == ["stop sign, dog", "stop sign, dog", "dog", "dog", "dog", "fire hydrant"]
    assert all("negatives" not in sample.meta for sample in present)


def test_coco_names_and_ids_that_are_none(instances, capsys):
    instances.image(1)
    instances.box(1, 13, [5, 5, 9, 9])
    instances.image(2)
    instances.box(2, 18, [5, 5, 9, 9])
    instances.box(2, [13], [5, 5, 9, 9])
    instances.box(2, 13, [5, 5, 10**400, 9])
    assert [sample.id for sample in instances.run("--negatives", "5")] == ["coco-1-stop sign", "coco-1-dog"]
    captured = capsys.readouterr()
    assert "no category with id None" in captured.err
    assert "is not [x, y, width, height]" in captured.err
    assert "unnamed    1 images" in captured.out, "an object of image 2 may be of any category"
    instances.content["categories"][0]["name"] = None
    with pytest.raises(SystemExit, match=r"categories\[0\] lacks 'id' or 'name'"):
        instances.run()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "an object is expected"),
        ("{}", "no list 'images'"),
        ('{"images": [{"id": 1}]}', "lacks 'id' or 'file_name'"),
    ],
)
def test_coco_files_that_are_none(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SystemExit, match=message):
        coco.main(["--instances", str(tmp_path / "x.json"), "--images", str(tmp_path), "--out", str(tmp_path / "o.jsonl")])
