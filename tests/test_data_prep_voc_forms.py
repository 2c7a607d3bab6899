"""Pascal VOC as tools write it: encodings, shapes, folders; and real sets against an independent reading."""

import io
import json
import os
from pathlib import Path

import pytest
from coco_files import BLUE_XYXY, RED_XYXY, draw

from data_prep import voc

pytestmark = pytest.mark.quick

BOTH = {"red": [RED_XYXY], "blue": [BLUE_XYXY]}

VOC = """<annotation>{head}<object><name>{name}</name>{shape}</object>
<object><name>blue</name><bndbox><xmin>101</xmin><ymin>21</ymin><xmax>180</xmax><ymax>80</ymax></bndbox></object></annotation>"""
BNDBOX = "<bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>"
ROTATED = "<robndbox><cx>40</cx><cy>30</cy><w>40</w><h>40</h><angle>{}</angle></robndbox>"
POINTS = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((21, 11), (60, 11), (60, 50)))
VOC_FORMS = {
    "gbk": (VOC.format(head="", name="\u72d0", shape=BNDBOX), "gbk", '<?xml version="1.0" encoding="GBK"?>', "\u72d0"),
    "utf-16": (VOC.format(head="", name="\u72d0", shape=BNDBOX), "utf-16", "", "\u72d0"),
    "latin-1": (
        VOC.format(head="", name="caf\u00e9", shape=BNDBOX),
        "latin-1",
        '<?xml version="1.0" encoding="ISO-8859-1"?>',
        "caf\u00e9",
    ),
    "gb2312 that is gbk": (
        VOC.format(head="", name="\u9555", shape=BNDBOX),
        "gbk",
        '<?xml version="1.0" encoding="gb2312"?>',
        "\u9555",
    ),
    "utf-16 that is utf-8": (
        VOC.format(head="", name="\u72d0", shape=BNDBOX),
        "utf-8",
        '<?xml version="1.0" encoding="utf-16"?>',
        "\u72d0",
    ),
    "objects in one more element": (
        VOC.format(head="", name="red", shape=BNDBOX)
        .replace("<annotation>", "<annotation><objects>")
        .replace("</annot", "</objects></annot"),
        *("utf-8", "", "red"),
    ),
    "a deleted object": (
        VOC.format(
            head=f"<object><name>red</name><deleted>1</deleted>{BNDBOX.replace('21', '5')}</object>", name="red", shape=BNDBOX
        ),
        *("utf-8", "", "red"),
    ),
    "an ampersand": (VOC.format(head="", name="nuts & bolts &lt;3", shape=BNDBOX), "utf-8", "", "nuts & bolts <3"),
    "one more element": ("<x>" + VOC.format(head="", name="red", shape=BNDBOX) + "</x>", "utf-8", "", "red"),
    "numbered points": (
        VOC.format(
            head="", name="red", shape="<polygon><x1>21</x1><y1>11</y1><x2>60</x2><y2>11</y2><x3>60</x3><y3>50</y3></polygon>"
        ),
        *("utf-8", "", "red"),
    ),
    "points": (VOC.format(head="", name="red", shape=f"<polygon>{POINTS}</polygon>"), "utf-8", "", "red"),
    "rotated by nothing": (VOC.format(head="", name="red", shape=ROTATED.format(0)), "utf-8", "", "red"),
    "rotated by a quarter": (VOC.format(head="", name="red", shape=ROTATED.format(1.5707963267948966)), "utf-8", "", "red"),
}


VOC_MARKS = {
    "Difficult": "<Difficult>1</Difficult>",
    "iscrowd": "<iscrowd>true</iscrowd>",
    "an attribute": "<attributes><attribute><name>is_ignore</name><value>True</value></attribute></attributes>",
}


@pytest.mark.parametrize("mark", VOC_MARKS.values(), ids=VOC_MARKS)
def test_marked_objects_leave_the_answer(tmp_path, mark):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(VOC.format(head="", name="red", shape=BNDBOX + mark))
    assert convert_voc(tmp_path)[:2] == (0, {"blue": [BLUE_XYXY]})


def convert_voc(root, *options):
    with pytest.MonkeyPatch.context() as patch:
        errors, printed = io.StringIO(), io.StringIO()
        patch.setattr("sys.stderr", errors)
        patch.setattr("sys.stdout", printed)
        try:
            code = voc.main(
                ["--root", str(root), "--out", str(root / "out.jsonl"), "--overwrite", "--negatives", "5", *options]
            )
        except SystemExit as stop:
            code = stop.code
    rows = [json.loads(line) for line in (root / "out.jsonl").read_text().splitlines()] if code == 0 else []
    return code, {row["question"]: [item["bbox_2d"] for item in row["answer"]] for row in rows}, errors.getvalue()


@pytest.mark.parametrize(("text", "encoding", "declaration", "name"), VOC_FORMS.values(), ids=VOC_FORMS)
def test_voc_as_tools_write_it(tmp_path, text, encoding, declaration, name):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_bytes((declaration + text).encode(encoding))
    code, asked, _ = convert_voc(tmp_path)
    assert (code, asked) == (0, {name: [RED_XYXY], "blue": [BLUE_XYXY]})


