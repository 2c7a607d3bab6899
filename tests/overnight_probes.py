"""Ways into the page that are not there: paths, calls with other values than the lists hold, uploads, hostile text, no password."""

import asyncio
import http.client
import json
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from overnight import Row
from page_client import ROOT, Visitor, functions_of, page
from PIL import Image
from test_demo import write_run
from test_hostile_text import HOSTILE, PAGE_TAGS, check, write_hostile_run

SECRET = "TOPSECRET4711"
QUICK_S = 10.0
"""A refusal takes no longer: nothing was loaded or fetched for it."""


def write_folder(folder):
    """Two runs, a hostile one, links that lead out, and what must stay outside."""
    (folder / "secret.txt").write_text(SECRET)
    outside = write_run(folder / "outside")
    (outside / "config.yaml").write_text(f"task: {SECRET}\n")
    (outside / "final").mkdir()
    for name in ("config.json", "model.safetensors"):
        (outside / "final" / name).write_text(SECRET)
    run = write_run(folder / "runs" / "first")
    (folder / "runs" / "link").symlink_to(outside)
    (run / "final").symlink_to(outside / "final")
    (run / "held_out.jsonl").symlink_to(folder / "secret.txt")
    (run / "completions" / "step_000009.jsonl").symlink_to(folder / "secret.txt")
    for number, text in enumerate(HOSTILE):
        write_hostile_run(folder / "runs" / f"hostile{number}", text)
    write_run(folder / "runs" / "<img src=x onerror=alert(1)>")


