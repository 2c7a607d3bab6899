"""Rows in forms that people have: options and instructions in the text, numbers that are no box, one box or all, files as saved."""

import json
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_data_foreign_rows import IMAGE, chat, one, png, talk, written

from data_prep import rows
from vlrl.data.row_options import listed_options, options_of_text
from vlrl.data.row_wording import asks_for_a_place, wanted_all, without_format
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_sets import read_set
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    return tmp_path


PETS = ("cat", "dog")
LETTER = "Answer with the option's letter from the given choices directly."
THINK = "Please think step by step. Output the thinking in <think> </think> and the answer in <answer> </answer> tags."


@pytest.mark.parametrize(
    ("text", "answer", "letter"),
    [
        ("What is it?\nA.cat\nB.dog\nAnswer:", "A", "A"),
        ("What is it?\n[A] cat\n[B] dog", "B", "B"),
        ("What is it? Choose between the following options: A. cat B. dog", "A", "A"),
        ("What is it?\nOptions: cat, dog", "dog", "B"),
        ("Select the best answer to the following question.\nWhat is it?\nA. cat\nB. dog\nRespond with only the letter.", "A", "A"),
        (f"What is it?\nA. cat\nB. dog\n{LETTER}", "A", "A"),
        (f"{LETTER}\nWhat is it?\nA. cat\nB. dog", "B", "B"),
        ("What is it? (A) cat (B) dog", "(B)", "B"),
        ("What is it?\n(A) cat (B) dog\nAnswer with the letter.", "B. dog", "B"),
        ("What is it? A. cat B. dog", "B", "B"),
        ("Question: What is it?\nOptions:\nA. cat\nB. dog\nPlease select the correct answer from the options above.", "dog", "B"),
        ("What is it?\nOptions: A: cat, B: dog", "A", "A"),
        ("What is it?\nChoices:\nA:cat\nB:dog", "A", "A"),
        ("Context: N/A\nWhat is it?\nA. cat\nB. dog", "The answer is B.", "B"),
        ("What is it?\na) cat\nb) dog", "b", "B"),
        ("What is it?\n\nA. cat\n\nB. dog\n\nPlease answer directly with only the letter of the correct option.", "A", "A"),
        (f"What is it?\nA. cat\nB. dog\n{THINK}", "<think>fur</think><answer>B</answer>", "B"),
        (f"{THINK} What is it?\nA. cat\nB. dog", "<answer>B</answer>", "B"),
        ("Hint: Please answer the question and provide the correct option letter, e.g., A, B, at the end.\nQuestion: What is it?\n"
         "Choices:\n(A) cat\n(B) dog", "B", "B"),
        ("What is it?\nA. cat\nB. dog", "LECTURE: dogs bark.\nSOLUTION: It barks.\n###\nANSWER: B.", "B"),
    ],
)  # fmt: skip
def test_options_in_the_text_become_choices(folder, text, answer, letter):
    found = read_set(written(folder, [talk(f"<image>\n{text}", answer)]))
    assert [(sample.question, sample.answer, sample.choices) for sample in found] == [("What is it?", letter, PETS)]
    assert "list their options in their text" in " ".join(found.notes)
    has_form = any(word in text for word in ("nswer with", "lease", "<think>", "Select the", "Answer:"))
    assert ("without sentences about the form" in " ".join(found.notes)) == has_form


@pytest.mark.parametrize(
    "text", ["Is plan A. or plan C. right?", "What is vitamin A. good for", "A. cat\nB. dog", "Which?\nA. x\nC. y"]
)
def test_what_lists_no_options(text):
    assert listed_options(text) is None