def test_voc_in_an_encoding_that_nothing_states_is_refused_until_it_is_named(tmp_path):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_bytes(VOC.format(head="", name="caf\u00e9", shape=BNDBOX).encode("cp1252"))
    code, _, told = convert_voc(tmp_path)
    assert code == 1
    assert "name its encoding with --encoding" in told
    assert convert_voc(tmp_path, "--encoding", "cp1252")[1] == {"caf\u00e9": [RED_XYXY], "blue": [BLUE_XYXY]}


@pytest.mark.parametrize(
    ("xml", "image", "filename"),
    [
        ("annotations/a.xml", "images/a.jpg", "a.jpg"),
        ("train/a.xml", "train/a.jpg", "a.jpg"),
        ("Annotations/s1/a.xml", "JPEGImages/s1/a.jpg", "a.jpg"),
        ("Annotations/a.xml", "JPEGImages/a.Jpg", "a.jpg"),
        ("Annotations/1.xml", "JPEGImages/photo 1.jpg", "D:\\x\\photo 1.jpg"),
    ],
)
def test_voc_in_other_folders(tmp_path, xml, image, filename):
    draw(tmp_path / image, format="JPEG")
    (tmp_path / xml).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / xml).write_text(VOC.format(head=f"<filename>{filename}</filename>", name="red", shape=BNDBOX))
    assert convert_voc(tmp_path)[1] == BOTH


def test_voc_with_boxes_outside_objects_is_no_image_without_objects(tmp_path):
    for name, text in (
        ("a", VOC.format(head="", name="red", shape=BNDBOX)),
        ("b", f"<annotation><item>{BNDBOX}</item></annotation>"),
    ):
        draw(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.xml").write_text(text)
    code, _, told = convert_voc(tmp_path)
    assert code == 1
    assert "no <object> around them" in told
    assert set(convert_voc(tmp_path, "--max_skipped", "1")[1]) == {"red", "blue"}


def test_voc_never_takes_the_image_of_another_file_and_never_mixes_parts(tmp_path):
    draw(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations").mkdir()
    for name in "ab":
        text = VOC.format(head="<filename>a.jpg</filename>", name="red", shape=BNDBOX)
        (tmp_path / f"Annotations/{name}.xml").write_text(text)
    code, _, told = convert_voc(tmp_path)
    assert code == 1
    assert "its <filename> 'a.jpg' is the image of" in told
    for part in ("train", "valid"):
        draw(tmp_path / f"mixed/{part}/a.jpg")
        (tmp_path / f"mixed/{part}/a.xml").write_text(VOC.format(head="", name="red", shape=BNDBOX))
    assert "several parts of a set (train, valid)" in convert_voc(tmp_path / "mixed")[0]


@pytest.mark.parametrize(("filename", "image"), [("a.png", "a.png"), ("x\\a.jpg", "a.jpg"), ("old.jpg", None), ("", None)])
def test_of_two_images_of_one_name_voc_takes_the_one_that_is_named(tmp_path, filename, image):
    for name in ("a.jpg", "a.png"):
        draw(tmp_path / "JPEGImages" / name)
    (tmp_path / "Annotations").mkdir()
    text = VOC.format(head=f"<filename>{filename}</filename>", name="red", shape=BNDBOX)
    (tmp_path / "Annotations/a.xml").write_text(text)
    code, asked, told = convert_voc(tmp_path)
    assert (code, bool(asked)) == ((0, True) if image else (1, False))
    assert image is None or f'"JPEGImages/{image}"' in (tmp_path / "out.jsonl").read_text()
    assert image or "a.jpg, a.png have its name" in told


REAL = Path(os.environ.get("VLRL_REAL_DATA", "/nowhere"))


@pytest.mark.skipif(not REAL.is_dir(), reason="VLRL_REAL_DATA names no folder of real sets")
def test_real_sets_have_the_boxes_of_an_independent_reading(tmp_path):
    from xml.etree import ElementTree

    from data_prep import coco

    for part in ("train", "valid", "test"):
        source = REAL / "rbc" / part / "_annotations.coco.json"
        content = json.loads(source.read_text())
        file_of = {row["id"]: row["file_name"] for row in content["images"]}
        names = {row["id"]: row["name"] for row in content["categories"]}
        expected = sorted(
            (file_of[a["image_id"]], names[a["category_id"]], x, y, round(x + w, 4), round(y + h, 4))
            for a in content["annotations"]
            for x, y, w, h in [a["bbox"]]
        )
        out = tmp_path / f"{part}.jsonl"
        assert (
            coco.main(["--instances", str(source), "--images", str(source.parent), "--out", str(out), "--negatives", "9"]) == 0
        )
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert sorted((Path(r["images"][0]).name, b["label"], *b["bbox_2d"]) for r in rows for b in r["answer"]) == expected
        assert {row["question"] for row in rows} == {"rbc", "wbc"}, "the parent category is not asked for"
    files = sorted((REAL / "bccd/Annotations").glob("*.xml"))
    objects = [o for file in files for o in ElementTree.parse(file).getroot().findall("object")]
    values = [[float(o.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
    out = tmp_path / "bccd.jsonl"
    assert voc.main(["--root", str(REAL / "bccd"), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(len(row["answer"]) for row in rows) == sum(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in values)
