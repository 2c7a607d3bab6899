"""Rows of VLM-R1 in their own formats, and the samples they become."""

from pathlib import Path

import pytest
from published_files import Published, turns

from vlrl.data import published_rows
from vlrl.rewards import load_reward

pytestmark = pytest.mark.quick


@pytest.fixture
def files(tmp_path):
    return Published(tmp_path)


OVD = (
    "Please carefully check the image and detect the following objects: ['a horse running or jumping', \"rider's helmet\", "
    "'person holding a torch']. Output the bbox coordinates of detected objects in JSON format in <answer></answer>. The bbox "
    'coordinate format should be: \n```json\n[{"bbox_2d": [x1, y1, x2, y2], "label": "object name"}]\n```\n. If no targets '
    'are detected in the image, simply respond with "None".'
)
OVD_ASKED = ["a horse running or jumping", "rider's helmet", "person holding a torch"]
OVD_BOXES = (
    '```json\n[{"bbox_2d": [3, 18, 99, 93], "label": "a horse running or jumping"}, '
    '{"bbox_2d": [47, 18, 60, 33], "label": "rider\'s helmet"}]\n```'
)


def test_vlm_r1_counting_row(files, capsys):
    sample = files.one("vlm_r1", turns("<image>What number of purple metallic balls are there?", "0"))
    assert (sample.id, sample.task, sample.answer) == ("rows-1", "qa", "0")
    assert sample.question == "What number of purple metallic balls are there?"
    assert sample.meta == {"dataset": "rows", "source_id": "1", "rewards": ["math_equal", "think_answer_format"]}
    assert [Path(path).name for path in sample.images] == ["a.jpg"]
    out = capsys.readouterr().out.splitlines()
    assert {"task       1 qa", "rewards    1 math_equal", "rewards    1 think_answer_format"} <= set(out)
    assert out[-1] == str(files.out)


def test_vlm_r1_several_images_and_text_only(files):
    several = turns("<image><image>How many balls in total?", 3, image=["a.jpg", "b.jpg"])
    text = turns("What is 3 + 4?", "7")
    del text["image"]
    first, second = files.run("vlm_r1", [several, text | {"id": 2}], "--strict")
    assert len(first.images) == 2
    assert first.question == "How many balls in total?"
    assert first.answer == 3
    assert second.images == ()


@pytest.mark.parametrize(
    ("method", "answer", "task", "read", "reward"),
    [
        (None, "0.5", "qa", "0.5", "math_equal"),
        (None, 0.5, "qa", 0.5, "math_equal"),
        (None, "1,000", "qa", "1,000", "math_equal"),
        (None, "B", "qa", "B", "mcq"),
        (None, "(B)", "qa", "B", "mcq"),
        (None, "<answer> two cats </answer>", "qa", "two cats", "fuzzy_match"),
        (None, "2024-01", "qa", "2024-01", "fuzzy_match"),
        (None, "A dog", "qa", "A dog", "fuzzy_match"),
        (None, "None", "qa", "None", "fuzzy_match"),
        (None, "(1,2),(3,4)", "qa", "(1,2),(3,4)", "fuzzy_match"),
        (None, ["cat", "kitten"], "qa", ["cat", "kitten"], "fuzzy_match"),
        ("default", "yes", "qa", "yes", "fuzzy_match"),
        ("mcq", "C. a cat", "qa", "C", "mcq"),
        ("yes_no", "Yes.", "qa", "yes", "yes_no"),
        ("llm", "a long story", "qa", "a long story", "llm_judge"),
        ("math", "12", "qa", "12", "math_equal"),
        ("all_match", "Operation No Response", "qa", "Operation No Response", "exact_match"),
        ("all_match", "[1, 2, 3, 4]", "qa", "[1, 2, 3, 4]", "exact_match"),
    ],
)
def test_vlm_r1_reward_methods_of_short_answers(files, method, answer, task, read, reward):
    more = {} if method is None else {"accu_reward_method": method}
    sample = files.one("vlm_r1", turns("<image>Well?", answer, **more))
    assert (sample.task, sample.answer) == (task, read)
    assert sample.meta["rewards"] == [reward, "think_answer_format"]