def test_an_answer_that_is_no_option_is_bad(folder):
    with pytest.raises(SampleError, match="its answer is 'E', but its question lists 2 options"):
        one(folder, talk("<image>What is it?\nA. cat\nB. dog", "E"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("How many? Please reason step by step, and put your final answer within \\boxed{}.", "How many?"),
        ("How many? Let's think step by step.", "How many?"),
        ("Where is it? Output the answer in JSON format.", None),
        ("In the figure AB = 3. Find x, and put your answer in \\boxed{}.", "In the figure AB = 3. Find x."),
        ("Choose the correct answer: what is it?\nA. cat\nB. dog", "what is it?\nA. cat\nB. dog"),
        ("Choose the correct name of the animal from the options.\nA. cat\nB. dog", None),
        ("Look at the sign. Write the letters you see.", None),
        ("Look at the puzzle. Solve it step by step.", None),
        ("Is it?\nA. x\nB. y\nThe best answer is:", "Is it?\nA. x\nB. y"),
        ("这是什么？\nA、猫\nB、狗\n请直接回答选项字母。", "这是什么？\nA、猫\nB、狗"),
        ("What colour?\nAnswer the question using a single word or phrase.", None),
        ("Choose the best route to the station. Describe it.", None),
        ("What does the step by step guide show?", None),
        ("Which letter is on the sign?", None),
        ("Answer with the letter.", None),
    ],
)
def test_sentences_about_the_form_of_the_answer(text, left):
    assert without_format(text) == (text if left is None else left)


BARE = "[10, 20, 30, 40]"


@pytest.mark.parametrize(
    ("question", "answer", "task"),
    [
        ("Which numbers are on the dice?", BARE, "qa"),
        ("Which numbers are on the dice?", [10, 20, 30, 40], "qa"),
        ("List the counts of cars, buses, dogs and cats.", BARE, "qa"),
        ("Write down the matrix.", "[[1, 2, 3, 4], [5, 6, 7, 8]]", "qa"),
        ("What percent of each region is green?", BARE, "qa"),
        ("Give the bounding box of the car.", BARE, "grounding"),
        ("Give the bounding box of the car.", [10, 20, 30, 40], "grounding"),
        ("Locate the car.", "10, 20, 30, 40", "grounding"),
        ("Where is the car?", '{"bbox_2d": [10, 20, 30, 40]}', "grounding"),
        ("the red car", BARE, "grounding"),
        ("Detect all cars in the image.", BARE, "detection"),
        ("Detect the cars.", "[[10, 20, 30, 40], [50, 20, 80, 40]]", "detection"),
        ("Detect every red car and output the boxes", BARE, "detection"),
        ("Locate the car.", [{"bbox_2d": [10, 20, 30, 40], "label": "car"}], "detection"),
    ],
)
def test_what_four_numbers_are(folder, question, answer, task):
    sample = one(folder, {"image": "a.png", "question": question, "answer": answer})
    assert sample.task == task
    assert sample.answer != ["10", "20", "30", "40"], "numbers of a list are no answers to choose from"


def test_four_numbers_follow_the_whole_set(folder):
    box, text = ({"image": "a.png", "question": "the red car", "answer": answer} for answer in (BARE, "red"))
    found = read_set(written(folder, [box, box]))
    assert [sample.task for sample in found] == ["grounding", "grounding"]
    assert "2 answers of four numbers are read as boxes" in " ".join(found.notes)
    found = read_set(written(folder, [box, text]))
    assert [sample.task for sample in found] == ["qa", "qa"]
    assert "1 answers of numbers stay text" in " ".join(found.notes)


def converted(folder, rows_, *words):
    out = folder / "out.jsonl"
    assert rows.main(["--data", str(written(folder, rows_)), "--out", str(out), "--overwrite", *words]) == 0
    return read_samples(out)


SWIFT = chat("<image>Find <ref-object>", "<bbox>", objects={"ref": ["car"], "bbox": [[10, 20, 30, 40]]})
SEVERAL = chat("<image>Find <ref-object>", "<bbox><bbox>", objects={"ref": ["car"], "bbox": [[1, 2, 30, 40], [50, 2, 80, 40]]})


