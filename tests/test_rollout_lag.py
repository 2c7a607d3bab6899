"""Completions of older weights: how old they may be, which rows are written ahead, and flags that do not go together."""

from types import SimpleNamespace

import pytest

from vlrl.training.engine_options import EngineConfig, check_engines, updates_of_generation, weights_folder
from vlrl.training.grpo.rollout_lag import LookAhead, RolloutsAhead, SentWeights
from vlrl.training.options import ConfigError


def rows_of(generation):
    return [{"index": 2 * generation + i // 2} for i in range(4)]


def epoch(n_generations, n_micro_steps):
    for generation in range(n_generations):
        for _ in range(n_micro_steps):
            yield rows_of(generation)


@pytest.mark.parametrize(
    ("steps_per_generation", "iterations", "accumulated"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (1, 1, 4), (3, 1, 2)]
)
def test_rows_come_in_their_order_and_the_next_ones_are_known(steps_per_generation, iterations, accumulated):
    """The loop of transformers: so many batches an update, each a micro-step."""
    n_micro = steps_per_generation * iterations
    n_generations = 5
    rows = LookAhead(n_micro)
    seen, known = [], []
    for _ in range(2):
        source, micro_step = epoch(n_generations, n_micro), 0
        while batches := rows.pull(source, accumulated):
            for batch in batches:
                rows.turn(batch)
                seen.append(batch)
                if micro_step % n_micro == 0:
                    known.append(rows.next_rows)
                micro_step += 1
    assert seen == 2 * list(epoch(n_generations, n_micro))
    assert known == 2 * [*(rows_of(i) for i in range(1, n_generations)), None]
    assert len({id(batch) for batch in seen}) == 2 * n_generations, "rows that come again are held once"


@pytest.mark.parametrize(
    ("lag", "sent_in"), [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 2, 4]), (2, [0, 3]), (9, [0])],
)  # fmt: skip
def test_weights_are_sent_as_often_as_the_lag_asks_for(lag, sent_in):
    sent, found = SentWeights(lag), []
    for step in range(6):
        if sent.are_due(step):
            sent.step = step
            found.append(step)
        assert step - sent.step <= lag
    assert found == sent_in


class Engine:
    """A trainer and its server: a batch is written by the weights that were sent last when it was begun."""

    def __init__(self, lag, updates=1, max_steps=100):
        self.state = SimpleNamespace(global_step=0, max_steps=max_steps)
        self.sent, self.rows, self.noted = SentWeights(lag), LookAhead(updates), []
        self.ahead = RolloutsAhead(self, self, self, self.sent, self.rows, updates)
        self.updates, self.at, self.begun, self.n_sent = updates, None, None, 0

    def note(self, name, value):
        self.noted.append((name, value))

    @property
    def is_under_way(self):
        return self.begun is not None

    def read(self, rows):
        return [[row["index"]] for row in rows], None

    def sync_weights(self):
        assert self.begun is None, "the server writes"
        self.at, self.n_sent = self.state.global_step, self.n_sent + 1

    def begin(self, ids, images):
        assert self.begun is None
        self.begun = (ids, self.at)

    def finish(self):
        (ids, at), self.begun = self.begun, None
        return [[one[0], at] for one in ids], [[[-1.0]] for _ in ids]

    def run(self, n_generations):
        """The written rows of each generation: sample, and the step of the weights."""
        found, source = [], epoch(n_generations, self.updates)
        for generation in range(n_generations):
            for micro_step in range(self.updates):
                (batch,) = self.rows.pull(source, 1)
                self.rows.turn(batch)
                if micro_step == 0:
                    made = self.ahead.take([row["index"] for row in batch])
                    if made is None:
                        if self.sent.are_due(self.state.global_step):
                            self.sync_weights()
                            self.sent.step = self.state.global_step
                        self.begin(*self.read(batch))
                        made = self.finish()[0], None
                    self.ahead.begin()
                    assert [one for one, _ in made[0]] == [row["index"] for row in rows_of(generation)]
                    found.append(self.state.global_step - made[0][0][1])
                self.state.global_step += 1
        return found


