"""The parts of `report.html` that need no browser: which images are inside, what prompts share, boxes with their IoU, the card."""

import json
import math

import pytest
from PIL import Image

from vlrl.bench import page_images as images_module
from vlrl.bench.page_answers import Answer, _boxes_json, own_prompt, shared_prompt
from vlrl.bench.page_card import scorecard
from vlrl.bench.page_images import page_images
from vlrl.bench.page_plots import interval_bar, interval_text, plots_of, value_text
from vlrl.bench.suite import Suite, score_tasks
from vlrl.data.markup import in_json
from vlrl.schema import Box, Metric, Prediction, Row, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import Scored

pytestmark = pytest.mark.quick


def samples_with_images(folder, n):
    found = []
    for i in range(n):
        Image.new("RGB", (64, 40 + i), (i, 80, 90)).save(folder / f"{i}.png")
        found.append(Sample(str(i), "qa", "q", "a", images=(str(folder / f"{i}.png"),)))
    return found


def test_the_images_of_the_first_samples_are_inside_each_once(tmp_path):
    samples = samples_with_images(tmp_path, 5)
    again = Sample("again", "qa", "q", "a", images=samples[0].images)
    gone = Sample("gone", "qa", "q", "a", images=(str(tmp_path / "gone.png"),))
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = Sample("bad", "qa", "q", "a", images=(str(tmp_path / "bad.png"), samples[1].images[0]))
    found = page_images([*samples, again, gone, bad], 100)
    assert len(found.thumbnails) == 5
    assert found.of_sample["again"] == found.of_sample["0"] == [0]
    assert found.of_sample["bad"] == [None, 1]
    assert found.problems["gone"] == "the image does not exist"
    assert "cannot read image" in found.problems["bad"]
    assert found.n_left_out == 0
    assert found.thumbnails[3].size_px == (64, 43)
    assert found.thumbnails[3].shown_px == (480, 322)
    some = page_images(samples, 2)
    assert [some.of_sample[str(i)] for i in range(5)] == [[0], [1], [None], [None], [None]]
    assert (len(some.thumbnails), some.n_left_out) == (2, 3)
    assert page_images(samples, 0).n_left_out == 5


