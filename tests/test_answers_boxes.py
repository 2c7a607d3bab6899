import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers.boxes import ParsedBoxes, parse_boxes
from vlrl.answers.read import read_boxes
from vlrl.answers.span import answer_span, canon, is_think_answer
from vlrl.schema import ModelView, Sample

pytestmark = pytest.mark.quick

CAT = '{"bbox_2d":[1,2,3,4],"label":"cat"}'


def boxes(text):
    parsed = parse_boxes(text)
    return parsed if isinstance(parsed, str) else [(*box.xyxy, box.label) for box in parsed.items]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("  <think>a</think>\n<answer>b</answer>\n", True),
        ("<think>\na\n</think>\n\n<answer>\nb\n</answer>", True),
        ("<think></think><answer></answer>", True),
        ("<think>a</think><answer>b</answer>.", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<answer>b</answer>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False),
        ("<think>a</think><think>a</think><answer>b</answer>", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a<answer>b</think></answer>", False),
        ("<think>a</think><answer>b", False),
        ("", False),
    ],
)
def test_strict_form(text, value):
    assert is_think_answer(text) is value


@pytest.mark.parametrize(
    ("text", "answer", "tagged", "truncated"),
    [
        ("<think>a</think><answer> b </answer>", "b", True, False),
        ("<think>is it <answer>x</answer>?</think><answer>b</answer>", "b", True, False),
        ("<answer>b</answer> trailing", "b", True, False),
        ("<answer>b</answer><answer>c</answer>", None, False, False),
        ("<think>a</think><answer>b", "b", True, True),
        ("  plain  ", "plain", False, False),
        ("<think>a</think> plain", None, False, False),
        ("<think>never closed", None, False, False),
        ("b</answer>", None, False, False),
        ("", "", False, False),
    ],
)
def test_answer_span(text, answer, tagged, truncated):
    span = answer_span(text)
    assert (span.text, span.tagged, span.truncated) == (answer, tagged, truncated)
    assert (span.text is None) == bool(span.why)


ONE = [(1, 2, 3, 4, "cat")]
BARE = [(1, 2, 3, 4, None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"[{CAT}]", ONE),
        (f"```json\n[{CAT}]\n```", ONE),
        (f"```JSON\n[{CAT}]\n```", ONE),
        (f"```\n[{CAT}]\n```", ONE),
        (f"Here they are:\n```json\n[{CAT}]\n``` as asked.", ONE),
        ('[\n {\n  "bbox_2d": [1, 2, 3, 4],\n  "label": "cat"\n }\n]', ONE),
        (CAT, ONE),
        (f"{CAT},{CAT}", ONE * 2),
        (f"{CAT}\n{CAT}", ONE * 2),
        (f"[[{CAT}]]", ONE),
        (f"[[{CAT},{CAT}]]", ONE * 2),
        ("[{'bbox': [1, 2, 3, 4], 'category': 'cat'}]", ONE),
        ('[{"box":[1,2,3,4],"name":"cat"}]', ONE),
        ("[{'Position': [1, 2, 3, 4], 'Confidence': 0.95}]", BARE),
        ("[{'Position': [1, 2, 3, 4], 'label': 'driver's door'}]", [(1, 2, 3, 4, "driver's door")]),
        ('[{"bbox_2d": [1,2,3,4], "label": "driver\'s door"}]', [(1, 2, 3, 4, "driver's door")]),
        ("[1, 2, 3, 4]", BARE),
        ("[1.0, 2, 3, 4.5]", [(1, 2, 3, 4.5, None)]),
        ("[[1,2,3,4],[1,2,3,4]]", BARE * 2),
        ("[[1,2,3,4]]", BARE),
        ("(1,2),(3,4)", BARE),
        ("( 1, 2 ) , ( 3, 4 ) (1,2),(3,4)", BARE * 2),
        ("<box>(1,2),(3,4)</box>", BARE),
        (f"[{CAT}, ...]", ONE),
        ('[{"bbox_2d":["1","2","3","4"],"label":"cat"}]', ONE),
        ('[{"bbox_2d":[1,2,3,4],"bbox_2d":[1,2,3,4],"label":"cat"}]', ONE),
        ('[{"bbox_2d":[١,2,3,4],"label":"cat"}]', ONE),
        ("[{'bbox_2d':[１,2,3,4],'label':'cat'}]", ONE),
        # explicit none
        ("None", []), ("none.", []), ("null", []), ("No object", []), ("NO OBJECTS", []), ("no target", []), ("no targets.", []),
        ("[]", []), ("[ ]", []), ("```json\n[]\n```", []), ("```\nNone\n```", []),
    ],
)  # fmt: skip
def test_dialects(text, expected):
    assert boxes(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "prose", "there are no cats here", "[1,2,3,4] [5,6,7,8]", f"```\n[{CAT}]\n``` ```\n[{CAT}]\n```", f"{CAT} and also {CAT}", "(1,2)", "(1,2),(3,4),(5,6)", "(1,2) or (3,4)", f"[{CAT}] {CAT}", "[" * 20000, "[" * 20000 + "]" * 20000, '[{"bbox_2d":[9,9,9,9],"bbox_2d":[1,2,3,4]}]', '[{"bbox_2d":[1,2,3,4],"bbox":[1,2,3,5]}]', "nothing to say", "x" * 1_000_000, "\x00", "\ud800"],
)  # fmt: skip
def test_unreadable_text_is_none_with_a_reason(text):
    parsed = parse_boxes(text)
    assert isinstance(parsed, str)
    assert parsed