@pytest.mark.parametrize(
    ("lag", "updates", "lags", "n_sent"),
    [
        (1, 1, [0, 1, 1, 1, 1, 1], 5),
        (2, 1, [0, 1, 2, 1, 2, 1], 3),
        (2, 2, [0, 2, 2, 2, 2, 2], 5),
        (5, 2, [0, 2, 4, 2, 4, 2], 3),
    ],
)
def test_completions_are_never_older_than_they_may_be(lag, updates, lags, n_sent):
    engine = Engine(lag, updates)
    assert engine.run(6) == lags
    assert engine.n_sent == n_sent
    assert [value for name, value in engine.noted if name == "sampling/lag"] == lags[1:]
    assert engine.begun is None, "the end of an epoch is not written past"


def test_nothing_is_written_past_the_last_step():
    engine = Engine(1, max_steps=3)
    engine.run(3)
    assert engine.begun is None
    engine = Engine(1, max_steps=3)
    source = epoch(9, 1)
    for _ in range(3):
        (batch,) = engine.rows.pull(source, 1)
        engine.rows.turn(batch)
        engine.ahead.take([])
        engine.sent.step = engine.state.global_step
        engine.ahead.begin()
        engine.state.global_step += 1
    assert engine.begun is None


def test_what_was_written_for_other_rows_or_is_too_old_is_written_again():
    engine = Engine(1)
    source = epoch(9, 1)
    engine.sent.step = 0
    (batch,) = engine.rows.pull(source, 1)
    engine.rows.turn(batch)
    engine.ahead.begin()
    assert engine.ahead.indices == {2, 3}
    assert engine.ahead.take([7, 7, 8, 8]) is None
    engine.ahead.begin()
    engine.state.global_step = 5
    assert engine.ahead.take([2, 2, 3, 3]) is None
    assert engine.begun is None
    assert engine.ahead.take([2, 2, 3, 3]) is None, "nothing is under way"


FILES = {"use_vllm": True, "vllm_mode": "server", "vllm_weight_transport": "files"}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"vllm_weight_transport": "files"}, "needs --vllm_mode server"),
        ({**FILES, "vllm_mode": "colocate"}, "needs --vllm_mode server"),
        ({**FILES, "vllm_group_port": 51217}, "--vllm_group_port is of NCCL"),
        ({**FILES, "load_in_4bit": True}, "--load_in_4bit: a server cannot read quantised weights"),
        ({**FILES, "rollout_lag": 1, "vllm_importance_sampling_correction": False}, "needs the importance correction"),
        ({"rollout_lag": 1, "vllm_enable_sleep_mode": True}, "an engine that sleeps"),
        ({**FILES, "rollout_lag": 1, "num_iterations": 2}, "has no effect: a generation is learnt from in 2 updates"),
        ({**FILES, "rollout_lag": 3, "generation_batch_size": 64, "per_device_train_batch_size": 8}, "in 8 updates"),
    ],
)  # fmt: skip
@pytest.mark.quick
def test_flags_that_do_not_go_together_are_refused(values, why):
    with pytest.raises(ConfigError, match=why):
        check_engines(values)


@pytest.mark.quick
def test_flags_that_go_together(tmp_path):
    for values in ({}, FILES, {**FILES, "rollout_lag": 1}, {"use_vllm": True, "rollout_lag": 2, "num_iterations": 2}):
        check_engines(values)
    assert updates_of_generation({"gradient_accumulation_steps": 4}) == 1
    assert updates_of_generation({"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 3}) == 6
    assert weights_folder(EngineConfig(), tmp_path) is None
    assert weights_folder(EngineConfig(vllm_weight_transport="files"), tmp_path) == tmp_path / "rollout_weights"
    assert str(weights_folder(EngineConfig(vllm_weight_transport="files", rollout_weights="/shared"), tmp_path)) == "/shared"
