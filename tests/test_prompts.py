import dataclasses

import numpy as np
import pytest
from PIL import Image

from vlrl.model import input_size_px, limit_pixels
from vlrl.prompts import ImageError, Samples, check_samples, dataset, image_size, messages, open_image, situate
from vlrl.schema import Sample, SampleError
from vlrl.tasks.detection import TASK


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
    from vlrl.answers import read_boxes
    from vlrl.boxes import iou

    path = make(tmp_path / "a.png", size=(333, 211))
    truth = [{"bbox_2d": [17.5, 30, 222, 180.25], "label": "cat"}]
    ready = situate(sample(path, answer=truth), tiny)
    assert ready.meta["coords"] == "resized_px"
    assert ready.meta["image_size"] == [333, 211]
    seen = ready.meta["input_size"]
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
    check_samples([sample(path)], TASK, tiny, "file.jsonl")
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
            check_samples([wrong], TASK, tiny, "file.jsonl")
        for word in (words, "file.jsonl", "'s1'"):
            assert word in str(error.value)


def test_corrupt_images_in_a_run_are_reported_by_sample_id_and_replaced(tmp_path):
    good = [sample(make(tmp_path / f"{i}.png"), id=f"good{i}") for i in range(2)]
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "0.png").read_bytes()[:60])
    rows = [good[0], sample(str(broken), id="bad"), good[1]]
    said = []
    samples = Samples(3, rows.__getitem__, said.append)
    data = dataset(samples, TASK)
    assert [data[i]["sample"].id for i in (0, 1, 2, 1)] == ["good0", "good1", "good1", "good1"]
    assert len(said) == 1
    assert "sample bad" in said[0]
    assert list(samples.unreadable) == ["bad"]
    with pytest.raises(ImageError, match="in a row"):
        Samples(1, lambda _: rows[1], said.append).open(0)


def test_rows_of_training_supervision_and_evaluation_share_one_prompt(tiny):
    samples = Samples(2, lambda i: situate(TASK.synthetic(0, "train", i), tiny))
    grpo, sft = dataset(samples, TASK)[0], dataset(samples, TASK, sft=True)[0]
    assert grpo["prompt"] == sft["prompt"] == messages(grpo["sample"], TASK)
    assert np.array_equal(grpo["images"][0], sft["images"][0])
    assert sft["completion"][0]["content"][0]["text"] == TASK.sft_target(grpo["sample"])