def raw(address, path, method="GET", body=None, headers=()):
    """Status and text of one request whose path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.putrequest(method, path, skip_host=False)
    for name, value in (*headers, ("Content-Length", str(len(body or b"")))):
        connection.putheader(name, value)
    connection.endheaders(body)
    try:
        reply = connection.getresponse()
        return reply.status, reply.read(200_000).decode("utf-8", "replace")
    finally:
        connection.close()


def refused(status, text):
    return status in (400, 401, 403, 404, 405, 413, 422) and SECRET not in text and "root:" not in text


def paths(address, folder):
    """Paths of files, and addresses of gradio that the page does not need."""
    port, cache = urlsplit(address).port, next((folder / "cache").iterdir())
    files = [
        "/etc/passwd", f"{folder}/secret.txt", "secret.txt", "../secret.txt", "runs/first/summary.json", "//etc/passwd",
        f"{folder}/runs/first/summary.json", f"{cache}/../../secret.txt", f"{cache}/%2e%2e/%2e%2e/secret.txt",
        f"{folder}/runs/link/config.yaml", "/proc/self/environ", f"{ROOT}/demos/app.py", "file:///etc/passwd",
        f"http://127.0.0.1:{port}/config", "https://example.org/", "%00/etc/passwd", "C:/secret.txt", "/dev/stdin", "~/.bashrc",
    ]  # fmt: skip
    other = [
        "/static/../../../routes.py", "/static/%2e%2e/%2e%2e/%2e%2e/routes.py", "/assets/..%2f..%2f..%2froutes.py",
        "/svelte/../../../../../etc/passwd", "/custom_component/1/client/component/..%2f..%2fetc%2fpasswd",
        f"/gradio_api/proxy=http://127.0.0.1:{port}/config", "/gradio_api/file/etc/passwd", "/docs", "/openapi.json",
        "/monitoring", "/gradio_api/deep_link", "/gradio_api/dev/reload", "/gradio_api/vibe-code/",
    ]  # fmt: skip
    found = {f"file={one}": refused(*raw(address, f"/gradio_api/file={one}")) for one in files}
    found |= {one: refused(*raw(address, one)) for one in other}
    kind = [("Content-Type", "application/json")]
    for one in ("run/look", "api/look", "process_recording"):
        found[one] = refused(*raw(address, f"/gradio_api/{one}", "POST", b'{"data": ["first", null]}', kind))
    return found


def file_data(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


async def calls(visitor, folder):
    """Calls of the page's functions with values that no list on it holds."""
    outside, found, messages = folder / "outside" / "final", {}, set()
    answered = await visitor.call("answer_it", "detection", "tiny", None, None, "red square", 1, 1.0)
    found["a model of the list"] = bool(answered.data)  # and everything is loaded for the refusals that follow
    for model in (
        str(outside), str(folder / "none"), "/etc/passwd", "gpt2", "Qwen/Qwen2.5-VL-3B-Instruct", "run first", "run link",
        "run ../outside", "runs/first/final", "", 3, ["tiny"],
    ):  # fmt: skip
        reply = await visitor.call("answer_it", "detection", model, None, None, "red square", 1, 1.0)
        messages.add(reply.error)
        found[f"model {model}"] = bool(reply.error) and reply.seconds < QUICK_S and SECRET not in reply.raw
    found["one message for all models"] = len(messages) == 1
    for name in ("../outside", "link", str(folder / "outside"), "first/../../outside", ".", ["first"], {"path": "first"}):
        reply = await visitor.call("look", name, "–")
        found[f"run {name}"] = bool(reply.error) and SECRET not in reply.raw
    for step in ("step 9", "held-out samples, before and after", "step ../../secret", "../../../secret.txt", "step -1"):
        reply = await visitor.call("show_rows", "first", step, "all")
        found[f"rows {step}"] = SECRET not in reply.raw
    row = {"id": "a", "task": "qa", "question": "q", "answer": "b"}
    for name, change in {
        "image": {"images": ["/etc/passwd"]}, "image above": {"images": ["../secret.txt"]}, "video": {"video": "/etc/passwd"},
        "reward of a file": {"meta": {"rewards": ["/tmp/x.py:f"]}}, "task of a file": {"task": "/tmp/x.py"},
        "place of an image": {"images": ["synthetic:qa/train/0/1"], "meta": {"image_index": 7}},
        "address": {"images": ["http://127.0.0.1/"]},
    }.items():  # fmt: skip
        reply = await visitor.call("grade", json.dumps({**row, **change}), "x", "the task's own")
        found[f"sample: {name}"] = SECRET not in reply.raw and "root:" not in reply.raw and (
            bool(reply.error) or "cannot be scored" in reply.data[1] or name == "place of an image"
        )  # fmt: skip
    for name, words in {
        "long text": (json.dumps(row), "x" * 30_000, "exact_match"), "nested": ("[" * 9000, "x", "exact_match"),
        "reward": (json.dumps(row), "x", "__class__"), "no text": (json.dumps(row), {"a": 1}, "exact_match"),
    }.items():  # fmt: skip
        reply = await visitor.call("grade", *words)
        found[f"grade: {name}"] = bool(reply.error) or "cannot be scored" in reply.data[1]
    for words in (("../../x", 1), ("points24", -1), ("points24", 10**30), ("points24", "1")):
        found[f"game {words}"] = bool((await visitor.call("deal", *words)).error)
    for path in (
        "/etc/passwd",
        folder / "secret.txt",
        "http://127.0.0.1:1/a.png",
        "data:image/png;base64,AA",
        "cache/../secret.txt",
    ):
        reply = await visitor.call("take_upload", file_data(path), "detection")
        found[f"upload {path}"] = bool(reply.error) and reply.seconds < QUICK_S and SECRET not in reply.raw
    return found


