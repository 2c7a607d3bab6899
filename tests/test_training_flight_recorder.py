"""The detectors of the flight recorder, each on made-up logged steps: what provokes it, and what is near but healthy."""

import json
import math
import random

import pytest

from vlrl.training.events import EVENT_KINDS, EventLog, read_events, read_stop_on
from vlrl.training.flight_recorder import (
    DETECTORS,
    MAX_PASSES,
    FlightRecorder,
    LastBatch,
    data_events,
)
from vlrl.training.run_history import RewardFacts, RunFacts

pytestmark = pytest.mark.quick

FACTS = RunFacts("grpo", (RewardFacts("iou_f1", 0, 1), RewardFacts("think_answer_format", 0, 1)), max_length=100)
IMITATION = RunFacts("sft")
N = 100
HEALTHY = {
    "loss": lambda t: 0.01 * math.sin(t),
    "reward": lambda t: 0.3 + 0.005 * t,
    "reward_std": 0.3,
    "rewards/iou_f1/mean": lambda t: 0.2 + 0.005 * t,
    "rewards/think_answer_format/mean": 1.0,
    "frac_reward_zero_std": 0.2,
    "completions/clipped_ratio": 0.05,
    "completions/mean_length": lambda t: 40 + 0.2 * t,
    "kl": lambda t: 0.001 * t,
    "entropy": lambda t: max(0.02, 0.8 - 0.009 * t),
    "grad_norm": 0.5,
    "learning_rate": lambda t: 1e-6 * min(1, (t - 1) / 5),
}


def rows(changes=None, n=N, every=1, noise=0.0):
    """Logged steps: the numbers of a healthy run, some of them changed; None leaves a number out."""
    rng = random.Random(0)
    for t in range(every, n + 1, every):
        row = {"step": t}
        for key, value in {**HEALTHY, **(changes or {})}.items():
            value = value(t) if callable(value) else value
            if value is not None:
                row[key] = value + (noise * rng.gauss(0, 1) if key in ("reward", "kl", "entropy") else 0)
        yield row


def seen(changes=None, facts=FACTS, **options):
    """The events of such a run: name -> the step in which it was said first; each is said once."""
    recorder, found = FlightRecorder(facts), {}
    for row in rows(changes, **options):
        for event in recorder.see(row):
            assert event.event not in found, "said once"
            assert "\n" not in event.message
            found[event.event] = event.step
    return found


def flat(value):
    return {"reward": value, "rewards/iou_f1/mean": value, "reward_std": 0.3, "entropy": 0.5}


BAD = [
    ("constant_reward", {**flat(0.2), "frac_reward_zero_std": 1.0}, 20),
    ("truncated", {"completions/clipped_ratio": 0.7}, 20),
    ("kl_runaway", {"kl": lambda t: 0.001 * math.exp(0.2 * t)}, None),
    ("kl_runaway", {"kl": 1e6}, 10),
    ("entropy_collapse", {**flat(0.2), "entropy": lambda t: 1.0 * 0.9**t}, None),
    ("entropy_explosion", {"entropy": lambda t: 0.3 + 0.05 * t}, None),
    ("reward_below_start", {"reward": lambda t: 0.6 if t <= 30 else 0.3, "rewards/iou_f1/mean": 0.1, "entropy": 0.5}, 80),
    ("format_only", {"rewards/iou_f1/mean": 0.0, "rewards/think_answer_format/mean": lambda t: min(1, 0.01 * t)}, None),
    ("format_only", {"rewards/iou_f1/mean": 0.0}, 30),
    ("learning_rate_zero", {"learning_rate": 0.0}, 10),
    ("gradient_zero", {"grad_norm": 0.0}, 20),
    ("length_explosion", {**flat(0.2), "completions/mean_length": lambda t: 20 if t <= 30 else 95}, None),
    ("length_collapse", {**flat(0.2), "completions/mean_length": lambda t: max(3, 40 - t)}, None),
    ("endpoint_failures", {"judge/failed": lambda t: 8.0 * t, "judge/calls": lambda t: 24.0 * t}, 2),
    ("endpoint_failures", {"corrector/failed": lambda t: max(0, 5 * (t - 50)), "corrector/calls": 20.0}, None),
    ("engine_drift", {"sampling/sampling_logp_difference/mean": lambda t: 0.003 * 1.1**t}, None),
    ("engine_drift", {"sampling/sampling_logp_difference/mean": lambda t: 1e-4 if t < 35 else (0.06, 0.3, 0.15)[t % 3]}, None),
    ("reward_always_max", {"rewards/iou_f1/mean": 1.0, "reward": 1.0, "reward_std": 0.01}, 20),
]


@pytest.mark.parametrize(("event", "changes", "step"), BAD)
@pytest.mark.parametrize("every", [1, 5, 10])
def test_each_trouble_is_seen_and_nothing_else_is(event, changes, step, every):
    found = seen(changes, every=every)
    assert set(found) == {event}
    if step is not None and every == 1:
        assert found[event] == step


