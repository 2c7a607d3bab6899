"""Rows as other projects publish them, read as they are by training, `bench run` and `bench check`."""

import base64
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlrl import bench
from vlrl.data.sample_sets import read_set
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick

SIZE = (200, 100)


def png(size=SIZE, colour=(90, 120, 150)):
    written = io.BytesIO()
    Image.new("RGB", size, colour).save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    return tmp_path


def written(folder, rows, name="rows.jsonl"):
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one(folder, row, name="rows.jsonl", **options):
    (sample,) = read_set(written(folder, [row], name), **options)
    return sample


def talk(*texts, **more):
    """LLaVA's conversations: question, reply, question, reply ..."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "7", "image": "a.png", "conversations": turns} | more


def chat(*texts, **more):
    """`messages` of LLaMA-Factory and ms-swift."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": turns, "images": ["a.png"]} | more


IMAGE = {"bytes": png(), "path": "x.png"}
HOW = "<image>How many cars are there?"
VERL = {"prompt": [{"role": "user", "content": HOW}], "images": [IMAGE], "data_source": "x"}
PARTS = [{"type": "image"}, {"type": "text", "text": "How many cars are there?"}]
ROWS = {
    "llava": ("json", talk("<image>\nHow many cars are there?", "3")),
    "llama_factory": ("json", chat(HOW, "3")),
    "ms_swift_grpo": ("jsonl", chat(HOW, solution="3")),
    "ms_swift_sharegpt": ("jsonl", {"images": ["a.png"], "conversation": [{"human": HOW, "assistant": "3"}]}),
    "ms_swift_query": ("jsonl", {"query": HOW, "response": "3", "images": ["a.png"]}),
    "alpaca": ("json", {"instruction": "How many cars", "input": "are there?", "output": "3", "images": ["a.png"]}),
    "trl": ("jsonl", {"prompt": [{"role": "user", "content": PARTS}], "image": "a.png", "solution": "3"}),
    "trl_completion": ("jsonl", {"prompt": [{"role": "user", "content": HOW}], "images": ["a.png"],
                                 "completion": [{"role": "assistant", "content": "3"}]}),
    "openai": ("jsonl", {"messages": [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, PARTS[1]]},
        {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
    ]}),
    "easyr1": ("parquet", {"images": [IMAGE], "problem": HOW, "answer": "3"}),
    "r1v": ("parquet", {"image": IMAGE, "problem": "How many cars are there?", "solution": "<answer> 3 </answer>"}),
    "verl": ("parquet", VERL | {"reward_model": {"style": "rule", "ground_truth": "3"}}),
    "thought": ("jsonl", talk(HOW, "<think>one, two, three</think><answer>3</answer>")),
    "boxed": ("jsonl", talk(HOW, "One and two make \\boxed{3}")),
    "gsm8k": ("jsonl", talk(HOW, "1 + 2 = 3\n#### 3")),
    "numbered_images": ("parquet", {"question": "<image 1> How many cars are there?", "answer": "3", "image_1": IMAGE, "image_2": None}),
    "image_url": ("jsonl", {"image_url": "a.png", "question": "How many cars are there?", "answer": "3"}),
    "path_and_image": ("parquet", {"image": "gone.png", "decoded_image": IMAGE, "question": "How many cars are there?", "answer": "3"}),
    "base64_in_parquet": ("parquet", {"image": base64.b64encode(png()).decode(), "question": "How many cars are there?", "answer": "3"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_question_reads_the_same_in_every_form(folder, name, capsys):
    kind, row = ROWS[name]
    path = written(folder, [row], f"set.{kind}")
    (sample,) = read_set(path)
    assert (sample.task, " ".join(sample.question.split()), sample.answer) == ("qa", "How many cars are there?", "3")
    assert len(sample.images) == 1
    assert bench.main(["check", "--data", str(path)]) == 0, capsys.readouterr().err


def test_several_files_with_a_comma(folder):
    names = [written(folder, [chat(HOW, "3")], "a.jsonl"), written(folder, [ROWS["r1v"][1]], "b.parquet")]
    assert len(read_set(",".join(map(str, names)))) == 2
    with pytest.raises(SampleError, match="no such file"):
        read_set(f"{names[0]},{folder}/c.jsonl")
    with pytest.raises(SampleError, match="named twice"):
        read_set(f"{names[0]},{names[0]}")
    rows = [{"id": "1", "task": "qa", "question": "Q", "answer": "3"}]
    own = [written(folder, rows, name) for name in ("c.jsonl", "d.jsonl")]
    assert [sample.id for sample in read_set(",".join(map(str, own)))] == ["1", "d/1"]


def test_every_turn_is_a_question(folder):
    row = talk("<image>What colour?", "red", "How many?", "2", "Is it big?", "no")
    samples = list(read_set(written(folder, [row])))
    assert [(sample.question, sample.answer) for sample in samples] == [
        ("What colour?", "red"),
        ("How many?", "2"),
        ("Is it big?", "no"),
    ]
    assert len({sample.id for sample in samples}) == 3
    assert all(len(sample.images) == 1 for sample in samples)


Q1 = {"question": "Is <image 1> like <image2>?", "answer": "yes"}


@pytest.mark.parametrize(
    ("row", "question", "files"),
    [
        (Q1 | {"image_2": "b.png", "image_1": "a.png"}, "Is image 1 like image 2?", ["a.png", "b.png"]),
        (Q1 | {"image_0": "a.png", "image_1": "b.png"}, "Is image 1 like image 2?", ["a.png", "b.png"]),
        (Q1 | {"image": "b.png", "image2": "a.png"}, "Is image 1 like image 2?", ["b.png", "a.png"]),
        (Q1 | {"image_10": "b.png", "image_2": "a.png", "image_3": None}, "Is image 1 like image 2?", ["a.png", "b.png"]),
        (Q1 | {"question": "Is <image1> red?", "image_1": "a.png"}, "Is the image red?", ["a.png"]),
        (Q1 | {"question": "<image 1><image 2>\nSame?", "images": ["a.png", "b.png"]}, "Same?", ["a.png", "b.png"]),
    ],
)
def test_numbered_images(folder, row, question, files):
    sample = one(folder, row)
    assert (sample.question.strip(), [path.rpartition("/")[2] for path in sample.images]) == (question, files)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Q1 | {"image_1": "a.png"}, "names <image 2>, but the row has 1 images"),
        (Q1 | {"question": "Which?", "options": ["<image 2>", "x"], "answer": "A", "image_1": "a.png"}, "names <image 2>"),
        (Q1 | {"image_url": "https://example.org/a.png"}, "its image is on the web"),
        (Q1 | {"images": ["a.png"], "image_2": "b.png"}, "a list of images and columns of single ones"),
    ],
)
def test_images_that_a_question_misses_are_refused(folder, row, message):
    with pytest.raises(SampleError, match="1 of 1 rows cannot be used") as refused:
        one(folder, row)
    assert message in str(refused.value)


