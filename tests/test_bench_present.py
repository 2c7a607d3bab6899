"""Detection by a list of what is present: what is asked, what counts as missed, lists that do not fit, lists the model makes."""

import json

import pytest
from PIL import Image

from vlrl.bench import main, present
from vlrl.bench.suites import load_suite
from vlrl.schema import Prediction, SampleError

pytestmark = pytest.mark.quick


@pytest.fixture
def data(tmp_path):
    """Two images: cat and dog in one, a cat in the other; asked for one category a row, birds only in the first."""
    boxes = {"cat": [0, 0, 10, 10], "dog": [20, 0, 30, 10]}
    rows = []
    for name, true, asked in (("a", ["cat", "dog"], ["cat", "dog", "bird"]), ("b", ["cat"], ["cat", "dog"])):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{name}.png")
        for label in asked:
            answer = [{"bbox_2d": boxes[label], "label": label}] if label in true else []
            meta = {"categories": [label], "image_size": [64, 48], "source_id": f"00{name}"}
            row = {"id": f"{name}-{label}", "task": "detection", "images": [f"{name}.png"], "question": label}
            rows.append({**row, "answer": answer, "meta": meta})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def suite_of(folder, listed, **flags):
    if isinstance(listed, dict):
        (folder / "present.json").write_text(json.dumps(listed))
        listed = str(folder / "present.json")
    from vlrl.bench import parse_command

    words = ["run", "--task", "detection", "--data", str(folder / "data.jsonl"), "--output_path", str(folder / "o")]
    return load_suite(parse_command([*words, "--present", listed]))


def said(sample, text):
    return Prediction(sample.id, f"<think>t</think><answer>{text}</answer>", 7, False)


def test_only_what_is_listed_is_asked_and_the_rest_is_missed(data):
    suite = suite_of(data, {"a.png": ["dog", "bird"], "b": ["cat"]})
    samples = suite.stages[0]({})
    assert [sample.id for sample in samples] == ["a-dog", "a-bird", "a-cat", "b-cat"]
    given = [suite.given(sample) for sample in samples]
    assert [one is not None for one in given] == [False, False, True, False]
    right = {s.id: said(s, json.dumps(s.answer) if s.answer else "None") for s in samples}
    answers = {**right, "a-cat": given[2]}
    one = suite.score(samples, answers)[0]
    # of three true boxes two are found; the cat that was not asked for is missed, so its label has 1 of 2
    assert one.metrics["recall@0.5"].value == pytest.approx(2 / 3)
    assert one.metrics["ap"].value == pytest.approx((1 + 51 / 101) / 2)
    assert one.metrics["n_tokens"].value == 7
    assert "3 pairs of image and category asked, 1 true pairs not on it, counted as missed" in one.label


def test_a_row_that_asks_for_a_list_becomes_one_question_a_name(data, tmp_path):
    row = {"id": "whole", "task": "detection", "images": ["a.png"], "question": "cat, dog, bird"}
    answer = [{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]
    meta = {"categories": ["cat", "dog", "bird"], "image_size": [64, 48], "negatives": ["dog", "bird"]}
    (data / "data.jsonl").write_text(json.dumps({**row, "answer": answer, "meta": meta}) + "\n")
    suite = suite_of(data, {"a": ["dog", "Cat"]})
    samples = suite.stages[0]({})
    assert [(s.id, s.answer, s.meta["categories"]) for s in samples] == [
        ("whole::dog", [], ["dog"]),
        ("whole::cat", answer, ["cat"]),
    ]
    assert all(suite.tasks["detection"].check(sample) is None and "negatives" not in sample.meta for sample in samples)


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ({"a.png": ["cat"]}, "lists nothing for 1 of 2 images, the first 'b.png'"),
        ({"a.png": ["cta"], "b.png": []}, "no category of the data; did you mean 'cat'"),
        ({"a.png": "cat", "b.png": []}, "must be a list of categories"),
        ("nowhere.json", "no such file"),
    ],
)
def test_lists_that_do_not_fit_are_refused(data, listed, why):
    with pytest.raises(SampleError, match=why):
        suite_of(data, listed)


def test_lists_are_for_detection_alone(data):
    from vlrl.bench import parse_command

    words = ["run", "--task", "qa", "--limit", "2", "--output_path", str(data / "o"), "--present", "ask"]
    with pytest.raises(ValueError, match="--present is for --task detection alone"):
        load_suite(parse_command(words))


def test_the_model_makes_its_own_list(data):
    suite = suite_of(data, "ask")
    asked = suite.stages[0]({})
    assert [(s.id, s.task, s.answer) for s in asked] == [
        ("present::a-cat", "present", ["cat", "dog"]),
        ("present::b-cat", "present", ["cat"]),
    ]
    assert "Which of these are in the image? cat, dog, bird" in suite.tasks["present"].prompt(asked[0])
    assert suite.tasks["present"].oracle(asked[0]) == "<think>it shows</think><answer>cat, dog</answer>"
    replies = {asked[0].id: said(asked[0], "Dog and unicorn"), asked[1].id: said(asked[1], "None")}
    samples = suite.stages[1](replies)
    assert [(s.id, suite.given(s) is None) for s in samples] == [("a-dog", True), ("a-cat", False), ("b-cat", False)]
    answers = {**replies, "a-dog": said(samples[0], json.dumps(samples[0].answer))}
    answers |= {s.id: suite.given(s) for s in samples[1:]}
    scored = suite.score([*asked, *samples], answers)
    assert [one.name for one in scored] == ["detection"]
    assert "made by the model itself; 1 pairs" in scored[0].label
    files = suite.publish(answers, data, {}, [])
    assert json.loads(files[-1].read_text()) == {"a.png": ["dog"], "b.png": []}
    # a list that was asked for in vain leaves its image out until it comes
    late = suite_of(data, "ask")
    assert [s.id for s in late.stages[1]({asked[1].id: replies[asked[1].id]})] == ["b-cat"]
    again = suite_of(data, json.loads(files[-1].read_text()))
    assert [s.id for s in again.stages[0]({})] == [s.id for s in samples]


def test_names_in_a_reply(data):
    asked = suite_of(data, "ask").stages[0]({})[0]

    def named(text):
        return present.names_in_reply(f"<answer>{text}</answer>", asked)

    assert named("cat, dog") == ["cat", "dog"]
    assert named("- Dog.\n- **cat**") == ["cat", "dog"]
    assert named('["bird"]') == ["bird"]
    assert named("None") == []
    assert named("hotdog stand") is None
    assert present.names_in_reply("<think>cat</think>", asked) is None


@pytest.mark.long
def test_a_run_asks_twice_goes_on_and_is_scored_again(data, capsys):
    words = ["--task", "detection", "--data", str(data / "data.jsonl"), "--present", "ask"]
    run = ["run", *words, "--output_path", str(data / "o"), "--model_name_or_path", "tiny", "--max_new_tokens", "24"]
    assert main(run) == 0
    first = json.loads((data / "o" / "result.json").read_text())["results"]
    assert main(run) == 0
    assert (
        json.loads((data / "o" / "result.json").read_text())["results"]["detection"]["ap,none"] == first["detection"]["ap,none"]
    )
    listed = str(data / "o" / "present.json")
    assert main([*run, "--present", listed]) == 2  # the answers depend on the list
    assert "present=" in capsys.readouterr().err
