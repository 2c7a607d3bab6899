"""Every way in which a corrector behind an endpoint can fail, its pauses, and its cache."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from corrector_server import GOOD, KEY, NO, POOR, YES, serving, step
from PIL import Image

from vlrl.gtr import RemoteCorrector, RemoteOptions


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as start:
        yield start


# ---- failures


@pytest.mark.parametrize(
    "reply",
    [
        "I think it is fine.",
        "",
        b"no json",
        b'{"choices": []}',
        503,
        {"evaluation": "MAYBE"},
        {"evaluation": None},
        {**YES, "evaluation": ["YES"]},
        {**NO, "correction": None},
        {**NO, "correction": "next is 6"},
        {**NO, "correction": {"thoughts": "next is 6"}},
        {**NO, "correction": {**GOOD, "thoughts": 6}},
        {**NO, "correction": {**GOOD, "thoughts": " "}},
        '{"evaluation": "YES", "evaluation": "NO"}',
    ],
)
def test_babble_is_asked_again_three_times_and_then_skipped(serve, reply):
    corrector, server, lines = serve(reply)
    found = corrector.correct(step(target="kept"))
    assert (found.status, found.text, found.target, found.n_attempts) == ("failed", None, "kept", 3)
    assert len(server.seen) == 3
    assert len(lines) == 1
    assert "such steps are not corrected" in lines[0]


def test_a_later_try_may_work_and_refusals_are_not_repeated(serve):
    corrector, server, lines = serve("hm", 500, NO)
    found = corrector.correct(step())
    assert (found.status, found.n_attempts) == ("corrected", 3)
    assert lines == []
    refused, server, _ = serve(401)
    assert refused.correct(step()).n_attempts == 1
    assert len(server.seen) == 1


def test_a_slow_endpoint_ends_at_the_time_out(serve):
    corrector, server, _ = serve(1.0, timeout_s=0.1)
    start = time.monotonic()
    found = corrector.correct(step())
    assert found.status == "failed"
    assert time.monotonic() - start < 1
    assert len(server.seen) == 3


def test_waits_between_tries_grow_and_are_bounded():
    waits = []
    corrector = RemoteCorrector(RemoteOptions("m", "http://127.0.0.1:1/v1"), report=lambda line: None, sleep=waits.append)
    assert corrector.correct(step()).status == "failed"
    assert 0.5 <= waits[0] <= 1
    assert 1 <= waits[1] <= 2
    assert len(waits) == 2


def test_an_unreachable_endpoint_pauses_asking_and_is_taken_up_again(serve):
    now = [1000.0]
    corrector, server, lines = serve(500, clock=lambda: now[0], n_parallel=1)
    found = corrector.correct_many([step(seed=i) for i in range(40)])
    assert {correction.status for correction in found} == {"failed"}
    assert len(server.seen) == 30, "ten requests of three tries, then a pause"
    assert [correction.n_attempts for correction in found] == [3] * 10 + [0] * 30
    assert "paused" in found[-1].why
    assert len(lines) == 2
    assert "asking pauses for 60 s" in lines[1]
    now[0] += 61
    corrector.correct_many([step(), step()])
    assert len(server.seen) == 31, "one request tries, fails, and the pause is twice as long"
    assert "asking pauses for 120 s" in lines[2]
    now[0] += 121
    server.replies = [YES]
    assert [correction.status for correction in corrector.correct_many([step()] * 3)] == ["ok"] * 3
    server.replies = ["hm", "hm", "hm", YES]
    assert [correction.status for correction in corrector.correct_many([step()] * 2)] == ["failed", "ok"], (
        "old failures are forgotten"
    )


def test_a_few_failures_do_not_pause(serve):
    corrector, _, lines = serve(*([YES] * 9 + ["hm"] * 3) * 5, YES)
    found = [corrector.correct(step()).status for _ in range(50)]
    assert found.count("failed") == 5
    assert found.count("ok") == 45
    assert len(lines) == 1


def test_requests_run_side_by_side_but_not_too_many(serve):
    corrector, server, _ = serve(*[0.1] * 8, n_parallel=4)
    start = time.monotonic()
    found = corrector.correct_many([step(seed=i) for i in range(8)])
    assert [correction.status for correction in found] == ["ok"] * 8
    assert 1 < server.most_open <= 4
    assert time.monotonic() - start < 0.7
    shared, server, _ = serve(*[0.05] * 8, n_parallel=2)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(shared.correct, [step(seed=i) for i in range(8)]))) == 8
    assert server.most_open == 2, "callers in threads of their own share the bound"


def test_the_key_is_in_no_line_verdict_or_file(serve, tmp_path):
    corrector, _, lines = serve(401, cache=tmp_path)
    failed = corrector.correct(step())
    good, _, more = serve(NO, cache=tmp_path)
    found = good.correct(step())
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert kept
    for shown in (*lines, *more, str(failed), str(found), kept, repr(good.options)):
        assert KEY not in shown


# ---- the cache


def test_a_cached_reply_is_not_asked_for_again_even_by_another_run(serve, tmp_path):
    corrector, server, _ = serve(NO, cache=tmp_path / "cache")
    first = corrector.correct(step())
    again = corrector.correct(step())
    assert (first.cached, again.cached, again.n_attempts) == (False, True, 0)
    assert again.text == first.text
    other, silent, _ = serve(500, cache=tmp_path / "cache")
    kept = other.correct(step(action="6"))
    assert (kept.cached, json.loads(kept.text)["action"]) == (True, "6"), "the verdict is cached, the action is the policy's"
    assert (len(server.seen), len(silent.seen)) == (1, 0)
    assert other.counts.n_cached == 1


def test_everything_that_changes_the_question_changes_the_key(serve, tmp_path):
    corrector, server, _ = serve(YES, cache=tmp_path)
    white, black = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    asked = [step(), step(target="4 * 6"), step(image=white), step(image=black), step({**POOR, "thoughts": "x"})]
    for request in asked:
        corrector.correct(request)
    assert len(server.seen) == len(asked)


def test_failures_and_torn_files_are_not_kept(serve, tmp_path):
    corrector, server, _ = serve("hm", "hm", "hm", YES, cache=tmp_path)
    assert corrector.correct(step()).status == "failed"
    assert not list(tmp_path.rglob("*.json"))
    assert corrector.correct(step()).status == "ok"
    [kept] = tmp_path.rglob("*.json")
    kept.write_text(kept.read_text()[:20])
    assert corrector.correct(step()).cached is False
    assert len(server.seen) == 5
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]
