"""Sizes from headers, problems named, PNG files that are not decoded to learn how they are rotated."""

import dataclasses
import io

import pytest
from PIL import Image, PngImagePlugin

from vlrl.data.image_checks import boxes_in_shares, decode_problem, drawn_to_decode, shown_sizes, size_problem
from vlrl.data.images import ImageError, image_size, open_image
from vlrl.data.png_chunks import says_more_after_pixels
from vlrl.schema import Sample

pytestmark = pytest.mark.quick


def saved(path, size=(90, 50), **options):
    Image.effect_noise(size, 60).convert("RGB").save(path, **options)
    return str(path)


def row(*images, **changes):
    return dataclasses.replace(Sample("r", "qa", "?", "1", images), **changes)


def test_every_image_of_a_row_is_measured(tmp_path):
    fine, thin = saved(tmp_path / "a.png"), saved(tmp_path / "b.jpg", (2010, 10))
    sample = row(fine, thin)
    assert shown_sizes(sample) == [(90, 50), (2010, 10)]
    assert "2010x10 px is too thin" in size_problem(sample, shown_sizes(sample))
    assert thin in size_problem(sample, shown_sizes(sample))
    assert size_problem(row(fine), [(90, 50)]) is None
    assert size_problem(row(), []) is None
    assert size_problem(row(fine, meta={"image_index": 1}), [(90, 50)]) == "meta.image_index 1 of 1 images"
    assert "meta.image_size is [50, 90]" in size_problem(row(fine, meta={"image_size": [50, 90]}), [(90, 50)])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_file_that_is_cut_off_is_named(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", (300, 200))
    assert decode_problem(row(path)) is None
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    assert path in decode_problem(row(path))
    if suffix == "png":
        with pytest.raises(ImageError, match="truncated"):
            image_size(path)


@pytest.mark.parametrize("place", ["before", "after", "nowhere"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_of_a_png_is_that_of_the_opened_image(tmp_path, place, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (90, 50)).save(buffer, "PNG", **({"exif": exif} if place != "nowhere" else {}))
    data = buffer.getvalue()
    if place == "after":
        at = data.index(b"eXIf") - 4
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
        data = data.replace(chunk, b"").replace(data[data.index(b"IEND") - 4 :], chunk + data[data.index(b"IEND") - 4 :])
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert says_more_after_pixels(file) == (place == "after")
    assert image_size(str(path)) == open_image(str(path)).size


def test_texts_in_a_png_do_no_harm(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 100, zip=True)
    path = saved(tmp_path / "a.png", pnginfo=info)
    assert image_size(path) == (90, 50)


def test_images_to_decode_are_drawn_once_each(tmp_path):
    rows = [row(f"{i // 2}.png", id=str(i)) for i in range(100)] + [row("synthetic:qa/train/0/0", id="s"), row(id="text")]
    drawn = drawn_to_decode(rows, 0, 10)
    assert len({sample.images for sample in drawn}) == len(drawn) == 10
    assert drawn == drawn_to_decode(rows, 0, 10) != drawn_to_decode(rows, 1, 10)
    assert len(drawn_to_decode(rows, 0, 1000)) == 50


@pytest.mark.parametrize(
    ("boxes", "is_refused"),
    [
        ([[0.1, 0.1, 0.3, 0.5]], True),
        ([[0, 0, 1, 1]], False),
        ([[0.5, 0.5, 30, 40]], False),
        ([[10, 10, 30, 50]] * 40 + [[0.1, 0.1, 0.3, 0.5]], False),
        ([[10, 10, 30, 50]] * 20 + [[0.1, 0.1, 0.3, 0.5]], True),
        ([["a"], None, "x"], False),
    ],
)
def test_boxes_in_shares_are_refused_over_the_set(boxes, is_refused):
    rows = [Sample(str(i), "grounding", "q", {"bbox_2d": box}, ("a.png",)) for i, box in enumerate(boxes)]
    rows += [Sample("d", "detection", "q", [], ("a.png",)), Sample("t", "qa", "q", "3")]
    assert (boxes_in_shares(rows) is not None) == is_refused
