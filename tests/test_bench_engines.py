"""Engines beside the model in this process: a server (a real local one), and those that cannot be used."""

import base64
import io
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from vlrl.bench import engines, main
from vlrl.bench.log import read_log
from vlrl.data.synthetic import draw
from vlrl.tasks import TASKS


def ids(folder):
    return [prediction.id for prediction in read_log(folder / "predictions.jsonl")]


def result(folder):
    return json.loads((folder / "result.json").read_text())


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.turn:
            server.running += 1
            server.most = max(server.most, server.running)
            server.seen.append((dict(self.headers), body))
            text = body["messages"][0]["content"][-1]["text"]
            n = server.asked[text] = server.asked.get(text, 0) + 1
        time.sleep(0.02)
        with server.turn:
            server.running -= 1
        status = server.status(text, n)
        self.send_response(status)
        self.end_headers()
        choice = {"message": {"content": "<think>t</think><answer>KEEP, STRAIGHT</answer>"}, "finish_reason": "length"}
        if status == 200:
            self.wfile.write(json.dumps({"choices": [choice], "usage": {"completion_tokens": 7}}).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.turn, found.running, found.most, found.seen, found.asked = threading.Lock(), 0, 0, [], {}
    found.status = lambda text, n: 200
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", "key-for-tests")
    monkeypatch.setattr(engines, "BACKOFF_S", 0.001)
    yield found
    found.shutdown()
    found.server_close()


def served(server, folder, *words):
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    command = ["run", "--task", "planning", "--limit", "20", "--base_url", url, "--model_name_or_path", "some-model"]
    return main([*command, "--api_nproc", "4", "--output_path", str(folder), *words])


def test_a_server_answers_a_few_at_a_time(server, tmp_path):
    server.status = lambda text, n: 503 if n == 1 and "8 m/s" in text else 200
    assert served(server, tmp_path / "out") == 0
    assert 2 <= server.most <= 4
    assert len(server.seen) > 20, "refused ones were asked again"
    headers, body = server.seen[0]
    assert headers["Authorization"] == "Bearer key-for-tests"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0, 512)
    image, text = body["messages"][0]["content"]
    opened = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))))
    shown = {draw(f"synthetic:planning/heldout/0/{i}").tobytes() for i in range(20)}
    assert opened.convert("RGB").tobytes() in shown
    assert text["text"] in {TASKS["planning"].prompt(TASKS["planning"].synthetic(0, "heldout", i)) for i in range(20)}
    assert len(ids(tmp_path / "out")) == 20
    found = result(tmp_path / "out")
    assert (found["n_truncated"], found["n_failed"]) == (20, 0)
    assert found["results"]["planning"]["n_tokens,none"] == 7
    for path in (tmp_path / "out").iterdir():
        assert "key-for-tests" not in path.read_text()


def test_a_failed_request_is_no_wrong_answer_and_is_asked_again(server, tmp_path, capsys):
    samples = [TASKS["planning"].synthetic(0, "heldout", i) for i in range(20)]
    bad = TASKS["planning"].prompt(samples[3])
    server.status = lambda text, n: 500 if text == bad else 200
    n_bad = sum(TASKS["planning"].prompt(s) == bad for s in samples)
    assert served(server, tmp_path / "out") == 1
    assert server.asked[bad] == 3 * n_bad
    found = result(tmp_path / "out")
    assert found["n_failed"] == n_bad
    assert found["n-samples"]["planning"]["effective"] == 20 - n_bad
    assert "status 500" in capsys.readouterr().err
    server.status, n_before = (lambda text, n: 200), len(server.seen)
    assert served(server, tmp_path / "out") == 0
    assert len(server.seen) - n_before == n_bad
    assert result(tmp_path / "out")["n_failed"] == 0


def test_engines_that_cannot_be_used_say_why(tmp_path, capsys):
    out = ["--output_path", str(tmp_path / "x")]
    assert main(["run", "--task", "detection", "--base_url", "http://127.0.0.1:1/v1", *out]) == 2
    assert "state with --coords" in capsys.readouterr().err
    assert main(["run", "--task", "qa", "--use_vllm", "--base_url", "http://x", *out]) == 2
    assert "two engines" in capsys.readouterr().err
    assert main(["run", "--task", "qa", "--use_vllm", *out]) == 2
    assert "pip install 'vlrl[vllm]'" in capsys.readouterr().err
    assert main(["run", "--task", "detectoin", *out]) == 2
    assert "did you mean 'detection'" in capsys.readouterr().err
    assert not (tmp_path / "x" / "result.json").exists()


VLLM = '''
"""What of vLLM's offline interface is used, with its names; answers in the order of the conversations."""
from types import SimpleNamespace
__version__ = "0.0-stand-in"
seen = []
class SamplingParams:
    def __init__(self, *, temperature=1.0, max_tokens=16, logit_bias=None, seed=None):
        self.__dict__.update(locals())
class LLM:
    def __init__(self, model, *, dtype="auto", revision=None, trust_remote_code=False, seed=0, limit_mm_per_prompt=None):
        self.model = model
    def chat(self, messages, sampling_params=None, use_tqdm=True):
        assert len(messages) == len(sampling_params)
        seen.extend(zip(messages, sampling_params))
        said = [turn[-1]["content"][-1]["text"] for turn in messages]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=f"<think>{len(text)}</think><answer>KEEP, STRAIGHT</answer>",
                token_ids=[1, 2, 3], finish_reason="stop")]) for text in said]
'''


def test_vllm_is_asked_in_one_call_and_never_writes_vision_tokens(tmp_path, monkeypatch):
    """vLLM itself needs a GPU; its place is taken by a module with the names that are used."""
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    (tmp_path / "site" / "vllm" / "__init__.py").write_text(VLLM)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    model, out = str(engines.__file__).replace("bench/engines.py", "models/assets/tiny"), tmp_path / "out"
    words = ["run", "--task", "planning", "--use_vllm", "--model_name_or_path", model, "--coords", "px", "--limit", "5"]
    try:
        assert main([*words, "--max_new_tokens", "9", "--output_path", str(out)]) == 0
        vllm = sys.modules["vllm"]
    finally:
        sys.modules.pop("vllm", None)
    predictions = read_log(out / "predictions.jsonl")
    assert len(predictions) == len(vllm.seen) == 5
    asked = {f"<think>{len(turns[-1]['content'][-1]['text'])}</think>" for turns, _ in vllm.seen}
    assert {prediction.completion.partition("<answer>")[0] for prediction in predictions} == asked
    for turns, params in vllm.seen:
        assert turns[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert (params.temperature, params.max_tokens) == (0.0, 9)
        assert params.logit_bias
        assert set(params.logit_bias.values()) == {-100.0}
    assert json.loads((out / "run.json").read_text())
    assert result(out)["n_failed"] == 0
