"""`data_prep/rows.py`: columns by name, units of boxes, names of labels, images inside rows."""

import base64
import json

import datasets
import pytest
from test_data_foreign_rows import IMAGE, chat, png, talk, written

from data_prep import rows
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_sets import read_set
from vlrl.schema import SampleError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    return tmp_path


def convert(folder, path, *options):
    out = folder / "out" / "samples.jsonl"
    code = rows.main(["--data", str(path), "--out", str(out), "--overwrite", *map(str, options)])
    return read_samples(out) if code == 0 else code


def test_columns_by_name(folder):
    path = folder / "own.csv"
    path.write_text("file,ask,extra\na.png,How many?,3\n")
    (sample,) = convert(folder, path, "--map", "question=ask,answer=extra,image=file")
    assert (sample.task, sample.question, sample.answer, sample.images[0].endswith("a.png")) == ("qa", "How many?", "3", True)
    deep = written(folder, [{"pic": "a.png", "q": {"text": "the car"}, "where": [10, 20, 30, 40]}])
    (sample,) = convert(folder, deep, "--map", "question=q.text,bbox=where,image=pic")
    assert (sample.task, sample.answer) == ("grounding", {"bbox_2d": [10, 20, 30, 40]})
    with pytest.raises(SystemExit, match="there is no column 'words'"):
        convert(folder, path, "--map", "question=words,answer=extra")
    with pytest.raises(SystemExit, match="name them: --map"):
        convert(folder, path)


def test_units_of_boxes(folder):
    asked = "<image>Please provide the bounding box coordinate of the region this sentence describes: the car."
    shares = written(folder, [talk(asked, "[0.1, 0.1, 0.3, 0.5]")])
    with pytest.raises(SystemExit, match="--coords norm1"):
        convert(folder, shares)
    (sample,) = convert(folder, shares, "--coords", "norm1")
    assert sample.answer == {"bbox_2d": [20, 10, 60, 50]}
    objects = written(folder, [{"image": "a.png", "objects": {"bbox": [[10, 10, 20, 20]], "category": [0]}}])
    with pytest.raises(SystemExit, match="--boxes xywh"):
        convert(folder, objects, "--names", "car")
    (sample,) = convert(folder, objects, "--names", "car", "--boxes", "xywh")
    assert sample.answer == [{"bbox_2d": [10, 10, 30, 30], "label": "car"}]


def test_names_of_labels(folder):
    path = written(folder, [{"image": "a.png", "label": 1}])
    (sample,) = convert(folder, path, "--names", "cat,dog")
    assert (sample.task, sample.answer, sample.choices) == ("classification", "dog", ("cat", "dog"))

    path = folder / "labels.csv"
    for written_as in ("1", "1.0"):
        path.write_text(f"image,label,patient_id\na.png,{written_as},p1\n")
        (sample,) = convert(folder, path, "--names", "cat,dog")
        assert sample.answer == "dog"
    (sample,) = convert(folder, path, "--names", "cat,dog", "--map", "image=image,label=label,group=patient_id")
    assert sample.meta["group"] == "p1"


def test_images_inside_rows_become_files(folder):
    encoded = {"question": "How many?", "answer": "3", "image": "data:image/png;base64," + base64.b64encode(png()).decode()}
    path = written(folder, [encoded, encoded | {"image": "data:image/png;base64,AAAA"}], "b.jsonl")
    with pytest.raises(SystemExit, match="--export_images"):
        convert(folder, path)
    (sample,) = convert(folder, path, "--export_images", "--max_skipped", "1")
    assert [file.name for file in (folder / "out" / "samples_images").iterdir()] == ["b-000001.png"]
    datasets.Dataset.from_list([{"image": IMAGE, "question": "How many?", "answer": "3"}]).cast_column(
        "image", datasets.Image()
    ).save_to_disk(folder / "saved")
    (sample,) = convert(folder, folder / "saved", "--export_images")
    assert sample.images[0].endswith("saved-000001.png")
    parquet = written(folder, [{"image": IMAGE, "question": "How many?", "answer": "3"}], "c.parquet")
    (sample,) = convert(folder, parquet)
    assert sample.images[0].startswith("parquet:")
    (sample,) = convert(folder, parquet, "--export_images")
    assert sample.images[0].endswith(".png")


def test_bad_rows_are_counted(folder, capsys):
    good = [chat("<image>How many?", "3", id=i) for i in range(50)]
    path = written(folder, [*good, chat("<image>How many?")])
    assert len(convert(folder, path)) == 50
    assert "its last question has no answer" in capsys.readouterr().err
    path.write_text(path.read_text() + "\n".join(json.dumps(chat("<image>How many?")) for _ in range(5)))
    assert convert(folder, path) == 1
    assert "6 of 56 rows cannot be used" in capsys.readouterr().err


GONE = chat("<image>How many?", "3", images=["gone.png"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GONE], "1 of 1 rows"),
        ([GONE, "no JSON", chat("<image>How many?", "3")], "2 of 3 rows"),
        ([talk("<image>How many?", "3", "And now?", "4", image="gone.png"), chat("<image>How many?", "3")], "1 of 2 rows"),
    ],
)
def test_a_bad_row_counts_once(folder, capsys, lines, message):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    assert convert(folder, path) == 1
    assert f"{message} cannot be used" in capsys.readouterr().err
    with pytest.raises(SampleError, match=f"{message} cannot be used"):
        read_set(path)
