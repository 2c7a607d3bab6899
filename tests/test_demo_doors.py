"""What the page does not open: models and files from elsewhere, gradio's other addresses, more than fits, strangers."""

import asyncio
import json
import os
import shutil
import threading
import time

import pytest
from PIL import Image
from test_demo import write_run

from demos import app, run_answers, run_list, runs, runs_tab
from demos.answering import Models
from demos.components import NOT_LISTED, Sheet
from demos.doors import MAX_BODY_BYTES, MAX_FAILED_LOGINS, MAX_STORED_BYTES, MAX_UPLOAD_BYTES, OPEN, Doors, Storage
from demos.model_list import ModelList, Refused
from demos.run_control import Control
from vlrl.models.names import ASSETS

pytestmark = pytest.mark.quick


def write_model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def root(tmp_path):
    """Runs with a model: one that is whole, and those that lead elsewhere."""
    outside = write_model(tmp_path / "outside")
    for name in ("good", "linked", "file", "pickle", "adapter", "none", "circle"):
        write_run(tmp_path / "runs" / name)
    for name in ("good", "file", "pickle", "adapter"):
        write_model(tmp_path / "runs" / name / "final")
    (tmp_path / "runs" / "linked" / "final").symlink_to(outside)
    (tmp_path / "runs" / "file" / "final" / "more.safetensors").symlink_to(outside / "model.safetensors")
    shutil.move(tmp_path / "runs/pickle/final/model.safetensors", tmp_path / "runs/pickle/final/pytorch_model.bin")
    (tmp_path / "runs/adapter/final/adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    (tmp_path / "runs/circle/final").symlink_to(tmp_path / "runs/circle/final")
    return tmp_path / "runs"


def test_models_are_chosen_from_a_list(root, tmp_path):
    listed = ModelList(runs.Runs(root), "tiny")
    assert listed.names() == ["tiny", "tiny-cards", "run good"]
    assert listed.source("tiny-random") == "tiny-random"
    assert listed.source("run good") == str((root / "good" / "final").resolve())
    others = [f"run {name}" for name in ("linked", "file", "pickle", "adapter", "none", "circle", "../outside", "", "/")]
    others += [
        "gpt2",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        str(tmp_path / "outside"),
        str(root / "good/final"),
        "/etc/passwd",
        "",
        "\0",
    ]
    messages = set()
    for name in others:
        with pytest.raises(Refused) as refused:
            listed.source(name)
        messages.add(str(refused.value))
    assert messages == {NOT_LISTED}, "nothing tells whether a file exists"
    given = ModelList(runs.Runs(root), str(tmp_path / "outside"))
    assert given.source(str(tmp_path / "outside")), "whoever starts the page may name any"


def test_hub_ids_only_where_they_are_allowed(root, tmp_path, monkeypatch):
    listed = ModelList(runs.Runs(root), "tiny", allow_hub=True)
    assert listed.source("owner/model-1.5") == "owner/model-1.5"
    monkeypatch.chdir(tmp_path)
    for name in (
        "runs/good",
        "a/b/c",
        "../x",
        "gpt2",
        "/etc/passwd",
        "owner/../x",
        "~/x",
        "owner/model\n",
        "-a/b",
        "run linked",
    ):
        with pytest.raises(Refused, match="not in the list"):
            listed.source(name)


def test_links_that_lead_out_of_a_run_are_not_followed_and_named(tmp_path):
    folder, secret = write_run(tmp_path / "runs" / "a"), tmp_path / "secret"
    line = {"id": "secret", "question": "", "ground_truth": "", "before": {}, "after": {}, "change": 0.0}
    secret.write_text(json.dumps({**line, "step": 77, "reward": 1, "task": "secret", "completion": "secret"}) + "\n")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "secret.png")
    names = ["metrics.jsonl", "summary.json", "held_out.jsonl", "completions/step_000001.jsonl", "samples.png"]
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "secret.png" if name.endswith("png") else secret)
    shelf = runs.Runs(tmp_path / "runs")
    about, _, _, *_, numbers, image, _ = runs_tab.View(shelf, Control(shelf)).show({"a": folder})
    assert "secret" not in about + numbers
    assert "77" not in about
    assert not image
    assert all(name in about for name in names if "/" not in name), "what is not shown is said"
    assert run_answers.logged(folder) == ["step 1"]
    for which in ("step 1", run_answers.HELD_OUT, "step ../../secret", "step -1", ""):
        assert run_answers.answers(folder, which, "all")[1] == []
    shutil.rmtree(folder / "completions")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(secret, tmp_path / "elsewhere" / "step_000002.jsonl")
    (folder / "completions").symlink_to(tmp_path / "elsewhere")
    assert run_answers.answers(folder, "step 2", "all")[1] == []
    inside = folder / "summary.json"
    inside.unlink()
    (folder / "other.json").write_text('{"task": "mine"}')
    inside.symlink_to(folder / "other.json")
    assert "mine" in run_list.about("a", folder), "links within the run are fine"


