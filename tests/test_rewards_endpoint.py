"""How an endpoint is asked: tries and waits, pauses and their end, the budget of time and calls, batches side by side."""

import math
import threading
import time

import pytest

from vlrl.rewards import endpoint as module
from vlrl.rewards.breaker import Breaker, Paused
from vlrl.rewards.budget import Spending
from vlrl.rewards.chat_client import ChatReply, EndpointError
from vlrl.rewards.endpoint import Endpoint, Limits, Unanswered, api_key_of, asking, check_endpoint

pytestmark = pytest.mark.quick

BODY = {"model": "m", "messages": []}
SILENCE, BUSY = EndpointError("cannot be reached", is_silence=True), EndpointError("status 503")


class Clock:
    """Time that passes where it is slept, and `per_request_s` a request."""

    def __init__(self, per_request_s=0.0):
        self.now, self.per_request_s, self.waits, self.lock = 1000.0, per_request_s, [], threading.Lock()

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        with self.lock:
            self.waits.append(seconds)
            self.now += seconds


@pytest.fixture
def asked(monkeypatch):
    """Gives `make(outcomes, ...) -> endpoint, lines, requests`: each request takes the next outcome, the last again and again."""

    def make(outcomes, clock=None, spending=None, **limits):
        clock, lines, requests, left, lock = clock or Clock(), [], [], list(outcomes), threading.Lock()

        def chat(base, body, *, timeout_s, api_key):
            with lock:
                requests.append((base, body, timeout_s, api_key))
                outcome = left.pop(0) if len(left) > 1 else left[0]
                clock.now += clock.per_request_s
            if isinstance(outcome, Exception):
                raise outcome
            return ChatReply({"content": outcome})

        monkeypatch.setattr(module, "chat", chat)
        chosen = Limits(**{"n_parallel": 1, **limits})
        made = Endpoint(
            "judge m", "http://h/v1", "judge_url", chosen, spending, report=lines.append, clock=clock, sleep=clock.sleep
        )
        return made, lines, requests

    return make


def ask(endpoint, _item=None):
    return endpoint.ask(lambda: endpoint.call(BODY).text)


def outcomes(endpoint, n):
    def one(_item):
        try:
            return ask(endpoint)[0]
        except Unanswered as error:
            return str(error)

    return endpoint.many(one, range(n))


def test_it_is_asked_again_until_it_answers_or_the_tries_are_used(asked):
    endpoint, lines, _ = asked([BUSY, BUSY, "yes"])
    assert ask(endpoint) == ("yes", 3)
    assert not lines
    endpoint, lines, requests = asked([BUSY])
    with pytest.raises(Unanswered, match="try 3: status 503") as error:
        ask(endpoint)
    assert (error.value.n_tries, len(requests)) == (3, 3)
    assert lines == ["judge m: try 3: status 503"]


def test_what_asking_again_cannot_change_is_asked_once_and_bugs_are_not_hidden(asked):
    endpoint, _, requests = asked([EndpointError("no such model", again=False)])
    with pytest.raises(Unanswered, match="try 1: no such model"):
        ask(endpoint)
    assert len(requests) == 1
    with pytest.raises(KeyError):
        endpoint.ask(lambda: {}["bug"])


def test_waits_grow_differ_and_follow_the_endpoint_for_all_questions(asked):
    clock = Clock()
    endpoint, _, _ = asked([EndpointError("429", wait_s=5), BUSY, "yes"], clock)
    ask(endpoint)
    assert clock.waits[0] == 5
    assert 1 <= clock.waits[1] <= 2
    clock = Clock()
    endpoint, _, _ = asked([EndpointError("429", again=False, wait_s=7), "yes"], clock)
    with pytest.raises(Unanswered):
        ask(endpoint)
    ask(endpoint)
    assert clock.waits == [7], "another question waits as long as the endpoint asked for"


def test_a_dead_endpoint_pauses_asking_and_is_tried_again_by_one_request(asked):
    clock = Clock()
    endpoint, lines, requests = asked([BUSY], clock, waits="batch", pause_s=15, longest_pause_s=60)
    assert outcomes(endpoint, 64).count("asking is paused after too many failures") == 54
    assert len(requests) == 30
    assert "10 of the last 10 requests failed; asking pauses for 15 s" in lines[-1]
    n = len(requests)
    for pause_s in (30, 60, 60):
        outcomes(endpoint, 64)
        assert len(requests) == n + 1, "the next batch waits for the end of the pause and makes one request"
        n += 1
        assert f"asking pauses for {pause_s} s" in lines[-1]
    assert endpoint.n_dead_batches == 4
    assert clock.waits[-1] == pytest.approx(60)


def test_a_recovery_ends_the_trouble_for_the_whole_batch(asked):
    endpoint, _, _ = asked([BUSY] * 30 + ["yes"], waits="batch", n_parallel=8)
    outcomes(endpoint, 64)
    assert endpoint.n_dead_batches == 1
    assert outcomes(endpoint, 64) == ["yes"] * 64
    assert (endpoint.n_dead_batches, endpoint.breaker.n_pauses) == (0, 0)


