"""What a corrector behind an endpoint may cost: limits that hold among threads, processes and resumed runs, and their flags."""

import json
import threading

import numpy as np
import pytest
from chat_server import Server

from vlrl.envs.cards import GAMES, write_reply
from vlrl.gtr import RemoteCorrector, RemoteOptions, StepRequest
from vlrl.gtr.options import read_guide_options
from vlrl.rewards.budget import LimitReached, Spending, share_of
from vlrl.training.config import parse
from vlrl.training.correctors import make_corrector
from vlrl.training.options import ConfigError

POINTS24 = GAMES["points24"]
YES = {"evaluation": "YES", "possible_solution": "YES", "target_formula": "4*6*1*1", "correction": None}


@pytest.fixture
def server():
    """Finds every thought right."""
    started = Server([YES])
    threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


def corrector_of(server, said, **options):
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return RemoteCorrector(RemoteOptions("m", url, backoff_s=(0.001, 0.01), **options), report=said.append)


def step():
    state = POINTS24.deal(np.random.default_rng(0), {"numbers": [4, 6, 1, 1]})
    return StepRequest(POINTS24, state, write_reply({"cards": [4, 6, 1, 1], "formula": "", "thoughts": "4 next"}, "4"))


def test_threads_together_make_no_call_too_many(server):
    said = []
    corrector = corrector_of(server, said, max_calls=5, n_parallel=8)
    found = corrector.correct_many([step()] * 40)
    assert sorted(one.status for one in found) == ["failed"] * 35 + ["ok"] * 5
    assert len(server.seen) == corrector.counts.n_calls == 5
    assert len(said) == 1, said


def test_limits_stop_corrections_and_say_so(server):
    calls, costs = [], []
    found = corrector_of(server, calls, max_calls=3, n_parallel=1).correct_many([step()] * 6)
    assert [correction.status for correction in found] == ["ok"] * 3 + ["failed"] * 3
    assert len(server.seen) == 3
    assert len(calls) == 1
    assert "max_calls=3" in calls[0]
    corrector = corrector_of(server, costs, max_cost=0.005, input_cost=2.0, output_cost=8.0, n_parallel=1)
    found = corrector.correct_many([step()] * 6)
    assert [correction.status for correction in found].count("ok") == 3
    assert corrector.counts.cost == pytest.approx(3 * (1000 * 2 + 10 * 8) / 1e6)
    assert "max_cost=0.005" in costs[0]


def test_what_was_spent_is_remembered_by_the_run_that_goes_on(server, tmp_path):
    path, said = tmp_path / "spent" / "rank-0.json", []
    options = {"max_cost": 0.003, "input_cost": 1.0, "output_cost": 0.0, "n_parallel": 1, "spent": path}
    assert [one.status for one in corrector_of(server, said, **options).correct_many([step()] * 2)] == ["ok", "ok"]
    again = corrector_of(server, said, **options)
    assert (again.counts.n_calls, again.counts.cost) == (2, pytest.approx(0.002)), "1,000 prompt tokens a request"
    assert [one.status for one in again.correct_many([step()] * 3)] == ["ok", "failed", "failed"]
    assert json.loads(path.read_text()) == {"n_calls": 3, "n_cached": 0, "cost": pytest.approx(0.003), "statuses": {"ok": 3, "failed": 2}, "seconds": pytest.approx(0, abs=5)}  # fmt: skip
    path.write_text('{"n_calls": 3')
    with pytest.raises(ValueError, match=r"rank-0.json does not hold .* delete it"):
        corrector_of(server, said, **options)


class Picky(Server):
    """Refuses `max_tokens` and a temperature as OpenAI's endpoint does for its reasoning models."""

    def __init__(self):
        super().__init__([])
        self.replies = self

    def __len__(self):
        return 1

    def __getitem__(self, _):
        body = self.seen[-1][1]
        if "max_tokens" in body:
            return (
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            )
        if "temperature" in body:
            return 400, "Unsupported value: 'temperature' does not support 0.4 with this model."
        return YES


