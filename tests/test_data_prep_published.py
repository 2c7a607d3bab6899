"""Where the published rows come from: files, Parquet, saved data sets with images inside, and the hub when asked."""

import io
import json
from collections import Counter
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from published_files import Published, detect, turns

from data_prep import published


@pytest.fixture
def files(tmp_path):
    return Published(tmp_path)


def in_bytes(mode="RGBA", size=(200, 100), colour=(90, 120, 150, 255), kind="PNG", **options):
    written = io.BytesIO()
    Image.new(mode, size, colour[: len(mode)]).save(written, kind, **options)
    return written.getvalue()


def saved_set(files, rows, name="ViRFT_COCO"):
    """Rows whose `image` is bytes, as Visual-RFT's notebook saves them."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    columns["image"] = [{"bytes": data, "path": None} for data in columns["image"]]
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": made}).save_to_disk(files.root / name)
    return files.root / name


def test_saved_data_set_with_transparent_images(files, capsys):
    solution = "<answer>[{'Position': [0, 0, 500, 500], 'Confidence': 1}]</answer>"
    jpeg = in_bytes("RGB", (60, 40), kind="JPEG")
    rows = [
        detect(solution, image=in_bytes()),
        detect(solution, "cat", in_bytes(colour=(0, 0, 0, 0))),
        detect(solution, "bird", jpeg),
    ]
    folder = saved_set(files, rows)
    with pytest.raises(SystemExit, match="--export_images"):
        files.convert("visual_rft", "--data", folder)
    samples = files.convert("visual_rft", "--data", folder, "--export_images", "--strict")
    assert [sample.answer[0]["bbox_2d"] for sample in samples] == [[0, 0, 100, 50], [0, 0, 100, 50], [0, 0, 30, 20]]
    paths = [Path(sample.images[0]) for sample in samples]
    assert [path.name for path in paths] == ["ViRFT_COCO-000001.png", "ViRFT_COCO-000002.png", "ViRFT_COCO-000003.jpg"]
    assert {path.parent.name for path in paths} == {"samples_images"}
    with Image.open(paths[0]) as opaque, Image.open(paths[1]) as clear:
        assert (opaque.mode, opaque.size, opaque.getpixel((5, 5))) == ("RGB", (200, 100), (90, 120, 150))
        assert clear.getpixel((5, 5)) == (255, 255, 255), "transparency is put on white"
    assert paths[2].read_bytes() == jpeg, "a plain image stays as it is"
    assert json.loads(files.out.read_text().splitlines()[0])["images"] == ["samples_images/ViRFT_COCO-000001.png"]
    first = files.out.read_bytes()
    files.convert("visual_rft", "--data", folder, "--export_images", "--strict")
    assert files.out.read_bytes() == first
    assert len(list(paths[0].parent.iterdir())) == 3, "equal images are written once"
    with pytest.raises(SystemExit, match="no split 'val'; it has train"):
        files.convert("visual_rft", "--data", folder, "--export_images", "--split", "val")


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [row | {"image": {"bytes": row["image"], "path": "x.png" if row["image"] else None}} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells), path)


def test_parquet_folder_as_the_hub_lays_it_out(files, capsys):
    turned = Image.Exif()
    turned[0x0112] = 6
    solution = "<answer>[{'Position': [0, 0, 500, 1000], 'Confidence': 1}]</answer>"
    good = [
        detect(solution, "dog", in_bytes("RGB", kind="JPEG", exif=turned)),
        detect(solution, "cat", b"not an image"),
        detect(solution, "ox", b""),
    ]
    write_parquet(files.root / "set/data/train-00000-of-00002.parquet", good)
    write_parquet(
        files.root / "set/data/train-00001-of-00002.parquet",
        [
            detect(solution, "bird", in_bytes("CMYK", kind="JPEG")[:-40]),
            detect(solution, "emu", in_bytes()[:-40]),
        ],
    )
    write_parquet(files.root / "set/data/test-00000-of-00001.parquet", [detect(solution, "cow", in_bytes())])
    (sample,) = files.convert("visual_rft", "--data", files.root / "set", "--export_images", files.root / "pictures")
    assert sample.question == "dog"
    assert sample.meta["image_size"] == [100, 200], "as shown"
    assert sample.answer[0]["bbox_2d"] == [0, 0, 50, 200]
    captured = capsys.readouterr()
    assert "train-00000-of-00002.parquet: row 2: cannot read the image in the row" in captured.err
    assert "train-00000-of-00002.parquet: row 3: an image is a path or the bytes of a file, got 'None'" in captured.err
    assert "train-00001-of-00002.parquet: row 1: cannot decode its image" in captured.err
    assert "train-00001-of-00002.parquet: row 2: cannot read the image in the row" in captured.err
    assert "skipped    4 bad annotations" in captured.out
    assert [path.name for path in (files.root / "pictures").iterdir()] == ["set-000001.jpg"]
    (sample,) = files.convert("visual_rft", "--data", files.root / "set", "--export_images", "--split", "test")
    assert (sample.question, sample.meta["split"]) == ("cow", "test")
    one = files.root / "set/data/test-00000-of-00001.parquet"
    assert len(files.convert("visual_rft", "--data", one, "--export_images")) == 1


def test_limit_exports_only_what_is_kept(files):
    rows = [detect("<answer>No Objects</answer>", f"thing {i}", in_bytes(colour=(i, 0, 0, 255))) for i in range(12)]
    write_parquet(files.root / "many.parquet", rows)
    options = ["--data", files.root / "many.parquet", "--export_images", "--limit", 3, "--seed", 4]
    samples = files.convert("visual_rft", *options)
    assert len(samples) == len(list((files.out.parent / "samples_images").iterdir())) == 3
    for sample in samples:
        with Image.open(sample.images[0]) as image:
            assert sample.question == f"thing {image.getpixel((0, 0))[0]}", "each row keeps its own image"


def test_an_image_of_another_run_is_not_replaced(files):
    write_parquet(files.root / "x.parquet", [detect("<answer>No Objects</answer>", "dog", in_bytes())])
    other = files.out.parent / "samples_images/x-000001.png"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"precious")
    (sample,) = files.convert("visual_rft", "--data", files.root / "x.parquet", "--export_images")
    assert Path(sample.images[0]).name == "x-000001-2.png"
    assert other.read_bytes() == b"precious"


def test_nothing_is_downloaded_unasked(files, monkeypatch):
    def load_dataset(hub_id, *_, **__):
        asked.append(hub_id)
        rows = [{"image": str(files.root / "a.jpg"), "problem": "Which?", "solution": "<answer>pug</answer>"}]
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SystemExit, match="no such file or folder; a data set of the Hugging Face hub needs --download"):
        files.convert("cls_rl", "--data", "afdsafas/Caltech-4shot-b2n")
    assert asked == []
    (sample,) = files.convert("cls_rl", "--data", "afdsafas/Caltech-4shot-b2n", "--download")
    assert asked == ["afdsafas/Caltech-4shot-b2n"]
    assert sample.id == "Caltech-4shot-b2n-1"


def test_limit_ids_and_bytes(files):
    rows = [turns("Q", f"answer {i}", id=i // 2) for i in range(20)]
    samples = files.run("vlm_r1", rows)
    assert Counter(sample.meta["source_id"] for sample in samples) == {str(i): 2 for i in range(10)}
    assert [sample.id for sample in samples[:3]] == ["rows-0", "rows-0-2", "rows-1"]
    drawn = files.run("vlm_r1", rows, "--limit", 6, "--seed", 1)
    first = files.out.read_bytes()
    assert len(drawn) == 6
    assert {sample.id for sample in drawn} <= {sample.id for sample in samples}
    files.run("vlm_r1", rows, "--limit", 6, "--seed", 1)
    assert files.out.read_bytes() == first
    with pytest.raises(SystemExit, match="exists"):
        published.main(["--format", "vlm_r1", "--data", str(files.root / "rows.jsonl"), "--out", str(files.out)])


@pytest.mark.parametrize("content", ["{", '{"rows": []}'])
def test_a_json_file_that_is_no_list_ends_the_program(files, content):
    (files.root / "x.json").write_text(content)
    with pytest.raises(SystemExit, match=r"x\.json: "):
        files.convert("vlm_r1", "--data", files.root / "x.json")


def test_folders_and_files_that_hold_no_rows(files):
    (files.root / "empty").mkdir()
    with pytest.raises(SystemExit, match="neither saved by `datasets` nor with Parquet files"):
        files.convert("cls_rl", "--data", files.root / "empty")
    with pytest.raises(SystemExit, match="unknown kind of file"):
        files.convert("cls_rl", "--data", files.root / "a.jpg")
    (files.root / "x.parquet").write_bytes(b"PAR?")
    with pytest.raises(SystemExit, match="not a Parquet file"):
        files.convert("cls_rl", "--data", files.root / "x.parquet")


@pytest.mark.parametrize(
    "options",
    [
        ["--format", "vlm_r1", "--data", "a", "b", "c", "--images", ".", "."],
        ["--format", "vlm_r1", "--data", "a", "--images", "nowhere"],
        ["--format", "vlm_r1", "--data", "a", "--reward_method", "best"],
        ["--format", "cls_rl", "--data", "a", "--coords", "norm1000"],
        ["--format", "video_r1", "--data", "a"],
    ],
)
def test_wrong_options_exit_with_2(files, options):
    with pytest.raises(SystemExit) as stop:
        published.main([*options, "--out", str(files.out)])
    assert stop.value.code == 2
