"""Logs of lmms-eval and VLMEvalKit as input of `bench score`: every file form, joins by id alone, what is not there counted."""

import csv
import json

import pytest

from vlrl.bench import main
from vlrl.bench.foreign_logs import read_foreign_log
from vlrl.data.sample_json import sample_to_json
from vlrl.schema import Sample, SampleError

pytestmark = pytest.mark.quick


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(path, out, *extra, task="qa"):
    words = ["score", "--task", task, "--predictions", str(path), "--output_path", str(out), *map(str, extra)]
    return main(words)


def results(out, task="qa"):
    return json.loads((out / "result.json").read_text())["results"][task]


def rows_of(out):
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


POPE = [
    {
        "doc_id": i,
        "target": target,
        "input": f"Is there a dog?\n{i}",
        "filtered_resps": [text],
        "doc_hash": "a",
        "pope_accuracy": {},
    }
    for i, (target, text) in enumerate([("yes", "Yes"), ("no", "yes."), ("no", "No, there is none."), ("yes", "dogs")])
]
"""As lmms-eval writes `--log_samples`: `resps` is left out where a filter changed nothing, `doc` always."""


def test_questions_and_answers_of_a_log_of_lmms_eval(tmp_path, capsys):
    path = lines(tmp_path / "20261130_samples_pope.jsonl", POPE)
    (tmp_path / "20261130_results.json").write_text(
        json.dumps({"model_name": "org/a-model", "config": {"model": "qwen2_5_vl"}})
    )
    assert score(path, tmp_path / "out") == 0
    told = capsys.readouterr()
    assert "4 questions and answers of the log itself" in told.err
    assert results(tmp_path / "out")["accuracy,none"] == 0.5
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["right", "wrong", "right", "unparsed"]
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (found["engine"], found["model"]) == ("answers logged by lmms-eval", "org/a-model")
    assert found["results"]["qa"]["n_tokens,none"] is None, "nobody counted them"
    assert "Is there a dog?" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("row", "answer", "choices", "completion"),
    [
        ({"target": "B", "input": "Which?\nA. red\nB. green\nAnswer.", "resps": [["B"]]}, "B", ("red", "green"), "B"),
        ({"target": "B", "input": "Which?\n(A) red\n(B) green", "resps": [["B"]]}, "B", ("red", "green"), "B"),
        ({"target": "B", "input": "Which?\nA. red\nC. green", "resps": [["B"]]}, "B", None, "B"),
        ({"target": "['cat', 'a cat']", "resps": [["x"]], "filtered_resps": ["y"]}, ["cat", "a cat"], None, "x"),
        ({"target": "[0.1, 0.2]", "filtered_resps": [["y"]]}, ["0.1", "0.2"], None, "y"),
        ({"target": "[not a list", "filtered_resps": "y"}, "[not a list", None, "y"),
        ({"target": None, "doc": {"question": "q"}, "filtered_resps": ["y"]}, None, None, "y"),
        ({"target": 3, "filtered_resps": ["y"]}, "3", None, "y"),
    ],
)
def test_rows_of_lmms_eval(row, answer, choices, completion, tmp_path):
    (found,) = read_foreign_log(lines(tmp_path / "a.jsonl", [{"doc_id": 0, **row}])).rows
    assert (found.target, found.choices, found.completion) == (answer, choices, completion)


def test_tokens_that_lmms_eval_counted_are_kept(tmp_path):
    counts = [[{"input_tokens": 9, "output_tokens": 4}], [None], [{}], None]
    rows = [{**row, "token_counts": one} for row, one in zip(POPE, counts, strict=True)]
    assert [row.n_tokens for row in read_foreign_log(lines(tmp_path / "a.jsonl", rows)).rows] == [4, None, None, None]


def test_the_older_form_of_lmms_eval(tmp_path):
    path = tmp_path / "pope.json"
    path.write_text(json.dumps({"args": {}, "logs": POPE, "model_configs": {}}))
    assert len(read_foreign_log(path).rows) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"doc_id": 0, "target": "A", "filtered_resps": [[-1.5, True], [-2.0, False]]}], "log-likelihoods cannot"),
        ([POPE[0], POPE[0]], "doc_id 0 was used at"),
        ([{**POPE[0], "target": ""}], "none of its 1 rows has a reference answer"),
    ],
)
def test_what_cannot_be_scored_is_refused(rows, message, tmp_path, capsys):
    assert score(lines(tmp_path / "a.jsonl", rows), tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_thoughts_before_an_answer_without_tags_are_no_part_of_it(tmp_path):
    rows = [{**POPE[0], "filtered_resps": ["<think>no, no</think>\nYes"]}, {**POPE[1], "filtered_resps": ["<think>yes"]}]
    assert score(lines(tmp_path / "a.jsonl", rows), tmp_path / "out") == 0
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["right", "unparsed"]


# ---- VLMEvalKit

MMBENCH = [
    ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "prediction"],
    ["241", "Which is red?", "", "the disc", "the square", "", "", "B", "colour", "B. the square"],
    ["252", "Which is\tblue?\nLook.", "", "the disc", "the square", "the ring", "nothing", "A", "colour", "the disc"],
    ["3", "Which is round?", "", "the disc", "the square", "", "", "A", "shape", "Failed to obtain answer via API."],
    ["4", "Which is flat?", "", "the disc", "the square", "", "", "", "shape", "A"],
]


def tsv(path):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(MMBENCH)
    return path


def as_json(path):
    path.write_text(json.dumps([dict(zip(MMBENCH[0], row, strict=True)) for row in MMBENCH[1:]], indent=4))
    return path


