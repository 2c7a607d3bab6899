"""Released question sets, ScreenSpot and suites of COCO-format sets: rows in their published forms, and what cannot be used."""

import json

import pytest
from PIL import Image

from data_prep import coco, coco_sets, lvis, questions, screenspot
from vlrl.data.sample_files import read_samples
from vlrl.rewards import load_reward
from vlrl.tasks import KNOWN
from vlrl.tasks.qa import reward_of

pytestmark = pytest.mark.quick


@pytest.fixture
def root(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (200, 100), (90, 120, 150)).save(tmp_path / f"{name}.png")
    return tmp_path


def converted(root, rows, *words, main=questions.main, strict=False):
    (root / "rows.json").write_text(json.dumps(rows))
    words = ["--data", root / "rows.json", "--out", root / "out.jsonl", "--overwrite", *words]
    words += [] if strict else ["--max_skipped", "1"]
    code = main([str(word) for word in words])
    return read_samples(root / "out.jsonl") if code == 0 else code


def right(sample):
    """Whether the row's own oracle earns full marks by its own reward."""
    task = KNOWN[sample.task]
    return reward_of(sample).function(task.oracle(sample), sample).value == 1


def test_cv_bench(root):
    row = {"idx": 7, "type": "2D", "task": "Count", "question": "How many?", "choices": ["1", "2", "0"], "answer": "(B)"}
    rows = [{**row, "filename": "a.png", "source": "ADE20K", "prompt": "How many? Select from ..."}]
    rows += [{**rows[0], "idx": 8, "answer": "(D)"}, {**rows[0], "idx": 9, "filename": "missing.png"}]
    (sample,) = converted(root, rows, "--format", "cv_bench")
    assert (sample.answer, sample.choices, sample.question) == ("B", ("1", "2", "0"), "How many?")
    facts = {key: sample.meta[key] for key in ("source", "type", "task", "source_id", "dataset")}
    assert facts == {"source": "ADE20K", "type": "2D", "task": "Count", "source_id": "7", "dataset": "cv_bench"}
    assert right(sample)
    assert converted(root, rows, "--format", "cv_bench", strict=True) == 1


def test_sat_in_both_forms(root):
    rows = [
        {"image_bytes": ["a.png", "b.png"], "question": "Which way?", "answers": ["left", "right"], "correct_answer": "left",
         "question_type": "ego_movement"},
        {"messages": [{"role": "user", "content": "<image>Is it near? Choose between the following options: yes, it is or no"},
                      {"role": "assistant", "content": "no"}], "images": ["a.png"]},
    ]  # fmt: skip
    first, second = converted(root, rows, "--format", "sat")
    assert len(first.images) == 2
    assert (sorted(first.choices), first.answer, first.meta["question_type"]) == (["left", "right"], "left", "ego_movement")
    assert (second.question, second.answer, sorted(second.choices)) == ("Is it near?", "no", ["it is", "no", "yes"])
    assert right(first)
    assert right(second)
    many = [{**rows[0], "id": i} for i in range(30)]
    firsts = {sample.choices[0] for sample in converted(root, many, "--format", "sat")}
    assert firsts == {"left", "right"}, "no place gives the answer away"


def test_mathvista_rows_carry_their_own_rule_and_groups(root):
    facts = {"task": "figure question answering", "context": "bar chart", "grade": "college", "skills": ["algebra", "logic"]}
    base = {"image": "a.png", "question": "What is it?", "metadata": facts, "unit": None, "choices": None, "precision": None}
    rows = {
        "1": {**base, "pid": "1", "question_type": "free_form", "answer_type": "float", "precision": 1.0, "answer": "1.2"},
        "2": {**base, "pid": "2", "question_type": "free_form", "answer_type": "integer", "answer": "1000", "unit": "g"},
        "3": {**base, "pid": "3", "question_type": "multi_choice", "answer_type": "text", "choices": ["x", "y"], "answer": "y"},
        "4": {**base, "pid": "4", "question_type": "free_form", "answer_type": "float", "answer": ""},
    }
    one, two, three = converted(root, rows, "--format", "mathvista")
    assert all(right(sample) and reward_of(sample).name == "mathvista_match" for sample in (one, two, three))
    assert (one.meta["precision"], one.meta["skills"], two.question) == (1, ["algebra", "logic"], "What is it? (Unit: g)")
    lay = "<think>t</think><answer>{}</answer>".format
    reward = load_reward("mathvista_match").function
    assert reward(lay("1.24"), one).value == 1
    assert reward(lay("1.26"), one).value == 0
    assert reward(lay("1000 g"), two).value == 1
    assert reward(lay("B"), three).value == 1


