"""A request to an endpoint: what is sent, that no server can hold it up or fill the memory, and how often it is tried."""

import email.utils
import gzip
import http.client
import json
import os
import socket
import threading
import time

import pytest

from vlrl.rewards import chat_client as endpoint
from vlrl.rewards.chat_client import EndpointError, base_url, chat

pytestmark = pytest.mark.quick

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
HELLO = b'{"choices": [{"message": {"content": "hello"}}]}'


@pytest.fixture
def server():
    """Starts a server that answers each connection with `talk(connection)`; gives its address."""
    listeners, stop = [], threading.Event()

    def start(talk, host="127.0.0.1"):
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
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
        return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"

    yield start
    stop.set()
    for listener in listeners:
        listener.close()


def answering(raw):
    def talk(connection, stop):
        connection.recv(65536)
        connection.sendall(raw)

    return talk


def reply(body, status="200 OK", head=""):
    return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def recording(raw, heads):
    """Answers every request of a connection with `raw` and keeps their heads, a list for each connection."""

    def talk(connection, stop):
        heads.append([])
        with connection.makefile("rb") as lines:
            while request := lines.readline():
                fields = http.client.parse_headers(lines)
                lines.read(int(fields["Content-Length"]))
                heads[-1].append((request.decode().split()[1], fields))
                connection.sendall(raw)

    return talk


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


def test_what_is_sent(server):
    heads = []
    chat(server(recording(reply(HELLO), heads)) + "/?version=1", BODY, timeout_s=5, api_key=" secret-key\n")
    ((path, fields),) = heads[0]
    assert path == "/v1/chat/completions?version=1"
    assert fields["Authorization"] == "Bearer secret-key"
    assert fields["Accept-Encoding"] == "identity"
    assert fields["Content-Type"] == "application/json"


def test_a_password_in_the_address_goes_instead_of_the_key(server):
    heads = []
    url = server(recording(reply(HELLO), heads)).replace("//", "//me:password@")
    chat(url, BODY, timeout_s=5, api_key="secret-key")
    assert heads[0][0][1]["Authorization"] == "Basic bWU6cGFzc3dvcmQ="


def test_a_connection_is_used_again(server):
    heads = []
    url = server(recording(reply(HELLO), heads))
    for _ in range(3):
        assert chat(url, BODY, timeout_s=5).text == "hello"
    assert [len(requests) for requests in heads] == [3]


def test_a_connection_that_the_server_closes_is_replaced(server):
    url = server(answering(reply(HELLO)))
    for _ in range(3):
        try:
            found = chat(url, BODY, timeout_s=5)
        except EndpointError:
            found = chat(url, BODY, timeout_s=5)
        assert found.text == "hello"
        time.sleep(0.05)


