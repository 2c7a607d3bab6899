"""Sets as a whole: which part an image belongs to, where the set lies, in which encoding its files are."""

import json
from pathlib import Path

import annotation_files as files
import pytest
from annotation_files import write

from data_prep import annotations, voc

pytestmark = pytest.mark.quick

OBJECT = "<object><name>red</name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>50</ymax></bndbox></object>"


def converted(capsys, root, *options):
    """(exit code or message, image → part of the set, what was printed) of a run of `annotations.py`."""
    out = root.parent / "out.jsonl"
    out.unlink(missing_ok=True)
    try:
        code = annotations.main(["--root", str(root), "--out", str(out), *options])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    return code, {Path(row["images"][0]).name: row["meta"].get("split") for row in rows}, said.err + said.out


@pytest.fixture
def voc_set(tmp_path):
    names = ["a", "b", "c", "d d"]
    files.pictures(tmp_path / "set/JPEGImages", [f"{name}.jpg" for name in names])
    for name in names:
        write(tmp_path / f"set/Annotations/{name}.xml", f"<annotation><filename>{name}.jpg</filename>{OBJECT}</annotation>")
    return tmp_path / "set"


MAIN, SEGMENTATION = "ImageSets/Main/", "ImageSets/Segmentation/"


@pytest.mark.parametrize(
    ("lists", "split", "found"),
    [
        ({f"{MAIN}train.txt": "a\nb\n", f"{MAIN}val.txt": "c\nd d\n", f"{SEGMENTATION}val.txt": "a\n"}, "val", {"c", "d d"}),
        ({f"{MAIN}train.txt": "a\nb\n", f"{SEGMENTATION}val.txt": "JPEGImages/c.jpg\n"}, "val", {"c"}),
        ({f"{SEGMENTATION}val.txt": "a\r\n\r\nb.jpg\n", "ImageSets/Main/red_val.txt": "c  1\n"}, "val", {"a", "b"}),
        ({f"{MAIN}trainval.txt": "a\nb\n", f"{MAIN}train.txt": "a\n", f"{MAIN}test.txt": "c 1\n"}, "trainval", {"a", "b"}),
        ({"ImageSets/val.txt": "a -1\nd d  1\n"}, "validation", {"a", "d d"}),
        ({"val.txt": "JPEGImages\\\\a.jpg\n./JPEGImages/b.jpg\n"}, "val", {"a", "b"}),
        ({f"{MAIN}train.txt": "a\nb\n", f"{MAIN}val.txt": "b\nc\n"}, "val", {"c"}),
        ({f"{MAIN}train.txt": "a\nb\n"}, "val", "no image is of this split; the splits are: train"),
        ({f"{MAIN}val.txt": "a\nb\ngone\n"}, "val", 1),
    ],
)
def test_parts_are_those_of_the_lists(voc_set, capsys, lists, split, found):
    for name, text in lists.items():
        write(voc_set / name, text)
    code, parts, _ = converted(capsys, voc_set, "--split", split)
    if isinstance(found, set):
        assert (code, {Path(name).stem for name in parts}) == (0, found)
    else:
        assert parts == {}
        assert found in code if isinstance(found, str) else found == code


def test_an_image_of_two_lists_or_of_none_is_noted(voc_set, capsys):
    write(voc_set / f"{MAIN}train.txt", "a\nb\n")
    write(voc_set / f"{MAIN}val.txt", "b\nc\n")
    code, parts, said = converted(capsys, voc_set)
    assert (code, parts) == (0, {"a.jpg": "train", "b.jpg": "train", "c.jpg": "val", "d d.jpg": None})
    assert "'b' is listed in train too" in said
    assert "d d.xml: it is in none of" in said


def test_lists_of_segmentation_are_found_by_the_script_of_voc(voc_set):
    write(voc_set / f"{SEGMENTATION}val.txt", "a\n")
    out = voc_set / "o.jsonl"
    assert voc.main(["--root", str(voc_set), "--split", "val", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 1
