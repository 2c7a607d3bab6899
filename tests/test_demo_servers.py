"""A visitor's OpenAI-compatible server as a model of the page: asked quickly, its failures in one line, its key nowhere."""

import json
import threading
import time

import pytest
from chat_server import Handler, Server
from PIL import Image

from demos import app, servers
from demos.asking import Asking
from demos.page_tasks import PageTasks
from vlrl.rewards import chat_client

PAGE, KEY, COORDS = PageTasks(), "sk-visitors-own-key-123456", next(iter(servers.COORDS))


class WithList(Handler):
    """Also answers GET: `server.models` is a list of names, a status, seconds to be silent, or bytes."""

    def do_GET(self):
        self.server.seen.append((dict(self.headers), self.path))
        models = self.server.models
        if isinstance(models, float):
            time.sleep(models)
            return
        self.send_response(models if isinstance(models, int) else 200)
        self.end_headers()
        if isinstance(models, list):
            self.wfile.write(json.dumps({"data": [{"id": name} for name in models]}).encode())
        elif isinstance(models, bytes):
            self.wfile.write(models)


@pytest.fixture
def server():
    made = Server(["<think>t</think><answer>None</answer>"])
    made.RequestHandlerClass, made.models = WithList, ["good"]
    made.base = f"http://127.0.0.1:{made.server_address[1]}/v1"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server, model="good", key="", base=None, n=1, opened=None, question=None, task="detection"):
    asking = Asking(None, PAGE)
    chosen = PAGE.example(task, 3)
    *_, last = asking.answer_from_server(
        task, base or server.base, model, key, COORDS, chosen, opened, question or chosen.question, n, 0.7
    )
    return last


def test_an_answer_of_a_server_is_shown_and_scored(server):
    sample = PAGE.example("detection", 3)
    x1, y1, x2, y2 = (round(1000 * value / 112) for value in sample.answer[0]["bbox_2d"])
    reply = json.dumps([{"bbox_2d": [x1, y1, x2, y2], "label": "yellow square"}])
    server.replies = [f"<think>seen</think><answer>{reply}</answer>"]
    image, answer, scores = ask(server, key=KEY)
    assert "1 of 1 true boxes matched" in answer
    assert "P1 IoU 0." in image or "P1 IoU 1." in image
    assert "iou_<wbr>f1" in scores
    listed, asked = server.seen
    assert listed[0]["Authorization"] == asked[0]["Authorization"] == f"Bearer {KEY}"
    body = asked[1]
    assert (body["model"], body["temperature"]) == ("good", 0.0)
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    assert kinds == ["image_url", "text"]
    assert body["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_group_of_a_server_and_an_upload(server):
    _, _, scores = ask(server, n=3)
    assert scores.count("<li class='vl-box'>") == 3
    image, answer, _ = ask(server, opened=Image.new("RGB", (64, 48), "red"), question="dog")
    assert "there is no dog in this image" in answer
    assert "<img" in image


@pytest.mark.parametrize(
    ("models", "replies", "words"),
    [
        (["a", "b"], None, "the server has no model &#39;good&#39;; it has a, b"),
        (401, None, "the server gave no answer: status 401"),
        (404, [(400, f"bad key {KEY}")], "the server gave no answer: status 400"),
        (["good"], [500], "the server gave no answer: status 500"),
        (["good"], [b"<html>"], "replied with no JSON"),
        (b"[1, 2", [(403, "no")], "status 403"),
    ],
)
def test_what_a_server_refuses_is_one_line_without_the_key(server, models, replies, words, capsys):
    server.models, server.replies = models, replies or server.replies
    start = time.monotonic()
    _, answer, _ = ask(server, key=KEY)
    assert time.monotonic() - start < 5
    assert words in answer
    assert "role='alert'" in answer
    assert "\n" not in answer
    assert KEY not in answer
    out = capsys.readouterr()
    assert KEY not in out.out + out.err


def test_a_server_that_never_answers_is_given_up_quickly(server, monkeypatch):
    monkeypatch.setattr(servers, "LIST_S", 0.5)
    server.models = 3.0
    start = time.monotonic()
    _, answer, _ = ask(server)
    assert time.monotonic() - start < 2.5
    assert "no complete reply within 0.5 s" in answer


def test_a_server_that_echoes_the_key_cannot_show_it(server):
    server.replies = [f"<answer>your key is {KEY}</answer>"]
    shown = "".join(map(str, ask(server, key=KEY)))
    assert KEY not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"base": "ftp://x"}, "is not an address"),
        ({"base": " "}, "give the server&#39;s address"),
        ({"model": " "}, "give the server&#39;s address"),
        ({"base": "http://user:pass-word-1@127.0.0.1/v1"}, "give the key in its own field"),
        ({"base": "http://127.0.0.1:9/v1"}, "cannot be reached"),
        ({"base": "http://" + "x" * 600}, "longer than 500 characters"),
        ({"key": "line\nbreak-1"}, "line break"),
    ],
)
def test_addresses_that_cannot_be_used_are_one_line(server, words, why):
    _, answer, _ = ask(server, **words)
    assert why in answer
    assert "pass-word-1" not in answer


def test_the_operator_s_own_key_is_not_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-operators-key-123456")
    ask(server)
    assert all("Authorization" not in headers for headers, _ in server.seen)


def test_the_key_is_no_part_of_what_a_server_prints():
    assert KEY not in repr(servers.Server("http://x", "m", KEY, COORDS, {}))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], True),
        (["--host", "localhost"], True),
        (["--host", "0.0.0.0"], False),
        (["--share"], False),
        (["--host", "0.0.0.0", "--allow_servers"], True),
    ],
)
def test_only_who_sits_at_the_machine_may_name_servers(words, expected):
    assert app.may_name_servers(app.arguments(words)) is expected


def test_a_list_of_models_is_read_or_not_there(server):
    assert chat_client.listed_models(server.base, timeout_s=5, api_key="") == ["good"]
    assert server.seen[0][1] == "/v1/models"
    for models in (404, 405, 501, b"no json", b"{}", b'{"data": 3}'):
        server.models = models
        assert chat_client.listed_models(server.base, timeout_s=5, api_key="") is None
    server.models = 500
    with pytest.raises(chat_client.EndpointError, match="status 500"):
        chat_client.listed_models(server.base, timeout_s=5, api_key="")
