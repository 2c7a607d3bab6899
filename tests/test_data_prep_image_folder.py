"""The classification converter: folders, CoOp split files, k-shot draws, base and new halves, candidate lists."""

import json
import random
from collections import Counter

import pytest
from PIL import Image

from data_prep import image_folder
from vlrl.data.sample_files import read_samples
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick


def save_image(path, size=(32, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)


class Runner:
    """A folder with images and the file to be made of it."""

    def __init__(self, root):
        self.root, self.out = root, root / "out" / "samples.jsonl"

    def run(self, *options):
        code = image_folder.main(["--out", str(self.out), "--overwrite", *map(str, options)])
        return read_samples(self.out) if code == 0 else code


@pytest.fixture
def pets(tmp_path):
    """Five classes with six images each, and files that are no images."""
    for name in ("beagle", "boxer", "maine_coon", "pug", "sphynx"):
        for i in range(6):
            save_image(tmp_path / "pets" / name / f"{name}_{i}.jpg")
    (tmp_path / "pets/pug/notes.txt").write_text("no image")
    (tmp_path / "pets/.cache").mkdir()
    return Runner(tmp_path)


class SplitFile(Runner):
    """A CoOp split file in the making: [path, number, class] in three lists."""

    def __init__(self, root, name="OxfordPets"):
        super().__init__(root)
        self.file = root / f"split_zhou_{name}.json"
        self.content = {"train": [], "val": [], "test": []}

    def add(self, split, number, name, n=1, save=True):
        for _ in range(n):
            path = f"{name}_{len(self.content[split])}_{split}.jpg"
            if save:
                save_image(self.root / "images" / path)
            self.content[split].append([path, number, name])

    def run(self, *options):
        self.file.write_text(json.dumps(self.content))
        return super().run("--split_file", self.file, "--images", self.root / "images", *options)


# classes C, base / new, candidates over all classes, over the base half: the table of the specification
PUBLISHED = {
    "ImageNet": (1000, 500, 500, 100, 100),
    "Caltech101": (100, 50, 50, 40, 50),
    "DTD": (47, 24, 23, 47, 24),
    "EuroSAT": (10, 5, 5, 10, 5),
    "Food101": (101, 51, 50, 40, 51),
    "Flowers": (102, 51, 51, 40, 51),
    "Pets": (37, 19, 18, 37, 19),
    "Cars": (196, 98, 98, 78, 39),
    "SUN397": (397, 199, 198, 100, 79),
    "UCF101": (101, 51, 50, 40, 51),
    "Aircraft": (100, 50, 50, 40, 50),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_the_published_sets(name):
    n_classes, n_base, n_new, n_all, n_half = PUBLISHED[name]
    classes = [image_folder.Class(number, str(number), f"name {number}") for number in range(n_classes)]
    base, new = (image_folder.half_of(classes, half) for half in ("base", "new"))
    assert (len(base), len(new)) == (n_base, n_new)
    assert base + new == classes == image_folder.half_of(classes, "all")
    assert image_folder.n_candidates_of(len(classes)) == n_all
    assert image_folder.n_candidates_of(len(base)) == n_half


def test_a_folder_of_folders(pets, capsys):
    samples = pets.run("--root", pets.root / "pets")
    assert len(samples) == 30
    first = samples[0]
    assert (first.id, first.task) == ("pets-train-beagle/beagle_0.jpg", "classification")
    assert (first.question, first.answer) == ("Name the kind of object in the photo.", "beagle")
    assert sorted(first.choices) == ["beagle", "boxer", "maine_coon", "pug", "sphynx"], "under 30: all classes"
    assert first.meta == {"dataset": "pets", "split": "train", "source_id": "beagle/beagle_0.jpg"}
    assert json.loads(pets.out.read_text().splitlines()[0])["images"] == ["../pets/beagle/beagle_0.jpg"]
    out = capsys.readouterr().out.splitlines()
    assert {"images     30", "classes    5", "per class  6 to 6", "candidates 5"} <= set(out)
    assert out[-1] == str(pets.out)


def test_every_sample_passes_its_task_and_its_oracle_is_right(pets):
    for sample in pets.run("--root", pets.root / "pets", "--limit", 5):
        assert TASKS["classification"].check(sample) is None
        assert sample.answer in TASKS["classification"].oracle(sample)


def test_candidates_hold_the_answer_and_differ_in_order(tmp_path):
    split = SplitFile(tmp_path, "Caltech101")
    for number in range(100):
        split.add("train", number, f"thing {number}")
    samples = split.run("--seed", 3)
    assert {len(sample.choices) for sample in samples} == {40}
    assert all(len(set(sample.choices)) == 40 and sample.answer in sample.choices for sample in samples)
    places = Counter(sample.choices.index(sample.answer) for sample in samples)
    assert len(places) > 20, "the right name may stand anywhere"
    shown = Counter(name for sample in samples for name in sample.choices)
    assert len(shown) == 100, "every class is a distractor somewhere"
    assert [s.choices for s in samples] == [s.choices for s in split.run("--seed", 3)]
    assert [s.choices for s in samples] != [s.choices for s in split.run("--seed", 4)]
    fewer = {s.id: s.choices for s in split.run("--seed", 3, "--limit", 10)}
    assert all(fewer[sample.id] == sample.choices for sample in samples if sample.id in fewer), "(seed, id) alone decide"


def test_open_label_has_no_list(pets):
    samples = pets.run("--root", pets.root / "pets", "--open_label")
    assert {sample.choices for sample in samples} == {None}
    assert {sample.question for sample in samples} == {"Name the breed of the pet in the photo."}
    assert "choices" not in json.loads(pets.out.read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("dataset", "closed", "open_label"),
    [
        ("DescribableTextures", "texture", "texture"),
        ("dtd", "texture", "texture"),
        ("UCF101", "action", "action"),
        ("FGVCAircraft", "aircraft", "aircraft"),
        ("fgvc_aircraft", "aircraft", "aircraft"),
        ("EuroSAT", "satellite", "satellite"),
        ("OxfordFlowers", "object", "flower"),
        ("oxford_pets", "object", "pet"),
        ("StanfordCars", "object", "car"),
        ("carpets", "object", "object"),
        ("Food101", "object", "object"),
        ("ImageNet", "object", "object"),
    ],
)
def test_the_question_depends_on_the_set(dataset, closed, open_label):
    assert image_folder.kind_of(dataset, open_label=False) == closed
    assert image_folder.kind_of(dataset, open_label=True) == open_label


def test_kind_overrides_the_name(pets):
    assert "aircraft" in pets.run("--root", pets.root / "pets", "--kind", "aircraft")[0].question


def test_k_shot_draws_by_seed_and_class(pets, capsys):
    def drawn(*options):
        return [s.meta["source_id"] for s in pets.run("--root", pets.root / "pets", "--shots", "2", *options)]

    first = drawn("--seed", 1)
    assert Counter(path.split("/")[0] for path in first) == dict.fromkeys(("beagle", "boxer", "maine_coon", "pug", "sphynx"), 2)
    members = [f"pug/pug_{i}.jpg" for i in range(6)]
    random.Random("1:pug").shuffle(members)
    assert [path for path in first if path.startswith("pug/")] == members[:2]
    assert first == drawn("--seed", 1)
    assert first != drawn("--seed", 2)
    # other classes do not change a class's draw
    assert drawn("--seed", 1, "--half", "new") == first[6:]
    capsys.readouterr()
    drawn("--shots", "9")
    assert "note: pug: only 6 of 9 images" in capsys.readouterr().err


def test_a_few_shot_file_keeps_its_images_out_of_the_rest(pets, tmp_path):
    drawn = {s.meta["source_id"] for s in pets.run("--root", pets.root / "pets", "--shots", "2")}
    pets.out.rename(tmp_path / "few.jsonl")
    everything = {s.meta["source_id"] for s in pets.run("--root", pets.root / "pets")}
    rest = {s.meta["source_id"] for s in pets.run("--root", pets.root / "pets", "--exclude", tmp_path / "few.jsonl")}
    assert len(drawn) == 10
    assert rest == everything - drawn


def test_an_unreadable_image_is_replaced_by_the_next_of_its_class(pets, capsys):
    members = [f"pug/pug_{i}.jpg" for i in range(6)]
    random.Random("0:pug").shuffle(members)
    (pets.root / "pets" / members[0]).write_bytes(b"not an image")
    drawn = [s.meta["source_id"] for s in pets.run("--root", pets.root / "pets", "--shots", 2)]
    assert [path for path in drawn if path.startswith("pug/")] == members[1:3]
    captured = capsys.readouterr()
    assert f"skipped: {pets.root / 'pets' / members[0]}: cannot read image" in captured.err
    assert "skipped    1 bad annotations" in captured.out
    with pytest.raises(SystemExit, match="cannot read image"):
        pets.run("--root", pets.root / "pets", "--shots", 2, "--strict")


def test_split_file_lists_and_halves(tmp_path):
    split = SplitFile(tmp_path)
    for number, name in enumerate(("abyssinian", "beagle", "boxer", "pug", "sphynx")):
        split.add("train", number, name, 9)
        split.add("val", number, name, 6)
        split.add("test", number, name, 3)
    base = split.run("--half", "base", "--shots", 8)
    assert Counter(sample.answer for sample in base) == {"abyssinian": 8, "beagle": 8, "boxer": 8}
    assert set(base[0].choices) == {"abyssinian", "beagle", "boxer"}, "candidates come from the half"
    assert base[0].meta["half"] == "base"
    assert base[0].id.startswith("OxfordPets-train-abyssinian_")
    new = split.run("--half", "new", "--split", "test")
    assert Counter(sample.answer for sample in new) == {"pug": 3, "sphynx": 3}
    validation = split.run("--split", "val", "--shots", 16)
    assert set(Counter(sample.answer for sample in validation).values()) == {4}, "min(k, 4)"
    assert set(Counter(s.answer for s in split.run("--split", "val", "--shots", 2)).values()) == {2}


def test_a_class_of_another_list_is_a_candidate_too(tmp_path):
    split = SplitFile(tmp_path)
    split.add("train", 0, "beagle")
    split.add("test", 1, "boxer")
    (sample,) = split.run()
    assert set(sample.choices) == {"beagle", "boxer"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a.jpg", "0", "beagle"], "a row is [path, number, class]"),
        (["a.jpg", True, "beagle"], "a row is [path, number, class]"),
        (["a.jpg", 0], "a row is [path, number, class]"),
        ("a.jpg", "a row is [path, number, class]"),
        (["a.jpg", 0, " "], "must not be empty"),
        (["a.jpg", 0, "pug"], "class 0 is 'beagle' elsewhere, 'pug' here"),
        (["beagle_0_train.jpg", 0, "beagle"], "occurs twice"),
        (["gone.jpg", 0, "beagle"], "no such image"),
    ],
)
def test_bad_rows_of_a_split_file_are_reported_and_skipped(tmp_path, capsys, row, message):
    split = SplitFile(tmp_path)
    split.add("train", 0, "beagle")
    split.add("train", 1, "boxer")
    split.content["train"].append(row)
    assert [sample.answer for sample in split.run()] == ["beagle", "boxer"]
    captured = capsys.readouterr()
    assert f"{split.file}: train[2]: " in captured.err
    assert message in captured.err
    assert "skipped    1 bad annotations" in captured.out
    split.out.unlink()
    with pytest.raises(SystemExit) as stop:
        split.run("--strict")
    assert "train[2]" in stop.value.code
    assert not split.out.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"val": []}', '{"train": {}}'])
