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


# where the set lies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "root", "split"),
    [
        ("set", None, None),
        ("set/data.yaml", None, None),
        ("set/labels", "set", None),
        ("set/labels/train", "set", "train"),
        ("set/images", "set", None),
        ("set/images/train", "set", "train"),
    ],
)
def test_a_folder_that_lies_too_deep_is_answered_with_the_command_for_the_whole_set(tmp_path, capsys, given, root, split):
    files.yolo(tmp_path / "set")
    code, parts, said = converted(capsys, tmp_path / given)
    assert (code, bool(parts)) == ((0, True) if root is None else (2, False))
    if root is not None:
        ends = f" --split {split}\n" if split else "out.jsonl\n"
        assert f"python data_prep/annotations.py --root {tmp_path / root} --out " in said
        assert said.endswith(ends)


def test_a_part_of_a_set_takes_the_names_of_the_whole(tmp_path, capsys):
    files.yolo_roboflow(tmp_path / "around/set")
    assert converted(capsys, tmp_path / "around")[0] == 0
    code, parts, said = converted(capsys, tmp_path / "around/set/train")
    assert (code, set(parts)) == (0, {"a.jpg", files.THIRD})
    assert f"{tmp_path / 'around/set/data.yaml'} is taken" in said
    code, parts, said = converted(capsys, tmp_path / "around/set/train/labels")
    assert (code, f"--root {tmp_path / 'around/set'} " in said, "--split train" in said) == (2, True, True)


def test_folders_of_xml_and_of_coco_files_without_their_images_are_answered_with_a_command(voc_set, tmp_path, capsys):
    code, _, said = converted(capsys, voc_set / "Annotations")
    assert (code, f"has JPEGImages beside it: python data_prep/annotations.py --root {voc_set} " in said) == (2, True)
    write_coco(tmp_path / "coco/train2017")
    (tmp_path / "coco/annotations").mkdir()
    (tmp_path / "coco/train2017/set.json").rename(tmp_path / "coco/annotations/set.json")
    code, _, said = converted(capsys, tmp_path / "coco/annotations/set.json")
    assert (code, f"--images {tmp_path / 'coco/train2017'}" in said) == (2, True)


# marks in XML -----------------------------------------------------------------------------------------------------------------

BLUE = "<object><name>blue</name>{}<bndbox><xmin>101</xmin><ymin>21</ymin><xmax>180</xmax><ymax>80</ymax></bndbox></object>"
BOX = OBJECT[OBJECT.index("<bndbox>") : OBJECT.index("</object>")]


@pytest.mark.parametrize(
    ("text", "asked", "left_out"),
    [
        (OBJECT + BLUE.format("<ignore>1</ignore>"), {"red": 1}, "1 difficult or ignored object"),
        (OBJECT + BLUE.format("<attributes>far, difficult</attributes>"), {"red": 1}, "1 difficult or ignored object"),
        (OBJECT + BLUE.format("<attributes>far, ignore=0</attributes>"), {"red": 1, "blue": 1}, None),
        (OBJECT + BLUE.format("<deleted>1</deleted>"), {"red": 1, "blue": 0}, "1 deleted object"),
        (OBJECT + BLUE.format("<deleted>true</deleted>"), {"red": 1, "blue": 0}, "1 deleted object"),
        (OBJECT + BLUE.format("<deleted>0</deleted>"), {"red": 1, "blue": 1}, None),
        (OBJECT + BLUE.format("<deleted>?</deleted>"), {"red": 1}, "1 unreadable box"),
        (OBJECT + f"<ignore>{BOX}</ignore>", {"red": 1}, "1 region without annotations"),
        (OBJECT + '<ignored_region><box left="1"/><box left="9"/></ignored_region>', {"red": 1}, "2 region without"),
        (OBJECT + "<ignore>1</ignore>", {"red": 1}, "1 region without annotations"),
        (OBJECT + "<ignore>0</ignore>", {"red": 1, "blue": 0}, None),
        (f"<ignore>{BOX}</ignore>", {}, "1 region without annotations"),
    ],
)
def test_marks_in_xml(voc_set, capsys, text, asked, left_out):
    write(voc_set / "Annotations/a.xml", f"<annotation><filename>a.jpg</filename>{text}</annotation>")
    write(voc_set / "Annotations/b.xml", f"<annotation><filename>b.jpg</filename>{OBJECT}{BLUE.format('')}</annotation>")
    code, _, said = converted(capsys, voc_set, "--negatives", "5", "--max_skipped", "1")
    assert code == 0
    assert (left_out in said) if left_out else ("left out" not in said)
    for main in (None, voc.main):
        out = voc_set.parent / "out.jsonl"
        if main:
            options = ["--negatives", "5", "--max_skipped", "1", "--overwrite"]
            assert main(["--root", str(voc_set), "--out", str(out), *options]) == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert {row["question"]: len(row["answer"]) for row in rows if row["images"][0].endswith("a.jpg")} == asked


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf \n", b"\0\0\0"])
def test_an_empty_file_is_named(voc_set, capsys, content):
    (voc_set / "Annotations/a.xml").write_bytes(content)
    for code, _, said in (converted(capsys, voc_set), (voc.main(["--root", str(voc_set), "--out", str(voc_set / "o")]), 0, "")):
        said = said or "".join(capsys.readouterr())
        assert code == 1
        assert said.count(f"{voc_set / 'Annotations/a.xml'}: the file is empty") == 2, "where it is found, and at the end"
