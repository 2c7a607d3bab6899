"""Images of more than 8 bits a channel keep what they show, wherever they are opened; nothing else changes."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vlrl.bench.chat_messages import data_urls
from vlrl.data.image_notes import form_notes, refuse_unreadable_formats
from vlrl.data.images import ImageError, image_size, open_image
from vlrl.rewards.image_uris import image_uris
from vlrl.schema import Sample, SampleError

pytestmark = pytest.mark.quick

WHERE = np.zeros((60, 80), bool)
WHERE[20:40, 30:60] = True
RED = (200, 30, 20)


def picture(background, thing, dtype):
    return np.where(WHERE, thing, background).astype(dtype)


def png(values):
    """A PNG file of 16 bits a channel with each of the five row filters: grey, grey and alpha, RGB, RGBA."""
    height, width, channels = values.shape
    step = 2 * channels
    rows = values.astype(">u2").tobytes()
    rows = [np.frombuffer(rows[i * width * step : (i + 1) * width * step], np.uint8).astype(int) for i in range(height)]
    lines = []
    for y, row in enumerate(rows):
        up = rows[y - 1] if y else np.zeros_like(row)
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), up[:-step]])
        guess = left + up - corner
        far = np.abs(guess - np.stack([left, up, corner]))
        paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
        base = (0, left, up, (left + up) // 2, paeth)[y % 5]
        lines.append(bytes([y % 5]) + ((row - base) % 256).astype(np.uint8).tobytes())

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")


def tiff(values, order):
    """An uncompressed RGB TIFF file of 16 bits a channel in either byte order."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    tags += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)]
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 14 + len(data)) + bits
    entries = b""
    for tag, kind, n, value in tags:
        short = kind == 3 and n == 1
        entries += struct.pack(f"{order}HHI", tag, kind, n) + struct.pack(
            f"{order}HH" if short else f"{order}I", *([value, 0] if short else [value])
        )
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def saved(image, kind, **options):
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def grey(values, kind, **options):
    return saved(Image.fromarray(values), kind, **options)


def colour(scale):
    return np.where(WHERE[..., None], np.array(RED), 240).astype(np.uint16) * scale


def with_lone(values, place, value):
    values = values.copy()
    values[place] = value
    return values