def test_what_is_no_split_file_ends_the_program(tmp_path, content):
    runner = Runner(tmp_path)
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(SystemExit, match=r"split\.json: "):
        runner.run("--split_file", tmp_path / "split.json", "--images", tmp_path)


def test_imagenet_folders_are_renamed_and_equal_names_stay_apart(tmp_path, capsys):
    runner = Runner(tmp_path)
    for folder in ("n01440764", "n02012849", "n03126707", "n99999999"):
        save_image(tmp_path / "val" / folder / f"{folder}_1.JPEG")
    (tmp_path / "classnames.txt").write_text("n01440764 tench\nn02012849 crane\nn03126707 crane\n")
    samples = runner.run("--root", tmp_path / "val", "--class_names", tmp_path / "classnames.txt", "--split", "test")
    assert [sample.answer for sample in samples] == ["tench", "crane", "crane"]
    assert {tuple(sorted(sample.choices)) for sample in samples} == {("crane", "tench")}
    captured = capsys.readouterr()
    assert "n99999999: --class_names has no line for this folder" in captured.err
    assert "classes    3" in captured.out
    (tmp_path / "classnames.txt").write_text("n01440764\n")
    with pytest.raises(SystemExit, match=r"classnames\.txt:1: a line is"):
        runner.run("--root", tmp_path / "val", "--class_names", tmp_path / "classnames.txt")