@pytest.mark.parametrize(("method", "reward"), [("length", "cosine_length"), ("repetition", "repetition")])
def test_vlm_r1_shaping_keeps_the_accuracy(files, method, reward):
    sample = files.one("vlm_r1", turns("Well?", "12", accu_reward_method=method))
    assert sample.meta["rewards"] == ["math_equal", reward, "think_answer_format"]


@pytest.mark.parametrize(
    ("method", "reward"),
    [
        ("map", "vlm_r1_map"),
        ("od_ap", "vlm_r1_map"),
        ("od_ap50", "vlm_r1_map50"),
        ("odLength", "vlm_r1_odlength"),
        ("weighted_sum", "vlm_r1_weighted"),
        (None, None),
    ],
)
def test_vlm_r1_detection_rows(files, method, reward):
    more = {} if method is None else {"accu_reward_method": method}
    sample = files.one("vlm_r1", turns(OVD, OVD_BOXES, **more))
    assert (sample.task, sample.question) == ("detection", ", ".join(OVD_ASKED))
    assert sample.meta["categories"] == OVD_ASKED
    assert sample.meta["image_size"] == [200, 100]
    assert sample.answer == [
        {"bbox_2d": [3, 18, 99, 93], "label": "a horse running or jumping"},
        {"bbox_2d": [47, 18, 60, 33], "label": "rider's helmet"},
    ]
    assert sample.meta.get("rewards") == (None if reward is None else [reward, "think_answer_format"])
    assert files.one("vlm_r1", turns(OVD, "None", **more)).answer == []


def test_every_reward_a_method_names_exists():
    named = [*published_rows.TEXT_METHODS.values(), *published_rows.DETECTION_METHODS.values()]
    for name in [*named, *published_rows.LENGTH_METHODS.values(), "fuzzy_match", published_rows.FORMAT]:
        assert load_reward(name).name == name


def test_vlm_r1_detection_without_a_list_asks_for_its_labels(files):
    boxes = '[{"bbox_2d": [1, 2, 30, 40], "label": "helmet"}, {"bbox_2d": [50, 2, 60, 40], "label": "helmet"}]'
    sample = files.one("vlm_r1", turns("<image>Find the helmets.", boxes))
    assert (sample.task, sample.question, len(sample.answer)) == ("detection", "helmet", 2)
    assert files.run("vlm_r1", [turns("Find the helmets.", "None", accu_reward_method="odLength")]) == 1


REGION = (
    "<image>Please provide the bounding box coordinate of the region this sentence describes: the lady with the blue shirt."
)


@pytest.mark.parametrize(
    "row",
    [
        turns(REGION, [103.93, 9.99, 138.15, 77.41]),
        turns(REGION, "<answer>[103.93, 9.99, 138.15, 77.41]</answer>"),
        turns(REGION, '{"bbox_2d": [103.93, 9.99, 138.15, 77.41]}'),
        {
            "height": 100,
            "width": 200,
            "id": 1,
            "dataset_name": "refcoco",
            "bbox_list": [[103.93, 9.99, 137.15, 76.41]],
            "image": "a.jpg",
            "problem": REGION.removeprefix("<image>"),
            "normal_caption": "the lady with the blue shirt",
            "solution": [103.93, 9.99, 138.15, 77.41],
            "normalized_solution": [520, 100, 691, 774],
        },
    ],
)
def test_vlm_r1_rec_rows_are_grounding(files, row):
    sample = files.one("vlm_r1", row)
    assert (sample.task, sample.question) == ("grounding", "the lady with the blue shirt")
    assert sample.answer == {"bbox_2d": [103.93, 9.99, 138.15, 77.41]}
    assert sample.meta == {"dataset": "rows", "source_id": "1", "image_size": [200, 100]}


def test_vlm_r1_files_for_internvl_hold_normalised_boxes(files):
    sample = files.one("vlm_r1", turns(REGION, [520, 100, 691, 774]), "--coords", "norm1000")
    assert sample.answer == {"bbox_2d": [104, 10, 138.2, 77.4]}


