"""Episodes as texts: written, read, played again by the rules, and as samples of tasks."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.data.synthetic import draw
from vlrl.envs import CardEnv
from vlrl.envs.cards import GAMES, game, write_reply
from vlrl.envs.cards.deals import answer_problem, deal_of, episode_sample, state_sample
from vlrl.envs.cards.transcripts import (
    Playthrough,
    Turn,
    read_moves,
    read_transcript,
    replay,
    state_after,
    write_moves,
    write_transcript,
)
from vlrl.gtr.episodes import Episode
from vlrl.models.generate import play_episodes
from vlrl.rewards import load_reward, score_rows
from vlrl.schema import Prediction
from vlrl.tasks import load_task
from vlrl.tasks.evaluate import measure, numbers
from vlrl.tasks.games import GAME_TASKS

NAMES = sorted(GAMES)


def a_reply(rules, state, rng):
    """Right, careless, illegal or broken, by chance."""
    kind = int(rng.integers(4))
    if kind == 3:
        return "no JSON"
    action = rules.best(state) if kind == 0 else str(rng.choice(rules.tokens))
    return write_reply({**rules.shown(state), "thoughts": "t"}, action if kind < 2 else action + "?")


@pytest.mark.parametrize("name", NAMES)
def test_a_transcript_played_again_is_the_environment_s_episode(name):
    rules = game(name)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        episode = Episode(CardEnv(name), seed=seed, number=0)
        turns = []
        while not episode.done:
            turns.append(Turn(a_reply(rules, episode.env.state, rng), bool(rng.integers(5))))
            episode.step(turns[-1].reply, turns[-1].ended)
        text = write_transcript(turns)
        played = replay(rules, seed, read_transcript(text))
        assert [one.token for one in played] == [step.token for step in episode.steps]
        assert [one.reward for one in played] == [step.reward for step in episode.steps]
        assert [one.state for one in played] == [step.state for step in episode.steps]
        assert [(one.valid, one.recognised) for one in played] == [(s.valid, s.recognised) for s in episode.steps]
        assert played[-1].done
        reward = load_reward("card_success").function(text, episode_sample("x", name, rules, seed))
        assert reward.value == (episode.total > 0)
        assert len(replay(rules, seed, [*turns, *turns])) == len(turns), "what comes after the end is not played"


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps))  # fmt: skip
def test_any_text_is_no_transcript_or_one(text):
    turns = read_transcript(text)
    assert turns is None or read_transcript(write_transcript(turns)) == turns
    sample = episode_sample("x", "points24", game("points24"), 3)
    assert load_reward("card_success").function(text, sample).value == 0


def test_an_episode_that_is_not_over_earns_nothing():
    sample = episode_sample("x", "numberline", game("numberline"), 1)
    right = load_task("numberline").oracle(sample)
    turns = read_transcript(right)
    reward = load_reward("card_success").function
    assert reward(right, sample).value == 1
    if len(turns) > 1:
        assert reward(write_transcript(turns[:-1]), sample).value == 0
    assert "not over" in reward("[]", sample).why
    finished = Playthrough(game("numberline"), 1)
    for turn in turns:
        finished.step(turn)
    with pytest.raises(RuntimeError, match="over after"):
        finished.step(turns[-1])


@pytest.mark.parametrize("name", NAMES)
def test_states_have_the_picture_the_environment_shows(name):
    rules, task = game(name), GAME_TASKS[name]
    for index in range(6):
        sample = task.synthetic(5, "coldstart", index)
        deal = deal_of(sample)
        env = CardEnv(name)
        frame, _ = env.reset(seed=deal.seed)
        for token in deal.moves:
            frame, *_ = env.step(rules.tokens.index(token))
        assert (np.asarray(draw(sample.images[0])) == frame).all()
        assert deal.state() == env.state
        assert read_moves(rules, write_moves(rules, deal.moves)) == deal.moves
        fields = json.loads(sample.meta["loose_reply"])
        assert rules.recognised(fields, deal.state()), "the careless player reads pictures right"
        assert fields["action"] in rules.legal(deal.state())
        assert task.sft_target(sample) == sample.meta["loose_reply"]


@pytest.mark.parametrize("name", NAMES)
def test_right_play_wins_what_can_be_won(name):
    task = GAME_TASKS[name]
    samples = [task.synthetic(1, "heldout", i) for i in range(40)]
    made = [Prediction(s.id, task.oracle(s), 1, False) for s in samples]
    rows = measure(task, samples, made)
    metrics, n_unparsed = numbers(task, rows), sum(row.outcome == "unparsed" for row in rows)
    assert n_unparsed == 0
    assert metrics["valid"].value == metrics["legal"].value == metrics["recognised"].value == 1
    assert metrics["success_oracle"] == metrics["success"], "the yardstick plays as the right replies do"
    assert (metrics["success_random"].value or 0) < (metrics["success_oracle"].value or 0)
    if name == "points24":
        assert metrics["success_solvable"].value == 1
        assert metrics["success"].value == metrics["solvable"].value < 1
    elif name == "blackjack":
        assert 0.2 < metrics["success"].value < 0.7
    else:
        assert metrics["success"].value == 1
    for sample in samples:
        assert task.check(sample) is None
        assert sample_from_json(json.loads(json.dumps(sample_to_json(sample))), "x", None) == sample
        state = state_sample(sample, ())
        if state.answer["good"]:
            assert task.check(state) is None
            text = task.oracle(state)
            assert [score_rows(load_reward(r), [text], [state], 0, None)[0].value for r in task.rewards(state)] == [1, 1]


def test_no_completion_at_all_is_a_failure_in_every_metric():
    task = GAME_TASKS["points24"]
    samples = [task.synthetic(1, "heldout", i) for i in range(4)]
    rows = measure(task, samples, [Prediction(s.id, "", 0, False) for s in samples])
    metrics, n_unparsed = numbers(task, rows), sum(row.outcome == "unparsed" for row in rows)
    assert n_unparsed == 4
    assert metrics["success"].value == 0


def test_what_a_sample_may_not_say():
    sample = GAME_TASKS["points24"].synthetic(0, "train", 0)
    wrong = {
        "names its env": {"env": "CartPole-v1", "seed": 1},
        "whole number": {"env": "vlrl/Points24-v0", "seed": -1},
    }
    for words, answer in wrong.items():
        assert words in answer_problem(dataclasses.replace(sample, answer=answer))
    assert "has no image" in answer_problem(dataclasses.replace(sample, images=("x.png",)))
    assert "meta.game" in answer_problem(dataclasses.replace(sample, meta={"game": {"exakt": False}}))
    state = state_sample(sample, ())
    assert "seed and moves lead to" in answer_problem(dataclasses.replace(state, answer={**state.answer, "cards": []}))
    assert "over after" in answer_problem(dataclasses.replace(state, meta={"moves": "16.0"}))
    assert "is no list of moves" in answer_problem(dataclasses.replace(state, meta={"moves": "17"}))
    with pytest.raises(ValueError, match="is an episode"):
        GAME_TASKS["points24"].sft_target(sample)


def test_rules_can_be_set_by_a_row():
    sample = dataclasses.replace(GAME_TASKS["points24"].synthetic(0, "train", 0), meta={"game": {"face_as_ten": False}})
    assert "13" in deal_of(sample).game.tokens
    assert "eleven, twelve and thirteen" in GAME_TASKS["points24"].prompt(sample)


def test_state_after_says_where_a_game_ends():
    with pytest.raises(ValueError, match="over after 1 of 2 moves"):
        state_after(game("points24"), 0, ["=", "1"])


def test_episodes_are_played_side_by_side_to_their_ends():
    """The policy that is asked sees each state once, and what it writes is what is logged."""
    task = GAME_TASKS["ezpoints"]
    samples = [task.synthetic(2, "heldout", i) for i in range(5)]
    batches = []

    def ask(states):
        batches.append(len(states))
        return [Prediction(s.id, task.oracle(s), 7, truncated=False) for s in states]

    made = play_episodes(samples, ask)
    assert [one.completion for one in made] == [task.oracle(sample) for sample in samples]
    assert batches == sorted(batches, reverse=True)
    assert [one.n_tokens for one in made] == [7 * len(read_transcript(one.completion)) for one in made]
    cut = play_episodes(samples, lambda states: [Prediction(s.id, "{", 7, truncated=True) for s in states])
    assert all(one.truncated for one in cut)
    assert numbers(task, measure(task, samples, cut))["valid"].value == 0
