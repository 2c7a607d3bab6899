"""Logged answers of hostile text are scored like any others, as often as the folder is read again."""

import json
from dataclasses import replace

import pytest

from vlrl.bench import main
from vlrl.bench.log import read_log
from vlrl.data.files import read_json_lines
from vlrl.data.sample_json import sample_to_json
from vlrl.schema import SampleError
from vlrl.tasks import KNOWN

HOSTILE = [
    "<answer>" + "{" * 496,
    "{" * 5000,
    '{"action": ' + "9" * 4301 + "}",
    "\ud800",
    "\x00\x1b[31mred\x1b[0m",
    '<think>t</think><answer>[{"bbox_2d": [1, 2, 30, 40], "label": "\udfff"}]</answer>',
    "\u2028x\u2029y\x85z\rw",
    "[" * 100_000,
    "<answer>" * 8000,
    "2^" * 5000,
]


@pytest.mark.parametrize("name", ["detection", "grounding", "qa", "numberline"])
def test_a_folder_of_hostile_answers_is_scored_again_and_again(name, tmp_path, capsys):
    drawn = [replace(KNOWN[name].draw(0, "eval", i), id=str(i)) for i in range(len(HOSTILE))]
    data, predictions = tmp_path / "data.jsonl", tmp_path / "predictions.jsonl"
    data.write_text("".join(json.dumps(sample_to_json(sample, tmp_path)) + "\n" for sample in drawn))
    rows = [{"id": sample.id, "completion": text} for sample, text in zip(drawn, HOSTILE, strict=True)]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        words = ["score", "--predictions", predictions, "--task", name, "--data", data, "--output_path", tmp_path / "out"]
        assert main(list(map(str, words))) == 0, capsys.readouterr().err
    scores = [row for _, row in read_json_lines(tmp_path / "out" / "scores.jsonl")]
    assert len(scores) == len(HOSTILE)
    assert {row["outcome"] for row in scores} <= {"unparsed", "wrong"}


def test_a_damaged_line_of_deep_brackets_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "1", "completion": "x"}\n' + "[" * 100_000 + "\n" + '{"id": "2", "completion": "x"}\n')
    with pytest.raises(SampleError, match=r"predictions\.jsonl:2"):
        read_log(path)
    with pytest.raises(SampleError, match=r"predictions\.jsonl:2"):
        list(read_json_lines(path))