def test_one_box_is_all_where_the_set_or_the_words_say_so(folder):
    assert [sample.task for sample in read_set(written(folder, [SWIFT]))] == ["grounding"]
    assert [sample.task for sample in read_set(written(folder, [SWIFT, SEVERAL]))] == ["detection", "detection"]
    row = json.loads(json.dumps(SWIFT).replace("Find", "Detect all"))
    found = read_set(written(folder, [row]))
    assert [(sample.task, sample.question) for sample in found] == [("detection", "car")]
    assert "1 rows with one box are detection" in " ".join(found.notes)
    assert [sample.task for sample in read_set(written(folder, [row]), tasks=["grounding"])] == ["grounding"]
    assert [sample.task for sample in read_set(written(folder, [SWIFT]), tasks=["detection"])] == ["detection"]
    asked = talk("<image>Detect all cars.", BARE)
    for task in ("grounding", "detection", "qa"):
        assert [sample.task for sample in converted(folder, [asked], "--task", task)] == [task]
    with pytest.raises(SampleError, match="asks for all objects, but its boxes have no names"):
        one(folder, talk("<image>Detect all objects.", BARE))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("Detect all cars.", "cars"), ("find every red car in the image", "red car"), ("Output the bounding boxes of all the dogs", "dogs"),
     ("Detect all objects", ""), ("Locate the car", None), ("What do all dogs eat?", None)],
)  # fmt: skip
def test_words_that_ask_for_all(text, wanted):
    assert wanted_all(text) == wanted
    assert asks_for_a_place(text) or wanted is None or "find" in text


def test_names_of_swift_stand_in_the_text(folder):
    no_box = {"ref": ["car"], "bbox": []}
    sample = one(folder, chat("<image>What colour is the <ref-object>?", "red", objects=no_box))
    assert (sample.task, sample.question, sample.answer) == ("qa", "What colour is the car?", "red")
    sample = one(folder, chat("<image>Detect all <ref-object>", "None", objects=no_box))
    assert (sample.task, sample.meta["categories"], sample.answer) == ("detection", ["car"], [])
    with pytest.raises(SampleError, match="another number of <ref-object>"):
        one(folder, chat("<image>What colour?", "red", objects=no_box))


ASKED = "How many cars are there?"


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"instruction": f"<image>\n{ASKED}", "input": ""}, ASKED),
        ({"instruction": ASKED, "input": "<image>"}, ASKED),
        ({"instruction": "<image>", "input": ASKED}, ASKED),
        ({"instruction": "Look.", "input": f"<image>\n{ASKED}"}, f"Look.\n{ASKED}"),
        ({"instruction": f"<image>{ASKED}", "input": "<noinput>"}, ASKED),
        ({"instruction": "How many <image> cars", "input": "are there?"}, "How many the image cars\nare there?"),
    ],
)
def test_alpaca(folder, row, question):
    sample = one(folder, row | {"output": "3", "images": ["a.png"]})
    assert (sample.question, sample.answer) == (question, "3")


def test_the_history_of_a_row_is_questions_too(folder):
    row = {"query": "And blue?", "response": "4", "history": [["<image>How many red?", "3"]], "images": ["a.png"]}
    found = [(sample.question, sample.answer, len(sample.images)) for sample in read_set(written(folder, [row]))]
    assert found == [("How many red?", "3", 1), ("And blue?", "4", 1)]


VERL = {"prompt": [{"role": "user", "content": f"<image>{ASKED}"}], "reward_model": {"style": "rule", "ground_truth": "3"}}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    "image",
    [{"image": "a.png"}, {"filename": "a.png"}, {"path": "a.png"}, {"path": "a.png", "bytes": None}, "a.png", {"image": {"path": "a.png"}}, {"image_url": "a.png"}],
)  # fmt: skip
def test_images_as_paths_in_objects(folder, image, kind):
    assert one(folder, VERL | {"images": [image]}, f"set.{kind}").images[0].endswith("a.png")


@pytest.mark.parametrize(
    "data", [png(), {"bytes": png()}, {"bytes": png(), "path": None, "n": 3}, {"image": IMAGE}, {"image": png()}]
)
def test_images_as_bytes_in_parquet(folder, data):
    sample = one(folder, VERL | {"images": [data]}, "set.parquet")
    from vlrl.data.images import open_image

    assert open_image(sample.images[0]).size == (200, 100)


