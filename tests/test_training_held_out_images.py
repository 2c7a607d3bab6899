"""What a run keeps of its held-out samples for a page: image, boxes, texts, scores with reasons."""

import json

import pytest
from PIL import Image

from vlrl.data.sample_json import sample_from_json
from vlrl.schema import Prediction, Reward, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import evaluate
from vlrl.tasks.rubric import choose
from vlrl.training.held_out_images import (
    FOLDER,
    INDEX,
    NOT_ASKED_AGAIN,
    SIDE_PX,
    WHOLE_GROUPS,
    chosen_places,
    scores_of,
    write_held_out_images,
)

DETECTION = {"detection": TASKS["detection"]}


def test_half_of_what_is_kept_changed_most():
    changes = [0.0, 0.1, None, -0.9, 0.0, 0.5]
    assert chosen_places(changes, 4) == [0, 1, 3, 5], "3 and 5 by their change, then from the first on"
    assert chosen_places(changes, 100) == list(range(6))
    assert chosen_places([], 4) == []


def test_a_sample_can_be_opened_from_what_is_kept(tmp_path):
    samples = [TASKS["detection"].draw(0, "heldout", i) for i in range(3)]
    right = [Prediction(one.id, TASKS["detection"].oracle(one), 20, False) for one in samples]
    wrong = [Prediction(one.id, "no idea", None, False) for one in samples]
    measured = evaluate(DETECTION, samples, wrong), evaluate(DETECTION, samples, right)
    write_held_out_images(choose(None, samples, DETECTION), samples, (wrong, right), measured, tmp_path, 7)
    rows = [json.loads(line) for line in (tmp_path / FOLDER / INDEX).read_text().splitlines()]
    assert [row["id"] for row in rows] == [one.id for one in samples]
    for row, sample in zip(rows, samples, strict=True):
        assert (row["width_px"], row["height_px"]) == Image.open(tmp_path / FOLDER / row["image"]).size
        assert [box["bbox_2d"] for box in row["true"]] == [one["bbox_2d"] for one in sample.answer]
        assert row["before"]["boxes"] is None, "it could not be read"
        assert len(row["after"]["boxes"]) == len(row["true"])
        assert row["before"]["rewards"]["iou_f1"]["value"] == 0
        assert row["before"]["rewards"]["iou_f1"]["why"]
        assert row["after"]["rewards"]["iou_f1"]["value"] == pytest.approx(1.0)
        assert row["after"]["completion"] == TASKS["detection"].oracle(sample)


def test_large_images_are_made_smaller_and_boxes_stay_in_their_pixels(tmp_path):
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "a.png")
    row = {"id": "a", "task": "detection", "images": ["a.png"], "question": "dog"}
    row["answer"] = [{"bbox_2d": [1000, 500, 2000, 1000], "label": "dog"}]
    sample = sample_from_json(row, "row 1", tmp_path)
    made = [Prediction("a", TASKS["detection"].oracle(sample), 20, False)]
    measured = (evaluate(DETECTION, [sample], made),) * 2
    write_held_out_images(choose(None, [sample], DETECTION), [sample], (made, made), measured, tmp_path, 1)
    kept = json.loads((tmp_path / FOLDER / INDEX).read_text())
    assert Image.open(tmp_path / FOLDER / kept["image"]).size == (SIDE_PX, SIDE_PX // 2)
    assert (kept["width_px"], kept["height_px"]) == (2000, 1000)
    assert kept["true"][0]["bbox_2d"] == [1000, 500, 2000, 1000]
    (tmp_path / "a.png").unlink()
    write_held_out_images(choose(None, [sample], DETECTION), [sample], (made, made), measured, tmp_path, 1)
    assert json.loads((tmp_path / FOLDER / INDEX).read_text())["image"] is None, "the image is gone, the run is not"


def test_rewards_that_cannot_score_one_completion_say_why():
    def fails(text, sample):
        raise RuntimeError("boom")

    sample = Sample("a", "qa", "2+2?", "4")
    made = [Prediction("a", "4", 1, False)]
    rewards = (
        Reward("judge", lambda text, sample: 1.0, 0, 1, needs=frozenset({"network"})),
        Reward("group", lambda texts, samples: [1.0], 0, 1, needs=frozenset({"group"})),
        Reward("fails", fails, 0, 1),
    )
    rubric = choose(None, [sample], {"qa": TASKS["qa"]})
    found = scores_of(type(rubric)(rewards, None, frozenset(), rubric.tasks), [sample], made, 1)[0]
    assert [one["value"] for one in found.values()] == [None] * 3
    assert found["judge"]["why"] == NOT_ASKED_AGAIN
    assert found["group"]["why"] == WHOLE_GROUPS
    assert "boom" in found["fails"]["why"]
