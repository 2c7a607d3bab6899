"""Episodes driven by replies, and credit over a group."""

import json

import numpy as np
import pytest
import torch

from vlrl.envs import CardEnv
from vlrl.envs.cards import claims, read_action, thought_fields, write_reply
from vlrl.gtr import Correction, OracleCorrector
from vlrl.gtr.credit import Credit
from vlrl.gtr.episodes import Episode
from vlrl.gtr.named_moves import correctors_move
from vlrl.gtr.options import GuideOptions
from vlrl.metrics.cards import episode_row

ORACLE = OracleCorrector()


# ---- episodes


def reply(state_fields, action):
    return write_reply({**state_fields, "thoughts": "t"}, action)


def test_an_episode_plays_replies_and_keeps_what_the_policy_saw():
    episode = Episode(CardEnv("numberline"), seed=3)
    played = episode.env.game
    while not episode.done:
        frame, state = np.asarray(episode.observation), episode.env.state
        step = episode.step(reply(played.shown(state), played.best(state)), ended=True)
        assert (step.frame == frame).all()
        assert (step.state, step.valid, step.recognised, step.cut) == (state, True, True, False)
        assert step.action == step.token == played.best(state)
    assert episode.total == 1
    assert [step.t for step in episode.steps] == list(range(len(episode.steps)))
    with pytest.raises(RuntimeError, match="is over"):
        episode.step("", True)


def test_unreadable_actions_are_random_but_repeatable_or_end_the_episode():
    def tokens(number):
        episode = Episode(CardEnv("points24"), seed=3, number=number)
        return [episode.step("gibberish", True).token for _ in range(3) if not episode.done]

    assert tokens(0) == tokens(0)
    assert len({tuple(tokens(number)) for number in range(5)}) > 1
    ended = Episode(CardEnv("points24"), seed=3, illegal="end")
    step = ended.step("gibberish", True)
    assert (step.action, step.token, step.reward, step.done, step.valid, step.recognised) == (None, None, -1, True, False, None)
    with pytest.raises(ValueError, match="illegal='skip'"):
        Episode(CardEnv("points24"), seed=3, illegal="skip")


def points_episode(truncation, numbers=(4, 6, 1, 1)):
    episode = Episode(CardEnv("points24"), seed=3, truncation=truncation)
    episode.env.reset(options={"numbers": list(numbers)})
    return episode


def test_training_cuts_episodes_as_asked():
    wrong = reply({"cards": [4, 6, 1, 1], "formula": ""}, "9")
    plain = points_episode("none")
    assert plain.step(wrong, True).done is False
    step = points_episode("reward").step(wrong, True)
    assert (step.reward, step.done, step.cut) == (-1, True, True)
    four = reply({"cards": [4, 6, 1, 1], "formula": ""}, "4")
    leaving = Correction("corrected", text="x", target="6 * 4 * 1 * 1")
    heading = Correction("ok", target="4 * 6 * 1 * 1")
    lost = Correction("unsolvable")
    for truncation, correction, cut in [
        ("reward", leaving, False),
        ("target", leaving, True),
        ("target", heading, False),
        ("target", None, False),
        ("target", lost, True),
        ("reward", lost, False),
    ]:
        step = points_episode(truncation).step(four, True, correction)
        assert (step.cut, step.reward) == (cut, -1 if cut else 0), (truncation, correction)
    kept = points_episode("target")
    kept.step(four, True, heading)
    assert kept.request("", True).target == "4 * 6 * 1 * 1"
    plus = reply({"cards": [4, 6, 1, 1], "formula": "4"}, "+")
    assert kept.step(plus, True, Correction("failed")).cut, "a failed verdict keeps the target, which `4 +` leaves"


def test_plain_episodes_with_the_oracles_thoughts_and_its_moves_are_won():
    for name in ("ezpoints", "numberline"):
        for seed in range(10):
            episode = Episode(CardEnv(name), seed=seed)
            while not episode.done:
                played = episode.env.game
                poor = write_reply(dict.fromkeys(played.thought_keys, "?"), played.best(episode.env.state))
                correction = ORACLE.correct(episode.request(poor, True))
                assert correction.status == "corrected"
                move = claims.next_token(json.loads(correction.text)["thoughts"]) or read_action(poor, played)
                episode.step(write_reply(thought_fields(correction.text, played), move), True, correction)
            assert episode.total == played.success_reward
            row = episode_row(episode.steps[0].state, played, episode.steps)
            assert (row.n_steps, row.n_legal, row.n_valid, row.n_recognised, row.n_open, row.n_right) == (row.n_steps,) * 6
            assert row.n_steps == len(episode.steps)
            assert (row.solvable, row.pressed_equals) == ((True, True) if name == "ezpoints" else (None, None))


@pytest.mark.parametrize("name", ["ezpoints", "numberline", "points24"])
def test_where_the_corrector_leads_poor_thoughts_and_wrong_moves_win(name):
    n_won = 0
    for seed in range(12):
        episode = Episode(CardEnv(name), seed=seed, truncation="target")
        while not episode.done:
            game, state = episode.env.game, episode.env.state
            wrong = next(token for token in game.tokens if token not in game.good(state))
            poor = write_reply(dict.fromkeys(game.thought_keys, "?"), wrong)
            verdict = ORACLE.correct(episode.request(poor, True))
            step = episode.step(poor, True, verdict, correctors_move(poor, verdict, game))
            assert step.action == wrong, "what the policy chose stays on record"
        winnable = name != "points24" or game.solvable(episode.steps[0].state)
        assert (episode.total == game.success_reward) == winnable
        n_won += winnable
    assert n_won >= 6