def test_boxes_that_stick_out_are_cut(files, capsys):
    first, second = files.run("vlm_r1", [turns(REGION, [10, 10, 201, 101]), turns(REGION, [-1, 10, 250, 101], id=2)])
    assert first.answer == {"bbox_2d": [10, 10, 200, 100]}, "REC files add 1 to right and bottom"
    assert second.answer == {"bbox_2d": [0, 10, 200, 100]}
    captured = capsys.readouterr()
    assert captured.err.count("clipped:") == 1
    assert "rows.jsonl:2: box [-1.0, 10.0, 250.0, 101.0] lies outside the 200x100 image" in captured.err
    assert "clipped    1 boxes" in captured.out


def test_vlm_r1_several_files_with_a_folder_and_a_method_each(files):
    files.image("one/x.jpg")
    files.image("two/x.jpg", (50, 40))
    rows = [turns("Well?", "yes", image="x.jpg")]
    first, second = files.write(rows, "first.jsonl"), files.write(rows, "second.jsonl")
    options = ["--data", first, second, "--images", files.root / "one", files.root / "two"]
    samples = files.convert("vlm_r1", *options, "--reward_method", "yes_no", "all_match", "--strict")
    assert [sample.id for sample in samples] == ["first-1", "second-1"]
    assert [Path(sample.images[0]).parent.name for sample in samples] == ["one", "two"]
    assert [sample.meta["rewards"][0] for sample in samples] == ["yes_no", "exact_match"]
    own = files.write([turns("Well?", "C", image="x.jpg", accu_reward_method="mcq")], "own.jsonl")
    (sample,) = files.convert("vlm_r1", "--data", own, "--images", files.root / "one", "--reward_method", "yes_no")
    assert sample.meta["rewards"][0] == "mcq", "the row's own method goes first"


BAD_VLM_R1 = [
    ("{", "not a line of UTF-8 JSON"),
    ({"id": 2, "image": "a.jpg"}, "a row needs a question (text) and an answer"),
    ({"id": 2, "conversations": [{"from": "human", "value": "Q"}]}, "'conversations' must hold a question and an answer"),
    (turns("Q", None), "a row needs a question"),
    (turns("Q", True), "a row needs a question"),
    (turns("<image>", "cat"), "asks nothing besides a format"),
    (turns("Q", "cat", image="gone.jpg"), "no such image"),
    (turns("Q", "cat", image=7), "an image is a path or the bytes of a file, got '7'"),
    (turns("Q", "cat", accu_reward_method="best"), "unknown accu_reward_method 'best'"),
    (turns("Q", "cat", accu_reward_method="mcq"), "mcq: no choice in the answer: 'cat'"),
    (turns("Q", "maybe", accu_reward_method="yes_no"), "yes_no: neither yes nor no: 'maybe'"),
    (turns("Q", "cat", accu_reward_method="math"), "math_equal grades numbers and LaTeX, not 'cat'"),
    (turns("Q", "cat", accu_reward_method="od_ap"), "od_ap needs a list of boxes, got 'cat'"),
    (turns("Q", [30, 10, 20, 40]), "1 boxes of 1 are unusable"),
    (turns("Q", [300, 10, 400, 40]), "lies outside the 200x100 image"),
    (
        turns("Q", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [1, 2, 3], "label": "a"}]'),
        "1 boxes of 2 are unusable",
    ),
    (turns(OVD, '[{"bbox_2d": [1, 2, 3, 4], "label": "zebra"}]'), "label 'zebra' is not among the requested categories"),
    (turns(OVD.replace('"rider\'s helmet"', "'rider's helmet'"), OVD_BOXES), "the list of objects to detect cannot be read"),
    (turns("Q", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}]', image=[]), "boxes need an image"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_VLM_R1)
def test_bad_rows_are_reported_with_file_and_line_and_skipped(files, capsys, bad, message):
    rows = [turns("Q", "cat"), bad, turns("Q", "dog", id=3)]
    assert [sample.answer for sample in files.run("vlm_r1", rows, "--coords", "px")] == ["cat", "dog"]
    captured = capsys.readouterr()
    assert f"skipped: {files.root / 'rows.jsonl'}:2: " in captured.err
    assert message in captured.err
    assert "skipped    1 bad annotations" in captured.out
    assert "rows       " in captured.out
    files.out.unlink()
    with pytest.raises(SystemExit, match=r"rows\.jsonl:2: "):
        files.run("vlm_r1", rows, "--strict")
    assert not files.out.exists()
