"""Images inside Parquet files and tar shards are opened by address like files, in forked processes too."""

import base64
import gzip
import io
import json
import multiprocessing
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlrl.data.images import ImageError, image_bytes, image_size, open_image
from vlrl.data.packed_images import packed_problem, parquet_address, tar_address
from vlrl.data.sample_files import is_there, read_samples
from vlrl.data.sample_json import file_of, in_file, sample_from_json, sample_to_json
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick


def png(number, side=8):
    written = io.BytesIO()
    Image.new("RGB", (side, side + 1), (number, 0, 0)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def parquet(tmp_path):
    """Ten rows in row groups of three: bytes, `{"bytes", "path"}`, lists of these, base64, and file names."""
    (tmp_path / "beside.png").write_bytes(png(99))
    rows = range(10)
    table = pa.table(
        {
            "plain": [png(i) for i in rows],
            "image": [{"bytes": png(10 + i), "path": None} for i in rows],
            "images": [[{"bytes": png(20 + i), "path": "x.png"}, {"bytes": png(30 + i), "path": None}] for i in rows],
            "text": [base64.b64encode(png(40 + i)).decode() for i in rows],
            "uri": [f"data:image/png;base64,{base64.b64encode(png(50 + i)).decode()}" for i in rows],
            "named": [{"bytes": None, "path": "beside.png"} for _ in rows],
            "a/b #%": [png(60 + i) for i in rows],
            "odd": [None, "not base64 " * 10, "", "none.png", *["beside.png"] * 6],
        }
    )
    path = tmp_path / "images 100%#1.parquet"
    pq.write_table(table, path, row_group_size=3)
    return path


def red(address):
    return open_image(address).getpixel((0, 0))[0]


def test_each_form_of_a_cell(parquet):
    for row in (0, 2, 3, 9, 1):
        assert red(parquet_address(parquet, row, "plain")) == row
        assert red(parquet_address(parquet, row, "image")) == 10 + row
        assert [red(parquet_address(parquet, row, "images", i)) for i in (0, 1)] == [20 + row, 30 + row]
        assert red(parquet_address(parquet, row, "text")) == 40 + row
        assert red(parquet_address(parquet, row, "uri")) == 50 + row
        assert red(parquet_address(parquet, row, "named")) == 99
        assert red(parquet_address(parquet, row, "a/b #%")) == 60 + row
    assert image_size(parquet_address(parquet, 0, "plain")) == (8, 9)
    assert image_bytes(parquet_address(parquet, 0, "plain")) == png(0)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("10/plain", "has 10 rows, so none of number 10"),
        ("0/nothing", "has no column 'nothing', but plain, image"),
        ("-1/plain", "no place in a Parquet file"),
        ("٣/plain", "no place in a Parquet file"),
        ("plain/0", "no place in a Parquet file"),
        ("0/images/0/1", "no place in a Parquet file"),
        ("", "no address of an image"),
        ("0/images", "has 2 images in column 'images', none that the address names"),
        ("0/images/2", "has 2 images in column 'images', none of number 2"),
        ("0/plain/1", "has one image in column 'plain'"),
        ("0/odd", "its cell holds no image, but None"),
        ("1/odd", "its cell holds text that is no base64"),
        ("2/odd", "its cell holds no image, but ''"),
        ("3/odd", "No such file or directory.*none.png"),
    ],
)
def test_what_is_not_there_is_named(parquet, place, says):
    address = in_file(f"parquet:#{place}", str(parquet))
    with pytest.raises(ImageError, match=rf"cannot read image .*{says}"):
        open_image(address)


