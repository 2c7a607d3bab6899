"""Half a surrogate pair, from an endpoint, a model or a file, breaks no file, report or page."""

import dataclasses
import json

import pytest
from PIL import Image

from vlrl.answers.whole_text import is_whole, whole_json, whole_text
from vlrl.data.files import write_json_lines
from vlrl.data.sample_files import read_samples
from vlrl.envs.cards import write_reply
from vlrl.schema import Prediction, SampleError
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import before_and_after, evaluate, write_json

quick = pytest.mark.quick
HALF = "\ud83d"


@quick
def test_texts_become_whole():
    assert whole_text(f"a{HALF}b") == "a\ufffdb"
    assert whole_text("\ud83d\ude00") == "\U0001f600"
    assert whole_text("\udc00\ud800") == "\ufffd\ufffd"
    for text in ("", "plain", "é😀中"):
        assert whole_text(text) == text
    assert whole_json({HALF: [HALF, {"a": HALF}, 3, None]}) == {"\ufffd": ["\ufffd", {"a": "\ufffd"}, 3, None]}
    assert is_whole({"a": ["é", 1]})
    assert not is_whole({"a": [{HALF: 1}]})


@quick
@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_row_that_holds_one_is_named(tmp_path, field):
    rows = [{"id": str(i), "task": "qa", "question": "what?", "answer": "a bus"} for i in range(2)]
    rows[1][field] = f"a {HALF}"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SampleError, match=r"rows.jsonl:2: holds half of a surrogate pair"):
        read_samples(path)


@quick
def test_a_reply_written_for_a_tokenizer_is_whole():
    assert write_reply({"thoughts": HALF}, HALF).encode()


@pytest.mark.parametrize("name", ["qa", "detection"])
def test_numbers_rows_and_images_of_such_answers_can_be_written(tmp_path, name):
    from vlrl.training.run_folder import read_predictions, write_predictions
    from vlrl.training.sample_images import draw_samples

    task = TASKS[name]
    sample = task.draw(0, "heldout", 0)
    odd = dataclasses.replace(sample, question=f"{sample.question}{HALF}")
    escaped = json.dumps([{"bbox_2d": [1, 2, 30, 40], "label": HALF}])
    texts = (f"<think>{HALF}</think><answer>a {HALF}</answer>", f"<think>t</think><answer>{escaped}</answer>")
    made = [[Prediction(odd.id, text, 3, False)] for text in texts]
    measured = [evaluate({name: task}, [odd], one) for one in made]
    for one in measured:
        for row in one.rows[name]:
            json.dumps(row.to_json(), ensure_ascii=False).encode()
    write_json(tmp_path / "summary.json", measured[1].to_json())
    write_json_lines(tmp_path / "held_out.jsonl", before_and_after([odd], measured[0], measured[1], made))
    assert json.loads((tmp_path / "held_out.jsonl").read_text())["id"] == odd.id
    write_predictions(tmp_path / "predictions.jsonl", made[0])
    assert read_predictions(tmp_path / "predictions.jsonl") == made[0]
    draw_samples({name: task}, [odd], (made[0], made[1]), (measured[0], measured[1]), tmp_path / "samples.png")
    Image.open(tmp_path / "samples.png").load()