def test_settings_that_a_model_refuses_are_left_out_and_told():
    picky, said = Picky(), []
    threading.Thread(target=picky.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        corrector = corrector_of(picky, said, n_parallel=4, max_tokens=123)
        assert {one.status for one in corrector.correct_many([step()] * 8)} == {"ok"}
    finally:
        picky.shutdown()
        picky.server_close()
    last = picky.seen[-1][1]
    assert last["max_completion_tokens"] == 123
    assert not {"max_tokens", "temperature"} & set(last)
    assert len(said) == 2, said
    assert all("from here on" in line and "this model" in line for line in said)


def test_a_limit_of_cost_needs_an_endpoint_that_tells_its_use():
    spending = Spending(max_cost=1.0, prices=(1.0, 2.0))
    spending.take_call()
    spending.pay({"prompt_tokens": 3, "completion_tokens": None})
    with pytest.raises(LimitReached, match="does not tell"):
        spending.take_call()
    unlimited = Spending(prices=(1.0, 2.0))
    unlimited.pay({})
    unlimited.pay({"prompt_tokens": 1_000_000, "completion_tokens": 500_000})
    unlimited.take_call()
    assert unlimited.counts.cost == pytest.approx(2.0)


@pytest.mark.parametrize("total", [0, 1, 7, 8, 1000])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_processes_share_all_calls(total, n):
    shares = [share_of(total, rank, n) for rank in range(n)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_flags_reach_the_endpoint(monkeypatch, tmp_path):
    words = [
        "max_calls=7",
        "invalid=correct",
        "timeout_s=2.5",
        "gold=true",
        "max_cost=3",
        "input_cost=2.5",
        "draws=2",
        "solver=false",
    ]
    options = read_guide_options(words, "http://here/v1", corrector="model:some/vlm:8b")
    assert options.draws == 2
    assert options.endpoint == RemoteOptions(
        "some/vlm:8b", "http://here/v1", gold=True, timeout_s=2.5, max_calls=7, max_cost=3.0, input_cost=2.5
    )
    flags = ["--task", "points24", "--corrector", "model:some", "--corrector_url", "http://here/v1", "--gtr", *words]
    made = make_corrector(parse([*flags, "--output_dir", str(tmp_path)]), tmp_path)
    assert made.options.max_calls == 7
    assert made.privileged, "the right answer is shown"
    assert (made.options.solver, made.options.correct_invalid) == (False, True)
    assert made.options.spent.is_relative_to(tmp_path)
    assert read_guide_options([], corrector="model:m").endpoint == RemoteOptions("m")


@pytest.mark.parametrize(
    ("words", "corrector", "why"),
    [
        (["max_calls=7"], "oracle", "--gtr max_calls is for model:NAME"),
        (["timeout_s=0"], "model:m", "timeout_s=0: must be positive"),
        (["timeout_s=nan"], "model:m", "not a finite number"),
        (["max_calls=-1"], "model:m", "must not be negative"),
        (["max_cost=2"], "model:m", "input_cost"),
        (["max_failed_share=2"], "model:m", "outside 0..1"),
        (["max_call=2"], "model:m", "did you mean 'max_calls'"),
        ([], "model:", "give none, oracle"),
    ],
)
def test_flags_that_cannot_work_are_refused(words, corrector, why):
    with pytest.raises(ValueError, match=why):
        read_guide_options(words, corrector=corrector)


def test_nobody_asks_an_endpoint_that_nobody_named(monkeypatch, tmp_path):
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    config = parse(["--task", "points24", "--corrector", "model:some", "--output_dir", str(tmp_path)])
    with pytest.raises(ConfigError, match="give --corrector_url"):
        make_corrector(config, tmp_path)
    for name, value in (("OPENAI_API_KEY", "k"), ("OPENAI_API_BASE", "http://here/v1")):
        with monkeypatch.context() as given:
            given.setenv(name, value)
            assert make_corrector(config, tmp_path).tier == "model:some"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"model": ""}, "name of its model"),
        ({"model": "m", "n_parallel": 0}, "positive"),
        ({"model": "m", "max_cost": 1.0}, "input_cost"),
    ],
)
def test_wrong_options_are_refused(options, why):
    with pytest.raises(ValueError, match=why):
        RemoteOptions(**options)