def test_a_run_may_have_any_name(tmp_path):
    names = [b"caf\xe9", "\u202eevil\x1b".encode(), b"<img src=x onerror=alert(1)>"]
    for name in names:
        write_run(tmp_path / os.fsdecode(name))
    shelf = runs.Runs(tmp_path)
    assert len(shelf.names()) == 3
    for name in shelf.names():
        name.encode("utf-8")
        assert run_list.about(name, shelf.folder(name))


# ---- models that take long


def models_with(root, monkeypatch, load):
    monkeypatch.setattr("vlrl.models.load.load_model", load)
    return Models(ModelList(runs.Runs(root), "tiny"))


class Loaded:
    class model:
        @staticmethod
        def train(mode):
            assert mode is False


def test_a_slow_load_goes_on_beside_and_others_are_answered(root, monkeypatch):
    asked, done = [], threading.Event()

    def load(name, trust_remote_code, use_safetensors=None):
        asked.append((name, trust_remote_code, use_safetensors))
        if "good" in name:
            assert done.wait(60)
        return Loaded()

    models = models_with(root, monkeypatch, load)
    with pytest.raises(Refused, match="run good is still being loaded; ask again in a minute"):
        models.load("run good", 0.0)
    assert models.load("tiny")
    assert models.load("tiny") is models.load("tiny")
    done.set()
    assert models.load("run good", 30)
    assert asked == [(str((root / "good/final").resolve()), False, True), ("tiny", False, None)], "loaded once, safely"


def test_what_cannot_be_loaded_is_said_without_the_machine_s_paths(root, monkeypatch, capsys):
    def load(name, trust_remote_code, use_safetensors=None):
        raise OSError(f"no file in {name}")

    with pytest.raises(Refused) as refused:
        models_with(root, monkeypatch, load).load("run good")
    assert str(refused.value) == "run good cannot be loaded; the console of the page says why"
    assert str(root) in capsys.readouterr().err


def test_an_answer_ends_when_its_visitor_leaves():
    from demos.asking import Asking
    from demos.page_tasks import PageTasks

    models, tasks = Models(ModelList(runs.Runs(ASSETS), "tiny")), PageTasks()
    sample = models.prepare_sample("tiny", Asking(models, tasks).asked(None, "detection", "red square"), None)
    for answers in (models.stream("tiny", sample, None, 4000), models.group("tiny", sample, 2, 1.0, None, 4000)):
        start = time.monotonic()
        next(answers)
        answers.close()
        assert time.monotonic() - start < 3, "4000 tokens would take much longer"
        assert models._asking.acquire(timeout=3), "the next one can ask"
        models._asking.release()


# ---- gradio's addresses


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://x", "/gradio_api/file=http://169.254.169.254/", "/gradio_api/file= https://x/", "/docs",
        "/gradio_api/file=file:///etc/passwd", "/gradio_api/file=//x/y", "/gradio_api/process_recording", "/gradio_api/run/look",
        "/gradio_api/api/look", "/gradio_api/deep_link", "/monitoring", "/monitoring/summary", "/gradio_api/vibe-code/",
        "/custom_component/1/client/x/../../../../etc/passwd", "/openapi.json", "/gradio_api/openapi.json", "/redoc", "/runs",
        "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/dev/reload", "/gradio_api/mcp/", "/static/http://x", "/x",
    ],
)  # fmt: skip
def test_addresses_that_the_page_does_not_need_are_not_there(path):
    assert not OPEN.fullmatch(path)