@pytest.mark.parametrize(("facts", "changes"), [(IMITATION, {"loss": 2.5}), (RunFacts("prm"), {"loss": 0.0})])
def test_a_loss_that_does_not_move_is_seen_where_one_imitates(facts, changes):
    alone = {key: None for key in HEALTHY if key not in ("loss", "grad_norm", "learning_rate")}
    assert set(seen({**alone, **changes}, facts)) == {"loss_constant"}
    assert not seen(alone, facts)
    assert not seen({**alone, **changes}, FACTS), "of GRPO it is near 0 by construction"


HEALTHY_RUNS = {
    "as it should be": {},
    "solved": {"reward": 1.0, "rewards/iou_f1/mean": lambda t: min(1.0, 0.3 + 0.02 * t), "frac_reward_zero_std": lambda t: min(1, t / 40)},
    "better, and so sure of itself": {"entropy": lambda t: 0.9**t},
    "better with long thoughts": {"completions/mean_length": lambda t: min(95, 10 + t)},
    "better and shorter": {"completions/mean_length": lambda t: max(5, 60 - t)},
    "easy at times": {"frac_reward_zero_std": lambda t: 1.0 if t % 20 else 0.5, **flat(0.3)},
    "a spike of KL": {"kl": lambda t: 50.0 if t == 60 else 0.01},
    "KL from exactly 0": {"kl": lambda t: 0.0 if t < 12 else 0.2},
    "a dip": {"reward": lambda t: 0.1 if 30 < t < 70 else 0.5, "rewards/iou_f1/mean": 0.2},
    "constant, with a little gradient": {**flat(0.2), "grad_norm": 1e-7},
    "no reference, one reward": {"kl": None, "rewards/think_answer_format/mean": None},
    "steps without a generation": {"reward": lambda t: 0.4 if t % 4 == 1 else None, "frac_reward_zero_std": lambda t: 0.3 if t % 4 == 1 else None, "entropy": 0.5},
    "NaN and None in the log": {"kl": math.nan, "entropy": lambda t: None if t % 2 else 0.5},
    "a judge that fails at times": {"judge/failed": lambda t: 1.0 * t, "judge/calls": lambda t: 64.0 * t},
    "a late start": {"rewards/iou_f1/mean": lambda t: 0.0 if t < 25 else 0.1},
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY_RUNS)
@pytest.mark.parametrize("every", [1, 5, 10])
def test_a_healthy_run_has_no_event(name, every):
    noise = 0.0 if name == "NaN and None in the log" else 0.005
    assert not seen(HEALTHY_RUNS[name], every=every, noise=noise if every > 1 and "steps without" not in name else 0.0)


def test_rewards_that_become_harder_may_fall():
    falling = {"reward": lambda t: 0.6 if t < 20 else 0.3, "rewards/iou_f1/mean": 0.1}
    assert not seen(falling, RunFacts("grpo", FACTS.rewards, 100, scale_moves=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling/sampling_logp_difference/mean": lambda t: 0.003 * 1.1**t, "sampling/lag": 1.0},
        {"sampling/sampling_logp_difference/mean": 0.5},
        {"sampling/sampling_logp_difference/mean": lambda t: min(0.08, 0.003 * 1.1**t)},
    ],
    ids=["older weights are asked for", "other sampling from the start", "rounding grows"],
)
def test_an_engine_that_is_as_far_as_it_may_be_is_no_event(changes):
    assert not seen(changes)


def test_a_short_run_is_left_alone():
    """A run of a few steps shows nothing: no state has lasted."""
    every_trouble = {key: value for name, changes, _ in BAD if name != "endpoint_failures" for key, value in changes.items()}
    assert not seen(every_trouble, n=9)


def test_an_event_may_come_again_once_it_was_gone_for_long():
    changes = {"completions/clipped_ratio": lambda t: 0.9 if t < 40 or 100 < t < 130 or t > 300 else 0.0}
    recorder = FlightRecorder(FACTS)
    steps = [event.step for row in rows(changes, n=400) for event in recorder.see(row)]
    assert steps == [20, 320], "not at 120: it had been away for 60 steps only"


def test_a_resumed_run_knows_what_it_knew():
    changes = {"completions/clipped_ratio": lambda t: 0.9 if t > 30 else 0.0, "grad_norm": lambda t: 0.0 if t > 60 else 0.5}
    logged = list(rows(changes))
    whole = FlightRecorder(FACTS)
    events = [(event.event, event.step) for row in logged for event in whole.see(row)]
    assert [name for name, _ in events] == ["truncated", "gradient_zero"]
    for stop in (25, 40, 55, 70, 95):
        resumed = FlightRecorder(FACTS)
        for row in json.loads(json.dumps(logged[:stop])):
            resumed.see(row)
        later = [(event.event, event.step) for row in logged[stop:] for event in resumed.see(row)]
        assert later == [one for one in events if one[1] > stop]


