"""The size of an image is that of the image as opened, wherever its rotation is stated."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.writing import image_size_px
from vlrl.data.images import image_size, open_image

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
