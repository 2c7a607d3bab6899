"""The size of an image is that of the image as opened, wherever its rotation is stated."""

import re
from pathlib import Path

import pytest
from PIL import Image

from data_prep.writing import image_size_px
from vlrl.data.images import ImageError, ImageTooLarge, image_size, open_image

pytestmark = pytest.mark.quick


def exif_behind_the_pixels(png):
    """The bytes of a PNG file with its EXIF chunk moved behind the pixels, where it may stand too."""
    chunks, place = [], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        chunks.append(png[place:end])
        place = end
    last = [chunk for chunk in chunks if chunk[4:8] in (b"eXIf", b"IEND")]
    return png[:8] + b"".join([chunk for chunk in chunks if chunk not in last] + last)


@pytest.mark.parametrize("kind", ["first.jpg", "first.png", "behind.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_agrees_with_the_opened_image(tmp_path, kind, orientation):
    path = tmp_path / kind
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    if kind.startswith("behind"):
        path.write_bytes(exif_behind_the_pixels(path.read_bytes()))
    size = open_image(str(path)).size
    assert size == ((30, 40) if orientation > 4 else (40, 30))
    assert image_size(str(path)) == size
    assert image_size_px(path) == (size, None)


def test_an_image_is_measured_by_its_header_before_it_is_decoded(tmp_path, monkeypatch):
    """Of 12,000 x 10,000 pixels as of a small bound; a number that is stated raises it."""
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    Image.new("1", (12_000, 10_000)).save(large)
    Image.new("RGB", (40, 30)).save(small)
    for opened in (open_image, image_size):
        with pytest.raises(
            ImageTooLarge, match=r"large\.png has 12000x10000 = 120,000,000 pixels, the most are 50,000,000.*set VLRL"
        ):
            opened(str(large))
    monkeypatch.setenv("VLRL_MAX_IMAGE_PIXELS", "1199")
    with pytest.raises(ImageTooLarge, match=r"small\.png has 40x30.*set VLRL_MAX_IMAGE_PIXELS=1200"):
        open_image(str(small))
    monkeypatch.setenv("VLRL_MAX_IMAGE_PIXELS", "200000000")
    assert image_size(str(large)) == (12_000, 10_000)
    for wrong in ("many", "0", "-5", "1e9", "\u0663"):
        monkeypatch.setenv("VLRL_MAX_IMAGE_PIXELS", wrong)
        with pytest.raises(ImageError, match="give a whole number of pixels"):
            open_image(str(small))


def test_images_are_opened_in_one_place():
    """`Image.open` stands where sizes are checked, and where a file was made, or its size checked, just before."""
    root = Path(__file__).resolve().parents[1]
    found = {
        str(path.relative_to(root))
        for folder in ("vlrl", "data_prep", "demos")
        for path in (root / folder).rglob("*.py")
        if re.search(r"\bImage\.open\(|\bcv2\.|\bimread\(|\bread_image\(|\bdecode_image\(", path.read_text(encoding="utf-8"))
    }
    writes_code = {"vlrl/training/model_card.py"}  # its readers run it
    assert found - writes_code == {"vlrl/data/images.py", "vlrl/data/deep_images.py", "vlrl/bench/autotrust/corruptions.py"}
