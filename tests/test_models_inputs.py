import dataclasses

import av
import numpy as np
import pytest
from PIL import Image

from vlrl.models import inputs as prompts
from vlrl.models.inputs import (
    VIDEO_FRAMES,
    ImageError,
    Samples,
    check_samples,
    dataset,
    image_size,
    messages,
    open_image,
    open_images,
    prepare_sample,
    video_frames,
)
from vlrl.models.pixel_limits import input_size_px, limit_pixels
from vlrl.models.videos import VideoReading
from vlrl.schema import Sample, SampleError
from vlrl.tasks import TASKS
from vlrl.tasks.detection import TASK

ONLY = {"detection": TASK}


def make(path, size=(90, 50), mode="RGB", **save):
    Image.new(mode, size, 0).save(path, **save)
    return str(path)


def sample(*images, **changes):
    answer = [{"bbox_2d": [10, 5, 60, 45], "label": "cat"}]
    base = Sample("s1", "detection", "cat", answer, images, meta={"categories": ["cat"]})
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg"), ("LA", "png"), ("I;16", "png"), ("1", "png")],
)
def test_any_mode_becomes_rgb(tmp_path, mode, suffix):
    image = open_image(make(tmp_path / f"a.{suffix}", mode=mode))
    assert image.mode == "RGB"
    assert image.size == (90, 50)


def test_transparency_becomes_white(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    assert open_image(str(path)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied_and_sizes_agree(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = make(tmp_path / "a.jpg", exif=exif)
    assert open_image(path).size == image_size(path) == (50, 90)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_a_corrupt_image_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        open_image(str(path))
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        image_size(str(path))


@pytest.mark.parametrize("size", [(640, 480), (480, 270), (20, 100), (1920, 1080), (33, 57), (112, 112), (1, 1), (5000, 40)])
@pytest.mark.parametrize("max_pixels", [12544, 401408])
def test_input_size_is_what_the_image_processor_makes(tiny, size, max_pixels):
    import copy

    processor = copy.deepcopy(tiny.processor)
    limit_pixels(processor, 3136, max_pixels)
    grid = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0]
    patch = processor.image_processor.patch_size
    assert input_size_px(processor, *size) == (int(grid[2]) * patch, int(grid[1]) * patch)


def test_input_sizes_of_the_specification(tiny):
    import copy

    processor = copy.deepcopy(tiny.processor)
    limit_pixels(processor, 3136, 401408)
    for size, seen in {(640, 480): (644, 476), (1920, 1080): (840, 448), (480, 270): (476, 280), (20, 100): (28, 112)}.items():
        assert input_size_px(processor, *size) == seen


def test_round_trip_of_boxes_on_an_image_whose_sides_are_no_multiple_of_28(tiny, tmp_path):
    """Original pixels -> what the model sees and writes -> original pixels, by the code that trains and measures."""
    from vlrl.answers.geometry import iou
    from vlrl.answers.read import read_boxes

    path = make(tmp_path / "a.png", size=(333, 211))
    truth = [{"bbox_2d": [17.5, 30, 222, 180.25], "label": "cat"}]
    ready = prepare_sample(sample(path, answer=truth), tiny)
    assert ready.coords == ready.view.coords == "resized_px"
    assert ready.meta["image_size"] == [333, 211]
    seen = ready.view.input_size
    assert all(side % 28 == 0 for side in seen)
    text = TASK.oracle(ready)
    assert "[17.5" not in text
    parsed, _ = read_boxes(text, ready)
    assert iou(parsed.items[0].xyxy, truth[0]["bbox_2d"]) > 0.95
    unit = (333 / seen[0] / 2, 211 / seen[1] / 2)
    for k, value in enumerate(parsed.items[0].xyxy):
        assert abs(value - truth[0]["bbox_2d"][k]) <= unit[k % 2] + 1e-9


def test_bad_samples_are_refused_before_training(tiny, tmp_path):
    path = make(tmp_path / "a.png")
    check_samples([sample(path)], ONLY, tiny, "file.jsonl")
    meta = {"categories": ["cat"]}
    bad = {
        "outside the 90x50 image": sample(path, answer=[{"bbox_2d": [10, 5, 99, 45], "label": "cat"}]),
        "no area": sample(path, answer=[{"bbox_2d": [10, 5, 10, 45], "label": "cat"}]),
        "'dog' is not among": sample(path, answer=[{"bbox_2d": [10, 5, 20, 45], "label": "dog"}]),
        "meta.image_size is [91, 50]": sample(path, meta={**meta, "image_size": [91, 50]}),
        "list of boxes": sample(path, answer="cat"),
        "nothing is asked for": sample(path, answer=[], meta={}),
        "needs an image": sample(),
        "too thin": sample(make(tmp_path / "thin.png", size=(2001, 10))),
        "its task is 'qa'": sample(path, task="qa"),
        "meta.image_index 1 of 1": sample(path, meta={**meta, "image_index": 1}),
    }
    for words, wrong in bad.items():
        with pytest.raises(SampleError) as error:
            check_samples([wrong], ONLY, tiny, "file.jsonl")
        for word in (words, "file.jsonl", "'s1'"):
            assert word in str(error.value)


def test_corrupt_images_in_a_run_are_reported_by_sample_id_and_replaced(tmp_path):
    good = [sample(make(tmp_path / f"{i}.png"), id=f"good{i}") for i in range(2)]
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "0.png").read_bytes()[:60])
    rows = [good[0], sample(str(broken), id="bad"), good[1]]
    said = []
    samples = Samples(3, rows.__getitem__, said.append)
    data = dataset(samples, ONLY)
    assert [data[i]["sample"].id for i in (0, 1, 2, 1)] == ["good0", "good1", "good1", "good1"]
    assert [data[i]["index"] for i in range(3)] == [0, 1, 2]
    assert len(said) == 1
    assert "sample bad" in said[0]
    assert list(samples.unreadable) == ["bad"]
    with pytest.raises(ImageError, match="in a row"):
        Samples(1, lambda _: rows[1], said.append).open(0)