def test_a_forked_process_has_its_own_client(server):
    url = server(answering(reply(HELLO)))
    assert chat(url, BODY, timeout_s=5).text == "hello"
    child = os.fork()
    if not child:
        os._exit(0 if chat(url, BODY, timeout_s=5).text == "hello" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_ipv6(server):
    try:
        url = server(answering(reply(HELLO)), host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert chat(url, BODY, timeout_s=5).text == "hello"


def test_a_compressed_reply_is_not_unpacked(server):
    bomb = gzip.compress(b" " * 50_000_000)
    with pytest.raises(EndpointError, match="encoding gzip, which was not requested") as error:
        chat(server(answering(reply(bomb, head="Content-Encoding: gzip\r\n"))), BODY, timeout_s=5)
    assert not error.value.again
    with pytest.raises(EndpointError, match=r"status 400 from [^ ]*$"):
        chat(server(answering(reply(bomb, "400 Bad", "Content-Encoding: gzip\r\n"))), BODY, timeout_s=5)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(server, status):
    heads = []
    other = server(recording(reply(HELLO), heads))
    moved = reply(b"", status, f"Location: {other.replace('//', '//me:password@')}?token=hidden\r\n")
    with pytest.raises(EndpointError, match=f"status {status[:3]} .* redirects to {other}, ") as error:
        chat(server(answering(moved)), BODY, timeout_s=5, api_key="secret-key")
    assert not error.value.again
    assert not heads


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("1e9", endpoint.MAX_RETRY_AFTER_S, endpoint.MAX_RETRY_AFTER_S),
        ("-3", 0, 0),
        ("nan", 0, 0),
        ("soon", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0, 0),
        (30, 25, 30),
        ("7\r\nretry-after-ms: 1500", 1.5, 1.5),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_bounded(server, value, low, high):
    if isinstance(value, int):
        value = email.utils.formatdate(time.time() + value, usegmt=True)
    with pytest.raises(EndpointError, match="status 429") as error:
        chat(server(answering(reply(b"", "429 Slow", f"Retry-After: {value}\r\n"))), BODY, timeout_s=5)
    assert error.value.again
    assert low <= error.value.wait_s <= high


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
    ("body", "message"),
    [
        (b'{"error": {"message": "max_tokens is not\\n supported", "code": 3}}', ": max_tokens is not supported"),
        (b'{"object": "error", "message": "no model m"}', ": no model m"),
        (b'{"error": "no model m"}', ": no model m"),
        (b'{"detail": "gone"}', ': {"detail": "gone"}'),
        (b"<html>\xff", ": <html>\ufffd"),
        (b"[" * 100_000, ": " + "[" * endpoint.MAX_REFUSAL_CHARS),
        (b'["x"]', ': ["x"]'),
        (b"", ""),
        (b'{"error": {"message": "wrong key secret-key"}}', ": wrong key ***"),
    ],
)
def test_a_refusal_says_what_the_endpoint_says(server, body, message):
    with pytest.raises(EndpointError) as error:
        chat(server(answering(reply(body, "400 Bad"))), BODY, timeout_s=5, api_key="secret-key")
    assert str(error.value).endswith("/v1" + message)
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


def test_a_key_that_comes_back_is_masked_before_anything_is_cut(server):
    """Some servers and proxies repeat what they were sent, in any place of a reply."""
    key = "planted-secret-key"
    body = json.dumps({"choices": [{"message": {"content": f"x Bearer {key} x"}, "finish_reason": key}]}).encode()
    found = chat(server(answering(reply(body))), BODY, timeout_s=5, api_key=key)
    assert found.text == "x Bearer *** x"
    assert found.finish_reason == "***"
    long = json.dumps({"error": {"message": "x" * (endpoint.MAX_REFUSAL_CHARS - 8) + f" {key} more"}}).encode()
    for raw in (reply(long, "400 Bad"), reply(f"no JSON {key}".encode()), reply(b"", f"500 {key}")):
        with pytest.raises(EndpointError) as error:
            chat(server(answering(raw)), BODY, timeout_s=5, api_key=key)
        assert "planted" not in str(error.value)


@pytest.mark.parametrize(("header", "again"), [("true", True), ("false", False)])
def test_a_server_may_say_whether_to_try_again(server, header, again):
    status = "400 Bad" if again else "503 Busy"
    with pytest.raises(EndpointError) as error:
        chat(server(answering(reply(b"", status, f"x-should-retry: {header}\r\n"))), BODY, timeout_s=5)
    assert error.value.again == again


def test_half_a_surrogate_pair_does_not_come_through(server):
    body = b'{"choices": [{"message": {"content": "a\\ud800b \\ud83d\\ude00", "\\udfff": ["\\udc80"]}}]}'
    found = chat(server(answering(reply(body))), BODY, timeout_s=5)
    assert found.text == "a\ufffdb \U0001f600"
    assert found.message["\ufffd"] == ["\ufffd"]


def test_secrets_are_in_no_error():
    with pytest.raises(EndpointError) as error:
        chat("http://me:password@127.0.0.1:1/v1?token=hidden", BODY, timeout_s=2, api_key="secret-key")
    shown = str(error.value)
    assert "127.0.0.1:1/v1" in shown
    assert not any(secret in shown for secret in ("password", "hidden", "secret-key"))
    with pytest.raises(EndpointError, match="the API key holds") as error:
        chat("http://127.0.0.1:1/v1", BODY, timeout_s=2, api_key="secret\nkey")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("base", ["nowhere", "ftp://host/v1", "http://", "http://host:port/v1", "http://[::1/v1"])
def test_what_is_not_an_address_is_not_tried_again(base):
    with pytest.raises(EndpointError, match=r"not an address|cannot be read") as error:
        chat(base, BODY, timeout_s=2)
    assert not error.value.again


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(EndpointError, match="a proxy named in the environment cannot be used") as error:
        endpoint._Client()
    assert not error.value.again


def test_the_address_comes_from_the_call_then_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_BASE", "http://env")
    assert base_url("http://given") == "http://given"
    assert base_url() == "http://env"
    monkeypatch.delenv("OPENAI_API_BASE")
    assert base_url() == endpoint.DEFAULT_BASE


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    heads = []
    monkeypatch.setenv("HTTP_PROXY", server(recording(reply(HELLO), heads)).removesuffix("/v1"))
    monkeypatch.setenv("NO_PROXY", "")
    response, body = endpoint._Client().send("POST", "http://nowhere.invalid/v1", b"{}", {}, 5)
    assert (response.status_code, body) == (200, HELLO)
    assert heads[0][0][0] == "http://nowhere.invalid/v1"