def call(doors, path, body=b"", method="POST", parts=1):
    """Status, headers and body of the answer to one request."""
    size = -(-len(body) // parts) or 1
    pieces = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    waiting = [{"type": "http.request", "body": one, "more_body": i + 1 < len(pieces)} for i, one in enumerate(pieces)]
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": [], "client": ("1.2.3.4", 5), "query_string": b""}
    asyncio.run(doors(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(one.get("body", b"") for one in sent[1:])


def echo(status=200, kind=b"application/json"):
    async def inner(scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), (b"content-length", b"9")]}
        )
        await send({"type": "http.response.body", "body": body})

    return inner


def test_files_come_as_uploads_and_never_as_addresses(tmp_path):
    doors, join = Doors(echo(), Storage(tmp_path)), "/gradio_api/queue/join"
    good = json.dumps({"data": [{"path": "/tmp/x/a.png", "meta": {"_type": "gradio.FileData"}}, "http://in-a-text"]}).encode()
    assert call(doors, join, good, parts=3)[::2] == (200, good)
    for address in ("http://127.0.0.1/", " https://x/y", "FILE:///etc/passwd", "data:text/html,x", "ftp://x"):
        body = json.dumps({"data": [[{"a": {"path": address}}]]}).encode()
        assert call(doors, join, body)[0] == 400
    assert call(doors, join, b"{")[0] == 400
    assert call(doors, "/gradio_api/call/look", b"")[0] == 400


