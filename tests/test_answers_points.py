"""Points as models write them, what a point is on, and the task that asks for one."""

import pytest

from vlrl.answers.points import in_box, in_polygons, read_point
from vlrl.rewards import load_reward
from vlrl.schema import ModelView, Prediction, Sample
from vlrl.tasks import KNOWN
from vlrl.tasks.evaluate import measure, numbers
from vlrl.tasks.pointing import drawn_point, point_on

pytestmark = pytest.mark.quick

TASK = KNOWN["pointing"]
BOX = [100, 50, 200, 90]


def asked(key="p", coords="px", **meta):
    meta = {"image_size": [400, 200], **meta}
    return Sample(key, "pointing", "the save button", {"bbox_2d": BOX}, (f"{key}.png",), meta=meta, view=ModelView(coords))


@pytest.mark.parametrize(
    "answer",
    [
        '{"point_2d": [120, 60]}',
        '{"point_2d":[120.0,60.0],"label":"save button 2"}',
        '[{"point_2d": [120, 60], "label": "save"}]',
        '```json\n{"point": [120, 60]}\n```',
        '{"x": 120, "y": 60}',
        "x=120, y=60",
        "(120, 60)",
        "[120, 60]",
        "120, 60",
        "120 60",
        "The save button is at (120, 60).",
        "click(start_box='(120,60)')",
        "(120, 60) and again (120, 60)",
        '{"bbox_2d": [110, 50, 130, 70]}',
        "[110, 50, 130, 70]",
        "（120，60）",
    ],
)
def test_one_point_in_any_form(answer):
    point, why = read_point(f"<think>t (1, 2)</think><answer>{answer}</answer>", asked())
    assert point == (120, 60), why


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "empty answer"),
        ("there", "no point"),
        ("None", "nothing is there"),
        ("(1, 2) or (3, 4)", "different"),
        ("(1, 2), (30, 40), (5, 6)", "different"),
        ("(1e9, 5)", "coordinates"),
        ("(nan, 5)", "no point"),
        ("[1, 2, 3]", "no point"),
        ("It is not at (120, 60)", "negated"),
        ("(120, 60). No, that is wrong.", None),
        ("(" * 30_000, "longer"),
        ("(" + "9" * 5000 + ", 1)", "coordinates"),
    ],
)
def test_what_is_no_point(answer, why):
    point, found = read_point(f"<answer>{answer}</answer>", asked())
    assert point is None
    assert why is None or why in found, found


def test_points_are_converted_and_tags_may_be_required():
    assert read_point("<answer>[300, 300]</answer>", asked(coords="norm1000"))[0] == pytest.approx((120, 60))
    assert read_point("[0.3, 0.3]", asked(coords="norm1"))[0] == pytest.approx((120, 60))
    assert read_point("[120, 60]", asked(), tags=True) == (None, "no answer tags")
    assert read_point("<answer>[120, 6", asked()) == (None, "the answer is cut short")


RING = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0], [30, 30], [30, 70], [70, 70], [70, 30], [30, 30]]
L_SHAPE = [0, 0, 20, 0, 20, 80, 100, 80, 100, 100, 0, 100]


def test_inside():
    assert in_box((100, 90), BOX)
    assert not in_box((99.9, 90), BOX)
    assert in_polygons((10, 50), [L_SHAPE])
    assert not in_polygons((50, 50), [L_SHAPE])
    assert in_polygons((50, 50), [L_SHAPE, [[40, 40], [60, 40], [60, 60], [40, 60]]])
    assert in_polygons((10, 10), [RING])
    assert not in_polygons((50, 50), [RING])
    assert not in_polygons((0, 0), [[1, 1]])


def test_the_reward_is_on_the_target():
    reward = load_reward("point_in_target")
    lay = "<think>t</think><answer>{}</answer>".format
    assert reward.function(lay("(100, 90)"), asked()).value == 1  # the edge counts
    assert reward.function(lay("(99, 90)"), asked()).value == 0
    assert reward.function(lay("[90, 40, 210, 100]"), asked()).value == 1  # the centre of a box
    assert reward.function(lay("(110, 60), (300, 10)"), asked()).answer is None
    masked = asked(polygons=[[100, 50, 120, 50, 120, 90, 100, 90]])
    assert reward.function(lay("(110, 60)"), masked).value == 1
    assert reward.function(lay("(150, 60)"), masked).value == 0


@pytest.mark.parametrize("coords", ["px", "norm1000", "norm1"])
@pytest.mark.parametrize("polygons", [None, [[100, 50, 110, 50, 110, 85, 200, 85, 200, 90, 100, 90]]])
def test_the_reference_answer_is_on_the_target(coords, polygons):
    sample = asked(coords=coords, **({"polygons": polygons} if polygons else {}))
    text = TASK.oracle(sample)
    for name in TASK.rewards(sample):
        assert load_reward(name).function(text, sample).value == 1, text
    assert "point_2d" in TASK.prompt(sample)
    assert "(x" not in TASK.prompt(sample)
    assert (point_on(sample) == (150, 70)) == (polygons is None)


def test_a_set_has_one_number_and_unread_answers_are_wrong():
    samples = [asked(f"p{i}") for i in range(4)]
    texts = ["(120, 60)", "(1, 1)", "no idea", "(199, 89)"]
    made = [Prediction(s.id, f"<think>t</think><answer>{t}</answer>", 1, False) for s, t in zip(samples, texts, strict=True)]
    rows = measure(TASK, samples, made)
    assert numbers(TASK, rows)["point_accuracy"].value == 0.5
    assert [row.outcome for row in rows] == ["right", "wrong", "unparsed", "right"]
    true, predicted = drawn_point(samples[0], made[0])
    assert (true[0].xyxy, predicted[0].xyxy) == (tuple(BOX), (116, 56, 124, 64))
    assert drawn_point(samples[2], made[2])[1] is None


def test_what_is_no_target():
    assert "pointing answer" in TASK.check(Sample("p", "pointing", "x", [1, 2], ("a.png",)))
    assert TASK.check(asked()) is None
    sample = TASK.draw(0, "train", 3)
    assert (sample.task, TASK.check(sample)) == ("pointing", None)