@pytest.mark.parametrize("name", TASKS)
def test_rows_of_training_supervision_and_evaluation_share_one_prompt(tiny, name):
    task = TASKS[name]
    samples = Samples(6, lambda i: prepare_sample(task.synthetic(0, "train", i), tiny))
    for grpo, sft in zip(dataset(samples, TASKS), dataset(samples, TASKS, sft="thinking+answer"), strict=True):
        assert grpo["prompt"] == sft["prompt"] == messages(grpo["sample"], TASKS)
        assert grpo["prompt"][0]["content"][-1]["text"] == task.prompt(grpo["sample"])
        for one, other in zip(grpo["images"], sft["images"], strict=True):
            assert np.array_equal(one, other)
        assert len(grpo["images"]) == len(grpo["sample"].images)
        assert sft["completion"][0]["content"][0]["text"] == task.sft_target(grpo["sample"])


def test_a_data_set_is_named_without_reading_all_that_it_reaches():
    read = []

    class Heavy:
        def __getstate__(self):
            read.append("weights")
            return {}

    heavy = Heavy()
    data = dataset(Samples(3, lambda i: sample(id=str((i, heavy)))), ONLY)
    assert len(data) == 3
    assert not read


def test_each_row_of_a_mixed_file_is_asked_and_checked_by_its_own_task(tiny):
    rows = [TASKS[name].synthetic(0, "train", 3) for name in ("qa", "detection", "planning")]
    ready = check_samples(rows, TASKS, tiny, "mixed.jsonl", answer_format="answer")
    data = dataset(Samples(3, ready.__getitem__), TASKS)
    for row, sample in zip(data, ready, strict=True):
        assert row["prompt"][0]["content"][-1]["text"] == TASKS[sample.task].prompt(sample)
    with pytest.raises(
        SampleError, match=r"its task is 'planning', but this run's are qa, detection \(--task qa,detection,planning"
    ):
        check_samples(rows, {name: TASKS[name] for name in ("qa", "detection")}, tiny, "mixed.jsonl")


def test_forms_asked_for_give_way_to_a_samples_own(tiny):
    own = sample(meta={"answer_format": "none"})
    plain, asked = prepare_sample(sample(), tiny), prepare_sample(sample(), tiny, answer_format="answer", box_format="corners")
    assert not {"answer_format", "box_format"} & plain.meta.keys()
    assert (asked.meta["answer_format"], asked.meta["box_format"]) == ("answer", "corners")
    kept = prepare_sample(own, tiny, answer_format="answer", box_format="corners")
    assert (kept.meta["answer_format"], kept.meta["box_format"]) == ("none", "corners")


# -- videos ------------------------------------------------------------------------------------------------------------