@pytest.mark.parametrize(
    "item",
    ["[1,2,3]", "[3,4,1,2]", "[1,2,1,4]", "[NaN,2,3,4]", "[Infinity,2,3,4]", "[-Infinity,2,3,4]", "[1e999,2,3,4]", "[true,2,3,4]", "[null,2,3,4]", "[{},2,3,4]", "[1000001,2,1000003,4]", f"[{'9' * 400},2,3,4]", f"[{'9' * 5000},2,3,4]", '["x",2,3,4]', '"text"', "null"],
)  # fmt: skip
@pytest.mark.parametrize("form", ['[{{"bbox_2d":{0},"label":"cat"}},{1}]', "[{{'bbox_2d':{0},'label':'cat'}},{1}]"])
def test_an_invalid_item_counts_and_never_matches(item, form):
    parsed = parse_boxes(form.format(item, CAT))
    assert isinstance(parsed, ParsedBoxes)
    assert parsed.n_pred == 2
    assert [box.xyxy for box in parsed.items] == [(1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (f'[{CAT},{{"bbox_2d":[1,2,3', 1),
        (f"[{CAT},", 1),
        (f"[{CAT}", 1),
        (f'[{CAT},{CAT},{{"bbox_2d":[1,2,3,4],"label":"ca', 2),
        (f"[[{CAT},{{", 1),
        (f'{CAT},{{"bb', 1),
        ("[[1,2,3,4],[1,2,3", 1),
        ('[{"bbox_2d":[1,2,3,4],"label":"cat"', None),
        ("[1,2,3,4", None),
        ("[1,2", None),
        ("[", None),
    ],
)
def test_truncation_keeps_whole_items_and_invents_nothing(text, n):
    parsed = parse_boxes(text)
    if n is None:
        assert isinstance(parsed, str)
    else:
        assert parsed.truncated
        assert len(parsed.items) == parsed.n_pred == n


def test_caps():
    many = parse_boxes("[" + ",".join([CAT] * 400) + "]")
    assert len(many.items) == 300
    assert many.n_pred == 400


def test_confidence_is_clipped_and_otherwise_none():
    values = [
        parse_boxes(f'[{{"bbox":[1,2,3,4],"score":{s}}}]').items[0].confidence for s in ("0.5", "5", "-1", '"x"', "NaN", "true")
    ]
    assert values == [0.5, 1.0, 0.0, None, None, None]


