"""The tab "Grade" without a browser: what was read, why, and the link that restores it."""

import html
import json
import re
import urllib.parse
from types import SimpleNamespace

import pytest

from demos import grading
from demos.grading import OWN, Grading
from demos.page_tasks import PageTasks
from vlrl.tasks import TASKS

GRADING = Grading(PageTasks())
HOSTILE = ["<script>alert(1)</script>", "‮rtl ‏אבג", "🟥🟦" * 20, "a&b=c#d%20+e", "line\nbreak", "'\"`${x}"]


def query_of(link):
    href = html.unescape(re.search("href='([^']*)'", link)[1])
    return dict(urllib.parse.parse_qsl(href.removeprefix("?"), keep_blank_values=True))


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_graded_and_explained(task):
    sample, text, image, read, scores, link = GRADING.fill(task, 3, OWN)
    assert ("<img" in image) == bool(json.loads(sample)["images"])
    assert "what was read" in read
    assert "reward" in scores
    opened, *found, graded = GRADING.restore(query_of(link))
    assert opened
    assert (json.loads(found[0]), found[1], found[2]) == (json.loads(sample), text, OWN)
    assert graded[1:3] == (read, scores)


def test_of_two_requests_in_the_wrong_order_the_later_one_stays():
    """A browser sends one for each field that changes, within milliseconds; a server may begin with either."""
    sample, text, *_ = GRADING.fill("detection", 0, OWN)
    one, other = SimpleNamespace(session_hash="one"), SimpleNamespace(session_hash="other")
    assert GRADING.grade_latest(sample, text, OWN, 2, one) == GRADING.grade(sample, text, OWN)
    assert all("value" not in shown for shown in GRADING.grade_latest(sample, "", OWN, 1, one)), "what is shown stays"
    assert GRADING.grade_latest(sample, "", OWN, 1, other) == GRADING.grade(sample, "", OWN)
    assert GRADING.grade_latest(sample, "", OWN, 0, one) == GRADING.grade(sample, "", OWN), "a program does not count"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_link_restores_any_text_and_runs_none(text):
    sample, *_ = GRADING.fill("detection", 0, OWN)
    *_, link = GRADING.grade(sample, text, "iou_f1")
    assert "<script" not in link
    _, _, restored, reward, _ = GRADING.restore(query_of(link))
    assert (restored, reward) == (text, "iou_f1")


def test_a_link_has_bounds():
    sample, *_ = GRADING.fill("detection", 0, OWN)
    assert "href" in GRADING.grade(sample, "x" * 1000, OWN)[3]
    assert "8,000 are the most" in GRADING.grade(sample, "x" * 9000, OWN)[3]
    assert "no address can" in GRADING.grade(sample, "lone \ud83d", OWN)[3]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"reward": "my.py:f", "sample": "{}", "text": ""}, "which this page does not have"),
        ({"reward": OWN, "sample": "x" * 30_000, "text": ""}, "too long"),
        ({"reward": OWN, "sample": "{", "text": ""}, "not JSON"),
        (
            {
                "reward": OWN,
                "sample": '{"id": "a", "task": "qa", "question": "q", "images": ["/etc/passwd"], "answer": "x"}',
                "text": "y",
            },
            "opened",
        ),
    ],
)
def test_a_bad_link_is_one_line(query, words):
    opened, *_, graded = GRADING.restore({"tab": "grade", **query})
    assert opened
    assert words in graded[1]
    assert "role='alert'" in graded[1]
    assert not GRADING.restore({"tab": "play"})[0]


def test_nothing_to_grade_is_said():
    assert "the sample is empty" in GRADING.grade("", "x", OWN)[1]
    assert (
        "files are not opened"
        in GRADING.grade('{"id": "a", "task": "qa", "question": "q", "images": ["/x"], "answer": "a"}', "", OWN)[1]
    )


def test_only_rewards_that_need_nothing_are_offered():
    assert "llm_judge" not in grading.LOCAL_REWARDS
    assert "iou_f1" in grading.LOCAL_REWARDS