def film(path, n, fps, size=(96, 64)):
    """Frames of rising brightness, so that a frame tells its place: grey level = 6 times its number."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(n):
            grey = np.full((size[1], size[0], 3), min(255, 6 * i), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())
    return str(path)


def places(frames):
    return [round(float(np.asarray(frame).mean()) / 6) for frame in frames]


def folder_of_frames(path, n):
    path.mkdir()
    for i in range(n):
        Image.new("RGB", (60, 40), (6 * i,) * 3).save(path / f"{i:03d}.png")
    (path / "notes.txt").write_text("no frame")
    return str(path)


def test_a_short_video_is_shown_at_two_frames_a_second(tmp_path):
    frames = video_frames(film(tmp_path / "a.mp4", 16, fps=4))
    assert len(frames) == 8
    assert all(frame.size == (96, 64) and frame.mode == "RGB" for frame in frames)
    assert places(frames) == pytest.approx(np.linspace(0, 15, 8), abs=1.1)


def test_a_long_video_is_shown_in_a_bounded_number_of_frames(tmp_path):
    path = film(tmp_path / "a.mp4", 40, fps=1)
    frames = video_frames(path)
    assert len(frames) == VIDEO_FRAMES
    assert places(frames) == pytest.approx(np.linspace(0, 39, VIDEO_FRAMES), abs=1.1)
    assert places(video_frames(path, 4)) == pytest.approx([0, 13, 26, 39], abs=1.1)
    asked = sample(video=path, meta={"video_frames": 6})
    assert len(open_images(asked)) == 6


def test_a_folder_of_frames_is_a_video(tmp_path):
    path = folder_of_frames(tmp_path / "frames", 20)
    assert places(video_frames(path, 5)) == [0, 5, 10, 14, 19]
    assert len(video_frames(path)) == VIDEO_FRAMES
    assert places(video_frames(folder_of_frames(tmp_path / "few", 3))) == [0, 1, 2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no frames"):
        video_frames(str(tmp_path / "empty"))


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_a_corrupt_video_is_named(tmp_path, tiny, content):
    path = tmp_path / "broken.mp4"
    whole = (film(tmp_path / "a.mp4", 16, fps=4), (tmp_path / "a.mp4").read_bytes())[1]
    path.write_bytes(whole[:300] if content is None else content)
    with pytest.raises(ImageError, match=r"broken\.mp4"):
        video_frames(str(path))
    with pytest.raises(ImageError, match=r"broken\.mp4"):
        prepare_sample(sample(video=str(path)), tiny)
    with pytest.raises(ImageError, match=r"missing\.mp4"):
        video_frames(str(tmp_path / "missing.mp4"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_video_as_frames_is_asked_about_with_one_placeholder_a_frame(tmp_path, tiny, kind):
    tiny = dataclasses.replace(tiny, videos=VideoReading(as_frames="--video_as frames"))
    made = film(tmp_path / "a.mp4", 16, fps=4) if kind == "file" else folder_of_frames(tmp_path / "frames", 8)
    asked = prepare_sample(Sample("v", "qa", "What is 1 + 1?", 2, video=made), tiny)
    width, height = (96, 64) if kind == "file" else (60, 40)
    assert asked.meta["image_size"] == [width, height]
    assert asked.view.input_size == input_size_px(tiny.processor, width, height)
    row = dataset(Samples(1, lambda _: asked), TASKS)[0]
    assert len(row["images"]) == 8
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["image"] * 8 + ["text"]
    with pytest.raises(SampleError, match=r"meta\.image_size is \[1, 2\], but .*(a\.mp4|frames) is"):
        prepare_sample(dataclasses.replace(asked, meta={"image_size": [1, 2]}), tiny)


def test_a_corrupt_video_in_a_run_gives_way_to_the_next_sample(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [sample(video=str(tmp_path / "broken.mp4"), id="bad"), sample(make(tmp_path / "a.png"), id="good")]
    said = []
    assert Samples(2, rows.__getitem__, said.append).open(0)[0].id == "good"
    assert "sample bad" in said[0]


def test_targets_without_a_thought_keep_the_prompt_s_layout():
    for task in TASKS.values():
        one = task.synthetic(0, "train", 0)
        assert prompts.target(one, task) == task.sft_target(one)
        assert prompts.target(one, task, "answer").startswith("<answer>")
        assert prompts.target(one, task, "answer") in task.sft_target(one)
        bare = dataclasses.replace(one, meta={**one.meta, "answer_format": "none"})
        assert prompts.target(bare, task, "answer") == task.sft_target(bare)
