"""Tries of a request; what a request sends and reads is tested with the judge and with the server engine."""

import pytest

from vlrl.endpoint import EndpointError, chat, with_tries


def asking(*outcomes):
    """A question that fails with each error in turn, then answers."""
    left = list(outcomes)

    def ask():
        if left:
            raise left.pop(0)
        return "reply"

    return ask, left


def test_it_is_asked_again_until_it_answers_or_the_tries_are_used():
    ask, _ = asking(EndpointError("busy"), EndpointError("busy"))
    assert with_tries(ask, 3, 0) == "reply"
    ask, left = asking(*[EndpointError("busy")] * 5)
    with pytest.raises(EndpointError, match="try 3: busy"):
        with_tries(ask, 3, 0)
    assert len(left) == 2


def test_what_asking_again_cannot_change_is_asked_once():
    ask, left = asking(EndpointError("no such model", again=False), EndpointError("never reached"))
    with pytest.raises(EndpointError, match="try 1: no such model"):
        with_tries(ask, 3, 0)
    assert len(left) == 1


def test_other_errors_are_not_hidden_and_no_tries_are_an_error():
    ask, _ = asking(KeyError("bug"))
    with pytest.raises(KeyError):
        with_tries(ask, 3, 0)
    with pytest.raises(ValueError, match="n_tries=0"):
        with_tries(ask, 0, 0)


def test_nobody_there():
    with pytest.raises(EndpointError, match="cannot be reached") as caught:
        chat({}, "http://127.0.0.1:9/v1", 2.0)
    assert caught.value.again
