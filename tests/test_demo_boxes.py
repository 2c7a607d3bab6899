"""Boxes on the page: which predicted one belongs to which true one, what is drawn of it, and what is said in words."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from demos import completions, figures, matching, scoring
from demos.matching import LOW, MATCHED, OTHER, Compared, pairs_of
from demos.page_tasks import PageTasks
from vlrl.schema import Box, Sample
from vlrl.tasks import TASKS

PAGE = PageTasks()


class Drawn(HTMLParser):
    """Rectangles by class, texts in order, descriptions of images."""

    def __init__(self, text):
        super().__init__()
        self.rects, self.labels, self.alts, self._in_text = {}, [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self._in_text = tag == "text"
        if tag == "rect":
            numbers = [float(found[key]) for key in ("x", "y", "width", "height")]
            self.rects.setdefault(found["class"], []).append(numbers)
        if tag == "img":
            self.alts.append(found["alt"])

    def handle_data(self, data):
        if self._in_text:
            self.labels.append(data)


def box(x1, y1, x2, y2, label="dog"):
    return Box(x1, y1, x2, y2, label)


def test_pairs_are_those_of_the_reward_then_the_nearest():
    true = [box(0, 0, 10, 10), box(20, 0, 30, 10), box(40, 0, 50, 10, "cat")]
    predicted = [box(0, 0, 10, 20), box(20, 0, 30, 100), box(40, 0, 50, 10), box(200, 200, 210, 210)]
    found = {(pair.predicted, pair.true): (pytest.approx(pair.iou), pair.why) for pair in pairs_of(predicted, true)}
    assert found == {(0, 0): (0.5, MATCHED), (1, 1): (0.1, LOW), (2, 2): (1.0, OTHER)}


def test_a_box_counts_for_one_true_box_alone():
    true = [box(0, 0, 10, 10)]
    assert [pair.predicted for pair in pairs_of([box(0, 0, 10, 11), box(0, 0, 10, 10)], true)] == [1], "the better one"


def test_boxes_without_labels_match_by_overlap():
    assert [pair.why for pair in pairs_of([box(0, 0, 10, 10, None)], [box(0, 0, 10, 15, None)])] == [MATCHED]
    assert [pair.why for pair in pairs_of([box(0, 0, 10, 10, None)], [box(0, 0, 10, 50, None)])] == [LOW]


@pytest.mark.parametrize("number", range(12))
def test_what_is_called_matched_is_what_the_reward_counts(number):
    sample = PAGE.example("detection", number)
    text = PAGE.reference(scoring.nearly(sample))
    compared = matching.compare(TASKS["detection"], sample, text)
    why = next(one.why for one in scoring.score(sample, [text], TASKS)[0] if one.reward == "iou_f1")
    assert sample.answer == [] or why.startswith(f"{compared.n_matched} of {len(sample.answer)} found")


def test_boxes_are_drawn_where_they_are_with_labels_and_words():
    sample = PAGE.example("detection", 3)
    text = TASKS["detection"].oracle(sample)
    drawn = Drawn(completions.figure(TASKS["detection"], sample, text))
    scale = figures.SIDE / 112
    x1, y1, x2, y2 = (scale * value for value in sample.answer[0]["bbox_2d"])
    for kind in ("vl-true", "vl-predicted"):
        assert drawn.rects[kind][0] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.06)
    assert drawn.labels == ["T1 yellow square", "P1 IoU 1.00"]
    (alt,) = drawn.alts
    assert "yellow square" in alt
    assert matching.corners(Box(*sample.answer[0]["bbox_2d"])) in alt


def test_labels_do_not_cover_each_other():
    image = Image.new("RGB", (400, 400))
    marks = [figures.Mark(box(50, 200, 90, 240), f"P{i}", "predicted") for i in range(8)]
    chips = Drawn(figures.figure([image], "x", marks)).rects["vl-chip vl-chip-predicted"]
    assert len({y for _, y, _, _ in chips}) == 8
    assert all(x >= 0 and x + w <= figures.SIDE and 0 <= y <= figures.SIDE - h for x, y, w, h in chips)


@pytest.mark.parametrize("corners", [(-1e9, -1e9, 1e9, 1e9), (300, 200, 10, 5), (50, 50, 50, 50), (1e300, 0, 1e308, 5)])
def test_boxes_of_any_size_stay_on_the_image(corners):
    image = Image.new("L", (200, 100))
    drawn = Drawn(figures.figure([image], "x", [figures.Mark(Box(*corners, "dog"), "P1", "predicted")]))
    for x, y, w, h in drawn.rects["vl-predicted"]:
        assert 0 <= x <= figures.SIDE
        assert 0 <= y <= figures.SIDE / 2
        assert x + w <= figures.SIDE + 1
        assert y + h <= figures.SIDE / 2 + 1


def test_every_image_of_a_question_is_shown():
    sample = PAGE.example("qa", 0)
    drawn = Drawn(completions.figure(TASKS["qa"], sample, None))
    assert len(drawn.alts) == len(sample.images) == 2
    assert drawn.alts[0].startswith("Image 1 of 2.")


def test_a_missing_answer_and_an_answer_of_none_are_told_apart():
    sample = PAGE.example("detection", 3)
    task = TASKS["detection"]
    unread, none = (matching.compare(task, sample, text) for text in ("gibberish", "<answer>None</answer>"))
    assert unread.predicted is None
    assert "No boxes could be read" in completions.said("gibberish", sample, unread)
    assert none.predicted == ()
    assert "there is no yellow square in this image. That is wrong." in completions.said("<answer>None</answer>", sample, none)
    upload = Sample("u", "detection", "dog", None, ("upload",), meta={"categories": ["dog"]})
    shown = completions.said("<answer>None</answer>", upload, matching.compare(task, upload, "<answer>None</answer>"))
    assert "there is no dog in this image." in shown
    assert "That is" not in shown, "nobody knows"


def test_a_group_shows_all_boxes_with_their_advantages():
    sample, task = PAGE.example("detection", 3), TASKS["detection"]
    texts = [task.oracle(sample), task.oracle(scoring.nearly(sample)), "gibberish"]
    scored = scoring.score(sample, texts, TASKS)
    drawn, listed = completions.group(task, sample, texts, scored)
    totals = [scoring.total(one) for one in scored]
    expected = [f"{i} {value:+.2f}" for i, value in enumerate(scoring.advantages(totals), start=1)]
    assert [mark.label for mark in drawn.marks] == ["T1 yellow square", *expected[:2]], "the third has no box"
    assert [mark.kind for mark in drawn.marks[1:]] == ["above", "above"]
    assert len(re.findall("<li class='vl-box'>", listed)) == 3
    assert all(one.split()[1] in listed for one in expected)
    _, same = completions.group(task, sample, [texts[0]] * 2, scoring.score(sample, [texts[0]] * 2, TASKS))
    assert "All rewards are equal" in same


def test_a_table_names_what_was_not_found_and_what_is_not_there():
    compared = Compared([box(0, 0, 10, 10)], [box(50, 50, 60, 60)], ())
    shown = matching.table(compared)
    assert "not found" in shown
    assert "nothing is there" in shown
    assert matching.table(Compared(None, [box(0, 0, 1, 1)])) == "", "the true boxes are not known"


def test_large_images_are_sent_small_and_as_addresses_of_data():
    image = Image.effect_noise((3000, 2000), 90).convert("RGB")
    url = figures.data_url(image, figures.MAX_SIDE_PX)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 2_000_000
    assert figures.data_url(Image.new("RGBA", (5, 5)), 10).startswith("data:image/png;base64,")