def test_events_name_the_samples_that_show_them():
    recorder = FlightRecorder(FACTS)
    batch = LastBatch(["a", "a", "b", "c"], [False, False, True, True])
    found = [event for row in rows({"completions/clipped_ratio": 0.7}) for event in recorder.see(row, batch)]
    assert [event.samples for event in found] == [("b", "c")]


@pytest.mark.parametrize(
    ("keys", "n_prompts", "n_steps", "events"),
    [
        (list("abcdefgh"), 8, 100, []),
        (list("abcdefgh"), 8, MAX_PASSES, []),
        (list("abcdefgh"), 8, MAX_PASSES + 1, ["data_repeats"]),
        (list("abcdefgh"), 9, 10, ["small_data"]),
        (list("aaaaaaab"), 4, 10, ["data_repeats"]),
        (list("aabcdefgh"), 4, 10, []),
        ([], 4, 10, []),
    ],
)
def test_repeated_data_are_known_before_the_first_step(keys, n_prompts, n_steps, events):
    found = data_events(keys, [f"row {i}" for i in range(len(keys))], n_prompts, n_steps)
    assert [event.event for event in found] == events
    assert all(event.step == 0 for event in found)


def test_every_event_has_a_section_in_the_docs():
    from pathlib import Path

    text = (Path(__file__).resolve().parent.parent / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    heads = [line.lstrip("# ").strip().lower() for line in text.splitlines() if line.startswith("#")]
    anchors = {"".join(c if c.isalnum() or c == "-" else "-" if c == " " else "" for c in head) for head in heads}
    assert {kind.section for kind in EVENT_KINDS.values()} <= anchors
    assert all(f"`{name}`" in text for name in EVENT_KINDS), "each is named in it"
    assert set(DETECTORS) <= set(EVENT_KINDS)


# -- the log -----------------------------------------------------------------------------------------------------------


def first_event(step=3, name="truncated", samples=()):
    recorder = FlightRecorder(FACTS)
    event = next(event for row in rows({"completions/clipped_ratio": 0.7}) for event in recorder.see(row))
    return type(event)(step, name, event.message, samples, event.values)


def test_events_are_written_and_said_once(tmp_path):
    said = []
    log = EventLog(tmp_path, say=said.append)
    log.begin("grpo")
    assert (tmp_path / "events.jsonl").read_text() == "", "a run without events has an empty file"
    log.add_once(first_event(samples=tuple(f"s{i}\x1b[31m\n" for i in range(20))))
    log.add_once(first_event(step=4))
    (line,) = said
    assert line.isprintable()
    assert "truncated (grpo step 3)" in line
    assert "--max_completion_length" in line
    (row,) = read_events(tmp_path / "events.jsonl")
    assert row.keys() == {"stage", "step", "event", "message", "samples", "what_to_try", "docs", "values"}
    assert len(row["samples"]) == 8


def test_what_is_not_finite_becomes_text(tmp_path):
    log = EventLog(tmp_path, say=lambda _line: None)
    log.begin("grpo")
    event = first_event()
    log.add(type(event)(1, "non_finite", "x", (), {"loss": math.nan, "grad_norm": math.inf}))
    assert json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=pytest.fail)["values"] == {
        "loss": "nan",
        "grad_norm": "inf",
    }


def test_a_resumed_stage_forgets_what_comes_again_and_half_lines(tmp_path):
    log = EventLog(tmp_path, say=lambda _line: None)
    log.begin("sft")
    log.add(first_event(step=300))
    log.begin("grpo")
    for step in (0, 5, 10):
        log.add(first_event(step=step, name="kl_runaway" if step == 10 else "truncated"))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "step": 11, "ev')
    again = EventLog(tmp_path, say=lambda _line: None)
    again.begin("grpo", after=7)
    assert [(row["stage"], row["step"]) for row in read_events(tmp_path / "events.jsonl")] == [
        ("sft", 300),
        ("grpo", 0),
        ("grpo", 5),
    ]
    assert again.said == {"truncated"}
    again.begin("grpo")
    assert [row["stage"] for row in read_events(tmp_path / "events.jsonl")] == ["sft"], "from the start: all of it anew"


def test_a_run_ends_at_the_events_that_it_names(tmp_path):
    log = EventLog(tmp_path, read_stop_on("kl_runaway,non_finite"), say=lambda _line: None)
    log.begin("grpo")
    log.add(first_event())
    assert log.stopping is None
    log.add(first_event(name="kl_runaway", step=9))
    log.add(first_event(name="non_finite", step=10))
    assert (log.stopping.event, log.stopping.step) == ("kl_runaway", 9)
    other = EventLog(None, read_stop_on("any"))
    other.begin("grpo")
    other.add(first_event())
    assert other.stopping is None, "other processes hear of it from the first"


def test_names_of_events_are_checked():
    assert read_stop_on("any") == set(EVENT_KINDS)
    assert read_stop_on(None) == read_stop_on("") == frozenset()
    assert read_stop_on(" truncated , kl_runaway") == {"truncated", "kl_runaway"}
    with pytest.raises(ValueError, match="unknown event 'truncatd'; did you mean 'truncated'"):
        read_stop_on("truncatd")