def test_canon():
    assert canon("  Great_Pyrenees\n dog ") == "great pyrenees dog"
    assert canon("ＡＢ") == "ab"
    assert canon("x-ray.") == "x-ray."


PX = ModelView()


def sample(view=PX, **meta):
    return Sample("1", "detection", "cat", [], ("a.jpg",), meta={"categories": ["cat"], **meta}, view=view)


def test_read_boxes_converts_to_original_pixels_and_labels_the_only_category():
    text = "<think>t</think><answer>[{'Position':[101,99,302,298]}]</answer>"
    parsed, _ = read_boxes(text, sample(ModelView("resized_px", (644, 476)), image_size=[640, 480]))
    assert parsed.items[0].xyxy == pytest.approx((100.373, 99.832, 300.124, 300.504), abs=1e-3)
    assert parsed.items[0].label == "cat"
    two, _ = read_boxes(text, sample(categories=["cat", "dog"]))
    assert two.items[0].label is None


def test_tags_can_be_required():
    assert read_boxes(f"[{CAT}]", sample())[0] is not None
    assert read_boxes(f"[{CAT}]", sample(), tags=True) == (None, "no answer tags")


EVIL = ["[" * 5000, '["' * 20000, "['" * 20000, "{'a':" * 9000, "(1,2),(3,4" * 5000, "```json\n" * 9000, "<answer>" * 10000, "</answer>" * 10000, '"' * 50000, "(" * 50000, "1" * 100000, "<think>" * 10000, "\\" * 50000, '[{"bbox_2d":[' * 5000]  # fmt: skip


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_work_is_linear(text):
    times = []
    for part in (text[: len(text) // 4], text):
        start = time.perf_counter()
        read_boxes(part, sample())
        times.append(time.perf_counter() - start)
    assert times[1] < 0.5, times


PIECES = st.sampled_from(["[", "]", "{", "}", "(", ")", ",", ":", '"', "'", "bbox_2d", "label", "1", "-2.5", "1e9", "NaN", "...", "\\", "```", "json\n", " ", "<answer>", "</answer>", "</think>", "None", "١", "\x00", "\ud800", CAT])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_never_raises(text):
    parsed, why = read_boxes(text, sample())
    if parsed is None:
        assert why
    else:
        assert len(parsed.items) <= min(parsed.n_pred, 300)
        assert all(box.x2 > box.x1 and box.y2 > box.y1 for box in parsed.items)


@pytest.mark.parametrize(
    "text", ["I am not sure []", "maybe: []", "```json\nfoo []\n```", "[[]]", "[...]", '["cat"]', "none of them []"]
)
def test_brackets_without_a_box_are_not_an_explicit_none(text):
    assert isinstance(parse_boxes(text), str)


@pytest.mark.parametrize("answer", ["None", "[]", "no objects"])
def test_an_unclosed_answer_never_says_none(answer):
    assert read_boxes(f"<think>a</think><answer>{answer}</answer>", sample())[0].explicit_none
    assert read_boxes(f"<think>a</think><answer>{answer}", sample())[0] is None


@pytest.mark.parametrize(
    "text", [f"I see 1 cat [1]: [{CAT}]", f"[[{CAT}, ...]]", f"[[{CAT}], ...]", '{"bbox_2d":[1,2,3,4],"label":"c\\u0061t"}']
)
def test_more_forms_of_one_box(text):
    assert boxes(text) == ONE


def test_a_remark_in_brackets_is_no_truncation():
    assert not parse_boxes("(1,2),(3,4) (the cat)").truncated
    assert parse_boxes("(1,2),(3,4),(5").truncated


def test_a_label_of_combining_marks_is_cheap():
    start = time.perf_counter()
    canon("a" + "\u0316\u0301" * 49_000)
    assert time.perf_counter() - start < 0.5