def test_mathverse_choices_come_out_of_the_question(root):
    text = "Find x.\nChoices:\nA:145°\nB:125°\nC:35°"
    base = {"image": "a.png", "problem_index": "5", "metadata": {"subject": "Plane Geometry"}, "problem_version": "Text Lite"}
    rows = [
        {**base, "sample_index": "1", "question": text, "answer": "B", "question_type": "multi-choice"},
        {**base, "sample_index": "2", "question": "Find y.", "answer": "14", "question_type": "free-form"},
        {**base, "sample_index": "3", "question": "Which? (A) or (C)", "answer": "C", "question_type": "multi-choice"},
    ]
    one, two, three = converted(root, rows, "--format", "mathverse")
    assert (one.question, one.choices, one.answer) == ("Find x.", ("145°", "125°", "35°"), "B")
    assert (one.meta["problem_version"], one.meta["subject"]) == ("Text Lite", "Plane Geometry")
    assert [reward_of(sample).name for sample in (one, two, three)] == ["mcq", "math_equal", "mcq"]
    assert right(one)
    assert right(two)
    judged = converted(root, rows, "--format", "mathverse", "--judge", "gpt")[1]
    assert judged.meta["rewards"][0] == "llm_judge:judge_model=gpt"


def test_counting(root):
    rows = [
        {"image": "a.png", "label": "ducks", "count": 3},
        {"image": "a.png", "problem": "<image>How many items are there?", "solution": "<answer> 4 </answer>"},
        {"image": "b.png", "question": "How many?", "number": 2.0},
        {"image": "b.png", "question": "How many?", "number": "a few"},
    ]
    samples = converted(root, rows, "--format", "counting")
    assert [(s.question, s.answer) for s in samples] == [
        ("How many ducks are in the image?", 3),
        ("How many items are there?", 4),
        ("How many?", 2),
    ]
    assert all(sample.meta["kind"] == "count" and right(sample) for sample in samples)


def test_images_inside_rows_are_exported(root):
    import base64

    data = base64.b64encode((root / "a.png").read_bytes()).decode()
    rows = [{"image": f"data:image/png;base64,{data}", "label": "ducks", "count": 3}]
    with pytest.raises(SystemExit, match="--export_images"):
        converted(root, rows, "--format", "counting")
    (sample,) = converted(root, rows, "--format", "counting", "--export_images", root / "images")
    assert Image.open(sample.images[0]).size == (200, 100)


# ---- ScreenSpot


def spots(root, rows, *words):
    return converted(root, rows, *words, main=screenspot.main)


def test_screenspot_in_its_three_forms(root):
    base = {"img_filename": "a.png", "instruction": "save the file"}
    rows = [
        {**base, "bbox": [10, 20, 30, 40], "data_type": "icon", "data_source": "windows"},
        {**base, "bbox": [0.05, 0.2, 0.2, 0.6], "data_type": "text", "data_source": "ios"},
        {**base, "bbox": [10, 20, 40, 60], "ui_type": "icon", "platform": "linux", "application": "blender", "group": "CAD"},
        {**base, "bbox": [10, 20, 30, 40], "data_type": "icon", "data_source": "fridge"},
        {**base, "bbox": [500, 20, 30, 40], "data_type": "icon", "data_source": "web"},
    ]
    samples = spots(root, rows)
    assert all(sample.answer == {"bbox_2d": [10, 20, 40, 60]} and sample.task == "pointing" for sample in samples)
    assert [(s.meta["platform"], s.meta["data_type"]) for s in samples] == [
        ("desktop", "icon"), ("mobile", "text"), ("linux", "icon")
    ]  # fmt: skip
    assert (samples[2].meta["field"], samples[2].meta["application"]) == ("CAD", "blender")
    assert len({sample.id for sample in samples}) == 3
    task = KNOWN["pointing"]
    assert load_reward("point_in_target").function(task.oracle(samples[0]), samples[0]).value == 1
    assert spots(root, rows[:1], "--task", "grounding")[0].task == "grounding"


