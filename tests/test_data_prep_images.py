"""Which image an annotation means, in which pixels, and which images must stay out; large files and masks."""

import dataclasses
import json
import os

import pytest
from coco_files import convert, draw, two_colours
from PIL import Image

from data_prep import box_values, json_stream, orientation
from data_prep.annotated import Annotated
from data_prep.excluding import Excluded
from data_prep.image_finding import ImageFinder, NotFound
from data_prep.image_headers import plain_jpeg_size, read_header
from vlrl.data.images import ImageError, open_image
from vlrl.schema import Box

pytestmark = pytest.mark.quick


def photograph(turned):
    """A red square at [40, 30, 120, 110] of what is shown, 400x300, stored with an EXIF orientation; its box as stored."""
    shown = Image.new("RGB", (400, 300), "white")
    shown.paste((255, 0, 0), (40, 30, 120, 110))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of the turn, as Image.Transpose
    stored = shown if turned == 1 else shown.transpose(Image.Transpose(back[turned]))
    exif = Image.Exif()
    exif[0x0112] = turned
    reds = stored.point(lambda value: 255 if value > 128 else 0).split()[1].point(lambda value: 255 - value)
    return stored, exif, Box(*reds.getbbox(), "red")


@pytest.mark.parametrize("turned", range(1, 9))
def test_boxes_in_stored_pixels_are_turned_with_the_photograph(tmp_path, turned):
    stored, exif, box = photograph(turned)
    stored.save(tmp_path / "p.png", exif=exif)
    header = read_header(tmp_path / "p.png")
    assert (header.orientation, header.stored_wh, header.shown_wh) == (turned, stored.size, (400, 300))
    assert orientation.turned(box, header.stored_wh, turned).xyxy == (40, 30, 120, 110)
    assert open_image(str(tmp_path / "p.png")).getpixel((80, 70)) == (255, 0, 0)
    one = Annotated(tmp_path / "p.png", "p", "x", stored.size, (box,), ("o",))
    undecided = turned in (2, 3, 4)
    assert orientation.frame_of(one, header, "auto") == (None if undecided else "shown" if turned == 1 else "stored")
    assert orientation.frame_of(one, header, "stored") == ("shown" if turned == 1 else "stored")
    if turned > 4:
        outside = dataclasses.replace(one, boxes=(Box(340, 10, 390, 20, "red"),))
        assert orientation.frame_of(outside, header, "auto") == "contradicted", "the box fits what is shown only"
        careless = dataclasses.replace(one, size_wh=None, boxes=(Box(10, 10, 303, 20, "red"),))
        assert orientation.frame_of(careless, header, "auto") is None, "3 px over the edge decide nothing"


def test_photographs_that_nothing_decides_are_left_out_until_the_user_does(tmp_path):
    for name, turned in (("a", 6), ("b", 6), ("c", 1)):
        stored, exif, box = photograph(turned)
        (tmp_path / "img").mkdir(exist_ok=True)
        stored.save(tmp_path / f"img/{name}.jpg", exif=exif)
    box = photograph(6)[2]
    content = {
        "images": [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate("abc")],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": bbox}
            for i, bbox in enumerate(([100, 100, 20, 20], [100, 100, 20, 20], [40, 30, 80, 80]))
        ],
        "categories": [{"id": 7, "name": "red"}],
    }
    code, _, told = convert(tmp_path, content)
    assert code == 1
    assert "2 of 3 images cannot be used" in told
    assert "--boxes_in stored or --boxes_in shown" in told
    as_shown = convert(tmp_path, content, "--boxes_in", "shown")[1]
    assert as_shown["a.jpg"] == {"red": [[100, 100, 120, 120]]}
    assert convert(tmp_path, content, "--boxes_in", "stored")[1]["a.jpg"] == {"red": [[280, 100, 300, 120]]}
    # a box that fits the stored picture only decides for its image, and for the rest of the set
    content["annotations"][1]["bbox"] = [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]
    code, asked, told = convert(tmp_path, content)
    assert asked["b.jpg"] == {"red": [[40, 30, 120, 110]]}
    assert asked["a.jpg"] == {"red": [[280, 100, 300, 120]]}
    assert "taken as stored pixels, like those of 1 other images" in told


