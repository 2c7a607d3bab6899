"""A server that writes completions of the weights it has read from files: a stand-in with vLLM's endpoints and our own worker.
vLLM itself: `tests/engines/test_vllm_weight_files.py`."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from test_weight_files import Worker

from vlrl.models.tiny import embedded_processor
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.rollout_server import EXTENSION, RolloutServer, ServerError, ServerGone
from vlrl.training.grpo.served_generation import ServedGeneration
from vlrl.training.options import ConfigError

PROCESSOR = embedded_processor("tiny")


class StandIn(ThreadingHTTPServer):
    """Answers with the mean of its first weight as a token, and widens images to three tokens."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Answers)
        self.worker, self.mode, self.extension, self.missing = Worker(), "processed_logprobs", EXTENSION, set()
        self.forgot, self.seen, self.spoil, self.before_writing = [], [], lambda ids: ids, lambda: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def written(self, words):
        """The prompt as it was read, and the completions."""
        token = int(next(self.worker.model.parameters()).detach().mean())
        ids = []
        for one in words["token_ids"]:
            ids += [one] * 3 if one == PROCESSOR.image_token_id else [one]
        return ids, [[token]] * words["sampling_params"]["n"]

    def stop(self):
        self.shutdown()
        self.server_close()


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *_words):
        pass

    def say(self, found, code=200):
        body = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, on = self.path.partition("?")[0], self.server
        if path in on.missing:
            self.say({"detail": "Not Found"}, 404)
        elif path == "/v1/models":
            self.say({"data": [{"id": "m"}]})
        elif path == "/server_info":
            model = {"logprobs_mode": on.mode, "dtype": "torch.float32", "quantization": None}
            self.say({"vllm_config": {"model_config": model, "parallel_config": {"worker_extension_cls": on.extension}}})
        else:
            self.say({})

    def do_POST(self):
        words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        on = self.server
        if self.path == "/collective_rpc":
            try:
                self.say({"results": [getattr(on.worker, words["method"])(*words["args"])]})
            except Exception as error:  # noqa: BLE001 (as vLLM does)
                self.say({"error": {"message": f"{type(error).__name__}: {error}"}}, 500)
        elif self.path.startswith("/reset"):
            on.forgot.append(self.path)
            self.say({"success": True})
        else:
            on.before_writing()
            on.seen.append(words)
            ids, written = on.written(words)
            choices = [
                {"index": i, "token_ids": made, "logprobs": {"content": [{"logprob": -0.5} for _ in made]}}
                for i, made in reversed(list(enumerate(written)))
            ]
            self.say({"prompt_token_ids": on.spoil(ids), "choices": choices})


@pytest.fixture
def server():
    made = StandIn()
    yield made
    made.stop()


@pytest.fixture
def generation(server, tmp_path):
    return made_for(server, tmp_path)


def made_for(server, folder, timeout_s=2.0):
    return ServedGeneration(
        model=Worker().model, accelerator=Accelerator(cpu=True), processing_class=PROCESSOR, mode="server",
        server_base_url=server.url, server_timeout=timeout_s, folder=folder, processor=PROCESSOR,
        generation_kwargs={"logit_bias": {7: -100.0}},
    )  # fmt: skip


def trained(generation, value):
    for weight in generation.model.parameters():
        weight.data.fill_(value)
    generation.sync_weights()


def written(generation, n=2):
    return [ids[0] for ids in generation.generate([[1, 2]] * n, None, n)[1]]


def test_completions_are_of_the_weights_that_were_sent_last(generation, server):
    trained(generation, 5)
    assert written(generation) == [5, 5]
    trained(generation, 6)
    assert written(generation) == written(generation) == [6, 6]
    assert server.forgot == ["/reset_prefix_cache", "/reset_encoder_cache"] * 2
    assert len([path for path in generation.folder.iterdir() if path.is_dir()]) == 1
    generation.close()
    assert list(generation.folder.iterdir()) == []


def test_a_prompt_is_sent_once_a_group_with_its_images(generation, server):
    trained(generation, 5)
    image = PROCESSOR.image_token_id
    red, blue = Image.new("RGB", (9, 7), "red"), Image.new("RGB", (9, 7), "blue")
    one, other = [1, image, image, image, 2, image, image, image], [1, 4]
    prompts, shown = [one] * 3 + [other] * 3, [[red, blue]] * 3 + [None] * 3
    read, ids, logprobs, _ = generation.generate(prompts, shown, 3)
    assert read == prompts
    assert ids == [[5]] * 6
    assert logprobs == [[[-0.5]]] * 6
    assert [words["sampling_params"]["n"] for words in server.seen] == [3, 3]
    first = next(words for words in server.seen if "content_parts" in words)
    assert first["token_ids"] == [1, image, 2, image]
    held = [base64.b64decode(part["url"].partition(",")[2]) for part in first["content_parts"]]
    assert [Image.open(BytesIO(one)).tobytes() for one in held] == [red.tobytes(), blue.tobytes()]
    assert first["sampling_params"]["logit_bias"] == {"7": -100.0}