def xlsx(path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed; pip install 'vlrl[logs]'")
    book = openpyxl.Workbook()
    for row in MMBENCH:
        book.active.append([int(cell) if cell.isdigit() else cell or None for cell in row])
    book.save(path)
    return path


@pytest.mark.parametrize("write", [tsv, as_json, xlsx])
def test_answers_of_vlmevalkit_in_each_of_its_forms(write, tmp_path, capsys):
    path = write(tmp_path / f"model_MMBench.{'json' if write is as_json else write.__name__}")
    assert score(path, tmp_path / "out") == 0
    told = capsys.readouterr().err
    assert "1 of 4 requests failed; they are left out" in told
    assert "1 of 3 rows have no reference answer" in told
    assert "2 questions and answers of the log itself, 2 of them with choices" in told
    assert results(tmp_path / "out")["accuracy,none"] == 1
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["241", "252"]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["n_failed"] == 1


def test_a_missing_package_and_a_broken_file_are_one_line(tmp_path, capsys, monkeypatch):
    from vlrl.bench import foreign_logs

    path = tmp_path / "a.xlsx"
    path.write_bytes(b"no sheet")
    with monkeypatch.context() as patch:
        patch.setattr(foreign_logs, "find_spec", lambda name: None)
        assert score(path, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "pip install 'vlrl[logs]'" in told
    (tmp_path / "b.tsv").write_text("a\tb\n1\t2\n")
    assert score(tmp_path / "b.tsv", tmp_path / "out") == 2
    assert "it has no 'index' and 'prediction', only ['a', 'b']" in capsys.readouterr().err


# ---- with samples of one's own


def boxes(tmp_path, n=3, **meta):
    return [
        Sample(
            f"ref-{i}", "grounding", f"the {word} square", {"bbox_2d": [10, 20, 60, 80]}, images=(str(tmp_path / "a.png"),),
            meta={"image_size": [100, 100], "source_id": str(700 + i), **meta},
        )
        for i, word in enumerate(["red", "blue", "green"][:n])
    ]  # fmt: skip


def write_samples(tmp_path, samples):
    from PIL import Image

    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    return lines(tmp_path / "data.jsonl", map(sample_to_json, samples))


def refcoco(i, word, box):
    value = {"answer": f"the {word} square", "ann_id": 700 + i, "pred": box, "bbox": [0.1, 0.2, 0.6, 0.8]}
    row = {"doc_id": 5 - i, "target": "[0.1, 0.2, 0.6, 0.8]", "filtered_resps": [str(box)]}
    return row | {"input": f"Please give the box of: the {word} square", "refcoco_IoU": value}


def test_rows_are_joined_to_samples_by_an_id_that_both_have(tmp_path, capsys):
    data = write_samples(tmp_path, boxes(tmp_path))
    rows = [
        refcoco(2, "green", [0.1, 0.2, 0.6, 0.8]),
        refcoco(0, "red", [0.1, 0.2, 0.6, 0.5]),
        refcoco(1, "blue", [0.9, 0.9, 1, 1]),
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    assert score(path, tmp_path / "out", "--data", data, "--coords", "norm1", task="grounding") == 0
    assert "3 rows of lmms-eval joined to 3 samples by ann_id" in capsys.readouterr().err
    values = {row["id"]: row["parts"]["mean_iou"][0] for row in rows_of(tmp_path / "out")}
    assert values == pytest.approx({"ref-2": 1.0, "ref-0": 0.5, "ref-1": 0.0})


@pytest.mark.parametrize("change", ["other text", "row numbers", "no id"])
def test_a_join_that_is_not_sure_is_refused(change, tmp_path, capsys):
    samples = boxes(tmp_path)
    if change == "row numbers":  # in another order than the log's
        samples = [Sample(str(i), one.task, one.question, one.answer, one.images, meta={}) for i, one in enumerate(samples)]
    if change == "no id":
        samples = [Sample(one.id, one.task, one.question, one.answer, one.images, meta={}) for one in samples]
    data = write_samples(tmp_path, samples)
    rows = [refcoco(i, word, [0, 0, 1, 1]) for i, word in enumerate(["red", "blue", "green"])]
    for i, row in enumerate(rows):
        row["doc_id"] = 2 - i
        if change == "other text":
            row["input"] = row["input"].replace("square", "ring")
    path = lines(tmp_path / "a.jsonl", rows)
    assert score(path, tmp_path / "out", "--data", data, "--coords", "norm1", task="grounding") == 2
    told = capsys.readouterr().err
    assert ("no id of its rows names samples" if change == "no id" else "names sample") in told
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_log_of_our_own_is_none_of_these(tmp_path):
    assert read_foreign_log(lines(tmp_path / "a.jsonl", [{"id": "1", "completion": "x"}])) is None
    assert read_foreign_log(tmp_path / "gone.jsonl") is None
    (tmp_path / "b.jsonl").write_text('{"id": "1", "comp')
    assert read_foreign_log(tmp_path / "b.jsonl") is None
    with pytest.raises(SampleError, match="cannot be read"):
        list(read_foreign_log(tmp_path / "gone.tsv").rows)


def test_what_a_sheet_loses_is_said(tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed; pip install 'vlrl[logs]'")
    book = openpyxl.Workbook()
    for row in (
        ["index", "question", "answer", "prediction"],
        [1, "a?", "yes", None],
        [2, "b?", "yes", "y" * 40_000],
        [3, "c?", "no", "no"],
    ):
        book.active.append(row)
    book.save(tmp_path / "m_X.xlsx")
    assert score(tmp_path / "m_X.xlsx", tmp_path / "out") == 0
    told = capsys.readouterr().err
    assert "1 predictions are empty cells and count as unread" in told
    assert "1 predictions were cut at 32,767 characters" in told
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["unparsed", "unparsed", "right"]