def test_the_size_in_a_plain_jpeg_header_is_the_one_that_pillow_finds(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = [{}, {"progressive": True}, {"comment": b"x" * 300}, {"icc_profile": b"p" * 5000}, {"icc_profile": b"p" * 9000}]
    options += [
        {"exif": exif},
        {"xmp": b"<x tiff:Orientation='6'/>"},
        {"subsampling": 0, "optimize": True},
        {"restart_marker_rows": 1},
    ]
    n_plain = 0
    for mode in ("L", "RGB", "CMYK"):
        for size in ((1, 1), (640, 480), (7, 3001)):
            for more in options:
                Image.new(mode, size, 90).save(tmp_path / "x.jpg", **more)
                found = plain_jpeg_size((tmp_path / "x.jpg").read_bytes()[:8192])
                n_plain += found is not None
                assert found in (None, size)
                assert found is None or not {"exif", "xmp"} & more.keys()
                header = read_header(tmp_path / "x.jpg")
                with Image.open(tmp_path / "x.jpg") as image:
                    assert (header.stored_wh, header.orientation) == (size, image.getexif().get(0x0112, 1))
    assert n_plain == 9 * 6
    whole = (tmp_path / "x.jpg").read_bytes()
    for content in (b"", b"\xff\xd8", whole[:20], b"\x89PNG", b"\xff\xd8" + b"\xff\xdb\x00\x00" * 3000):
        (tmp_path / "x.jpg").write_bytes(content)
        assert plain_jpeg_size((tmp_path / "x.jpg").read_bytes()[:8192]) is None
        with pytest.raises(ImageError, match="cannot read image"):
            read_header(tmp_path / "x.jpg")


NAMES = {
    "a.jpg": "a.jpg",
    "images\\c d.jpg": "images/c d.jpg",
    "C:\\data\\images\\c d.jpg": "images/c d.jpg",
    "/datasets/img/a.jpg": "a.jpg",
    "img/a.jpg": "a.jpg",
    "http://images.cocodataset.org/val2017/a.jpg?x=1": "a.jpg",
    "images/c%20d.jpg": "images/c d.jpg",
    "A.JPG": "a.jpg",
    "a": "a.jpg",
    "c d.jpg": "images/c d.jpg",
    "gro\u0308\u00dfe.png": "gr\u00f6\u00dfe.png",
    "../a.jpg": "leads out",
    "images/../../secret.jpg": "leads out",
    "..\\a.jpg": "leads out",
    "twice.jpg": "2 files could be meant",
    "one/twice.jpg": "one/twice.jpg",
    "three/twice.jpg": "2 files could be meant",
    "train/v.jpg": "no such image",
    "none.jpg": "no such image",
}


def test_file_names_of_other_machines_find_their_image_and_no_other(tmp_path):
    for path in (
        "a.jpg",
        "images/c d.jpg",
        "gr\u00f6\u00dfe.png",
        "one/twice.jpg",
        "two/twice.jpg",
        "val/v.jpg",
        "../secret.jpg",
    ):
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    wrong = []
    for name, expected in NAMES.items():
        try:
            found = os.path.relpath(ImageFinder(tmp_path / "root").find(name), tmp_path / "root")
        except NotFound as problem:
            found = str(problem)
        if expected not in found or (found != expected and "/" in expected):
            wrong.append((name, expected, found))
    assert not wrong
    finder = ImageFinder(tmp_path / "root")
    finder.find("a.jpg")
    with pytest.raises(NotFound, match=r"is 'a\.jpg' already"):
        finder.find("other/a.jpg")


def test_an_image_that_git_lfs_has_not_fetched_is_named_as_such(tmp_path):
    draw(tmp_path / "img/a.jpg")
    (tmp_path / "img/b.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    code, _, told = convert(tmp_path, two_colours(images=2))
    assert code == 1
    assert "is a Git LFS pointer, not the file itself; run `git lfs pull`" in told
    assert "Git LFS pointer" in convert(tmp_path, "version https://git-lfs.github.com/spec/v1\n")[0]


LISTS = {
    "000002.jpg": {"000002.jpg"},
    "2": {"val/000009.jpg"},
    "val/000009.jpg": {"val/000009.jpg"},
    "000009.jpg": {"val/000009.jpg", "train/000009.jpg"},
    "COCO_train2014_000000000034.jpg": {"000000000034.jpg"},
    "34": {"000000000034.jpg"},
    "202011271530.jpg": set(),
    "9": set(),
}


def test_a_list_excludes_what_it_names_and_nothing_else(tmp_path, capsys):
    images = {
        "1": "000002.jpg",
        "2": "val/000009.jpg",
        "3": "train/000009.jpg",
        "4": "000000000034.jpg",
        "5": "x/202011271531.jpg",
    }
    for line, expected in LISTS.items():
        (tmp_path / "list.txt").write_text(line + "\n")
        excluded = Excluded.read([tmp_path / "list.txt"])
        assert {name for key, name in images.items() if excluded.has(key, name, tmp_path)} == expected, line
        assert excluded.n_images == len(expected)
        excluded.report()
    told = capsys.readouterr().err
    assert "1 of 1 listed images stand for no image of this set: 9" in told
    assert "stand for several images each, all left out: 000009.jpg" in told


def test_a_few_shot_file_keeps_its_images_and_their_copies_out_of_the_test_set(tmp_path):
    names = ["p0_jpg.rf.a.jpg", "p0_jpg.rf.b.jpg", "p1_jpg.rf.a.jpg", "p1_jpg.rf.b.jpg"]
    for number, name in enumerate(names):
        draw(tmp_path / "img" / name, size=(200, 100 + number))
    content = two_colours(images=4)
    for number, (row, name) in enumerate(zip(content["images"], names, strict=True)):
        row |= {"file_name": name, "height": 100 + number}
    _, drawn, _ = convert(tmp_path, content, "--shots", "1", "--classes", "red")
    (tmp_path / "out.jsonl").rename(tmp_path / "few.jsonl")
    (kept,) = drawn
    _, rest, told = convert(tmp_path, content, "--exclude", str(tmp_path / "few.jsonl"))
    assert set(rest) == {name for name in names if name[:2] != kept[:2]}
    assert "excluded   2 images, 1 of them copies of listed photographs" in told


def test_large_json_files_are_read_as_json_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 7)
    content = {
        "a": [{"x": [1, 2.5e-3, ']}\\"é']}, 12345678901234567890, None, []],
        "b": {"c": [1]},
        "d": [],
        "e": -1.25,
        "f": [[[]]],
    }
    for indent in (None, 1):
        (tmp_path / "x.json").write_text("\ufeff" + json.dumps(content, indent=indent) + " \n", encoding="utf-8")
        found = {}
        for key, is_entry, value in json_stream.entries(tmp_path / "x.json"):
            if is_entry:
                found[key].append(value)
            else:
                found[key] = value
        assert found == content
    for text in (
        '{"a": [1,]}',
        '{"a": [1 2]}',
        '{"a": 1',
        '{"a": [1, 2}',
        '{"a" 1}',
        "{} x",
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        "{1: 2}",
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SystemExit, match="not JSON"):
            list(json_stream.entries(tmp_path / "x.json"))


@pytest.mark.parametrize("chunk", [5, 40, 4_000_000])
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"separators": (",", ":")}, {"indent": "\t"}])
def test_lists_that_stay_text_are_the_same_lists(tmp_path, monkeypatch, chunk, style):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    shapes = [
        [[1.5, 2, 3e2, -4]],
        [[1, 2], [3, 4, 5]],
        [],
        [[]],
        [1, 2],
        [[[1, 2]]],
        ["a", [1]],
        None,
        {"size": [3, 4], "counts": [[1]]},
    ]
    content = {
        "a": [{"id": i, "shape": shape, "b": '"shape": [[1, 2]]'} for i, shape in enumerate(shapes)],
        "shape": [[1], [2]],
    }
    (tmp_path / "x.json").write_text(json.dumps(content, **style))
    found = [value for key, is_entry, value in json_stream.entries(tmp_path / "x.json", "shape") if is_entry and key == "a"]
    as_text = [row["shape"] for row in found if isinstance(row["shape"], str)]
    assert as_text or "indent" in style, "plain ones are not decoded"
    assert [json.loads(row["shape"]) if isinstance(row["shape"], str) else row["shape"] for row in found] == shapes


def test_masks_have_the_box_that_pycocotools_gives():
    import numpy as np
    from pycocotools import mask as masks

    generator = np.random.default_rng(0)
    for _ in range(100):
        height, width = (int(side) for side in generator.integers(1, 90, 2))
        pixels = np.asfortranarray((generator.random((height, width)) < generator.random() ** 3).astype(np.uint8))
        encoded = masks.encode(pixels)
        x, y, w, h = masks.toBbox(encoded)
        found = box_values.shape_box({"size": [height, width], "counts": encoded["counts"].decode()}, (width, height))
        assert found == ((x, y, x + w, y + h) if pixels.any() else None)
    for broken in ("zzz", "", "\x01", "0" * 9, [1, 2], [-1, 201], [200.0], None):
        assert box_values.shape_box({"size": [10, 20], "counts": broken}) is None