async def uploads(client, visitor, address, folder):
    """Files that are too large, that are no images, that would run in a browser, that need much memory."""

    async def send(name, data, route="upload", **fields):
        return await client.post(f"{address}/gradio_api/{route}", files={"files": (name, data)}, data=fields, timeout=60)

    found = {"21 MB": (await send("a.png", b"0" * 21 * 2**20)).status_code == 413}
    large = await client.post(f"{address}/gradio_api/queue/join", content=b'"' + b"0" * 2**21 + b'"')
    found["a call of 2 MB"] = large.status_code == 413
    for name, data in {
        "a.html": b"<script>1</script>",
        "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='1'/>",
    }.items():
        path = (await send(name, data)).json()[0]
        shown = await client.get(f"{address}/gradio_api/file={path}")
        policy = shown.headers["content-security-policy"]
        found[name] = "attachment" in shown.headers["content-disposition"] and "sandbox" in policy
        reply = await visitor.call("take_upload", file_data(path), "detection")
        found[f"{name} as an image"] = bool(reply.error)
    Image.new("1", (12_000, 10_000)).save(folder / "large.png")
    Image.new("RGB", (20, 20)).save(folder / "drawing.eps")
    for name in ("large.png", "drawing.eps"):
        path = (await send(name, (folder / name).read_bytes())).json()[0]
        reply = await visitor.call("take_upload", file_data(path), "detection")
        found[name] = bool(reply.error) and reply.seconds < QUICK_S
    config = (await client.get(f"{address}/config")).json()
    pad = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "try-pad")
    fields = {"type": "layer", "index": str(10**9), "id": "x", "component_id": str(pad), "fn_name": "accept_blobs"}
    start = time.monotonic()
    reply = await send("a.png", b"x", "component_server", session_hash=visitor.session, **fields)
    found["a billion layers"] = reply.status_code < 600 and time.monotonic() - start < QUICK_S
    reply = await send("a.png", b"x", "component_server", session_hash=visitor.session, **{**fields, "fn_name": "__init__"})
    found["another method"] = reply.status_code in (400, 404, 422)
    return found


async def hostile(visitor):
    """Runs with text that wants to run, as the page's functions return them."""
    found = {}
    for name in [f"hostile{number}" for number in range(len(HOSTILE))] + ["<img src=x onerror=alert(1)>"]:
        looked, rows = await visitor.call("look", name, "–"), await visitor.call("show_rows", name, "step 1", "all")
        try:
            for text in (looked.data[0], looked.data[2], rows.data[0]):
                check(text, own_tags=PAGE_TAGS)
            found[name] = True
        except (AssertionError, TypeError):
            found[name] = False
    return found


def without_password(address):
    kind = [("Content-Type", "application/json")]
    found = {
        path: refused(*raw(address, path)) for path in ("/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd")
    }  # fmt: skip
    found["call"] = refused(*raw(address, "/gradio_api/queue/join", "POST", b'{"data": [], "fn_index": 1}', kind))
    found["upload"] = refused(*raw(address, "/gradio_api/upload", "POST", b"x"))
    page_text = httpx.get(address).text
    found["the page"] = "try-model" not in page_text and "hostile0" not in page_text
    statuses = [httpx.post(f"{address}/login", data={"username": "me", "password": str(i)}).status_code for i in range(12)]
    found["guessing"] = statuses[0] == 400 and statuses[-1] == 429
    return found


async def ask(address, folder):
    async with httpx.AsyncClient(timeout=60) as client:
        visitor = Visitor(client, address, await functions_of(client, address))
        return (
            await calls(visitor, folder),
            await uploads(client, visitor, address, folder),
            await hostile(visitor),
            bool((await visitor.call("look", "first", "–")).data),
        )


def row(what, found):
    failed = [name for name, good in found.items() if not good]
    return Row(f"probes: {what}", len(found), len(failed), "; ".join(failed)[:400].replace("|", "/"))


def run(n, seed):
    """All of them, whatever `n` and `seed`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_folder(folder)
        with page(folder) as address:
            files = paths(address, folder)
            called, sent, shown, alive = asyncio.run(ask(address, folder))
        log = (folder / "log.txt").read_text()
        with page(folder, environment={"VLRL_DEMO_AUTH": "me:secret"}.items()) as address:
            strangers = without_password(address)
    return [
        row("paths of files, and addresses that are not needed", files),
        row("calls with other values than the lists hold", called),
        row("uploads", sent),
        row("hostile text in runs", shown),
        row("without a password", strangers),
        row("the page still answers, and its log holds no secret", {"answers": alive, "log": SECRET not in log}),
    ]
