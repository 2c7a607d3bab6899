"""Rows of one picture stay on one side, whatever its name; different pictures are not taken for one."""

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlrl.data import identity
from vlrl.data.identity import OneImage, Pictures, Shown, held_out_rows
from vlrl.data.overlap import shared_ids, shared_rows
from vlrl.data.packed_images import parquet_address, tar_address
from vlrl.data.synthetic import item_rng
from vlrl.schema import Sample

pytestmark = pytest.mark.quick
REAL = Path(os.environ.get("VLRL_REAL_DATA", "nowhere"))


def row(*images, video=None, **meta):
    return Sample(f"{images}{video}", "qa", "q", "a", tuple(map(str, images)), video and str(video), meta=meta)


def image(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def packed(folder, data):
    """One image as a Parquet cell and as a member of a shard."""
    pq.write_table(pa.table({"image": [data, b"other"]}), folder / "a.parquet")
    with tarfile.open(folder / "a.tar", "w") as tar:
        info = tarfile.TarInfo("x/1.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return parquet_address(folder / "a.parquet", 0, "image"), tar_address(folder / "a.tar", "x/1.png")


def links(folder):
    a, b = image(folder / "a.png", 1), image(folder / "b.png", 2)
    (folder / "link.png").symlink_to(a)
    (folder / "folder").symlink_to(folder)
    copy = folder / "copy.png"
    copy.write_bytes(a.read_bytes())
    os.link(a, folder / "hard.png")
    cell, member = packed(folder, a.read_bytes())
    for name in ("clip.mp4", "videos/clip7.mp4", "other/clip7b.mp4", "one/video.mp4", "two/video.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    f = [image(folder / name, 10 + i) for i, name in enumerate(("clip/0001.png", "frames/clip7/0001.png", "all/clip7_frame_0001.png", "frames/video/1.png"))]  # fmt: skip
    rf = [f"{folder}/{split}/{name}" for split, name in (("train", "Cell_00012_jpg.rf.a0B1.jpg"), ("valid", "Cell_00012_jpg.rf.ffff.jpg"), ("train/images", "Cell_00013_jpg.rf.aa.jpg"), ("test", "3_jpg.rf.aa.jpg"), ("train", "3_jpg.rf.bb.jpg"))]  # fmt: skip
    elsewhere = "/another/export/train/3_jpg.rf.cc.jpg"
    return [
        ("links", row(a), row(folder / "link.png"), True),
        ("dots", row(a), row(f"{folder}/./clip/../a.png"), True),
        ("linked folder", row(a), row(folder / "folder" / "a.png"), True),
        ("hard link", row(a), row(folder / "hard.png"), True),
        ("equal bytes", row(a), row(copy), True),
        ("equal bytes in Parquet", row(copy), row(cell), True),
        ("equal bytes in a shard", row(member), row(cell), True),
        ("one member", row(member), row(member.replace("#", "#./")), True),
        ("different", row(a), row(b), False),
        ("among others", row(a), row(b, a), True),
        ("augmented copies", row(rf[0]), row(rf[1]), True),
        ("other copies", row(rf[0]), row(rf[2]), False),
        ("original", row(rf[0]), row("/voc/JPEGImages/Cell_00012.jpg"), True),
        ("counted names", row(rf[3]), row(rf[4]), True),
        ("counted names elsewhere", row(rf[3]), row(elsewhere), False),
        ("copy of a copy", row("/x/Cell_1234567_png.rf.ab_jpg.rf.cd.jpg"), row("/y/Cell_1234567_png.rf.ee.jpg"), True),
        ("same name", row("/x/dog/0001.jpg"), row("/x/cat/0001.jpg"), False),
        ("group", row(a, group="p1"), row(b, group="p1"), True),
        ("other group", row(a, group="p1"), row(b, group="p2"), False),
        ("empty group", row(a, group=""), row(b, group=""), False),
        ("group of numbers", row(group=1), row(b, group="1"), True),
        ("no images", row(), row(), False),
        ("video", row(video=folder / "clip.mp4"), row(video=folder / "folder" / "clip.mp4"), True),
        ("video and frame", row(video=folder / "clip.mp4"), row(f[0]), True),
        ("video and its folder", row(video=folder / "clip.mp4"), row(video=folder / "clip"), True),
        ("folder and frame", row(video=folder / "clip"), row(folder / "folder/clip/0001.png"), True),
        ("frames elsewhere", row(video=folder / "videos/clip7.mp4"), row(f[1]), True),
        ("frames in one folder", row(video=folder / "videos/clip7.mp4"), row(f[2]), True),
        ("other video", row(video=folder / "other/clip7b.mp4"), row(f[1]), False),
        ("two videos of a name", row(video=folder / "one/video.mp4"), row(video=folder / "two/video.mp4"), False),
        ("drawn", row("synthetic:detection/train/0/1"), row("synthetic:detection/train/0/1"), True),
        ("drawn, another", row("synthetic:detection/train/0/1"), row("synthetic:detection/train/0/2"), False),
        ("not there", row("/none/a.jpg"), row("/none/./a.jpg"), True),
    ]


def test_pairs(tmp_path):
    wrong = []
    for name, one, other, expected in links(tmp_path):
        found, _ = shared_rows([row("/none/z.jpg"), one], [row("/none/y.jpg"), other])
        wrong += [name] if found != ([1] if expected else []) else []
        assert found == ([1] if shared_rows([other], [one])[0] else []), name
    assert not wrong
    ambiguous = [
        row(video=tmp_path / "one/video.mp4"),
        row(video=tmp_path / "two/video.mp4"),
        row(tmp_path / "frames/video/1.png"),
    ]
    assert Pictures(ambiguous).n_groups == 3, "whose frame it is cannot be told by the name"


def test_linked_through_others(tmp_path):
    names = [image(tmp_path / f"{i}.png", i) for i in range(6)]
    (tmp_path / "copy.png").write_bytes(names[5].read_bytes())
    rows = [row(names[0]), row(names[1], names[2]), row(names[3]), row(names[2], names[0]), row(names[4], group="g"), row(names[5], group="g"), row(tmp_path / "copy.png")]  # fmt: skip
    pictures = Pictures(rows)
    assert pictures.groups.tolist() == [0, 0, 1, 0, 2, 2, 3]
    assert [sorted(pictures.with_equal_bytes(i)) for i in range(4)] == [[0], [1], [2, 3], [2, 3]]


def test_overlap_counts_pictures_not_rows(tmp_path):
    """A held-out row that shares a picture with another held-out row alone is none that was trained on."""
    a, b, c, d = (image(tmp_path / f"{i}.png", i) for i in range(4))
    (tmp_path / "copy.png").write_bytes(a.read_bytes())
    held_out = [row(a, b), row(b, c), row(c), row(d, tmp_path / "copy.png"), row(b, group="p"), row(c, group="p")]
    assert shared_rows([row(a)], held_out) == ([0, 3], 0)
    assert shared_rows([row(d, group="p"), row("/none/1.jpg", a)], held_out) == ([0, 3, 4, 5], 0)


def test_images_that_are_not_compared_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "MAX_COMPARED_BYTES", 100)
    data = image(tmp_path / "a.png", 1).read_bytes()
    pq.write_table(pa.table({"image": [data] * 3}), tmp_path / "a.parquet")
    rows = [row(parquet_address(tmp_path / "a.parquet", i, "image")) for i in range(3)]
    _, (said,) = shared_ids(rows[:1], rows[1:])
    assert said.startswith("2 images inside Parquet files")


@pytest.mark.parametrize("seed", range(12))
def test_copies_stay_on_one_side(tmp_path, seed):
    """Four photographs, three augmented copies each, one of which also has another name, as in exports."""
    rows = []
    for i in range(4):
        copies = [image(tmp_path / "train" / f"IMG_{i}_jpg.rf.{letter}{i}.png", 10 * i + j) for j, letter in enumerate("abc")]
        plain = tmp_path / f"photo{i}.png"
        plain.write_bytes(copies[0].read_bytes())
        rows += [row(copy) for copy in [*copies, plain]]
    out = held_out_rows(Pictures(rows), seed, 1)
    assert out.sum() == 4
    assert len({i // 4 for i in np.flatnonzero(out)}) == 1


def test_rows_that_cannot_be_split():
    one = [row("/x/a.jpg"), row("/x/a.jpg", "/x/b.jpg"), row("/x/b.jpg")]
    assert not held_out_rows(Pictures(one), 0, 1).any()
    assert not held_out_rows(Pictures([]), 0, 1).any()
    most = [row("/x/logo.jpg", f"/x/{i}.jpg") for i in range(90)] + [row(f"/y/{i}.jpg") for i in range(10)]
    for seed in range(20):
        out = held_out_rows(Pictures(most), seed, 10)
        assert out[90:].sum() >= 9, "a group of nine tenths of the rows is trained on"
        assert not out[:90].any()


def as_before(samples, seed, wanted):
    """The split of earlier versions, for rows that are one picture only where their images are the same texts."""
    keys = list(dict.fromkeys(sample.images or (sample.id,) for sample in samples))
    count = Counter(sample.images or (sample.id,) for sample in samples)
    chosen, n = set(), 0
    for index in item_rng("held out", seed).permutation(len(keys)):
        if n >= wanted or len(chosen) + 1 >= len(keys):
            break
        chosen.add(keys[index])
        n += count[keys[index]]
    return [(sample.images or (sample.id,)) in chosen for sample in samples]


@pytest.mark.parametrize("per_image", [1, 3])
def test_the_split_of_plain_sets_is_as_before(per_image):
    for name in ("synthetic:detection/train/0/{}", "/none/{}.jpg"):
        rows = [row(name.format(i // per_image)) for i in range(200)] + [Sample(f"t{i}", "qa", "q", "a") for i in range(9)]
        for seed in range(5):
            for wanted in (2, 20, 400):
                assert held_out_rows(Pictures(rows), seed, wanted).tolist() == as_before(rows, seed, wanted)


def test_few_bytes_are_read(tmp_path, monkeypatch):
    """Of a large set only files of the size of a held-out one."""
    rows = []
    for i in range(300):
        path = tmp_path / f"{i}.bin"
        path.write_bytes(bytes([i % 256]) * (100 + i // 2))
        rows.append(row(path))
    opened = Counter()
    real = identity.Pictures._probe
    monkeypatch.setattr(identity.Pictures, "_probe", lambda self, file, size: opened.update([file]) or real(self, file, size))
    held_out_rows(Pictures(rows), 0, 10)
    assert len(opened) <= 20


def each(one):
    """The rows that a member of what rows show stands for."""
    many = isinstance(one, OneImage)
    return [Shown((one.paths[place],), None, None) for place in one.places] if many else [one]


@pytest.mark.parametrize("groups", [["a", "b"], [1, True], [None, {"x": 1}]])
@pytest.mark.parametrize("block", [100, 10**6])
def test_rows_of_a_large_file_show_what_their_samples_do(tmp_path, monkeypatch, groups, block):
    """Read in blocks, whatever groups are, with and without a last line break."""
    from vlrl.data import shown_rows
    from vlrl.data.identity import shown_by
    from vlrl.data.sample_files import read_samples

    monkeypatch.setattr(shown_rows, "_BLOCK", block)
    images = [
        ["a.png"],
        ["b/c.png", "/d.png"],
        [],
        ["synthetic:detection/train/0/1"],
        ["tar:s%23.tar#x/y.png"],
        ["größe 图.png"],
    ]
    rows = [{"id": str(i), "task": "qa", "images": one, "question": "q", "answer": "a"} for i, one in enumerate(images * 3)]
    rows += [{"id": f"v{i}", "task": "qa", "video": "v.mp4", "question": "group", "answer": "a"} for i in range(3)]
    rows += [
        {"id": f"g{i}", "task": "qa", "images": None, "question": "q", "answer": "a", "meta": {"group": one, "x": 1}}
        for i, one in enumerate(groups)
    ]
    for end in ("", "\n"):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)) + end)
        expected = [shown_by(sample) for sample in read_samples(path, need_images=False)]
        with path.open("rb") as file:
            found = [one for many in shown_rows.shown_in_lines(file.fileno(), str(tmp_path)) for one in each(many)]
        assert [tuple(one.images) for one in found] == [one.images for one in expected]
        assert [one.video for one in found] == [one.video for one in expected]
        assert [str(one.group) for one in found] == [str(one.group) for one in expected]


@pytest.mark.skipif(not (REAL / "rbc").is_dir(), reason="VLRL_REAL_DATA names no folder with rbc/ (a Roboflow export)")
def test_real_copies_stay_on_one_side():
    """In all three splits of the export together."""
    files = sorted((REAL / "rbc").rglob("*.jpg"))
    rows = [row(file) for file in files]
    originals = [file.name.partition(".rf.")[0] for file in files]
    assert Pictures(rows).n_groups <= len(set(originals)) < len(files)
    for seed in range(5):
        out = held_out_rows(Pictures(rows), seed, 20)
        sides = [{name for name, is_out in zip(originals, out, strict=True) if is_out == side} for side in (True, False)]
        assert sides[0]
        assert not sides[0] & sides[1]
