"""Rows of Visual-RFT, CLS-RL and Vision-R1 in their own formats, and the samples they become."""

import json
from pathlib import Path

import pytest
from published_files import Published, detect

pytestmark = pytest.mark.quick


@pytest.fixture
def files(tmp_path):
    return Published(tmp_path)


# ---- Visual-RFT

SPECIES = (
    " This is an image containing a plant. Please identify the species of the plant based on the image.\nOutput the thinking "
    "process in <think> </think> and final answer in <answer> </answer> tags.The output answer format should be as "
    "follows:\n<think> ... </think> <answer>species name</answer>\nPlease strictly follow the format."
)


def test_visual_rft_detection_becomes_pixels(files):
    solution = "<answer>[{'Position': [1, 366, 344, 657], 'Confidence': 1}, {'Position': [0, 0, 1000, 1000], 'Confidence': 1}]</answer>"
    sample = files.one("visual_rft", detect(solution, "stop sign"))
    assert (sample.task, sample.question) == ("detection", "stop sign")
    assert sample.answer == [
        {"bbox_2d": [0.2, 36.6, 68.8, 65.7], "label": "stop sign"},
        {"bbox_2d": [0, 0, 200, 100], "label": "stop sign"},
    ]
    assert sample.meta["categories"] == ["stop sign"]
    assert files.one("visual_rft", detect("<answer>No Objects</answer>", "driver's door")).answer == []


def test_visual_rft_classification(files):
    sample = files.one("visual_rft", {"image": "a.jpg", "problem": SPECIES, "solution": "<answer>pink primrose</answer>"})
    assert (sample.task, sample.answer, sample.choices) == ("classification", "pink primrose", None)
    assert (
        sample.question == "This is an image containing a plant. Please identify the species of the plant based on the image."
    )


def test_visual_rft_lisa_file(files):
    question = (
        f"<img>{files.root / 'b.jpg'}</img>\n Output the bounding box in the image corresponding to the instruction: {{}}"
    )
    row = {
        "id": "lisa_0",
        "conversations": [
            {"from": "user", "value": question.format("the place where the garbage should be put. There may be two")},
            {"from": "assistant", "value": "(100,200),(500,600)"},
        ],
    }
    (sample,) = files.run("visual_rft", [row], "--strict", name="lisa_train_sft.json")
    assert (sample.id, sample.task) == ("lisa_train_sft-lisa_0", "grounding")
    assert sample.question == "the place where the garbage should be put. There may be two"
    assert sample.answer == {"bbox_2d": [20, 20, 100, 60]}
    assert Path(sample.images[0]).name == "b.jpg"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (detect("<answer>a dog</answer>"), "no boxes in the solution"),
        (detect("<answer>[{'Position': [5, 5, 1, 9], 'Confidence': 1}]</answer>"), "1 boxes of 1 are unusable"),
        (detect("<answer></answer>"), "no answer in the solution"),
        (
            {"image": "a.jpg", "problem": "Find it", "solution": "[{'Position': [1, 2, 3, 4], 'Confidence': 1}]"},
            "names no category",
        ),
        ({"image": "a.jpg", "problem": "Find it", "solution": 3}, "the solution must be a text"),
    ],
)
def test_visual_rft_bad_rows(files, capsys, row, message):
    assert files.run("visual_rft", [row]) == 1
    captured = capsys.readouterr().err
    assert f"skipped: {files.root / 'rows.jsonl'}:1: " in captured
    assert message in captured


# ---- CLS-RL


def test_cls_rl_row(files):
    problem = "What type of object is in the photo?\n Please choose one from list [ beagle, pug, maine_coon]."
    sample = files.one("cls_rl", {"image": "a.jpg", "problem": problem, "solution": "<answer>pug</answer>"})
    assert (sample.task, sample.answer) == ("classification", "pug")
    assert sample.question == "What type of object is in the photo?"
    assert sample.choices == ("beagle", "pug", "maine_coon")


