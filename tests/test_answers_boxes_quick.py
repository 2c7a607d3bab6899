"""The quick reading of plain box lists says what the slow one says, and the usual forms take it."""

import json
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers import boxes as parsing
from vlrl.answers.boxes import Frame, parse_boxes
from vlrl.answers.normalise import normalised
from vlrl.answers.read import read_boxes
from vlrl.answers.span import canon
from vlrl.schema import ModelView, Sample

pytestmark = pytest.mark.quick

KEYS = ["bbox_2d", "bbox", "Position", "label", "Label", "name", "Confidence", "score", "note"]
NUMBERS = st.one_of(
    st.integers(-5, 1200),
    st.floats(-5, 1200),
    st.sampled_from([10**6, 10**6 + 1, 10**400, 1e308, -0.0, True, None, "12", "12.5", "١", "x", float("nan"), float("inf")]),
)
LABELS = st.one_of(
    st.text(max_size=8).filter(lambda text: normalised(text).count('"') == text.count('"')),
    st.sampled_from(["dog", "driver's door", 'a "b"', "[x]", "{y}", "a', 'b", "\\", "\n", "'", ""]),
)
VALUES = st.one_of(st.lists(NUMBERS, min_size=3, max_size=5), st.lists(st.integers(0, 99), min_size=4, max_size=4), NUMBERS, LABELS, st.just([[1, 2, 3, 4]]), st.just({"a": [1]}))  # fmt: skip
SOUND = st.builds(
    lambda x, y, w, h, key, label: {key: [x, y, x + w, y + h], **({} if label is None else {"label": label})},
    st.integers(0, 900), st.floats(0, 900), st.integers(1, 99), st.integers(1, 99), st.sampled_from(KEYS[:3]), st.one_of(st.none(), LABELS),
)  # fmt: skip
ITEMS = st.lists(st.one_of(SOUND, SOUND, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)), min_size=1, max_size=4)
WRITTEN = st.builds(
    lambda items, write, alone: write(items[0] if alone else items),
    ITEMS,
    st.sampled_from([json.dumps, str, lambda v: json.dumps(v, indent=1, ensure_ascii=False), lambda v: json.dumps(v).replace('"', "'")]),
    st.booleans(),
)  # fmt: skip
TEXTS = st.builds(
    lambda text, at, cut, junk: text[: at % (len(text) + 1)] + junk + text[at % (len(text) + 1) + cut :],
    WRITTEN,
    st.integers(0, 999),
    st.sampled_from([0, 0, 0, 1, 5]),
    st.sampled_from([*[""] * 16, "'", '"', ",", "]", "}", "\\", "\t", " ", "...", "01", "1." + "0" * 500, "NaN", "\ud800"]),
)


def comparable(found):
    """What was read with labels as they compare: the slow reading normalises the whole text, the quick one leaves labels."""
    if isinstance(found, str):
        return found
    items = tuple(replace(box, label=box.label if box.label is None else canon(box.label)) for box in found.items)
    return replace(found, items=items, unusable=tuple(label if label is None else canon(label) for label in found.unusable))


def test_the_quick_reading_equals_the_slow_one():
    quick = 0

    @settings(max_examples=400, deadline=None)
    @given(TEXTS, st.sampled_from([Frame(), Frame(0.64, 0.48, "cat")]))
    def check(text, frame):
        nonlocal quick
        found = parse_boxes(text, frame)
        quick += bool(text.strip()) and parsing._parse_plain_json(text.strip(), frame) is not None
        with mock.patch.object(parsing, "_parse_plain_json", return_value=None):
            assert comparable(parse_boxes(text, frame)) == comparable(found)
        if not isinstance(found, str):
            assert all(type(v) is float for box in found.items for v in box.xyxy)

    check()
    assert quick > 40


@pytest.mark.parametrize("label", ["NIL", "none", "No", "N/A", "absent", "Nothing", "not found"])
@pytest.mark.parametrize("frame", [Frame(), Frame(0.64, 0.48, "cat"), Frame(categories=("cat", "none"))])
def test_a_label_that_says_none_is_read_alike(label, frame):
    text = json.dumps([{"bbox_2d": [1, 2, 3, 4], "label": label}])
    found = parse_boxes(text, frame)
    with mock.patch.object(parsing, "_parse_plain_json", return_value=None):
        assert comparable(parse_boxes(text, frame)) == comparable(found)
    assert isinstance(found, str) == (not frame.categories)


ITEM = {"bbox_2d": [1, 2, 3, 4], "label": "cat"}
PYTHON = "[{'Position': [1, 2, 3, 4], 'Confidence': 0.95}, {'Position': [5, 6, 7, 8], 'Confidence': 0.5}]"


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps([ITEM]),
        json.dumps([ITEM] * 40),
        json.dumps(ITEM),
        json.dumps([{"bbox_2d": [1.5, 2, 3, 4], "label": "driver's door"}]),
        f"```json\n{json.dumps([ITEM, ITEM], indent=2)}\n```",
        str([ITEM]),
        PYTHON,
        f"\n{PYTHON}\n",
    ],
)
def test_the_usual_forms_are_read_quickly(answer, monkeypatch):
    def slow(text, frame):
        raise AssertionError(f"read the slow way: {text}")

    monkeypatch.setattr(parsing, "_parse_tolerantly", slow)
    meta, view = {"categories": ["cat"], "image_size": [640, 480]}, ModelView("norm1000")
    sample = Sample("1", "detection", "cat", [], ("a.jpg",), meta=meta, view=view)
    parsed, _ = read_boxes(f"<think>t</think><answer>{answer}</answer>", sample)
    assert parsed.all_valid
    assert parsed.as_objects
    assert parsed.items[0].label in ("cat", "driver's door")
    assert parsed.items[0].xyxy[1:] == pytest.approx((0.96, 1.92, 1.92))


def test_what_is_no_valid_box_is_kept_with_its_label():
    text = '[{"bbox_2d":[1,2,3],"label":"dog"},{"bbox_2d":[1,2,3,4]},{"label":7},"text",[3,4,1,2]]'
    parsed = parse_boxes(text, Frame(label="cat"))
    assert [box.label for box in parsed.items] == ["cat"]
    assert parsed.unusable == ("dog", "cat", "cat", "cat")
    assert (parsed.n_pred, parsed.as_objects) == (5, False)
    many = parse_boxes(json.dumps([ITEM] * 302))
    assert many.unusable == ("cat", "cat")


def test_the_quick_reading_keeps_the_depth_cap():
    deep = "[" * 33 + "]" * 33
    assert isinstance(parse_boxes(f'[{{"bbox_2d":[1,2,3,4],"note":{deep}}}]'), str)
    assert parse_boxes('[{"bbox_2d":[1,2,3,4],"note":[[]]}]').n_pred == 1