# ---- COCO-format sets, areas, LVIS


def instances(root, name, categories, boxes, **images):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100, **images}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": box, "area": area, "iscrowd": 0}
            for i, (c, box, area) in enumerate(boxes, start=1)
        ],
        "categories": categories,
    }
    (root / name).write_text(json.dumps(content))


def test_many_sets_become_one_file(root, capsys):
    for name, label in (("one", "cat"), ("two", "dog")):
        instances(root, f"{name}.json", [{"id": 1, "name": label}], [(1, [10, 10, 50, 40], 900)])
    suite = {name: {"instances": f"{name}.json", "images": "."} for name in ("one", "two")}
    (root / "suite.json").write_text(json.dumps(suite))
    words = ["--suite", str(root / "suite.json"), "--out", str(root / "out.jsonl")]
    assert coco_sets.main([*words, "--for_ap"]) == 0
    samples = read_samples(root / "out.jsonl")
    assert [(s.meta["dataset"], s.question, s.answer[0]["area"]) for s in samples] == [("one", "cat", 900), ("two", "dog", 900)]
    assert capsys.readouterr().out.splitlines()[-1] == str(root / "out.jsonl")
    assert not list(root.glob("*.part.jsonl*"))
    with pytest.raises(SystemExit, match="exists"):
        coco_sets.main(words)
    suite["three"] = {"instances": "nowhere.json", "images": "."}
    (root / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(SystemExit, match="set 'three': no file"):
        coco_sets.main([*words, "--overwrite"])
    with pytest.raises(SystemExit):
        coco_sets.main([*words, "--overwrite", "--dataset", "x"])


def test_areas_of_coco_are_those_of_the_outlines(root):
    instances(root, "i.json", [{"id": 1, "name": "cat"}], [(1, [10, 10, 50.5, 40], 901.5), (1, [100, 10, 20, 20], None)])
    words = ["--instances", root / "i.json", "--images", root, "--out", root / "o.jsonl", "--max_skipped", "1"]
    assert coco.main([str(word) for word in [*words, "--for_ap"]]) == 0
    (sample,) = read_samples(root / "o.jsonl")
    assert sample.answer == [
        {"bbox_2d": [10, 10, 60.5, 50], "label": "cat", "area": 901.5},
        {"bbox_2d": [100, 10, 120, 30], "label": "cat"},
    ]
    assert coco.main([str(word) for word in [*words, "--overwrite"]]) == 0
    assert '"area"' not in (root / "o.jsonl").read_text()


def test_lvis_for_its_own_ap(root):
    categories = [{"id": i, "name": name, "frequency": f} for i, name, f in ((1, "ant", "r"), (2, "bee", "c"), (3, "cow", "f"))]
    images = {"coco_url": "http://x/val2017/a.png", "neg_category_ids": [3], "not_exhaustive_category_ids": [1]}
    boxes = [(1, [10, 10, 50, 40], 900), (2, [100, 10, 20, 20], 300)]
    instances(root, "lvis_v1_val.json", categories, boxes, **images)
    (root / "val2017").mkdir()
    (root / "a.png").rename(root / "val2017" / "a.png")
    words = ["--instances", root / "lvis_v1_val.json", "--images", root, "--out", root / "o.jsonl", "--per", "image"]
    assert lvis.main([str(word) for word in [*words, "--for_ap"]]) == 0
    (sample,) = read_samples(root / "o.jsonl")
    assert sample.meta["categories"] == ["ant", "bee", "cow"]
    assert sample.meta["not_exhaustive"] == ["ant"]
    assert sample.meta["frequency"] == {"ant": "r", "bee": "c", "cow": "f"}
    assert [(item["label"], item["area"]) for item in sample.answer] == [("ant", 900), ("bee", 300)]
    assert lvis.main([str(word) for word in [*words, "--overwrite"]]) == 0
    (plain,) = read_samples(root / "o.jsonl")
    assert plain.meta["categories"] == ["bee", "cow"]
    assert not {"frequency", "not_exhaustive"} & set(plain.meta)
