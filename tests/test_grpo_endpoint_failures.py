"""Rows without a score of a judge, and runs whose judge stays silent."""

import json
import math
import threading

import pytest
import torch
from chat_server import Server

from vlrl.rewards.chat_client import EndpointError
from vlrl.rewards.endpoint import DEAD_BATCHES, Endpoint, Limits, Unanswered
from vlrl.training.grpo.endpoint_failures import filled_in, missing_scores, trouble

NAN = math.nan


def test_what_is_missing_counts_as_the_mean_of_its_group():
    rewards_BR = torch.tensor([[1, 1], [NAN, 1], [0, 0], [NAN, 0], [NAN, 1], [NAN, 0], [NAN, 1], [NAN, NAN]])
    missing_BR = missing_scores(rewards_BR, (True, False), 4)
    assert missing_BR.nonzero().tolist() == [[1, 0], [3, 0]], "not where the whole group has none, nor of the other reward"
    filled_BR = filled_in(rewards_BR, missing_BR, 4)
    assert filled_BR[:4, 0].tolist() == [1, 0.5, 0, 0.5]
    assert torch.equal(torch.isnan(filled_BR), torch.isnan(rewards_BR) & ~missing_BR)
    healthy_BR = torch.rand(8, 2)
    assert not missing_scores(healthy_BR, (True, True), 4).any()
    total_B = filled_BR[:4].sum(1)
    assert (total_B - total_B.mean())[[1, 3]].tolist() == [0.5, -0.5], "the other reward decides"


def endpoint_with(n_dead, n_pauses=0, is_spent=False):
    endpoint = Endpoint("judge m", "http://h/v1", "judge_url", Limits(), report=lambda line: None)
    endpoint.n_dead_batches, endpoint.breaker.n_pauses, endpoint.is_spent = n_dead, n_pauses, is_spent
    endpoint.last_why = "status 503"
    return endpoint


@pytest.mark.parametrize(
    ("endpoint", "policy", "is_needed", "message", "ends"),
    [
        (endpoint_with(0), "stop", True, "", False),
        (endpoint_with(1), "skip", True, "judge m answered nothing in a batch (status 503)", False),
        (endpoint_with(1), "stop", True, "judge m answered nothing in a batch (status 503)", True),
        (endpoint_with(0, n_pauses=1), "stop", False, "judge m fails too often, asking is paused (status 503)", True),
        (endpoint_with(DEAD_BATCHES - 1), "skip", True, f"judge m answered nothing in {DEAD_BATCHES - 1} batches in a row (status 503)", False),
        (endpoint_with(DEAD_BATCHES), "skip", True, f"judge m answered nothing in {DEAD_BATCHES} batches in a row (status 503)", True),
        (endpoint_with(100), "skip", False, "judge m answered nothing in 100 batches in a row (status 503)", False),
        (endpoint_with(5, is_spent=True), "stop", False, "", False),
        (endpoint_with(5, is_spent=True), "stop", True, "judge m answered nothing in 5 batches in a row (status 503)", True),
    ],
)  # fmt: skip
def test_when_a_run_ends_for_an_endpoint(endpoint, policy, is_needed, message, ends):
    assert trouble(endpoint, policy, is_needed) == (message, ends)


def test_a_batch_with_one_reply_is_not_dead(monkeypatch):
    endpoint = Endpoint("judge m", "http://h/v1", "judge_url", Limits(n_tries=1), report=lambda line: None)

    def one(item):
        def exchange():
            if item:
                raise EndpointError("no", again=False)
            return "yes"

        try:
            return endpoint.ask(exchange)
        except Unanswered:
            return None

    endpoint.many(one, [1, 1])
    endpoint.many(one, [1, 1])
    assert endpoint.n_dead_batches == 2
    endpoint.many(one, [1, 0])
    assert endpoint.n_dead_batches == 0


def test_a_run_whose_judge_dies_ends_at_its_last_checkpoint(run_train, small, tmp_path):
    left = [20]

    def judging(_body):
        left[0] -= 1
        return "0.5" if left[0] >= 0 else (503, "gone")

    server = Server([judging])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    judge = f"llm_judge:judge_model=m,judge_url={url},see_image=false,backoff_s=0.001"
    words = ["--task", "qa", *small, "--max_steps", "9", "--save_steps", "1", "--output_dir", tmp_path / "run"]
    code, out, err = run_train(*words, "--rewards", judge, "think_answer_format", "--on_endpoint_failure", "stop")
    server.shutdown()
    server.server_close()
    assert code == 1
    (line,) = err.splitlines()
    assert "stopped: judge m " in line
    assert "status 503" in line
    assert "the run ends (--on_endpoint_failure stop)" in line
    assert "--resume_from_checkpoint true" in line
    assert "event     endpoint_failures" in out
    assert "judge failed 0" in out
    (event,) = [json.loads(one) for one in (tmp_path / "run" / "events.jsonl").read_text().splitlines() if "endpoint" in one]
    assert event["event"] == "endpoint_failures"
    assert not (tmp_path / "run" / "final").exists()
