"""The OVDEval converter on small files in the official format: own texts and hard negatives, or the whole list."""

import json

import pytest
from PIL import Image

from data_prep import ovdeval
from vlrl.data.sample_files import read_samples

pytestmark = pytest.mark.quick

NAMES = ("computer without screen on", "computer with screen on", "man without hat")


class Subset:
    """A subset's JSON in the making; ids begin at 0, as in the official ones."""

    def __init__(self, root):
        self.root, self.out = root, root / "out.jsonl"
        self.content = {
            "categories": [{"supercategory": "object", "id": i, "name": name} for i, name in enumerate(NAMES)],
            "annotations": [],
            "images": [],
        }

    def image(self, text, negative, *boxes):
        key = len(self.content["images"])
        name = f"64d22c6fe4b011b0db94b{key:03}.jpg"
        (self.root / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (90, 120, 150)).save(self.root / "pictures" / name)
        row = {"file_name": name, "id": key, "height": 48, "width": 64, "text": text, "neg_text": negative}
        self.content["images"].append(row)
        for category, bbox in boxes:
            self.content["annotations"].append(
                {
                    "id": len(self.content["annotations"]),
                    "bbox": bbox,
                    "category_id": category,
                    "image_id": key,
                    "iscrowd": 0,
                    "area": 1,
                }
            )

    def run(self, *options, name="negation"):
        (self.root / f"{name}.json").write_text(json.dumps(self.content))
        arguments = ["--instances", str(self.root / f"{name}.json"), "--images", str(self.root / "pictures")]
        code = ovdeval.main([*arguments, "--out", str(self.out), "--overwrite", "--max_skipped", "1", *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def subset(tmp_path):
    return Subset(tmp_path)


def test_ovdeval_asks_for_the_images_own_texts(subset):
    subset.image([NAMES[1]], [NAMES[0]], (1, [11, 17, 20, 20]))
    subset.image([NAMES[2]], ["man with hat"], (2, [1, 2, 3, 4]), (2, [10, 2, 3, 4]))
    first, second = subset.run("--strict")
    assert first.id == "ovdeval-negation-0"
    assert first.meta["categories"] == [NAMES[0], NAMES[1]], "in the order of the file, not those present first"
    assert first.meta["negatives"] == [NAMES[0]]
    assert first.answer == [{"bbox_2d": [11, 17, 31, 37], "label": NAMES[1]}]
    assert second.meta["categories"] == [NAMES[2], "man with hat"], "a negative need not be a category"
    assert len(second.answer) == 2
    assert json.loads(subset.out.read_text().splitlines()[0])["images"] == ["pictures/64d22c6fe4b011b0db94b000.jpg"]


def test_ovdeval_name_subsets_ask_for_the_whole_list(subset):
    subset.image([NAMES[1]], [NAMES[0]], (1, [11, 17, 20, 20]))
    (sample,) = subset.run("--strict", name="landmark")
    assert sample.meta["categories"] == list(NAMES)
    assert sample.meta["negatives"] == [NAMES[0], NAMES[2]]
    (sample,) = subset.run("--subset", "celebrity", name="x")
    assert len(sample.meta["categories"]) == 3
    assert sample.meta["dataset"] == "ovdeval-celebrity"
    with pytest.raises(SystemExit) as stop:
        subset.run(name="x")
    assert stop.value.code == 2


def test_ovdeval_per_category(subset):
    subset.image([NAMES[1]], [NAMES[0]], (1, [11, 17, 20, 20]))
    samples = subset.run("--per", "category", "--negatives", "5")
    assert [(sample.question, len(sample.answer)) for sample in samples] == [(NAMES[1], 1), (NAMES[0], 0)]


@pytest.mark.parametrize(
    ("text", "negative", "message", "asked"),
    [
        ([NAMES[0], NAMES[2]], [NAMES[1]], "of which there is no box", [NAMES[0], NAMES[1]]),
        ([], [NAMES[1]], "which its 'text' [] does not list", [NAMES[1]]),
        ([NAMES[0]], [NAMES[0], NAMES[1]], "is in both", [NAMES[0], NAMES[1]]),
    ],
)
def test_ovdeval_texts_that_contradict_the_boxes(subset, capsys, text, negative, message, asked):
    subset.image(text, negative, (0, [5, 5, 9, 9]))
    (sample,) = subset.run()
    assert sample.meta["categories"] == asked
    captured = capsys.readouterr()
    assert message in captured.err
    assert "negation.json: image 0" in captured.err
    with pytest.raises(SystemExit, match="image 0"):
        subset.run("--strict")


@pytest.mark.parametrize("bad", [{"text": None}, {"neg_text": "x"}, {"text": [3]}, {"neg_text": [" "]}])
def test_ovdeval_images_without_texts_are_reported_and_skipped(subset, capsys, bad):
    subset.image([NAMES[0]], [], (0, [5, 5, 9, 9]))
    subset.image([NAMES[0]], [], (0, [5, 5, 9, 9]))
    subset.content["images"][1] |= bad
    assert [sample.id for sample in subset.run()] == ["ovdeval-negation-0"]
    assert "not a list of labels" in capsys.readouterr().err


def test_ovdeval_a_text_whose_box_cannot_be_used_is_not_asked(subset, capsys):
    subset.image([NAMES[0]], [NAMES[1]], (0, [500, 5, 9, 9]))
    (sample,) = subset.run()
    assert sample.meta["categories"] == [NAMES[1]]
    assert "outside the 64x48 image" in capsys.readouterr().err


def test_more_bad_images_than_a_few_per_cent_are_an_error(tmp_path, capsys):
    subset = Subset(tmp_path)
    subset.image([NAMES[0]], [NAMES[1]], (0, [1, 1, 20, 20]))
    for _ in range(4):
        subset.image(None, [NAMES[1]], (0, [1, 1, 20, 20]))
    assert subset.run("--max_skipped", "0.03") == 1
    assert "4 of 5 images cannot be used" in capsys.readouterr().err
