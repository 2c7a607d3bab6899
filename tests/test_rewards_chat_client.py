"""A request to an endpoint: what is sent, that no server can hold it up or fill the memory, and how often it is tried."""

import socket
import threading
import time

import pytest

from vlrl.rewards import chat_client as endpoint
from vlrl.rewards.chat_client import EndpointError, base_url, chat, with_tries

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def server():
    """Starts a server that answers each connection with `talk(connection)`; gives its address."""
    listeners, stop = [], threading.Event()

    def start(talk):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve():
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        talk(connection, stop)
                    except OSError:
                        continue  # the other side hung up

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield start
    stop.set()
    for listener in listeners:
        listener.close()


def answering(raw):
    def talk(connection, stop):
        connection.recv(65536)
        connection.sendall(raw)

    return talk


def reply(body, status="200 OK"):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_reply_is_read_with_its_usage(server):
    body = b'{"choices": [{"message": {"content": "hello"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 7}}'
    found = chat(server(answering(reply(body))), BODY, timeout_s=5)
    assert found.text == "hello"
    assert found.usage == {"prompt_tokens": 7}
    assert found.finish_reason == "length"


def test_a_silent_server_and_a_dripping_one_end_at_the_time_out(server):
    def silent(connection, stop):
        stop.wait(20)

    def dripping_head(connection, stop):
        while not stop.wait(0.02):
            connection.sendall(b"H")

    def dripping_body(connection, stop):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.02):
            connection.sendall(b" ")

    for talk in (silent, dripping_head, dripping_body):
        start = time.monotonic()
        with pytest.raises(EndpointError, match="cannot be reached") as error:
            chat(server(talk), BODY, timeout_s=0.3)
        assert error.value.again
        assert time.monotonic() - start < 2


def test_an_endless_reply_is_cut(server, monkeypatch):
    def flood(connection, stop):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stop.is_set():
            connection.sendall(b"x" * 65536)

    monkeypatch.setattr(endpoint, "MAX_REPLY_BYTES", 200_000)
    with pytest.raises(EndpointError, match="more than 200000 bytes"):
        chat(server(flood), BODY, timeout_s=5)


@pytest.mark.parametrize(
    ("raw", "message", "again"),
    [
        (reply(b"", "401 No"), "status 401", False),
        (reply(b"", "503 Busy"), "status 503", True),
        (reply(b"[" * 100_000), "no JSON", True),
        (reply(b"\xff"), "no JSON", True),
        (reply(b"[]"), "without choices", True),
        (reply(b'{"choices": [{"message": "hi"}]}'), "without choices", True),
        (b"nonsense\r\n\r\n", "cannot be reached", True),
        (b"", "cannot be reached", True),
    ],
)
def test_what_is_no_reply_says_why(server, raw, message, again):
    with pytest.raises(EndpointError, match=message) as error:
        chat(server(answering(raw)), BODY, timeout_s=5)
    assert error.value.again == again


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "max_tokens is not\\n supported", "code": 3}}', ": max_tokens is not supported"),
        (b'{"object": "error", "message": "no model m"}', ": no model m"),
        (b'{"error": "no model m"}', ": no model m"),
        (b'{"detail": "gone"}', ': {"detail": "gone"}'),
        (b"<html>\xff", ": <html>\ufffd"),
        (b"[" * 100_000, ": " + "[" * endpoint.MAX_REFUSAL),
        (b'["x"]', ': ["x"]'),
        (b"", ""),
        (b'{"error": {"message": "wrong key secret-key"}}', ": wrong key ***"),
    ],
)
def test_a_refusal_says_what_the_endpoint_says(server, body, said):
    with pytest.raises(EndpointError) as error:
        chat(server(answering(reply(body, "400 Bad"))), BODY, timeout_s=5, api_key="secret-key")
    assert str(error.value).endswith("/v1" + said)
    assert not error.value.again


def test_a_refusal_that_does_not_end_is_a_refusal_still(server):
    def dripping(connection, stop):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.02):
            connection.sendall(b" ")

    start = time.monotonic()
    with pytest.raises(EndpointError, match="status 400"):
        chat(server(dripping), BODY, timeout_s=0.3)
    assert time.monotonic() - start < 2


def test_secrets_are_in_no_error():
    with pytest.raises(EndpointError) as error:
        chat("http://me:password@127.0.0.1:1/v1?token=hidden", BODY, timeout_s=2, api_key="secret-key")
    shown = str(error.value)
    assert "127.0.0.1:1/v1" in shown
    assert not any(secret in shown for secret in ("password", "hidden", "secret-key"))
    with pytest.raises(EndpointError, match="no address") as error:
        chat("nowhere", BODY, timeout_s=2)
    assert not error.value.again


def test_the_address_comes_from_the_call_then_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_BASE", "http://env")
    assert base_url("http://given") == "http://given"
    assert base_url() == "http://env"
    monkeypatch.delenv("OPENAI_API_BASE")
    assert base_url() == endpoint.DEFAULT_BASE


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
