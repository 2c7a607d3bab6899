import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlrl.data.sample_sets import SampleSet
from vlrl.schema import Sample
from vlrl.training.config import parse
from vlrl.training.held_out import hold_out
from vlrl.training.options import ConfigError
from vlrl.training.run_data import data_events_of, read_data


@pytest.fixture
def data(tmp_path):
    """Twelve pictures of odd sizes with one box each, as a JSONL file."""
    rows = []
    for i in range(12):
        name = f"{i}.png"
        image = Image.new("RGB", (101 + i, 75), (200, 200, 200))
        image.paste((200, 30, 30), (20, 10, 70, 60))
        image.save(tmp_path / name)
        answer = [{"bbox_2d": [20, 10, 70, 60], "label": "red square"}]
        rows.append({"id": str(i), "task": "detection", "images": [name], "question": "red square", "answer": answer})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.quick
def test_a_run_on_own_data_leaves_what_the_design_says(data, tmp_path, run_train, small):
    folder = tmp_path / "run"
    code, out, err = run_train(
        "--data", data, "--output_dir", folder, *small, "--stage", "grpo", "--save_steps", "2", curves=True
    )
    assert code == 0, err
    assert out.rstrip().splitlines()[-1] == str(folder / "summary.json")
    words = " ".join(out.split())  # the banner folds long lines
    assert "11 samples" in words
    assert "1 more held out" in words
    assert "boxes as resized_px (from config.model_type=qwen2_5_vl)" in out
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "curves.png", "samples.png", "checkpoint-2", "completions"):
        assert (folder / name).exists(), name
    AutoModelForImageTextToText.from_pretrained(folder / "final")
    AutoProcessor.from_pretrained(folder / "final")
    summary = json.loads((folder / "summary.json").read_text())
    keys = {"task", "model", "data", "stage", "seed", "steps", "train_seconds", "versions", "git", "headline", "before", "after", "n_unparsed", "n_truncated"}  # fmt: skip
    assert keys <= summary.keys()
    assert summary["headline"] in summary["after"]
    for metric in summary["after"].values():
        assert metric.keys() == {"value", "ci95", "n"}
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if "reward" in row] == [1, 2]
    assert {"rewards/iou_f1/mean", "rewards/iou_f1/unparsed", "frac_reward_zero_std", "completions/mean_length"} <= logged[
        0
    ].keys()
    rows = [json.loads(line) for line in (folder / "completions" / "step_000001.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert len({row["id"] for row in rows[:4]}) == 1, "groups adjacent"
    assert {"prompt", "completion", "rewards", "advantage", "truncated", "n_tokens"} <= rows[0].keys()
    assert rows[0]["rewards"]["iou_f1"]["why"]
    assert "step 1/2  reward" in out
    assert "ETA" in out
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["max_steps"] == 2
    assert "output_dir" not in config


@pytest.mark.long
def test_supervision_then_grpo_on_own_data(data, tmp_path, run_train, small):
    code, _, err = run_train(
        "--data", data, "--output_dir", tmp_path / "r", *small, "--sft_steps", "3", "--sft_batch_size", "4"
    )
    assert code == 0, err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert {"start", "before", "after"} <= summary.keys()
    assert summary["stage_seconds"]["sft"] > 0
    assert (tmp_path / "r" / "sft" / "final" / "model.safetensors").is_file()


def test_a_run_is_never_overwritten(data, tmp_path, run_train, small):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    code, _, err = run_train("--output_dir", tmp_path / "run", *small)
    assert code == 2
    assert "already holds a run" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume_from_checkpoint", "true"], ["--output_dir"]),
        (["--resume_from_checkpoint", "nowhere"], ["nowhere", "not a checkpoint"]),
        (["--model_name_or_path", "no/such/folder"], ["no/such/folder"]),
        (["--coords", "metres"], ["metres", "norm1000"]),
        (["--max_steps", "many"], ["max_steps", "many"]),
    ],
)
def test_wrong_runs_end_before_training(flags, words, run_train, small, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_train(*small, *flags)
    assert code == 2
    for word in words:
        assert word in err


def test_bad_data_is_named_before_training(data, tmp_path, run_train, small):
    lines = data.read_text().splitlines()
    lines[4] = lines[4].replace("[20, 10, 70, 60]", "[20, 10, 700, 60]")
    data.write_text("\n".join(lines))
    code, _, err = run_train("--data", data, "--output_dir", tmp_path / "run", *small)
    assert code == 2
    for word in ("data.jsonl", "'4'", "700", "105x75"):
        assert word in err


def test_a_disk_without_room_for_one_checkpoint_is_refused(tmp_path, run_train, small, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 2**20))
    code, _, err = run_train("--output_dir", tmp_path / "run", *small)
    assert code == 2
    assert "1 MiB free" in err


def test_dry_run_prints_and_writes_nothing(run_train, tmp_path, small):
    code, out, _ = run_train("--dry_run", "--output_dir", tmp_path / "run", *small)
    assert code == 0
    assert "2 prompts x 4" in out
    assert not (tmp_path / "run").exists()


def test_held_out_pictures_are_not_trained_on():
    rows = [Sample(f"{i}", "detection", "cat", [], (f"{i // 3}.png",), meta={"categories": ["cat"]}) for i in range(300)]

    def split(rows, seed):
        train, out = hold_out(SampleSet(rows), seed=seed, at_most=20)
        return list(train), out

    train, out = split(rows, 0)
    assert 20 <= len(out) <= 22
    assert not {s.images for s in train} & {s.images for s in out}
    assert len(train) + len(out) == 300
    assert split(rows, 0) == (train, out)
    assert split(rows, 1) != (train, out)
    with pytest.raises(
        ConfigError, match=r"3 samples cannot be split.*\(0\.png is in 3 of them\); give held-out samples by --eval_data"
    ):
        split(rows[:3], 0)


def test_held_out_samples_that_are_trained_on_are_counted(tmp_path, run_train):
    """By content and by spelling of the path."""

    for i in range(6):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "again.png").write_bytes((tmp_path / "2.png").read_bytes())
    files = {}
    for name, images in {"a": [f"{i}.png" for i in range(4)], "b": ["5.png", "again.png", "./1.png"]}.items():
        rows = [{"id": f"{name}-{one}", "task": "qa", "images": [one], "question": "q", "answer": "3"} for one in images]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("\n".join(map(json.dumps, rows)))
    words = ["--task", "qa", "--data", files["a"], "--eval_data", files["b"], "--output_dir", tmp_path / "run"]
    config = parse([str(word) for word in words])
    found = read_data(config)
    said = f"; WARNING: 2 of all 3 rows of {files['b']} show a picture of {files['a']}, the first: 'b-again.png'"
    assert found.description.endswith(said)
    limited = read_data(parse([*map(str, words), "--eval_limit", "1", "--limit", "1"]))
    assert limited.description.endswith(said), "all rows of both files are compared"
    code, out, err = run_train(*words, "--dry_run")
    assert (code, err) == (0, "")
    assert "WARNING: 2 of all 3 rows of" in " ".join(out.split())
    (overlap, *_) = data_events_of(config, found, 1)
    assert (overlap.event, overlap.samples) == ("held_out_overlap", ("b-again.png", "b-./1.png"))


@pytest.mark.long
@pytest.mark.skipif(os.environ.get("CI") == "true", reason="the gate runs it first, as a script")
def test_scripts_run_as_files():
    """`vlrl/train.py` as a script does not let our module names hide libraries."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "vlrl/train.py", "--dry_run"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "task      detection" in done.stdout