VOTES = [
    {"answer": word, "answer_confidence": "yes", "answer_id": i}
    for i, word in enumerate(["red"] * 4 + ["dark red"] * 3 + ["pink"])
]
PETS_ASKED = {"question": "Which?", "image": "a.png", "choices": ["cat", "dog", "cow"]}


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (PETS_ASKED | {"correct_choice_idx": 2, "direct_answers": ["cow"] * 3, "rationales": ["x"]}, "C"),
        ({"question": "Which?", "image": "a.png", "direct_answers": "['cow', 'cow', 'cow', 'hen']"}, ["cow"]),
        ({"question": "Which?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, "B"),
        ({"question": "Which?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"question": "Which?", "options": {"A": "x", "B": "y"}, "answer": "B"}, "B"),
        (
            {"question": "What?", "image": "a.png", "answers": VOTES, "multiple_choice_answer": "red", "image_id": 3},
            ["red", "dark red"],
        ),
        ({"question": "What?", "image": "a.png", "answers": VOTES}, ["red", "dark red"]),
        ({"question": "What?", "image": "a.png", "answers": VOTES[-1:]}, ["pink"]),
        ({"question": "What?", "image": "a.png", "answers": ["Bob", "bob b."]}, ["Bob", "bob b."]),
        (PETS_ASKED | {"choices": ["(A) cat", "(B) dog"], "answer": "dog"}, "B"),
        (PETS_ASKED | {"choices": "cat|dog", "answer": "dog"}, "B"),
        ({"prompt": "How many?", "completion": "3", "label": True, "images": ["a.png"]}, "3"),
        ({"images": "a.png, b.png", "question": "Same?", "answer": "no"}, "no"),
        ({"images": ["a.png"], "texts": [{"user": "What?\nA. x\nB. y", "assistant": "Answer: B"}]}, "B"),
        (PETS_ASKED | {"answer_idx": 1}, "B"),
        ({"question": "Which?", "candidates": ["x", "y"], "answer": "y"}, "B"),
        ({"question": "Which?", "answer": "<think>x</think>**C**"}, "C"),
        ({"text": "Is it red?", "label": "yes", "image": "a.png"}, "yes"),
    ],
)
def test_columns_of_published_sets(folder, row, answer):
    found = one(folder, row).answer
    assert (found if isinstance(found, list) else [found]) == (answer if isinstance(answer, list) else [answer])


def test_what_a_row_calls_wrong_is_left_out(folder):
    good = {"prompt": "How many?", "completion": "3", "label": True}
    found = read_set(written(folder, [good, good | {"completion": "9", "label": False}]))
    assert [sample.answer for sample in found] == ["3"]
    assert "1 left out: completions that their rows mark as wrong" in found.notes


@pytest.mark.parametrize(
    ("rest", "task"),
    [({"label": "cat"}, "classification"), ({"question": ASKED, "answer": "3"}, "qa"),
     ({"objects": {"bbox": [[150, 60, 40, 30]], "categories": ["car"]}}, "detection")],
)  # fmt: skip
def test_metadata_of_image_folders(folder, rest, task):
    assert one(folder, {"file_name": "a.png"} | rest, "metadata.jsonl").task == task
    if "objects" not in rest:
        (folder / "metadata.csv").write_text("\n".join([",".join(["file_name", *rest]), ",".join(["a.png", *rest.values()])]))
        (sample,) = read_set(folder / "metadata.csv")
        assert (sample.task, len(sample.images)) == (task, 1)


@pytest.mark.parametrize("row", [{"imageId": "a"}, {"image_id": 3}, {"shown": "a.png"}])
def test_no_image_is_lost_without_a_word(folder, row):
    with pytest.raises(SampleError, match=f"column '{next(iter(row))}' .* seems to name an image"):
        one(folder, {"question": ASKED, "answer": "3"} | row)
    assert one(folder, {"question": ASKED, "answer": "3", "image": None} | row).images == ()


@pytest.mark.parametrize("cell", ["x|y", "x;y", "x, y", '["x", "y"]', "['x', 'y']", "A. x\nB. y", "(A) x (B) y", "x\ny"])
def test_choices_in_a_cell(folder, cell):
    assert options_of_text(cell) == ["x", "y"]
    (sample,) = converted(folder, [{"q": "Which?", "c": cell, "t": "y"}], "--map", "question=q,choices=c,answer=t")
    assert (sample.choices, sample.answer) == (("x", "y"), "B")


@pytest.mark.parametrize("cell", ["10 20 30 40", "10,20,30,40", "(10, 20, 30, 40)", "[10, 20, 30, 40]", "10.0;20.0;30.0;40.0"])
def test_a_box_in_a_cell(folder, cell):
    (sample,) = converted(folder, [{"q": "car", "b": cell, "f": "a.png"}], "--map", "question=q,bbox=b,image=f")
    assert sample.answer == {"bbox_2d": [10, 20, 30, 40]}


ROW = {"question": ASKED, "answer": "3"}


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("x.json", json.dumps({"info": {"v": 1}, "data": [ROW]}), 1),
        ("x.json", json.dumps({"q1": ROW, "q2": ROW}), 2),
        ("x.json", json.dumps(ROW), 1),
        ("x.json", json.dumps({key: [value] * 2 for key, value in ROW.items()}), 2),
        ("x.jsonl", json.dumps([ROW]), 1),
        ("x.csv", "question;answer\nHow many?;3\n", 1),
        ("x.csv", "question|answer\nHow many?|3\n", 1),
        ("x.json", json.dumps({"train": [ROW], "test": [ROW]}), "several lists of rows (train, test)"),
        ("x.json", json.dumps({"images": [], "annotations": [], "categories": []}), "data_prep/coco.py --instances"),
        ("x.json", json.dumps(ROW) + "\n" + json.dumps(ROW), "name it .jsonl"),
        ("x.json", '[{"question": "Größe?"}]'.encode("cp1252"), "iconv -f ENCODING"),
        ("x.csv", "question,answer\nGröße?,3\n".encode("utf-16"), "iconv -f utf-16"),
        ("x.jsonl", "version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("x.parquet", "version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("x.jsonl.gz", b"\x1f\x8b", "unpack it first (gunzip)"),
        ("x.arrow", b"\xff\xff", "give the folder that holds it"),
        ("x.txt", "hello", "unknown kind of file"),
    ],
)
def test_files_of_rows_and_files_that_are_none(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if isinstance(found, int):
        assert len(read_set(path)) == found
        return
    with pytest.raises(SampleError) as refused:
        read_set(path)
    assert found in str(refused.value)


def test_saved_sets_and_folders(tmp_path):
    rows_ = datasets.Dataset.from_list([ROW])
    rows_.save_to_disk(tmp_path / "one")
    assert len(read_set(tmp_path / "one")) == 1
    datasets.DatasetDict(train=rows_, test=rows_).save_to_disk(tmp_path / "two")
    assert read_set(tmp_path / "two").notes[0] == "only split train is read; there are train, test"
    datasets.DatasetDict(validation=rows_, test=rows_).save_to_disk(tmp_path / "none")
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "validation-0.parquet")
    for folder in ("images/cat", "lines", "splits"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "cat" / "1.png")
    (tmp_path / "lines" / "train.jsonl").write_text(json.dumps(ROW))
    for part in ("validation", "test"):
        os.link(tmp_path / "validation-0.parquet", tmp_path / "splits" / f"{part}-0.parquet")
    for folder, words in (
        ("none", "give the folder of one"),
        ("images", "data_prep/image_folder.py"),
        ("lines", "train.jsonl"),
        ("splits", "has the splits validation, test, and no train"),
    ):
        with pytest.raises(SampleError) as refused:
            read_set(tmp_path / folder)
        assert words in str(refused.value)


def test_a_first_row_without_an_answer_is_a_bad_row(folder):
    good = [ROW] * 40
    found = read_set(written(folder, [ROW | {"answer": ""}, *good]))
    assert len(found) == 40
    assert "1 of 41 rows cannot be used" in found.notes[0]
