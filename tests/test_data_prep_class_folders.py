"""Which folders are classes: split names, wrapping folders, nested classes, what operating systems leave behind."""

import pytest

from data_prep.class_folders import find_classes, split_named
from data_prep.writing import Report

pytestmark = pytest.mark.quick


def classes(root, files, split=None, at=None, named=None):
    """Class → its images below the folder of classes, for a tree of these files; and the split read."""
    for name in files.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found, read = find_classes(root, split, at, named, Report(False))
    return {one.name: " ".join(one.source_ids) for one in found}, read


PLAIN = {"cat": "cat/1.jpg", "dog": "dog/2.jpg"}
SPLITS = "{0}/cat/1.jpg {0}/dog/2.jpg {1}/cat/3.jpg {1}/dog/4.jpg"


@pytest.mark.parametrize(
    ("files", "found", "note"),
    [
        ("cat/1.jpg dog/2.jpg", PLAIN, ""),
        ("cat/1.jpg dog/2.jpg cat/Thumbs.db cat/desktop.ini cat/._1.jpg .DS_Store dog/.DS_Store", PLAIN, ""),
        ("cat/1.jpg dog/2.jpg __MACOSX/cat/._1.jpg __MACOSX/lion/9.jpg @eaDir/cat/1.jpg .git/x/y.png", PLAIN, ""),
        ("cat/1.jpg dog/2.jpg cat/notes.txt dog/x.dcm", PLAIN, "2 files below"),
        ("Cat/1.JPEG dog/2.Avif", {"Cat": "Cat/1.JPEG", "dog": "dog/2.Avif"}, ""),
        (SPLITS.format("train", "val"), PLAIN, "reading train (--split reads the others: val)"),
        (SPLITS.format("Training", "Test-Set"), PLAIN, "reading Training"),
        (SPLITS.format("pets/train", "pets/valid"), PLAIN, "reading train"),
        (SPLITS.format("train", "test") + " train/0.jpg", PLAIN, "1 images lie directly in train"),
        ("train/cat/1.jpg train/dog/2.jpg test/3.jpg", PLAIN, "test in"),
        ("train/cat/1.jpg train/dog/2.jpg test/cow/3.jpg", PLAIN | {"cow": ""}, "1 classes of other splits have no image"),
        ("a/b/cat/1.jpg a/b/dog/2.jpg", PLAIN, "one folder with everything inside"),
        ("cat/train/1.jpg dog/train/2.jpg cat/test/3.jpg", {"cat": "cat/train/1.jpg", "dog": "dog/train/2.jpg"}, "<class>/<split>"),
        ("cat/images/1.jpg dog/images/2.jpg", {"cat": "cat/images/1.jpg", "dog": "dog/images/2.jpg"}, ""),
        ("pet/cat/1.jpg pet/dog/2.jpg farm/cow/3.jpg", {"cat": "pet/cat/1.jpg", "cow": "farm/cow/3.jpg", "dog": "pet/dog/2.jpg"}, "inner folders (cat, cow, dog)"),
        ("bus/1.jpg car/2.jpg train/3.jpg", {"bus": "bus/1.jpg", "car": "car/2.jpg", "train": "train/3.jpg"}, "the folder train"),
    ],
)  # fmt: skip
def test_trees_with_one_reading(tmp_path, capsys, files, found, note):
    assert classes(tmp_path, files) == (found, "train")
    err = capsys.readouterr().err
    assert note in err
    assert bool(note) == bool(err)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ("1.jpg 2.jpg", "2 images lie directly in"),
        ("train/1.jpg val/2.jpg", "no folder names a class"),
        ("train/1.jpg", "no folder names a class"),
        ("train/cat/1.jpg val/cat/2.jpg dog/3.jpg", "train, val are names of splits, dog are not"),
        ("train/1.jpg test/2.jpg dog/3.jpg", "the classes are not clear"),
        ("val/cat/1.jpg valid/cat/2.jpg train/cat/3.jpg", None),
        ("cat/1.jpg cat/kitten/2.jpg dog/3.jpg", "--classes_at top: cat, dog; --classes_at leaf: cat, dog, kitten"),
        ("cat/day1/1.jpg cat/day2/2.jpg dog/day1/3.jpg", "hold one of the same name (day1)"),
    ],
)
def test_trees_with_two_readings_or_none_end_the_program(tmp_path, files, why):
    split = "val" if why is None else None
    with pytest.raises(SystemExit) as stop:
        classes(tmp_path, files, split)
    assert (why or "val, valid both name the split val") in stop.value.code


@pytest.mark.parametrize(
    ("at", "found"), [("top", {"cat": "cat/1.jpg cat/a/2.jpg", "dog": "dog/a/3.jpg"}), ("leaf", {"a": "cat/a/2.jpg dog/a/3.jpg", "cat": "cat/1.jpg"})]
)  # fmt: skip
def test_classes_at_decides(tmp_path, at, found):
    assert classes(tmp_path, "cat/1.jpg cat/a/2.jpg dog/a/3.jpg", at=at)[0] == found


def test_a_split_is_chosen_and_a_missing_one_is_named(tmp_path):
    assert classes(tmp_path, SPLITS.format("train", "Validation"), "val") == ({"cat": "cat/3.jpg", "dog": "dog/4.jpg"}, "val")
    with pytest.raises(SystemExit, match="no folder of the split test; it holds Validation, train"):
        classes(tmp_path, "", "test")


def test_named_folders_are_classes_whatever_they_are_called(tmp_path):
    assert classes(tmp_path, "train/1.jpg test/2.jpg", named={"train": "locomotive", "test": "exam"})[0] == {
        "exam": "test/2.jpg",
        "locomotive": "train/1.jpg",
    }


def test_links_are_followed_once(tmp_path):
    classes(tmp_path, "store/cat/1.jpg root/dog/2.jpg")
    (tmp_path / "root/cat").symlink_to(tmp_path / "store/cat", target_is_directory=True)
    (tmp_path / "root/dog/loop").symlink_to(tmp_path / "root", target_is_directory=True)
    assert classes(tmp_path / "root", "")[0] == PLAIN


def test_split_names():
    assert [split_named(name) for name in ("TRAIN", "valid", "dev", "Test Set", "trainer", "cat")] == [
        "train",
        "val",
        "val",
        "test",
        None,
        None,
    ]