def test_a_server_that_reads_other_prompts_ends_the_run(generation, server):
    trained(generation, 5)
    server.spoil = lambda ids: [*ids, 9]
    with pytest.raises(RunStopped, match=r"samples from other prompts .* read 3 prompt tokens, the trainer has 2"):
        written(generation)


def test_weights_of_another_run_are_noticed(generation, server, tmp_path):
    trained(generation, 5)
    assert written(generation) == [5, 5]
    other = made_for(server, tmp_path / "other")
    trained(other, 8)
    assert written(other) == [8, 8], "a new run takes the server over"
    with pytest.raises(RunStopped, match=r"has the weights step-000000-.*, which another run has sent it; this run sent step"):
        written(generation)


def test_weights_that_change_while_it_writes_are_noticed(generation, server):
    trained(generation, 5)
    server.before_writing = lambda: setattr(server.worker, "vlrl_version", "step-9-else")
    with pytest.raises(RunStopped, match=r"were changed from step-000000-.* to step-9-else while it wrote"):
        written(generation)


def test_a_server_that_was_started_again_reads_the_weights_again(generation, server):
    trained(generation, 5)
    assert written(generation) == [5, 5]
    server.worker = Worker()
    assert written(generation) == [5, 5]
    port = server.server_port
    server.stop()
    back = []
    threading.Timer(0.5, lambda: back.append(StandIn(port))).start()
    assert written(generation) == [5, 5]
    back[0].stop()


def test_a_server_that_is_gone_ends_the_run(generation, server):
    generation.server.timeout_s = 0.1
    trained(generation, 5)
    server.stop()
    with pytest.raises(
        RunStopped, match=r"no vLLM server answered at http.* for 0.1 s .*Start it: VLLM_SERVER_DEV_MODE=1 vllm"
    ):
        written(generation)


def test_a_model_that_does_not_take_the_weights_ends_the_run(generation, server):
    generation.model.layer.append(torch.nn.Linear(5, 4, bias=False))
    generation.sync_weights()
    with pytest.raises(RunStopped, match=r"refused /collective_rpc \(500\).*does not take them.*layer.3.weight"):
        written(generation)


def test_a_full_disk_ends_the_run(generation, monkeypatch):
    def full(*_words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlrl.training.grpo.served_generation.write_weights", full)
    with pytest.raises(RunStopped, match=r"no space left for the weights for the vLLM server \(step-000000-"):
        generation.sync_weights()


def test_adapters_go_over_merged(server, tmp_path):
    """TRL takes them out again once it is asked for the next weight."""
    generation = made_for(server, tmp_path)
    weight = next(generation.model.parameters()).data.fill_(1)

    def merged():
        weight.add_(2)
        yield from generation.model.named_parameters()
        weight.sub_(2)

    generation._iter_named_params = merged
    generation.sync_weights()
    assert written(generation) == [3, 3]
    assert float(weight.mean()) == 1


def test_the_next_batch_is_written_by_the_weights_of_its_beginning(generation, server):
    """What is trained meanwhile does not reach it."""
    trained(generation, 5)
    generation.begin([[1, 2]] * 2, None)
    for weight in generation.model.parameters():
        weight.data.fill_(6)
    assert generation.finish()[0] == [[5], [5]]
    generation.begin([[1, 2]] * 2, None)
    generation.sync_weights()  # waits for what is under way
    assert written(generation) == [6, 6]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda server: server.missing.add("/server_info"), "does not have /server_info: start it with VLLM_SERVER_DEV_MODE=1"),
        (lambda server: server.missing.add("/inference/v1/generate"), "start it with --enable-scale-out"),
        (lambda server: setattr(server, "extension", ""), "cannot read weights: start it with --worker-extension-cls vlrl"),
        (lambda server: setattr(server, "mode", "raw_logprobs"), "start it with --logprobs-mode processed_logprobs"),
        (lambda server: setattr(server.worker, "vlrl_read_mark", lambda _path: {"found": "", "host": "far"}), "far. does not see"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_do_it_is_refused_at_the_start(server, tmp_path, harm, why):
    harm(server)
    with pytest.raises(ConfigError, match=why):
        made_for(server, tmp_path)


def test_addresses_without_a_server():
    with pytest.raises(ServerError, match="--vllm_server_base_url nowhere"):
        RolloutServer("nowhere", 0.1).wait()
    with pytest.raises(ServerGone, match="no vLLM server answered"):
        RolloutServer("http://127.0.0.1:9", 0.1).wait()