def test_empty_folders(tmp_path, capsys):
    runner = Runner(tmp_path)
    (tmp_path / "root").mkdir()
    with pytest.raises(SystemExit, match="no folder inside"):
        runner.run("--root", tmp_path / "root")
    (tmp_path / "root/cat").mkdir()
    assert runner.run("--root", tmp_path / "root") == 1
    captured = capsys.readouterr()
    assert "cat: no image inside" in captured.err
    assert "no samples: 0 images of 0 classes" in captured.err
    assert not runner.out.exists()


def test_same_options_same_bytes_and_images_can_be_copied(pets):
    options = ("--root", pets.root / "pets", "--limit", 7, "--seed", 5)
    pets.run(*options)
    first = pets.out.read_bytes()
    pets.run(*options)
    assert pets.out.read_bytes() == first
    samples = pets.run(*options, "--export_images")
    assert len(list((pets.out.parent / "samples_images").iterdir())) == 7
    assert all("samples_images" in sample.images[0] for sample in samples)


def test_refuses_to_overwrite(pets):
    pets.out.parent.mkdir()
    pets.out.write_text("precious")
    with pytest.raises(SystemExit, match="exists"):
        image_folder.main(["--root", str(pets.root / "pets"), "--out", str(pets.out)])
    assert pets.out.read_text() == "precious"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--root", "pets", "--split_file", "s.json"],
        ["--split_file", "pets/pug/notes.txt"],
        ["--root", "nowhere"],
        ["--root", "pets", "--split", "test", "--shots", "4"],
        ["--root", "pets", "--kind", "mood"],
        ["--root", "pets", "--limit", "-1"],
    ],
)
def test_wrong_options_exit_with_2(pets, monkeypatch, options):
    monkeypatch.chdir(pets.root)
    with pytest.raises(SystemExit) as stop:
        pets.run(*options)
    assert stop.value.code == 2