FULL, TWELVE, ODD = picture(60_000, 20_000, np.uint16), picture(3_000, 800, np.uint16), picture(30_100, 29_900, np.uint16)
SMALL = picture(0.2, 0.7, np.float32)
FILES = {
    "16 bits.png": (grey(FULL, "PNG"), (234, 78)),
    "16 bits.tif": (grey(FULL, "TIFF"), (234, 78)),
    "big-endian.tif": (saved(Image.frombytes("I;16B", (80, 60), FULL.astype(">u2").tobytes()), "TIFF"), (234, 78)),
    "lzw.tif": (grey(FULL, "TIFF", compression="tiff_lzw"), (234, 78)),
    "16 bits.jp2": (grey(FULL, "JPEG2000"), (234, 78)),
    "12 of 16.png": (grey(TWELVE, "PNG"), (255, 0)),
    "offset of half.tif": (grey(ODD, "TIFF"), (255, 0)),
    "white is zero.tif": (grey(TWELVE, "TIFF", tiffinfo={262: 0}), (0, 255)),
    "dead pixel.png": (grey(with_lone(TWELVE, (0, 0), 65_535), "PNG"), (128, 0)),
    "signed.tif": (grey(picture(-900, 300, np.int32), "TIFF"), (0, 255)),
    "32 bits.tif": (grey(picture(2_000_000_000, -2_000_000_000, np.int32), "TIFF"), (255, 0)),
    "float.tif": (grey(SMALL, "TIFF"), (0, 255)),
    "no number.tif": (grey(with_lone(with_lone(SMALL, np.s_[:9], np.nan), np.s_[50:], np.inf), "TIFF"), (0, 255)),
    "no data.tif": (grey(with_lone(SMALL, np.s_[:19], -9999.0), "TIFF", tiffinfo={42113: "-9999"}), (0, 255)),
    "far apart.tif": (grey(picture(-3e38, 3e38, np.float32), "TIFF"), (0, 255)),
    "colour 12 of 16.png": (png(colour(4)), None),
    "colour with alpha.png": (png(np.concatenate([colour(4), np.full((60, 80, 1), 65_535)], -1)), None),
    "colour little.tif": (tiff(colour(4), "<"), None),
    "colour big.tif": (tiff(colour(4), ">"), None),
    "grey with alpha.png": (png(np.stack([TWELVE, np.full_like(TWELVE, 65_535)], -1)), (255, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_thing_is_seen(tmp_path, name):
    """Grey: the values of background and thing. Colour: nearer to what was drawn than to anything blank, hue kept."""
    data, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    shown = np.asarray(open_image(str(path))).astype(int)
    thing, background = shown[30, 45], shown[45, 5]
    if expected is None:
        assert background.min() == background.max() == 255
        assert thing[0] > 180 > 40 > thing[1] > thing[2] == 0
    else:
        assert np.abs(background - expected[0]).max() <= 2, background
        assert np.abs(thing - expected[1]).max() <= 2, thing
    assert image_size(str(path)) == (80, 60)


def test_full_colour_is_as_before(tmp_path):
    """16 bits that are used keep their brightness, to the byte."""
    values = colour(257)
    path = tmp_path / "full.png"
    path.write_bytes(png(values))
    assert (np.asarray(open_image(str(path))) == values >> 8).all()


def test_one_value_alone_is_no_error(tmp_path):
    for name, array, expected in (("a.tif", np.full((9, 9), 7.5, np.float32), 0), ("b.png", np.full((9, 9), 65_535, np.uint16), 255), ("c.tif", np.full((9, 9), np.nan, np.float32), 0)):  # fmt: skip
        Image.fromarray(array).save(tmp_path / name)
        assert np.unique(np.asarray(open_image(str(tmp_path / name)))).tolist() == [expected]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8.tif", "16.tif", "16.png", "lzw.tif"])
def test_rotated_as_stated(tmp_path, kind, orientation):
    """Rotated once: Pillow maps an uncompressed grey TIFF into memory and rotates it wrongly."""
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5_000
    values = (values >> 8).astype(np.uint8) if kind == "8.tif" else values
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / kind
    Image.fromarray(values).save(path, exif=exif, **({"compression": "tiff_lzw"} if kind == "lzw.tif" else {}))
    turned = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T, 6: np.rot90(values, -1), 7: values[::-1, ::-1].T, 8: np.rot90(values)}[orientation]  # fmt: skip
    expected = turned if kind == "8.tif" else turned >> 8
    assert (np.asarray(open_image(str(path)))[..., 0] == expected).all()
    assert image_size(str(path)) == turned.shape[::-1]


def test_endpoints_see_what_training_sees(tmp_path):
    for name in ("12 of 16.png", "colour 12 of 16.png"):
        path = tmp_path / name
        path.write_bytes(FILES[name][0])
        sample = Sample("a", "qa", "q", "x", (str(path),))
        expected = np.asarray(open_image(str(path)))
        for url in (data_urls(sample)[0], image_uris(sample)[0]):
            sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
            assert (np.asarray(sent.convert("RGB")) == expected).all()


@pytest.mark.parametrize(
    ("values", "is_said"),
    [
        (np.full((8, 8), np.nan), True),
        (np.full((8, 8), 5.5), True),
        (np.where(np.eye(8) > 0, np.inf, 2.0), True),
        (np.where(np.eye(8) > 0, np.nan, np.arange(8.0)), False),
        (np.full((8, 8), 300).astype(np.int32), True),
        (np.arange(64).reshape(8, 8).astype(np.uint16), False),
        (np.full((8, 8), 300).astype(np.uint16), True),
    ],
)
def test_images_on_which_nothing_can_be_seen_are_counted(tmp_path, values, is_said):
    values = values.astype(np.float32) if values.dtype.kind == "f" else values
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    samples = [Sample(name, "qa", "q", "x", (str(tmp_path / name),)) for name in ("a.tif", "b.png")]
    said = [line for line in form_notes(samples) if "nothing can be seen" in line]
    assert [line.startswith("1 of 2 images hold one value everywhere") for line in said] == [True] * is_said


def test_deep_and_several_are_said_once(tmp_path):
    names = []
    for name in ("12 of 16.png", "float.tif", "colour 12 of 16.png"):
        (tmp_path / name).write_bytes(FILES[name][0])
        names.append(name)
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "moving.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    names += ["pages.tif", "moving.gif", "plain.png", "broken.png"]
    samples = [Sample(name, "qa", "q", "x", (str(tmp_path / name),)) for name in [*names, *names]]
    samples.append(Sample("drawn", "qa", "q", "x", ("synthetic:detection/train/0/1",)))
    deep, several = form_notes(samples, "drawn images")
    assert deep.startswith(
        f"3 of 7 drawn images have more than 8 bits a channel, the first: {tmp_path / names[0]} (PNG, mode I;16)"
    )
    assert several.startswith("2 of 7 drawn images hold several pages or frames")
    assert open_image(str(tmp_path / "pages.tif")).getpixel((0, 0)) == (255, 0, 0)
    assert form_notes(samples[5:6]) == []


def test_a_format_without_its_library_is_counted(tmp_path, monkeypatch):
    from vlrl.data import image_notes, images

    monkeypatch.setattr(images, "can_open", lambda kind: False)
    monkeypatch.setattr(image_notes, "can_open", lambda kind: False)
    path = tmp_path / "a.HEIC"
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100))
    with pytest.raises(ImageError, match=r"a\.HEIC: it is HEIC, which Pillow cannot read here; pip install 'vlrl\[images\]'"):
        open_image(str(path))
    samples = [Sample(name, "qa", "q", "x", (f"/x/{name}",)) for name in ("a.HEIC", "b.heif", "c.jpg")]
    samples.append(Sample("d", "qa", "q", "x", ("tar:/x/y.tar#d.avif", "synthetic:a.avif/b/0/0")))
    with pytest.raises(SampleError, match=r"x: 2 of 5 images are HEIC, 1 of 5 images are AVIF, which Pillow cannot read here"):
        refuse_unreadable_formats(samples, "x")
    monkeypatch.setattr(image_notes, "can_open", lambda kind: True)
    refuse_unreadable_formats(samples, "x")


def test_bench_check_names_them(tmp_path, capsys):
    from vlrl.bench import main

    (tmp_path / "a.png").write_bytes(FILES["12 of 16.png"][0])
    row = {"id": "a", "task": "qa", "images": ["a.png"], "question": "q", "answer": "7"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert main(["check", "--data", str(tmp_path / "a.jsonl")]) == 0
    assert "note             1 of 1 images have more than 8 bits a channel" in capsys.readouterr().out