def shard(path, members):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_members_of_a_shard(tmp_path):
    """Long, unusual and repeated names; the last of one name counts, as when the shard is unpacked."""
    names = ["a.jpg", "./b/c.png", "größe #1%.png", "n" * 300 + ".png", "a.jpg"]
    path = shard(tmp_path / "shard#%-000.tar", [(name, png(i)) for i, name in enumerate(names)])
    assert [red(tar_address(path, name)) for name in names] == [4, 1, 2, 3, 4]
    assert red(tar_address(path, "b/c.png")) == 1
    assert packed_problem(tar_address(path, "b")) == f"{path} has no member 'b' among its 5"
    packed = tmp_path / "packed.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ImageError, match=r"is no tar file.*unpack it"):
        open_image(tar_address(packed, "a.jpg"))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(path.read_bytes()[:530])
    with pytest.raises(ImageError, match=r"cut.tar ends within 'a.jpg': 18 of its"):
        open_image(tar_address(cut, "a.jpg"))
    assert "18 of its" in packed_problem(tar_address(cut, "a.jpg"))
    cut.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"cut.tar"):
        open_image(tar_address(cut, "a.jpg"))
    (tmp_path / "empty.tar").write_bytes(b"")
    assert packed_problem(tar_address(tmp_path / "empty.tar", "a")) is not None
    path.unlink()
    shard(path, [("a.jpg", png(7))])
    assert red(tar_address(path, "a.jpg")) == 7, "a new file under the old name is read anew"


def test_rows_name_them_relative_to_their_file(parquet, tmp_path):
    shard(tmp_path / "s.tar", [("m/0.png", png(5))])
    images = ["parquet:images 100%25%231.parquet#4/plain", "tar:s.tar#m/0.png"]
    row = {"id": "x", "task": "qa", "images": images, "question": "q", "answer": "a"}
    data = tmp_path / "x.jsonl"
    data.write_text(json.dumps(row))
    (sample,) = read_samples(data)
    assert [red(path) for path in sample.images] == [4, 5]
    assert [file_of(path) for path in sample.images] == [str(parquet), str(tmp_path / "s.tar")]
    assert sample_to_json(sample, tmp_path)["images"] == images
    assert sample_from_json(row, "row", Path("/elsewhere")).images[1] == "tar:/elsewhere/s.tar#m/0.png"
    for wrong, says in (("tar:s.tar#none", "has no member 'none'"), ("parquet:n.parquet#0/a", "no such file .*n.parquet;")):
        data.write_text(json.dumps({**row, "images": [wrong]}))
        with pytest.raises(SampleError, match=rf"x.jsonl:1 \(id 'x'\): .*{says}"):
            read_samples(data)
        assert not is_there(wrong)


def _seen_by_a_child(addresses, pipe):
    pipe.send([red(address) for address in addresses])


def test_a_forked_process_opens_its_own(parquet, tmp_path):
    shards = [shard(tmp_path / f"{i}.tar", [("x", png(i))]) for i in range(2)]
    addresses = [parquet_address(parquet, row, "image") for row in range(10)] + [tar_address(path, "x") for path in shards]
    expected = [red(address) for address in addresses]
    context, found = multiprocessing.get_context("fork"), []
    for _ in range(3):
        mine, theirs = context.Pipe()
        child = context.Process(target=_seen_by_a_child, args=(addresses, theirs))
        child.start()
        assert mine.poll(20)
        found.append((mine.recv(), child))
    assert [one for one, _ in found] == [expected] * 3
    for _, child in found:
        child.join(20)
        assert child.exitcode == 0
    assert [red(address) for address in addresses] == expected


def test_rows_drawn_from_large_row_groups_are_unpacked_once(parquet, tmp_path, monkeypatch):
    import datasets

    from vlrl.data import packed_images

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_images, "MAX_GROUP_BYTES", 1)
    for row in (9, 0, 4):
        assert red(parquet_address(parquet, row, "image")) == 10 + row
        assert red(parquet_address(parquet, row, "images", 1)) == 30 + row
    written = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert len(written) == 2
    monkeypatch.setattr(packed_images, "MAX_GROUP_BYTES", 10**9)
    packed_images._unpacked.forget()
    packed_images._groups.forget()
    for row in (0, 3, 6, 9) * 3:  # four row groups in turn, of which three are kept
        assert red(parquet_address(parquet, row, "text")) == 40 + row
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 3
    packed_images._unpacked.forget()
    monkeypatch.setattr(packed_images, "MAX_GROUP_BYTES", 1)
    (tmp_path / "no folder").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "no folder"))
    assert [red(parquet_address(parquet, row, "uri")) for row in (0, 9)] == [50, 59], "without a cache too"