def test_cls_rl_other_forms(files):
    rows = [
        {"image": "a.jpg", "problem": "What type of texture is in the photo?", "solution": "<answer>woven</answer>"},
        {"image": "a.jpg", "problem": "Which? Please choose one from list [ cup, pot, hot ]", "label": "hot"},
        {"image": "a.jpg", "problem": "Which?\n choose one from list [ bar, Bush, Jr., pub].", "solution": "Bush, Jr."},
    ]
    first, second, third = files.run("cls_rl", rows, "--strict")
    assert (first.question, first.choices) == ("What type of texture is in the photo?", None)
    assert (second.question, second.choices) == ("Which?", ("cup", "pot", "hot"))
    assert third.choices == ("bar", "Bush, Jr.", "pub"), "a comma inside the label separates nothing"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "problem": "Which?\n choose one from list [a, b].", "solution": "c"}, "the label 'c' is not among"),
        ({"image": "a.jpg", "problem": "Which?", "solution": "<answer></answer>"}, "no label in the solution"),
        ({"image": "a.jpg", "problem": "Which?"}, "must be texts"),
        ({"image": "a.jpg", "problem": "choose one from list [a, b].", "solution": "a"}, "asks nothing"),
    ],
)
def test_cls_rl_bad_rows(files, capsys, row, message):
    assert files.run("cls_rl", [row]) == 1
    assert message in capsys.readouterr().err


# ---- Vision-R1


def boxes_row(problem="Can you point out dog in the image and provide the coordinates of its location?", **more):
    row = {
        "image": "a.jpg",
        "problem": problem,
        "solution": json.dumps([["Dog", [[100.0, 100.0, 300.0, 200.0]]], ["cat", [[0, 0, 40, 40]]], ["dog", [[2, 2, 8, 8]]]]),
        "width": 400,
        "height": 200,
        "num_instances": 3,
        "target_id_maps": json.dumps({"dog": 1, "cat": 2, "toaster": 3}),
    }
    return row | more


def test_vision_r1_row_of_a_resized_image(files):
    sample = files.one("vision_r1", boxes_row())
    assert (sample.task, sample.question) == ("detection", "dog, cat, toaster")
    assert sample.meta["categories"] == ["dog", "cat", "toaster"]
    # stated as 400 x 200, stored as 200 x 100
    assert sample.answer == [
        {"bbox_2d": [50, 50, 150, 100], "label": "dog"},
        {"bbox_2d": [0, 0, 20, 20], "label": "cat"},
        {"bbox_2d": [1, 1, 4, 4], "label": "dog"},
    ]


def test_vision_r1_categories_from_the_problem_or_the_labels(files):
    examine = (
        "Examine the image for any objects from the category set. Report the coordinates of each detected object. The category "
        "set includes cat, hot dog, dog."
    )
    assert files.one("vision_r1", boxes_row(examine, target_id_maps=None)).meta["categories"] == ["cat", "hot dog", "dog"]
    by_label = files.one("vision_r1", boxes_row(target_id_maps=None))
    assert by_label.meta["categories"] == ["Dog", "cat"]
    assert [item["label"] for item in by_label.answer] == ["Dog", "cat", "Dog"]
    assert files.one("vision_r1", boxes_row(examine, solution="[]", width=None)).answer == []


def test_box_counts_choose_rows(files, capsys):
    rows = [boxes_row(), boxes_row(solution="[]"), boxes_row(solution=json.dumps([["cat", [[1, 1, 9, 9]]]]))]
    assert [len(sample.answer) for sample in files.run("vision_r1", rows, "--min_boxes", 1, "--max_boxes", 2)] == [1]
    assert "left out   2 by --min_boxes and --max_boxes" in capsys.readouterr().out
    assert len(files.run("vision_r1", rows)) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (boxes_row(solution="[["), "solution is not JSON"),
        (boxes_row(solution='{"dog": 1}'), "a solution that is a list"),
        (boxes_row(solution='[["dog", [1, 2, 3, 4]]]'), "a box is [x1, y1, x2, y2], got 1"),
        (boxes_row(solution='[["dog", [[1, 2, 3]]]]'), "a box is [x1, y1, x2, y2]"),
        (boxes_row(solution='[["dog", [[9, 2, 3, 8]]]]'), "has no area"),
        (boxes_row(solution='[["zebra", [[1, 2, 3, 8]]]]'), "label 'zebra' is not among the requested categories"),
        (boxes_row(solution='[{"label": "dog"}]'), "an item of the solution is [class, [[x1, y1, x2, y2]]]"),
        (boxes_row(width="wide"), "width and height must be above 0"),
        (boxes_row(width=0), "width and height must be above 0"),
        (boxes_row(target_id_maps="[1]"), "target_id_maps must be an object"),
        (boxes_row(solution="[]", target_id_maps=None), "does not say which categories"),
    ],
)
def test_vision_r1_bad_rows(files, capsys, row, message):
    assert files.run("vision_r1", [row]) == 1
    assert message in capsys.readouterr().err
