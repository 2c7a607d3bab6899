import json

import pytest

from vlrl.data.sample_files import is_there, read_samples
from vlrl.data.sample_json import sample_to_json
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick


@pytest.fixture
def write(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")

    def _write(*lines):
        path = tmp_path / "samples.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return _write


def row(**changes):
    base = {
        "id": "1",
        "task": "detection",
        "images": ["a.jpg"],
        "question": "dog",
        "answer": [],
        "meta": {"categories": ["dog"]},
    }
    return {**base, **changes}


def test_reads_and_writes_back(write, tmp_path):
    path = write(row(), "", row(id="2", choices=["x", "y"]))
    samples = read_samples(path)
    assert [s.id for s in samples] == ["1", "2"]
    assert samples[0].images == (str(tmp_path / "a.jpg"),)
    assert sample_to_json(samples[0], tmp_path) == row()
    assert samples[1].choices == ("x", "y")
    assert len(read_samples(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"id": "1", '], [":1:", "not a line of UTF-8 JSON"]),
        ([row(), "[1, 2]"], [":2:", "JSON object"]),
        ([row(colour="red")], [":1:", "unknown key 'colour'"]),
        ([{k: v for k, v in row().items() if k != "answer"}], ["missing key 'answer'"]),
        ([row(), row()], [":2:", "line 1", "unique"]),
        ([row(images=["gone.jpg"])], [":1", "'1'", "gone.jpg", "--image_root"]),
        ([row(task="")], ["'task' must be a non-empty string"]),
        ([row(task=["detection"])], ["'task' must be a non-empty string"]),
        ([row(video="v.mp4")], ["never both"]),
        ([row(images="a.jpg")], ["list of paths"]),
        ([row(meta={"coords": "metres"})], ["metres", "norm1000"]),
        ([row(id=3)], ["'id' must be a non-empty string"]),
        ([], ["holds no samples"]),
        (["", " "], ["holds no samples"]),
    ],
)
def test_a_bad_file_is_named_with_line_value_and_what_to_do(write, lines, words):
    path = write(*lines)
    with pytest.raises(SampleError) as error:
        read_samples(path)
    for word in [path.name, *words]:
        assert word in str(error.value)


def test_missing_file():
    with pytest.raises(SampleError, match="no such file"):
        read_samples("nowhere.jsonl")


def test_not_utf8(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(SampleError, match="UTF-8"):
        read_samples(path)


def test_image_root_moves_relative_paths(write, tmp_path):
    path = write(row())
    other = tmp_path / "images"
    other.mkdir()
    with pytest.raises(SampleError, match="no such file"):
        read_samples(path, image_root=other)
    (other / "a.jpg").write_bytes(b"x")
    assert read_samples(path, image_root=other)[0].images == (str(other / "a.jpg"),)


def test_scoring_reads_samples_whose_images_are_elsewhere(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "1", "task": "qa", "question": "q", "answer": "a", "images": ["gone.jpg"]}\n')
    with pytest.raises(SampleError, match="no such file"):
        read_samples(path)
    (sample,) = read_samples(path, need_images=False)
    assert not is_there(sample.images[0])
    assert is_there(str(path))
    assert is_there("synthetic:qa/heldout/0/1")
