"""The D3 converter on small files in both official forms: pickled dictionaries with numpy boxes, and COCO's JSON."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import d3, unpickling
from vlrl.data.sample_files import read_samples

pytestmark = pytest.mark.quick

SENTENCES = {1: "a dog on a leash", 2: "a dog without a leash", 3: "a red hat", 4: "a person not wearing a hat"}


class D3Folder:
    """D3 in the making: two groups (dogs: sentences 1 and 2; hats: 3 and 4), image ids from 0."""

    def __init__(self, root):
        self.root, self.out = root, root / "d3.jsonl"
        self.tables = {
            "images": {},
            "annotations": {},
            "sentences": {
                key: {
                    "id": key,
                    "anno_id": [],
                    "group_id": [0],
                    "is_negative": key % 2 == 0,
                    "raw_sent": text,
                    "raw_sent_zh": "狗",
                }
                for key, text in SENTENCES.items()
            },
            "groups": {
                0: {"id": 0, "inner_sent_id": [1, 2], "outer_sent_id": [3], "img_id": [], "group_name": "dog"},
                7: {"id": 7, "inner_sent_id": [3, 4], "outer_sent_id": [], "img_id": [], "group_name": "hat"},
            },
        }

    def image(self, group, *boxes):
        key = len(self.tables["images"])
        (self.root / "d3_images/x").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (90, 120, 150)).save(self.root / f"d3_images/x/{key}.jpg")
        numbers = []
        for sentences, bbox in boxes:
            number = len(self.tables["annotations"])
            numbers.append(number)
            self.tables["annotations"][number] = {
                "id": number,
                "sent_id": sentences,
                "segmentation": [{"size": [48, 64], "counts": b"PP1"}],
                "area": np.array([9]),
                "iscrowd": 0,
                "image_id": key,
                "bbox": np.array([bbox]),
                "group_id": group,
            }
        self.tables["images"][key] = {
            "id": key,
            "file_name": f"x/{key}.jpg",
            "height": 48,
            "width": np.int64(64),
            "anno_id": numbers,
            "group_id": group,
        }

    def pickles(self, protocol=4):
        (self.root / "d3_pkl").mkdir(exist_ok=True)
        for table, rows in self.tables.items():
            (self.root / f"d3_pkl/{table}.pkl").write_bytes(pickle.dumps(rows, protocol=protocol))
        return ["--pkl", str(self.root / "d3_pkl")]

    def json(self, sentences=(1, 2, 3, 4)):
        """What the makers' converter writes: an annotation for each box and sentence of the image's group."""
        content = {
            "images": [
                {"id": key, "file_name": row["file_name"], "height": 48, "width": 64}
                for key, row in self.tables["images"].items()
            ],
            "categories": [{"id": key, "name": SENTENCES[key]} for key in sentences],
            "annotations": [],
        }
        for row in self.tables["annotations"].values():
            for sentence in row["sent_id"]:
                if sentence in sentences:
                    content["annotations"].append(
                        {
                            "id": len(content["annotations"]),
                            "image_id": row["image_id"],
                            "category_id": sentence,
                            "bbox": [int(v) for v in row["bbox"][0]],
                            "area": 9,
                            "iscrowd": 0,
                        }
                    )
        (self.root / "d3_full_annotations.json").write_text(json.dumps(content))
        return ["--json", str(self.root / "d3_full_annotations.json")]

    def run(self, *options):
        arguments = ["--images", str(self.root / "d3_images"), "--out", str(self.out), "--overwrite", "--max_skipped", "1"]
        code = d3.main([*arguments, *options])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def folder(tmp_path):
    folder = D3Folder(tmp_path)
    folder.image(0, ([2], [5, 5, 20, 30]), ([2, 3], [30, 5, 20, 30]))
    folder.image(7, ([4], [1, 2, 30, 40]))
    folder.image(7)
    return folder


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_d3_intra_scenario_asks_for_the_groups_sentences(folder, protocol):
    dogs, hats, nothing = folder.run(*folder.pickles(protocol), "--strict")
    assert dogs.id == "d3-0"
    assert dogs.question == "a dog on a leash, a dog without a leash"
    assert dogs.meta["categories"] == ["a dog on a leash", "a dog without a leash"]
    assert dogs.meta["negatives"] == ["a dog on a leash"]
    assert dogs.answer == [
        {"bbox_2d": [5, 5, 25, 35], "label": SENTENCES[2]},
        {"bbox_2d": [30, 5, 50, 35], "label": SENTENCES[2]},
    ]
    assert hats.meta["negatives"] == [SENTENCES[3]]
    assert nothing.answer == []
    assert nothing.meta["negatives"] == [SENTENCES[3], SENTENCES[4]]
    assert json.loads(folder.out.read_text().splitlines()[0])["images"] == ["d3_images/x/0.jpg"]


def test_d3_inter_scenario_asks_for_every_sentence(folder):
    dogs, *others = folder.run(*folder.pickles(), "--scenario", "inter", "--strict")
    assert dogs.meta["categories"] == list(SENTENCES.values())
    assert [item["label"] for item in dogs.answer] == [SENTENCES[2], SENTENCES[2], SENTENCES[3]]
    assert dogs.meta["negatives"] == [SENTENCES[1], SENTENCES[4]]
    assert [len(other.meta["categories"]) for other in others] == [4, 4]


def test_d3_json_gives_the_same_samples_as_the_pickles(folder):
    pickles = folder.pickles()
    from_pickles = folder.run(*pickles)
    assert folder.run(*folder.json(), *pickles) == from_pickles
    inter = folder.run(*pickles, "--scenario", "inter")
    assert folder.run(*folder.json(), "--scenario", "inter") == inter
    absences = folder.run(*folder.json(sentences=(2, 4)), *pickles)
    assert [sample.meta["categories"] for sample in absences] == [[SENTENCES[2]], [SENTENCES[4]], [SENTENCES[4]]]


def test_d3_presence_and_absence(folder):
    presence = folder.run(*folder.pickles(), "--presence")
    assert [sample.meta["categories"] for sample in presence] == [[SENTENCES[1]], [SENTENCES[3]], [SENTENCES[3]]]
    assert [sample.answer for sample in presence] == [[], [], []]
    absence = folder.run(*folder.pickles(), "--absence", "--per", "category")
    assert [sample.question for sample in absence] == [SENTENCES[2], SENTENCES[4]]
    assert absence[0].meta["split"] == "absence"


def test_d3_options_that_the_json_cannot_answer(folder, capsys):
    for options in (folder.json(), [*folder.json(), "--scenario", "inter", "--presence"], []):
        with pytest.raises(SystemExit) as stop:
            folder.run(*options)
        assert stop.value.code == 2
    assert "add --pkl, or --scenario inter" in capsys.readouterr().err


def test_d3_bad_annotations_are_reported_and_skipped(folder, capsys):
    folder.image(0, ([1], [5, 5, 20, 30]), ([9], [5, 5, 20, 30]), ([2], [5, 5, 20]))
    folder.image(5, ([1], [5, 5, 20, 30]))
    folder.tables["images"][0]["anno_id"].append(99)
    samples = folder.run(*folder.pickles())
    assert [sample.id for sample in samples] == ["d3-0", "d3-1", "d3-2", "d3-3"]
    assert samples[3].meta["categories"] == [SENTENCES[1]], "the sentence of the unusable box is not asked"
    captured = capsys.readouterr()
    for problem in (
        "annotations.pkl: annotation 99 (image 0): no annotation with this id",
        "annotation 4 (image 3): no sentence with id 9",
        "annotation 5 (image 3): bbox [[5, 5, 20]] is not",
        "images.pkl: image 4: ",
        "has no group 5",
    ):
        assert problem in captured.err
    assert "skipped    4 bad annotations" in captured.out
    with pytest.raises(SystemExit, match="annotation 99"):
        folder.run(*folder.pickles(), "--strict")


def test_d3_files_that_are_none(folder):
    folder.tables["groups"] = {0: {"id": 0}}
    with pytest.raises(SystemExit, match=r"groups\.pkl: 'inner_sent_id' of entry 0 is None"):
        folder.run(*folder.pickles())
    folder.tables["groups"] = []
    with pytest.raises(SystemExit, match=r"groups\.pkl: a list, not the dictionary"):
        folder.run(*folder.pickles())
    folder.tables["groups"] = {}
    options = folder.pickles()
    (folder.root / "d3_pkl/groups.pkl").unlink()
    with pytest.raises(SystemExit) as stop:
        folder.run(*options)
    assert stop.value.code == 2


def test_arrays_of_older_numpy_are_read(tmp_path):
    array = np.array([[1.5, 2], [3, 4]])
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": array}, protocol=2).replace(b"numpy._core", b"numpy.core"))
    assert unpickling.read_pickle(path, unpickling.ARRAYS)["a"].tolist() == array.tolist()
    with pytest.raises(SystemExit, match=r"a\.pkl: not a pickle of plain data: it asks for numpy"):
        unpickling.read_pickle(path)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_run_nothing(tmp_path, protocol):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([Evil()], protocol=protocol))
    for allowed in (unpickling.PLAIN, unpickling.ARRAYS):
        with pytest.raises(SystemExit, match="it asks for"):
            unpickling.read_pickle(path, allowed)
    assert not (tmp_path / "touched").exists()
    assert pickle.loads(path.read_bytes()) == [None]
    assert (tmp_path / "touched").exists(), "this pickle would have run something"


def test_codecs_in_pickles_make_bytes_only(tmp_path):
    path = tmp_path / "b.pkl"
    path.write_bytes(pickle.dumps({"counts": b"\xff\x00"}, protocol=2))
    assert unpickling.read_pickle(path, unpickling.ARRAYS) == {"counts": b"\xff\x00"}
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.")
    with pytest.raises(SystemExit, match="bytes in encoding 'hex'"):
        unpickling.read_pickle(path, unpickling.ARRAYS)


@pytest.mark.parametrize("damaged", [b"", b"junk", b"\x80\x04]", b"{'a': 1}", b"(dp0\nI", b"\x80\x02h\x05."])
def test_damaged_pickles_end_with_their_name(tmp_path, damaged):
    (tmp_path / "d.pkl").write_bytes(damaged)
    with pytest.raises(SystemExit, match=r"d\.pkl: not a pickle of plain data"):
        unpickling.read_pickle(tmp_path / "d.pkl")


def test_more_bad_images_than_a_few_per_cent_are_an_error(tmp_path, capsys):
    folder = D3Folder(tmp_path)
    folder.image(0, ([1], [1, 1, 20, 20]))
    for _ in range(4):
        folder.image(99, ([1], [1, 1, 20, 20]))
    assert folder.run(*folder.pickles(), "--max_skipped", "0.03") == 1
    assert "4 of 5 images cannot be used" in capsys.readouterr().err