def test_placeholders_between_words_keep_their_meaning(folder):
    row = chat("What differs between <image> and <image>?", "colour", images=["a.png", "b.png"])
    assert one(folder, row).question == "What differs between image 1 and image 2?"
    assert one(folder, chat("In <image>, how many?", "3")).question == "In the image, how many?"
    with pytest.raises(SampleError, match="2 image placeholders, but the row has 1 image"):
        one(folder, chat("<image><image>Which?", "3"))


GROUNDING = chat("<image>Find <ref-object>", "<bbox>", objects={"ref": ["car"], "bbox": [[10, 20, 30, 40]]})


@pytest.mark.parametrize(
    ("row", "task", "question", "answer"),
    [
        (GROUNDING, "grounding", "car", {"bbox_2d": [10, 20, 30, 40]}),
        (
            chat("<image>Find <ref-object>", "<bbox>", objects={"ref": ["car"], "bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"}),
            "grounding",
            "car",
            {"bbox_2d": [20, 20, 60, 40]},
        ),
        (
            chat("<image>Find <ref-object>", "<bbox><bbox>", objects={"ref": ["car"], "bbox": [[1, 2, 30, 40], [50, 2, 80, 40]]}),
            "detection",
            "car",
            [{"bbox_2d": [1, 2, 30, 40], "label": "car"}, {"bbox_2d": [50, 2, 80, 40], "label": "car"}],
        ),
        (
            chat(
                "<image>Find all",
                "<ref-object><bbox>, <ref-object><bbox>",
                objects={"ref": ["cat", "dog"], "bbox": [[1, 2, 30, 40], [50, 2, 80, 40]]},
            ),
            "detection",
            "cat, dog",
            [{"bbox_2d": [1, 2, 30, 40], "label": "cat"}, {"bbox_2d": [50, 2, 80, 40], "label": "dog"}],
        ),
        (
            talk("<image>Please provide the bounding box coordinate of the region this sentence describes: the red car.", "[10, 20, 30, 40]"),
            "grounding",
            "the red car",
            {"bbox_2d": [10, 20, 30, 40]},
        ),
    ],
)  # fmt: skip
def test_boxes(folder, row, task, question, answer):
    sample = one(folder, row)
    assert (sample.task, sample.question, sample.answer) == (task, question, answer)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([talk("<image>Give the bounding box of the car", "[0.1, 0.1, 0.3, 0.5]")], "--coords norm1 "),
        ([talk("<image>Give the bounding box of the car", "[100, 300, 600, 900]")], "--coords norm1000 "),
        ([talk("<image>Locate the car", "<|box_start|>(100,200),(300,400)<|box_end|>")], "--coords norm1000 "),
        (
            [talk("<image>Find the box of the car. Coordinates are normalized to 0-1000.", "[10, 20, 30, 40]")],
            "--coords norm1000 ",
        ),
        (
            [talk("<image>Give the bounding box of the car, values between 0 and 1000", "[10, 20, 30, 40]")],
            "--coords norm1000 ",
        ),
        ([talk("<image>Give the bounding box of the car in [0, 999].", "[10, 20, 30, 40]")], "--coords norm1000 "),
        (
            [
                {
                    "messages": [
                        {"role": "system", "content": "Boxes are normalized."},
                        *chat("<image>Locate the car", "[1, 2, 30, 40]")["messages"],
                    ],
                    "images": ["a.png"],
                }
            ],
            "--coords norm1000 ",
        ),
        ([talk("<image>Detect all cars", "None")], "no list of names says what was looked for"),
        ([{"question": "Q \ud83d?", "answer": "3"}], "surrogate"),
        ([{"image": "a.png", "label": 1}], "--names NAME,NAME,... "),
        ([{"image": "a.png", "label": "1"}], "--names NAME,NAME,... "),
        ([{"image": base64.b64encode(png()).decode(), "question": "Q", "answer": "3"}], "--export_images "),
        ([{"picture_file": "a.png", "words": "a cat"}], "--map question=COLUMN,answer=COLUMN,image=COLUMN "),
        ([chat(HOW, "3"), chat(HOW)], "1 of 2 rows cannot be used"),
        ([chat(HOW, "3", images=["gone.png"])], "no such file"),
        ([{"image": "a.png", "objects": {"bbox": [[10, 10, 20, 20]], "category": ["car"]}}], "--boxes xywh"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_command(folder, rows, message):
    with pytest.raises(SampleError) as refused:
        read_set(written(folder, rows))
    assert message in str(refused.value)
    assert "python data_prep/rows.py --data" in str(refused.value)


def test_image_sets_of_hugging_face(folder):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = pa.Table.from_pylist([{"image": IMAGE, "label": 1}, {"image": IMAGE, "label": 0}])
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    samples = list(read_set(written(folder, named, "named.parquet")))
    assert [(one.task, one.answer, one.choices) for one in samples] == [
        ("classification", name, ("cat", "dog")) for name in ("dog", "cat")
    ]
    assert [one.task for one in read_set(folder / "named.parquet", tasks=["qa"])] == ["qa", "qa"]
    rows = [{"image": IMAGE, "objects": {"bbox": [[150, 60, 40, 30], [0, 0, 10, 10]], "category": ["car", "bus"]}}]
    (found,) = read_set(written(folder, rows, "objects.parquet"))
    assert found.answer == [{"bbox_2d": [150, 60, 190, 90], "label": "car"}, {"bbox_2d": [0, 0, 10, 10], "label": "bus"}]
    science = {
        "image": IMAGE,
        "question": "Which?",
        "choices": ["a stone", "a tree"],
        "answer": 1,
        "hint": "",
        "task": "closed choice",
    }
    (asked,) = read_set(written(folder, [science], "science.parquet"))
    assert (asked.task, asked.answer, asked.choices) == ("qa", "B", ("a stone", "a tree"))


def test_numbers_with_names_and_paths_of_windows(folder):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = pa.Table.from_pylist([{"image": IMAGE, "question": "Is it red?", "label": 1}])
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (sample,) = read_set(written(folder, named, "named.parquet"))
    assert sample.answer == "yes"
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes(png())
    assert one(folder, chat(HOW, "3", images=["sub\\a.png"])).images[0].endswith("sub/a.png")


ASKED = {"question": "Which?", "image": "a.png"}
SCIENCE = ASKED | {"choices": ["a stone", "a tree"], "answer": 0, "hint": "", "lecture": "Trees grow.", "task": "closed choice"}
LONG = "A stone does not grow, and what the picture shows has not grown since it was taken, so it must be a stone. " * 2


@pytest.mark.parametrize(
    ("row", "question", "answer", "choices", "thinking"),
    [
        (SCIENCE | {"solution": LONG}, "Which?", "A", ("a stone", "a tree"), LONG.strip()),
        (SCIENCE | {"solution": "B", "hint": "Look."}, "Look.\nWhich?", "A", ("a stone", "a tree"), None),
        (
            SCIENCE | {"solution": "<think>No leaves.</think><answer>A</answer>"},
            "Which?",
            "A",
            ("a stone", "a tree"),
            "No leaves.",
        ),
        (ASKED | {"answer": "3", "solution": "One and two.\n#### 3"}, "Which?", "3", None, "One and two."),
        (ASKED | {"answer": "", "solution": "3"}, "Which?", "3", None, None),
        (ASKED | {"answer": "3", "options": []}, "Which?", "3", None, None),
        (ASKED | {"answer": "3", "choices": "[]"}, "Which?", "3", None, None),
        (ASKED | {"answer": "C", "choice_a": "x", "choice_b": "y", "choice_c": "z"}, "Which?", "C", ("x", "y", "z"), None),
        (ASKED | {"answer": "B", "A": "x", "B": "y", "C": None}, "Which?", "B", ("x", "y"), None),
    ],
)
def test_answers_and_choices_in_columns(folder, row, question, answer, choices, thinking):
    sample = one(folder, row)
    assert (sample.question, sample.answer, sample.choices) == (question, answer, choices)
    assert sample.meta.get("thinking") == thinking


def test_each_row_says_whether_it_has_options(folder):
    rows = [ASKED | {"answer": "3", "options": []}, ASKED | {"answer": "B", "options": ["x", "y"]}]
    for listed in (rows, rows[::-1], [one | {"options": str(one["options"])} for one in rows]):
        found = {sample.answer: sample.choices for sample in read_set(written(folder, listed))}
        assert found == {"3": None, "B": ("x", "y")}


def test_options_in_the_question_become_choices(folder):
    sample = one(folder, talk("<image>What is it?\nA. a stone\nB. a tree", "B"))
    assert (sample.question, sample.answer, sample.choices) == ("What is it?", "B", ("a stone", "a tree"))


def test_questions_about_a_box_are_left_out_and_counted(folder):
    rows = [chat(HOW, "3"), talk("<image>What is in the region [10, 20, 30, 40]?", "a car")]
    found = read_set(written(folder, rows))
    assert len(found) == 1
    assert "1 left out: questions about a box" in " ".join(found.notes)


def test_a_question_behind_words_about_the_format_is_kept(folder):
    row = talk("<image>Think in <think></think>. How many cars are there?", "3")
    assert one(folder, row).question == "How many cars are there?"


def test_rows_of_another_project_take_the_one_task_of_the_user(folder):
    assert one(folder, chat(HOW, "3"), tasks=["counting"]).task == "counting"


@pytest.mark.parametrize(
    ("more", "group"),
    [
        ({"group": "p1"}, "p1"),
        ({"meta": {"group": 7}}, "7"),
        ({"group": ""}, None),
        ({"meta": {"group": ""}, "group": None}, None),
    ],
)
def test_groups_are_kept(folder, more, group):
    assert one(folder, ASKED | {"answer": "3"} | more).meta.get("group") == group


@pytest.mark.parametrize("words", ["in pixels, not normalized", "from 0 to 1000 px", "of car number 1000", "from 10 to 1000"])
def test_words_that_leave_boxes_in_pixels(folder, words):
    row = talk(f"<image>Give the bounding box of the car, coordinates {words}.", "[10, 20, 30, 40]")
    assert one(folder, row).answer == {"bbox_2d": [10, 20, 30, 40]}


@pytest.mark.parametrize("name", ["science.jsonl", "science.parquet"])
def test_science_qa_as_it_is_published(folder, name):
    """Two in five of its questions have no image, the first one too."""
    more = {"grade": "2", "subject": "natural science", "topic": "biology", "category": "Plants", "skill": "Name plants"}
    rows = [SCIENCE | more | {"image": image, "solution": LONG} for image in (None, "a.png")]
    found = read_set(written(folder, rows, name))
    assert [(sample.answer, len(sample.images)) for sample in found] == [("A", 0), ("A", 1)]
    without = {key: value for key, value in rows[0].items() if key != "image"}
    assert one(folder, without).answer == "A"