def test_a_silent_endpoint_is_given_up_after_one_time_out_not_three_for_each_question(asked):
    """64 rows that wait for a judge that never answers."""
    clock = Clock(per_request_s=20)
    endpoint, lines, requests = asked([SILENCE], clock, waits="batch", timeout_s=60)
    outcomes(endpoint, 64)
    assert len(requests) == 3
    assert "3 requests in a row brought no reply for 6" in lines[0]
    endpoint, _, requests = asked([SILENCE, SILENCE, "yes"], Clock(20), timeout_s=60)
    assert outcomes(endpoint, 4) == ["yes"] * 4, "one answer is no silence"


def test_a_batch_ends_in_time_where_the_endpoint_is_slow(asked):
    clock = Clock(per_request_s=50)
    endpoint, _, requests = asked(["yes"], clock, timeout_s=60, n_parallel=4)
    found = outcomes(endpoint, 64)  # 64 requests of 50 s, one after the other in this clock
    assert clock.now - 1000 <= 60 * 17 + 50
    assert found.count("yes") == len(requests)
    assert "no time left: a batch has 1020 s" in found[-1]
    endpoint, _, requests = asked(["no", "yes"], Clock(), timeout_s=60, n_parallel=4)
    outcomes(endpoint, 8)
    assert {timeout_s for _, _, timeout_s, _ in requests} == {60}


def test_one_that_always_waits_gives_up_in_the_end(asked):
    endpoint, lines, requests = asked([BUSY], waits="always", gives_up_after=3, pause_s=15)
    found = outcomes(endpoint, 50)
    assert "given up after 3 pauses without a reply" in found[-1]
    assert len(requests) == 32
    assert len(lines) == 4


def test_a_question_without_an_end_waits_for_the_one_that_tests_the_endpoint():
    breaker = Breaker(0.0, 0.0, 0.5, 60.0, time.monotonic)
    breaker.n_pauses = 1
    assert breaker.enter(lambda: True, time.sleep, math.inf), "the first one tests"
    threading.Timer(0.05, breaker.leave, (True, False)).start()
    assert not breaker.enter(lambda: True, time.sleep, math.inf)
    breaker.n_pauses = 1
    assert breaker.enter(lambda: True, time.sleep, math.inf)
    with pytest.raises(Paused, match="no time left"):
        breaker.enter(lambda: True, time.sleep, time.monotonic() + 0.05)


def test_limits_are_kept_and_said_once(asked):
    endpoint, lines, requests = asked(["yes"], spending=Spending(max_calls=3))
    assert outcomes(endpoint, 6) == ["yes"] * 3 + ["3 calls made, max_calls=3"] * 3
    assert len(requests) == 3
    assert lines == ["judge m: 3 calls made, max_calls=3; no more requests"]


def test_a_batch_runs_side_by_side_and_keeps_the_order():
    def slow(item):
        time.sleep(0.05 * (4 - item))
        return item

    with asking(4, 4) as batch:
        start = time.monotonic()
        assert batch.all(slow, range(4)) == [0, 1, 2, 3]
        assert time.monotonic() - start < 0.4


def test_a_batch_that_is_broken_off_leaves_nobody_waiting(monkeypatch):
    def chat(base, body, *, timeout_s, api_key):
        raise EndpointError("429", wait_s=60)

    monkeypatch.setattr(module, "chat", chat)
    endpoint = Endpoint("judge m", "http://h/v1", "judge_url", Limits(), report=lambda line: None)

    def one(item):
        if item == 3:
            time.sleep(0.1)
            raise KeyboardInterrupt
        return ask(endpoint)

    start = time.monotonic()
    with pytest.raises((KeyboardInterrupt, EndpointError)):
        endpoint.many(one, [3, 1, 2])
    assert time.monotonic() - start < 5


def test_each_endpoint_has_its_own_key(asked, monkeypatch):
    for name in ("VLRL_JUDGE_API_KEY", "VLRL_CORRECTOR_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert api_key_of("judge_url") == ""
    monkeypatch.setenv("OPENAI_API_KEY", "for-all")
    monkeypatch.setenv("VLRL_JUDGE_API_KEY", "for-judge")
    assert [api_key_of(one) for one in ("judge_url", "corrector_url", "base_url")] == ["for-judge", "for-all", "for-all"]
    endpoint, _, requests = asked(["yes"])
    ask(endpoint)
    assert requests[0][3] == "for-judge"


def test_an_endpoint_can_be_tried_before_a_run(asked, monkeypatch):
    _, _, requests = asked(["anything"])
    check_endpoint("judge", "http://h/v1", "m", "judge_url", image_url="data:image/png;base64,AAAA")
    assert requests[0][1]["messages"][0]["content"][0]["type"] == "image_url"
    asked([EndpointError("status 401 from http://h/v1: wrong key", again=False)])
    with pytest.raises(EndpointError, match=r"the judge m at http://h/v1 does not answer .*VLRL_JUDGE_API_KEY") as error:
        check_endpoint("judge", "http://me:pw@h/v1?api_key=x", "m", "judge_url")
    assert "\n" not in str(error.value)
    assert "pw" not in str(error.value)