def test_a_corrector_wants_no_move_where_it_names_none():
    game = CardEnv("points24").game
    right = write_reply({"cards": ["4"], "formula": "", "thoughts": "next is 4"}, "5")
    assert correctors_move(right, Correction("ok"), game) == "4", "of a right thought its own, whatever was played"
    better = write_reply({"cards": ["4"], "formula": "", "thoughts": "next is 6"}, "5")
    assert correctors_move(right, Correction("corrected", text=better), game) == "6"
    unknown = write_reply({"cards": ["4"], "formula": "", "thoughts": "next is 13"}, "5")
    assert correctors_move(right, Correction("corrected", text=unknown), game) is None, "no card of this game"
    for status in ("unsolvable", "invalid", "failed"):
        assert correctors_move(right, Correction(status), game) is None
    assert correctors_move("babble", Correction("ok"), game) is None


def test_so_many_of_a_group_are_led():
    guided = GuideOptions(corrector="oracle", led=0.25)
    assert [guided.n_guided(group) for group in (4, 8, 16)] == [1, 2, 4]
    assert GuideOptions(led=0.25).n_guided(2) == 0, "nobody leads without a corrector"
    assert GuideOptions(corrector="oracle", led=0.25, judge_reward=1.0).n_guided(4) == 0, "nothing would be imitated"
    for led, group in ((0.25, 2), (0.1, 4), (0.75, 4)):
        with pytest.raises(ValueError, match="leave two to compare"):
            GuideOptions(corrector="oracle", led=led).n_guided(group)
    with pytest.raises(ValueError, match=r"outside 0..1"):
        GuideOptions(corrector="oracle", led=1.0)


# ---- credit


def test_episode_credit_is_grpos_of_the_returns():
    rewards, valid = [[0, 0, 10], [-1, 0], [0, 10], [-1]], [[False] * 3, [False] * 2, [False] * 2, [False]]
    found = Credit(success_reward=10).advantages(rewards, valid)
    returns = torch.tensor([1.0, -0.1, 1.0, -0.1])
    expected = (returns - returns.mean()) / (returns.std() + 1e-4)
    for episode, value in zip(found, expected.tolist(), strict=True):
        assert episode == pytest.approx([value] * len(episode), abs=1e-6)


def test_format_pays_its_own_step_alone():
    found = Credit(success_reward=1, format_weight=0.5).advantages([[0, 1], [0, 1]], [[True, False], [False, False]])
    mean = (1 + 0.5 / 2 + 1) / 2
    assert found[0][0] > 0 > found[0][1]
    assert found[0][1] == found[1][0] == found[1][1]
    spread = ((1.5 - mean) ** 2 / 2 + (1 - mean) ** 2 * 1.5) ** 0.5
    assert found[0][0] == pytest.approx((1.5 - mean) / (spread + 1e-4))


def test_returns_to_go_are_compared_within_the_group_or_the_state():
    rewards, valid = [[0, 1], [-1, 0]], [[False, False]] * 2
    values = torch.tensor([0.9, 1.0, -1.0, 0.0])
    expected = ((values - values.mean()) / (values.std() + 1e-4)).tolist()
    found = Credit("return_to_go").advantages(rewards, valid)
    assert [*found[0], *found[1]] == pytest.approx(expected)
    shared = Credit("same_state").advantages(rewards, valid, [["deal", "a"], ["deal", "b"]])
    pair = torch.tensor([0.9, -1.0])
    assert [shared[0][0], shared[1][0]] == pytest.approx(((pair - pair.mean()) / (pair.std() + 1e-4)).tolist())
    assert [shared[0][1], shared[1][1]] == pytest.approx([expected[1], expected[3]])


@pytest.mark.parametrize("kind", ["episode", "return_to_go", "same_state"])
def test_groups_without_variance_have_no_advantage(kind):
    states = [["s"], ["s"], ["s"]]
    found = Credit(kind).advantages([[1.0]] * 3, [[True]] * 3, states)
    assert found == [[0.0]] * 3
    assert Credit(kind).advantages([[1.0]], [[True]], [["s"]]) == [[0.0]], "one episode alone"


def test_wrong_credits_are_refused():
    with pytest.raises(ValueError, match=r"gamma in 0\.\.1"):
        Credit(gamma=1.5)
    with pytest.raises(ValueError, match="needs the states"):
        Credit("same_state").advantages([[1.0]], [[True]])


def test_extras_are_paid_at_their_step_alone():
    rewards, valid = [[0, 1], [0, 1]], [[False, False], [False, False]]
    paid = Credit().advantages(rewards, valid, extras=[[0.5, 0.0], [0.0, 0.0]])
    assert paid == Credit(format_weight=0.5).advantages(rewards, [[True, False], [False, False]]), "as validity is"


def test_baselines_pay_in_place_of_imitation():
    assert GuideOptions(corrector="oracle").imitates
    assert not GuideOptions(corrector="oracle", judge_reward=1.0).imitates
    assert not GuideOptions(corrector="oracle", coef=0.0).imitates
    with pytest.raises(ValueError, match="a judge is a --corrector"):
        GuideOptions(judge_reward=1.0)
    with pytest.raises(ValueError, match="imitation alone"):
        GuideOptions(corrector="oracle", judge_reward=1.0, policy=False)


def test_without_a_corrector_no_formula_can_be_left():
    assert GuideOptions(corrector="oracle", truncation="target").cut == "target"
    assert GuideOptions(truncation="target").cut == "reward", "RL alone, by the recipe of a guided run"
    assert GuideOptions(truncation="none").cut == "none"