def test_what_is_sent_is_bounded(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    doors = Doors(echo(), storage)
    for path, most in (
        ("/gradio_api/upload", MAX_UPLOAD_BYTES + 2**16), ("/gradio_api/component_server", MAX_UPLOAD_BYTES + 2**16),
        ("/gradio_api/queue/join", MAX_BODY_BYTES), ("/gradio_api/cancel", MAX_BODY_BYTES), ("/login", MAX_BODY_BYTES),
    ):  # fmt: skip
        assert call(doors, path, b"0" * most, parts=4)[0] in (200, 400)
        assert call(doors, path, b"0" * (most + 1), parts=4)[0] == 413
    monkeypatch.setattr("demos.doors.MAX_UPLOADS", 5)
    assert [call(doors, "/gradio_api/upload", b"x")[0] for _ in range(3)] == [200, 503, 503]
    storage._uploads.clear()
    storage.count(MAX_STORED_BYTES)
    assert call(doors, "/gradio_api/upload", b"x")[0] == 503
    (tmp_path / "a").mkdir()
    for name, age in (("a/old", 7200), ("new", 10)):
        (tmp_path / name).write_text("12345")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert storage.sweep() == 5
    assert not (tmp_path / "a" / "old").exists()
    assert call(doors, "/gradio_api/upload", b"x")[0] == 200


def test_headers_and_the_nonce_of_the_page_s_own_scripts(tmp_path):
    doors = Doors(echo(kind=b"text/html; charset=utf-8"), Storage(tmp_path))
    status, headers, body = call(doors, "/", b"<script>1</script><script type=module><scripted>")
    nonce = headers["content-security-policy"].partition("'nonce-")[2].partition("'")[0]
    assert (status, len(nonce) > 15, headers["x-content-type-options"]) == (200, True, "nosniff")
    assert body.decode() == f'<script nonce="{nonce}">1</script><script nonce="{nonce}" type=module><scripted>'
    assert int(headers["content-length"]) == len(body)
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    assert nonce not in call(doors, "/", b"")[1]["content-security-policy"], "another one each time"
    info = b"<script>window.gradio_api_info = {'a': 'runs'};</script><b>runs</b>"
    assert call(doors, "/", b'{"a":1}' + info)[2].count(b"runs") == 2
    assert call(doors, "/", b'{"auth_required":true}' + info)[2].count(b"runs") == 1, "strangers see no lists"
    _, headers, body = call(doors, "/gradio_api/file=/tmp/x.html", b"<script>", "GET")
    assert "sandbox" in headers["content-security-policy"]


def test_passwords_are_not_guessed(tmp_path):
    doors = Doors(echo(status=400), Storage(tmp_path))
    answers = [call(doors, "/login", b"x")[0] for _ in range(MAX_FAILED_LOGINS + 2)]
    assert answers == [400] * MAX_FAILED_LOGINS + [429] * 2
    doors._failed_logins = {"1.2.3.4": [time.monotonic() - 61] * 20}
    assert call(doors, "/login", b"x")[0] == 400


# ---- drawings


def test_a_drawing_is_measured_before_it_is_decoded(tmp_path):
    import gradio as gr
    from fastapi import HTTPException
    from gradio.components.image_editor import EditorData

    class Blobs:
        def __init__(self, files, **data):
            self.data, self.files = data, files

    def png(size):
        Image.new("L", size).save(tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    sheet = Sheet(render=False)
    sheet.accept_blobs(Blobs([("a", png((40, 30)))], type="composite", id="1", index="null"))
    sheet.accept_blobs(Blobs([("a", b"x")], type="layer", id="2", index="1000000000"))
    assert list(sheet.blob_storage) == ["1"], "layers are dropped"
    assert sheet.preprocess(EditorData(id="1"))["composite"].size == (40, 30)
    assert sheet.preprocess(EditorData(id="1")) == {"composite": None}
    for data in (png((2100, 2100)), b"no image", png((4, 3))[:30]):
        sheet.accept_blobs(Blobs([("a", data)], type="composite", id="3", index="null"))
        with pytest.raises(gr.Error):
            sheet.preprocess(EditorData(id="3"))
    for i in range(100):
        sheet.accept_blobs(Blobs([("a", b"x")], type="composite", id=f"k{i}", index="null"))
    assert len(sheet.blob_storage) <= 33
    for wrong in (Blobs([], type="composite", id="1"), Blobs([("a", b"")]), {"a": 1}, None):
        with pytest.raises(HTTPException):
            sheet.accept_blobs(wrong)


# ---- who is let in


@pytest.mark.parametrize(
    ("words", "variable", "expected"),
    [
        ([], None, None),
        (["--host", "localhost"], None, None),
        (["--host", "127.0.0.5"], None, None),
        (["--host", "::1"], None, None),
        (["--host", "0.0.0.0"], None, "--host 0.0.0.0 lets other people in"),
        (["--host", "::"], None, "lets other people in"),
        (["--host", ""], None, "lets other people in"),
        (["--host", "my.machine"], None, "lets other people in"),
        (["--share"], None, "--share lets other people in"),
        (["--host", "0.0.0.0"], "me:pass:word", ("me", "pass:word")),
        (["--host", "0.0.0.0", "--auth", "a:b"], "me:x", ("a", "b")),
        (["--host", "0.0.0.0", "--no_auth"], None, None),
        (["--auth", "a:b"], None, ("a", "b")),
        (["--auth", "ab"], None, "--auth: give a user and a password"),
        (["--auth", ""], None, "give a user and a password"),
        ([], ":x", "VLRL_DEMO_AUTH: give a user"),
        (["--auth", "a:b", "--no_auth"], None, "exclude each other"),
    ],
)  # fmt: skip
def test_other_machines_need_a_password(words, variable, expected):
    args, environment = app.arguments(words), {} if variable is None else {"VLRL_DEMO_AUTH": variable}
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            app.login(args, environment)
    else:
        assert app.login(args, environment) == expected


def test_a_page_that_cannot_start_says_so_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("VLRL_DEMO_AUTH", raising=False)
    for words, why in ((["--host", "0.0.0.0"], "VLRL_DEMO_AUTH=user:password"), (["--model_name_or_path", "tinny"], "tinny")):
        assert app.main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert why in error

    def taken(*_):
        raise OSError("Cannot find empty port\nin range")

    monkeypatch.setattr(app, "launch", taken)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_EXAMPLES_CACHE", str(tmp_path))
    assert app.main(["--port", "7999"]) == 2
    assert capsys.readouterr().err.endswith("port 7999; try another --port: Cannot find empty port in range\n")
    assert not list(tmp_path.iterdir())
