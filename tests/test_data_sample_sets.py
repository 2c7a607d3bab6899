"""Sets of samples: drawn subsets, sets too large for memory, and who reads which file."""

import json
from collections import Counter

import pytest

from vlrl.data import sample_sets
from vlrl.data.sample_sets import SampleSet, is_native_row, read_set
from vlrl.data.subsets import drawn, drawn_places
from vlrl.schema import Sample, SampleError
from vlrl.training.held_out import wanted_of
from vlrl.training.options import ConfigError

pytestmark = pytest.mark.quick


def rows_of(n, answer=lambda i: str(i // 100)):
    return [{"id": f"r{i}", "task": "qa", "question": f"Q {i}?", "answer": answer(i)} for i in range(n)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_subset_of_a_sorted_set_has_every_answer_in_its_share():
    strata = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    for seed in range(5):
        for limit in (10, 20, 100):
            found = Counter(strata[i] for i in drawn_places(strata, limit, seed))
            assert abs(found["a"] - 0.6 * limit) <= 1
            assert abs(found["b"] - 0.3 * limit) <= 1
            assert abs(found["c"] - 0.1 * limit) <= 1
    assert drawn_places(strata, 50, 0) == drawn_places(strata, 50, 0) != drawn_places(strata, 50, 1)
    assert set(drawn_places(strata, 20, 3)) <= set(drawn_places(strata, 50, 3)), "a larger subset holds the smaller one"
    assert drawn_places(strata, None, 0) == drawn_places(strata, 5000, 0) == list(range(1000))


def test_many_different_answers_are_drawn_without_favour():
    strata = ["yes"] * 500 + list(range(500))
    found = Counter(strata[i] == "yes" for i in drawn_places(strata, 100, 0))
    assert 40 <= found[True] <= 60


def test_limits_are_drawn(tmp_path):
    path = write(tmp_path / "s.jsonl", rows_of(400))
    assert Counter(sample.answer for sample in read_set(path, limit=8)) == {"0": 2, "1": 2, "2": 2, "3": 2}
    assert [sample.id for sample in read_set(path, limit=8, seed=1)] != [sample.id for sample in read_set(path, limit=8)]
    boxes = [
        Sample(str(i), "detection", "cat", [] if i < 50 else [{"bbox_2d": [0, 0, 9, 9], "label": "cat"}]) for i in range(100)
    ]
    assert Counter(bool(sample.answer) for sample in drawn(boxes, 10, 0)) == {True: 5, False: 5}


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(sample_sets, "LARGE", 50)


def test_a_large_set_is_the_same_as_a_small_one(tmp_path, small_limit):
    rows = rows_of(120)
    text = "\n".join(json.dumps(row) for row in rows[:60]) + "\n\n \n" + "\r\n".join(json.dumps(row) for row in rows[60:])
    (tmp_path / "s.jsonl").write_text(text, newline="")
    large = read_set(tmp_path / "s.jsonl")
    assert large.is_large
    assert [sample.id for sample in large] == [row["id"] for row in rows]
    assert large[77] == Sample("r77", "qa", "Q 77?", "0")
    part = large.part(range(0, 120, 2))
    assert part.is_large
    assert [sample.id for sample in part][:3] == ["r0", "r2", "r4"]
    assert len(large.drawn(10, 0)) == 10
    assert not large.drawn(10, 0).is_large


def test_rows_of_others_spill_to_a_file(tmp_path, small_limit):
    rows = [{"question": f"Q {i}?", "answer": str(i)} for i in range(80)]
    found = read_set(write(tmp_path / "s.jsonl", rows))
    assert found.is_large
    assert [(one.question, one.answer) for one in found] == [(row["question"], row["answer"]) for row in rows]
    both = read_set(f"{tmp_path / 's.jsonl'},{write(tmp_path / 't.jsonl', rows_of(10))}")
    assert len({sample.id for sample in both}) == len(both) == 90


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (70, "{not json", r"s\.jsonl:71: not a line of UTF-8 JSON"),
        (90, '{"id": "x", "task": "qa", "answer": "1"}', r"s\.jsonl:91: missing key 'question'"),
        (90, '["a"]', r"s\.jsonl:91: a sample is a JSON object"),
        (90, '{"id": "r3", "task": "qa", "question": "Q", "answer": "1"}', "id 'r3' is used by rows 4 and 91"),
        (90, '{"id": 5, "task": "qa", "question": "Q", "answer": "1"}', r"s\.jsonl:91"),
    ],
)
def test_what_is_wrong_in_a_large_file_is_named_by_line(tmp_path, small_limit, number, line, message):
    lines = [json.dumps(row) for row in rows_of(120)]
    lines[number] = line
    (tmp_path / "s.jsonl").write_text("\n".join(lines))
    with pytest.raises(SampleError, match=message):
        read_set(tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("row", "ours"),
    [
        ({"id": "1", "task": "qa", "question": "Q", "answer": "A"}, True),
        ({"id": "1", "images": ["a.png"], "question": "Q", "answer": "A"}, True),
        ({"id": "1", "task": "qa", "imagess": ["a.png"], "question": "Q", "answer": "A"}, True),
        ({"image": "a.png", "question": "Q", "choices": ["a"], "answer": 0, "task": "closed choice", "hint": ""}, False),
        ({"messages": [], "images": []}, False),
        ({"question": "Q", "answer": "A"}, False),
    ],
)
def test_whose_rows_they_are(row, ours):
    assert is_native_row(row) is ours


def test_how_many_samples_are_held_out():
    assert wanted_of(None, 100) is None
    assert (wanted_of(0.25, 100), wanted_of(0.001, 100), wanted_of(7, 100)) == (25, 1, 7)
    with pytest.raises(ConfigError, match="none would be left"):
        wanted_of(100, 100)


def test_a_part_keeps_what_is_known_of_the_whole():
    whole = SampleSet([Sample(str(i), "qa", "Q", "A") for i in range(9)], notes=["seen"], n_bad=2)
    assert (whole[2:5].notes, whole[2:5].n_bad, len(whole[2:5])) == (("seen",), 2, 3)
