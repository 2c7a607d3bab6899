"""Rows of every annotation format are trained on, in one run of two steps."""

import annotation_files as files
import pytest
from PIL import Image

from data_prep import annotations
from vlrl.data.sample_files import read_samples


@pytest.fixture
def rows(tmp_path):
    """A file of samples for each format, of pictures that differ."""
    written = []
    for number, (name, writers) in enumerate(files.WRITERS.items()):
        folder = tmp_path / name
        writers[0](folder)
        for place, path in enumerate(path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".png")):
            Image.new("RGB", files.SIZE, (20 * number, 80 * place, 120)).save(path)
        out = tmp_path / f"{name}.jsonl"
        assert annotations.main(["--root", str(folder), "--out", str(out), "--dataset", name, "--per", "image"]) == 0
        written.append(out)
    return written


def test_rows_of_all_formats_are_trained_on(rows, run_train, small, tmp_path):
    assert all({"red", "blue"} >= {box["label"] for box in sample.answer} for path in rows for sample in read_samples(path))
    out = tmp_path / "run"
    code, _, err = run_train(
        "--task",
        "detection",
        "--stage",
        "grpo",
        "--data",
        ",".join(map(str, rows)),
        "--output_dir",
        out,
        "--max_completion_length",
        "32",
        *small,
    )
    assert code == 0, err
    assert (out / "summary.json").is_file()