def test_all_images_together_have_a_bound(tmp_path, monkeypatch):
    samples = samples_with_images(tmp_path, 5)
    size = len(page_images(samples[:1], 1).thumbnails[0].jpeg)
    monkeypatch.setattr(images_module, "MAX_BYTES", 2 * size + size // 2)
    monkeypatch.setattr(images_module, "_AT_ONCE", 2)
    found = page_images(samples, 100)
    assert len(found.thumbnails) <= 2
    assert found.n_left_out == 5 - len(found.thumbnails)


def test_a_large_photograph_is_small_on_the_page_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.effect_noise((1600, 900), 50).convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    found = page_images([Sample("a", "qa", "q", "a", images=(str(tmp_path / "a.jpg"),))], 1).thumbnails[0]
    assert found.size_px == (900, 1600)
    assert found.shown_px == (270, 480)
    assert len(found.jpeg) < 100_000


def asked(*prompts):
    suite = Suite("qa", {"qa": TASKS["qa"]}, None, (), None, None, boxes=False)
    row = Row("1", "", {"accuracy": (1, 1)}, "right")
    answers = [Answer(0, row, Sample("1", "qa", "q", "a"), Prediction("1", "", 1, False), one) for one in prompts]
    return shared_prompt(suite, answers)


@pytest.mark.parametrize(
    ("prompts", "start", "end", "own"),
    [
        (["a\nb", "a\nb"], "a\nb", "", ["", ""]),
        (["a\nx\nb", "a\ny\nz\nb"], "a", "b", ["x", "y\nz"]),
        (["a\nb", "a"], "a", "", ["b", ""]),
        (["a", "a\nb\na"], "a", "", ["", "b\na"]),
        (["x", "y"], "", "", ["x", "y"]),
        (["a\na", "a\na\na"], "a\na", "", ["", "a"]),
    ],
)
def test_what_all_prompts_share_stands_once(prompts, start, end, own):
    shared = asked(*prompts)
    assert (shared.start, shared.end) == (start, end)
    assert [own_prompt(one, shared) for one in prompts] == own


def test_boxes_are_paired_by_overlap_and_stated_in_thousandths():
    true = [Box(0, 0, 100, 50, "dog"), Box(100, 50, 200, 100, "cat")]
    predicted = [Box(100, 50, 200, 100, "dog", 0.5), Box(0, 0, 50, 50, "dog")]
    found = _boxes_json(true, predicted, (200, 100))
    assert found["true"][0] == [0, 0, 500, 500, "dog", None]
    assert found["pred"][0] == [500, 500, 1000, 1000, "dog", 0.5]
    assert sorted(found["pairs"]) == [[0, 1, 1.0], [1, 0, 0.5]]
    assert found["u"] == 0.75
    assert _boxes_json([], [], (200, 100))["u"] is None
    assert _boxes_json(true, None, (200, 100))["unread"] == 1
    many = _boxes_json(true, [Box(i, 0, i + 1, 1e300, "x") for i in range(100)], None)
    assert len(many["pred"]) == 60
    assert many["more"] == 40
    assert many["pred"][0][:4] == [None] * 4
    json.dumps(many, allow_nan=False)


def test_json_inside_a_script_ends_nothing():
    value = {"</script><!--": "<script>&\u2028"}
    written = str(in_json(value))
    assert not set("<>&") & set(written)
    assert json.loads(written) == value
    with pytest.raises(ValueError, match="JSON"):
        in_json(math.nan)


def test_the_card_shows_the_headline_groups_and_what_is_not_known():
    samples = [Sample(str(i), "qa", "q", answer) for i, answer in enumerate(["yes", "red", "no", "4"])]
    made = {one.id: Prediction(one.id, "yes", None, False) for one in samples}
    (one,) = score_tasks({"qa": TASKS["qa"]}, samples, made, "a <b> set")
    assert one.metrics["n_tokens"] == Metric(None, None, 0)
    card = str(scorecard(one, 0))
    assert "a &lt;b&gt; set" in card
    assert '<span class="value">0.250</span>' in card
    assert "accuracy by group, the worst first" in card
    assert card.index(">exact_match<") < card.index(">yes_no<")
    assert '<span class="name">n_tokens</span><span class="value">–</span><span class="small">not known</span>' in card
    assert "0.000" not in card.split("n_tokens")[1][:80]


def test_a_card_of_composites_shows_what_stands_beside_each():
    metrics = {"t/safety": Metric(0.5, (0.4, 0.6), 9), "t/safety_constant": Metric(0.7, None, 9), "x": Metric(1.0, None, 9)}
    one = Scored("trust", "1", "x", metrics, [], 9, 0, 0, composites={"t/safety": [["x"]]})
    card = str(scorecard(one, 0))
    assert ">safety<" in card
    assert ">best constant answer<" in card
    assert "0.700" in card


def test_numbers_as_text():
    assert [value_text(one) for one in (None, 0.12345, 17.94, 12345.6)] == ["–", "0.123", "17.9", "12,345.6"]
    assert interval_text(Metric(0.5, (0.25, 0.75), 3)) == "0.250 to 0.750"
    assert interval_text(Metric(0.5, None, 3)) == ""
    assert interval_bar(Metric(17.0, (16.0, 18.0), 3)) == ""
    assert 'width="50.00"' in interval_bar(Metric(0.5, (0.4, 0.6), 3))


def test_extras_of_any_form_are_no_mistake():
    matrix = {"GO": {"GO": 3, "STOP": 0}, "STOP": {"STOP": 1}}
    one = Scored("a", "1", "x", {}, [], 0, 0, 0, extra={"confusion": {"speed": matrix, "odd": [1], "empty": {}, "n": {"a": 3}}})
    (figure,) = plots_of(one)
    assert "heat6" in figure
    assert plots_of(Scored("a", "1", "x", {}, [], 0, 0, 0, extra={"confusion": "text"})) == []
