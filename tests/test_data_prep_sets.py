"""Sets as a whole: which part an image belongs to, where the set lies, in which encoding its files are."""

import json
from pathlib import Path

import annotation_files as files
import pytest
from annotation_files import write

from data_prep import annotations, voc
from data_prep.text_encoding import WrongEncoding, decoded, xml_text

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


# encodings --------------------------------------------------------------------------------------------------------------------

DECLARED = '<?xml version="1.0" encoding="{}"?>'


@pytest.mark.parametrize(
    ("written", "declared", "asked", "is_read"),
    [
        ("utf-8", "gb2312", None, True),
        ("utf-8", "gb2312", "gbk", True),
        ("utf-8", "iso-8859-1", None, True),
        ("utf-8", None, "latin-1", True),
        ("gb18030", "gb2312", None, True),
        ("gb18030", "gb2312", "utf-8", True),
        ("gb18030", "utf-8", "gbk", True),
        ("gb18030", "iso-8859-1", "gbk", True),
        ("gb18030", None, "gb2312", True),
        ("gb18030", "utf-8", None, False),
        ("gb18030", None, None, False),
        ("utf-16", "utf-16", None, True),
        ("utf-16-le", None, None, True),
        ("utf-8", "klingon", None, False),
        ("utf-8", "klingon", "gbk", True),
    ],
)
@pytest.mark.parametrize("label", ["\u884c\u4eba\u548c\u8f66", "Gr\u00f6\u00dfe"])
def test_xml_is_read_in_its_encoding_whatever_it_declares(written, declared, asked, is_read, label):
    data = f"{DECLARED.format(declared) if declared else ''}<name>{label}</name>".encode(written)
    if is_read:
        assert xml_text(data, asked) == f"<name>{label}</name>"
    else:
        with pytest.raises(WrongEncoding, match="--encoding"):
            xml_text(data, asked)


def test_accents_of_latin_1_and_single_characters_of_gbk():
    assert decoded("caf\u00e9".encode("cp1252"), "latin-1") == "caf\u00e9"
    assert decoded("caf\u00e9".encode(), "gbk") == "caf\u00e9"
    assert decoded("\u732b".encode("gbk"), "gbk") == "\u732b", "these two bytes are an accented letter in UTF-8"
    with pytest.raises(WrongEncoding, match=r"not utf-8 text .* --encoding, which may be cp1252: 'caf\u00e9'"):
        decoded("caf\u00e9".encode("cp1252"))


WRITERS = {
    "coco": lambda root: write_coco(root),
    "cvat": files.cvat,
    "labelme": files.labelme,
    "via": files.via,
    "label_studio": files.label_studio,
    "csv": files.table,
    "yolo": lambda root: (files.yolo_labelimg(root), write(root / "classes.txt", "\n".join(files.NAMES))),
}


def write_coco(root):
    files.pictures(root)
    rows = [(i, name, objects) for i, (name, objects) in enumerate(files.TRUTH.items())]
    content = {
        "images": [{"id": i, "file_name": name, "width": 200, "height": 100} for i, name, _ in rows],
        "annotations": [
            {"id": 9 * i + k, "image_id": i, "category_id": files.NAMES.index(label), "bbox": [x, y, x2 - x, y2 - y]}
            for i, _, objects in rows
            for k, (label, (x, y, x2, y2)) in enumerate(objects)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(files.NAMES)],
    }
    write(root / "set.json", json.dumps(content, ensure_ascii=False))


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "utf-16"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_recognised_and_read_in_another_encoding(tmp_path, capsys, monkeypatch, name, encoding):
    label = "v\u00e9lo" if encoding != "gbk" else "\u884c\u4eba"
    monkeypatch.setattr(files, "NAMES", (label, "blue"))
    monkeypatch.setattr(files, "TRUTH", {"a.jpg": [(label, files.RED), ("blue", files.BLUE)]})
    WRITERS[name](tmp_path / "set")
    for path in (tmp_path / "set").rglob("*.*"):
        if path.suffix in (".json", ".xml", ".csv", ".txt"):
            text = (
                path.read_text(encoding="utf-8").encode().decode("unicode-escape")
                if name in ("via", "label_studio")
                else path.read_text("utf-8")
            )
            path.write_bytes(text.replace(' encoding="utf-8"', "").encode(encoding))
    options = [] if encoding == "utf-16" else ["--encoding", encoding]
    code, parts, said = converted(capsys, tmp_path / "set", *options)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (code, {row["question"] for row in rows}) == (0, {label, "blue"}), said
    if options:
        code, parts, said = converted(capsys, tmp_path / "set")
        assert (parts, "--encoding" in f"{code}{said}") == ({}, True)
