"""What every converter shares: rows are checked by their own task, written whole or not at all, images copied on request."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_prep import writing
from vlrl.data.sample_files import read_samples
from vlrl.schema import Sample, SampleError

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.quick


def save_image(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)


def grounding(tmp_path, image="a.jpg", **changes):
    values = {
        "id": "g",
        "task": "grounding",
        "question": "the left one",
        "answer": {"bbox_2d": [0, 0, 9, 9]},
        "images": (str(tmp_path / image),),
        "meta": {"image_size": [64, 48]},
    }
    return Sample(**(values | changes))


def test_every_task_checks_its_own_rows(tmp_path):
    save_image(tmp_path / "a.jpg")
    target = writing.Target(tmp_path / "out.jsonl")
    for changes, message in (
        ({"answer": {"bbox_2d": [0, 0, 90, 9]}}, "sample 'g': box .* lies outside the 64x48 image"),
        ({"answer": [0, 0, 9, 9]}, "sample 'g': a grounding answer is"),
        ({"task": "classification", "answer": "cat", "choices": ("dog", "bird")}, "sample 'g': "),
    ):
        with pytest.raises(ValueError, match=message):
            writing.write_samples([grounding(tmp_path), grounding(tmp_path, **changes)], target)
    with pytest.raises(SampleError, match="id 'g' was used on line 1"):
        writing.write_samples([grounding(tmp_path)] * 2, target)
    with pytest.raises(SampleError, match=r"no such file .*b\.jpg"):
        writing.write_samples([grounding(tmp_path, image="b.jpg")], target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"], "all or nothing"
    writing.write_samples([grounding(tmp_path)], target)
    assert read_samples(target.out) == [grounding(tmp_path)]
    with pytest.raises(SystemExit, match="exists"):
        writing.write_samples([grounding(tmp_path)], target)
    writing.write_samples([grounding(tmp_path, id="h")], writing.Target(target.out, overwrite=True))
    assert read_samples(target.out)[0].id == "h"


def test_exported_images_of_the_same_name_are_numbered(tmp_path):
    for name, side in (("x/a.jpg", 64), ("y/a.jpg", 60), ("z/a.jpg", 64)):
        save_image(tmp_path / name, (side, 48))
    samples = [grounding(tmp_path, image=f"{letter}/a.jpg", id=letter, meta={}) for letter in "xyz"]
    target = writing.Target(tmp_path / "out/o.jsonl", overwrite=True, export_images=tmp_path / "out/pictures")
    for _ in range(2):
        writing.write_samples(samples, target)
        images = [Path(sample.images[0]) for sample in read_samples(target.out)]
        assert [path.name for path in images] == ["a.jpg", "a-2.jpg", "a.jpg"], "equal files are one"
        assert [path.read_bytes() for path in images] == [(tmp_path / f"{letter}/a.jpg").read_bytes() for letter in "xyz"]
    assert len(list((tmp_path / "out/pictures").iterdir())) == 2


def test_videos_and_synthetic_images(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"film")
    samples = [
        Sample(id="v", task="qa", question="how many?", answer=3, video=str(tmp_path / "v.mp4")),
        grounding(tmp_path, images=("synthetic:grounding/train/0/1",)),
    ]
    target = writing.Target(tmp_path / "out/o.jsonl", export_images=tmp_path / "out/copies")
    writing.write_samples(samples, target)
    film, drawn = read_samples(target.out)
    assert film.video == str(tmp_path / "out/copies/v.mp4")
    assert drawn.images == ("synthetic:grounding/train/0/1",)


def test_finish_prints_counts_and_ends_with_the_path(tmp_path, capsys):
    save_image(tmp_path / "a.jpg")
    report = writing.Report(strict=False)
    report.bad("a.txt:3", "no label")
    target = writing.Target(tmp_path / "o.jsonl")
    assert writing.finish([grounding(tmp_path)], target, report, ["own        line"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "images     1",
        "samples    1",
        "own        line",
        "skipped    1 bad annotations",
        str(target.out),
    ]
    assert captured.err == "skipped: a.txt:3: no label\n"
    assert writing.finish([], writing.Target(tmp_path / "p.jsonl"), report, none_why="all were bad") == 1
    assert "no samples: all were bad; nothing written" in capsys.readouterr().err
    assert not (tmp_path / "p.jsonl").exists()
    with pytest.raises(SystemExit, match=r"a\.txt:4: no label"):
        writing.Report(strict=True).bad("a.txt:4", "no label")


SHOW_HELP_OF_EACH = """
import os, runpy, sys
import vlrl.tasks, vlrl.data.images  # once for all; no script is on this process's path

for script in sys.argv[1:]:
    child = os.fork()
    if not child:
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{script} failed")
"""


@pytest.mark.long
def test_every_script_runs_from_any_folder(tmp_path):
    scripts = [path for path in sorted((ROOT / "data_prep").glob("*.py")) if "def main(" in path.read_text()]
    assert len(scripts) >= 12
    command = [sys.executable, "-c", SHOW_HELP_OF_EACH, *map(str, scripts)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(scripts)
    assert done.stdout.count("--out OUT") >= len(scripts)
