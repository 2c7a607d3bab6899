"""Judges that vote several times or reason first: what is asked, which votes count, what becomes of them."""

import pytest
from test_rewards_judge import ask, endpoint, parts_of, tagged

from vlrl.rewards import load_reward
from vlrl.rewards.chat_client import EndpointError
from vlrl.rewards.judge_prompt import verdict
from vlrl.rewards.judge_votes import voted

__all__ = ["endpoint"]
pytestmark = pytest.mark.quick


def test_votes_are_asked_for_one_by_one_and_become_one_score(endpoint):
    server = endpoint("0.2", "1", "1", "0.2", "1", "1")
    score = ask(tagged("a bus"), options=",votes=3")
    assert score.value == pytest.approx(2.2 / 3)
    assert "3 of 3 votes: 0.2 1 1; spread 0.377" in score.why
    assert [(body["temperature"], body["seed"]) for _, body in server.seen] == [(1, 0), (1, 1), (1, 2)]
    assert ask(tagged("a bus"), options=",votes=3,vote=majority").value == 1, "remembered by vote"
    assert len(server.seen) == 3


def test_half_of_the_votes_or_fewer_are_no_score(endpoint):
    endpoint("0.5", *["no idea"] * 3)
    score = ask(tagged("a bus"), options=",votes=2")
    assert score.value is None
    assert "no judgement" in score.why


def test_a_judge_may_reason_first_and_its_last_line_counts(endpoint):
    server = endpoint("Principles: 1. colour.\nCritique: the colour is right. Score: 0.1?\nScore: 0.75\n")
    assert ask(tagged("a bus"), options=",critique=true").value == 0.75
    system, user, _ = parts_of(server.seen[0][1])
    assert "First write the principles" in system
    assert "and nothing else." not in system
    assert user.endswith("as the last line Score: NUMBER.")
    for reply in ("Score: 0.5\nI am sure.", "Score: 0.5 or 1", "", "Critique.\nScore: 7"):
        with pytest.raises(EndpointError):
            verdict(reply, critique=True)


def test_votes_by_hand():
    assert voted([0.0, 1.0, 1.0], "mean") == pytest.approx(2 / 3)
    assert voted([0.0, 1.0, 1.0], "majority") == 1
    assert voted([0.0, 0.0, 1.0, 1.0, 0.5], "majority") == 0, "of several the least"


def test_a_judge_by_name_and_address():
    reward = load_reward("judge:qwen@http://host:8000/v1,votes=4,vote=majority")
    given = {"judge_model": "qwen", "judge_url": "http://host:8000/v1", "votes": 4, "vote": "majority"}
    assert (reward.name, reward.function.keywords) == ("llm_judge", given)
    for spec, said in (
        ("judge:qwen", "write judge:NAME@URL"),
        ("judge:qwen@host", "write judge:NAME@URL"),
        ("judge:q@http://me:secret@h/v1", "the address holds"),
        ("judge:q@http://h/v1,vote=mean", "is for several votes"),
        ("judge:q@http://h/v1,votes=0", "must be 1 or more"),
        ("judge:q@http://h/v1,vote=best,votes=2", "must be mean/majority"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            load_reward(spec)
        assert "secret" not in str(caught.value)
