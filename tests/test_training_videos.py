"""Commands on rows with videos: what a dry run and a check count, and (`pytest -m long`) whole runs."""

import json
import re
from dataclasses import replace

import pytest
from family_models import saved
from PIL import Image
from test_families import PAYING
from test_models_videos import film, folder

from vlrl.bench import main as bench
from vlrl.bench.console import main as console
from vlrl.bench.video_flags import reading_of
from vlrl.data.images import FramesTaken, Video
from vlrl.training.checkpoints import RunStopped
from vlrl.training.config import parse
from vlrl.training.grpo.batch import Batch
from vlrl.training.grpo.rollout import Rollout
from vlrl.training.options import ConfigError
from vlrl.training.video_options import video_reading


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows that show in turn a film, a folder of frames, two images, and nothing."""
    where = tmp_path_factory.mktemp("videos")
    for i in range(2):
        Image.new("RGB", (60 + 20 * i, 50), (200, 60 * i, 30)).save(where / f"{i}.png")
    rows = []
    for i in range(12):
        shows = {}
        if i % 4 == 0:
            shows = {"video": film(where / f"{i}.mp4", 12, 3, seed=i)}
        elif i % 4 == 1:
            shows = {"video": folder(where / f"frames {i}", 5, seed=i), "meta": {"folder_fps": 5, "video_fps": 5}}
        elif i % 4 == 2:
            shows = {"images": [str(where / "0.png"), str(where / "1.png")]}
        rows.append({"id": str(i), "task": "qa", "question": f"What is 1 + 1? {i}", "answer": 2, **shows})
    (where / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return where / "rows.jsonl"


def test_a_dry_run_and_a_check_count_the_tokens_of_a_video(data, tmp_path, run_train, capfd):
    films = [line for line in data.read_text().splitlines() if ".mp4" in line]
    (tmp_path / "films.jsonl").write_text("\n".join(films))
    words = [
        "--task",
        "qa",
        "--data",
        tmp_path / "films.jsonl",
        "--output_dir",
        tmp_path / "run",
        "--dry_run",
        "--stage",
        "grpo",
    ]
    words += ["--val_split", "1", "--num_generations", "2", "--per_device_train_batch_size", "2"]
    code, out, err = run_train(*words)
    assert code == 0, err
    text = " ".join(out.split())
    assert "videos are shown as videos, with the times of their frames: 2 frames a second, 16 at most" in text
    assert "its video: 8 frames of 96x64 px = 24 tokens" in text
    code, out, err = run_train(*words, "--video_as", "frames", "--video_max_frames", "4")
    assert code == 0, err
    text = " ".join(out.split())
    assert "videos are shown as frames, one image each (--video_as frames): 2 frames a second, 4 at most" in text
    assert "its images: 96x64 px = 6 tokens" in text
    look = [
        "data",
        "look",
        "--data",
        str(tmp_path / "films.jsonl"),
        "--model_name_or_path",
        "tiny",
        "--out",
        str(tmp_path / "a.html"),
    ]
    assert console([*look, "--video_fps", "1"]) == 0
    page = (tmp_path / "a.html").read_text()
    assert "videos are shown as videos" in page
    n_shown = re.search(r"prompt of (\d+) tokens", page)
    assert n_shown
    checked = ["check", "--data", str(tmp_path / "films.jsonl"), "--model_name_or_path", "tiny", "--video_fps", "1"]
    capfd.readouterr()
    assert bench([*checked, "--max_prompt_length", n_shown[1]]) == 0
    assert bench([*checked, "--max_prompt_length", str(int(n_shown[1]) - 1)]) == 1
    assert f"its prompt has {n_shown[1]} tokens, the most are" in capfd.readouterr().err


def test_flags_that_no_video_can_have_are_refused(capsys):
    for words in (["--video_fps", "0"], ["--video_max_frames", "1"], ["--video_as", "film"]):
        with pytest.raises(ConfigError, match=words[0]):
            parse(["--task", "qa", *words])
        with pytest.raises(SystemExit):
            bench(["run", "--task", "qa", "--output_path", "x", *words])
    assert "argument --video_as" in capsys.readouterr().err


def test_where_a_part_of_a_run_has_no_way_for_videos_all_show_frames():
    plain = parse(["--task", "qa", "--model_name_or_path", "Qwen/Qwen2.5-VL-3B-Instruct", "--video_fps", "1.5"])
    asked = replace(plain, prompts=replace(plain.prompts, video_as="frames"))
    corrected = replace(plain, guide=replace(plain.guide, corrector="oracle"))
    for config, why in (
        (plain, ""),
        (asked, "--video_as frames"),
        (plain.with_arguments(use_vllm=True), "vLLM is handed images alone"),
        (corrected, "--corrector keeps images alone"),
    ):
        found = video_reading(config)
        assert why in found.as_frames
        assert bool(found.as_frames) == bool(why)
        assert (found.fps, found.max_frames) == (1.5, None)


def test_an_engine_that_is_handed_images_alone_is_never_asked_about_a_video():
    video = Video(FramesTaken((0, 1), 2, 2.0, (8, 8)), (Image.new("RGB", (8, 8)),) * 2)
    row = {"prompt": [], "images": [video], "index": 0, "sample": None}
    rollout = Rollout(None, None, None, own_engine=True)
    for ask in (lambda: rollout(Batch((row,)), 2), lambda: rollout.read([row])):
        with pytest.raises(RunStopped, match="written blind; show videos as images: --video_as frames"):
            ask()


@pytest.mark.long
@pytest.mark.parametrize("shared", ["on", "off"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_two_steps_on_videos(family, shared, data, tmp_path, run_train):
    if (family, shared) == ("qwen3_5", "on"):
        pytest.skip("it shares no prompts")
    model = saved(family, tmp_path / "model")
    (tmp_path / "rewards.py").write_text(PAYING)
    code, out, err = run_train(
        "--task", "qa", "--data", data, "--model_name_or_path", model, "--output_dir", tmp_path / "run",
        "--rewards", f"{tmp_path}/rewards.py:paying", "--max_steps", "2", "--num_generations", "2", "--val_split", "2",
        "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4", "--max_completion_length", "4",
        "--learning_rate", "1e-2", "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--bf16", "false", "--beta", "0.01",
        "--save_steps", "1", "--video_max_frames", "6", "--group_shared", shared,
    )  # fmt: skip
    assert code == 0, err
    text = " ".join(out.split())
    assert "videos are shown as videos" in text
    assert "differs from TRL's" not in text
    assert "warning" not in text
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in logged if "grad_norm" in row]
    assert len(steps) == 2
    assert all(row["reward"] > 0 and row["grad_norm"] > 0 for row in steps)


@pytest.mark.long
def test_a_supervised_stage_goes_before(data, tmp_path, run_train, small):
    code, out, err = run_train(
        "--task", "qa", "--data", data, "--output_dir", tmp_path / "run", "--stage", "sft+grpo", "--sft_steps", "3",
        "--sft_batch_size", "4", "--model_name_or_path", "tiny-random", "--val_split", "2", *small, "--freeze_vision", "true",
        "--bench", "qa",
    )  # fmt: skip
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "run" / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in row for row in rows) >= 1
    assert "vision weights are frozen" in out


def test_bench_flags_are_the_same_reading():
    from vlrl.bench import parse_command

    args = parse_command(["run", "--task", "qa", "--output_path", "x", "--video_fps", "1", "--video_max_frames", "6"])
    assert (reading_of(args).fps, reading_of(args).max_frames, reading_of(args).as_frames) == (1.0, 6, "")
